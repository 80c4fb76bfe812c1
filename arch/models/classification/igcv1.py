"""IGCV1 (Zhang, Qi, Xiao, Wang, Interleaved Group Convolutions, ICCV 2017, arXiv:1707.02725)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head
from arch.blocks.interleaved import IGCResidualUnit, IGCUnit
from arch.blocks.residual import check_stages, residual_stages
from arch.blocks.stem import image_stem, stem_stride
from arch.models.classification.resnet import default_strides
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples


def cifar(depth: int, primary_groups: int, secondary_groups: int) -> dict[str, Any]:
    """Fields of a plain network for CIFAR; from stage to stage the secondary groups double.

    Args:
        depth: 2 more than the pairs of the three stages.
        primary_groups: L, of all stages.
        secondary_groups: M of the first stage.
    """
    width = primary_groups * secondary_groups
    return {
        "stage_sizes": ((depth - 2) // 3,) * 3,
        "stage_features": (width, 2 * width, 4 * width),
        "stage_primary_groups": (primary_groups,) * 3,
        "residual": False,
        "stem_features": width,
        "stem": "small",
    }


class IGCV1(nn.Module):
    """Networks of interleaved group convolutions, section 4 of the paper; the authors' code, layer by layer.

    "Plain" ones for CIFAR are stages of single pairs; those for ImageNet are ResNet-18 with a pair for each 3x3
    convolution ("IGC-L100M2+Ident." and so on). A stage of features C in L primary groups has M = C / L secondary ones.

    The counts of L100M2 are the published ones. Those of L4M32 and L16M16, whose layout here is that of the authors'
    published symbols, are printed as 11.205 and 11.329 million, 1.9 and 2.2 billion multiply-adds: what the authors
    counted is not known.

    Differs from the paper: nothing; the authors' BatchNorm has an epsilon of 2e-5, ours that of `norm`.

    Initial values: the authors'. Convolutions from N(0, 2 / fan-in), classifier weights from U(-1, 1) / sqrt(fan-in),
    its bias 0, norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: units of each stage; the first is of stride 2, in the first stage of 1.
        stage_features: channels of each stage.
        stage_primary_groups: L of each stage; a divisor of its features and of those that come in.
        residual: units are two pairs and a shortcut, else one pair.
        stem_features: channels of the first convolution.
        stem: "imagenet" (7x7 stride 2, max pool 3x3 stride 2) or, for images of 8 to 64 pixels, "small" (3x3 stride 1)
            or "stride2" (3x3 stride 2).
        dropout_rate: before the classifier.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions.
        features_only: returns maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    stage_sizes: Sequence[int] = (2, 2, 2, 2)
    stage_features: Sequence[int] = (200, 400, 800, 1600)
    stage_primary_groups: Sequence[int] = (100, 200, 400, 800)
    residual: bool = True
    stem_features: int = 100
    stem: str = "imagenet"
    dropout_rate: float = 0.0
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    features_only: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, examples: Examples | None = None
    ) -> jax.Array | dict[int, jax.Array]:
        """The logits of images.

        Args:
            x: [batch, height, width, channels], floating point, normalized as the data asks.
            train: batch statistics and dropout, else running statistics and none.
            examples: weights, for the statistics, and ids, for dropout, of the examples.

        Returns:
            [batch, num_classes], float32 or wider; with features_only {stride: [batch, height / stride,
            width / stride, features]}, the last map of each stride, from the stem's on.

        Raises:
            ValueError: integer images; an unknown stem; stages or groups that do not fit.
        """
        check_stages(
            "IGCV1",
            self.stage_sizes,
            stage_features=self.stage_features,
            stage_primary_groups=self.stage_primary_groups,
        )
        dtypes = resolve_dtypes("IGCV1", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)

        make_unit = IGCResidualUnit if self.residual else IGCUnit

        def unit(stage: int, *, strides: int, name: str) -> nn.Module:
            return make_unit(
                features=self.stage_features[stage],
                num_primary_groups=self.stage_primary_groups[stage],
                strides=strides,
                conv=conv,
                norm=norm,
                act=self.act,
                name=name,
            )

        x = image_stem(
            x.astype(dtypes.compute),
            owner="IGCV1",
            kind=self.stem,
            features=self.stem_features,
            kernel_size=7,
            pool=True,
            conv=conv,
            norm=norm,
            act=self.act,
        )
        features_at = residual_stages(
            x,
            stride=stem_stride(self.stem, pool=True),
            stage_sizes=self.stage_sizes,
            stage_strides=default_strides(self.stage_sizes),
            unit=unit,
        )
        if self.features_only:
            return features_at
        *_, x = features_at.values()
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            dtypes=dtypes,
        )
