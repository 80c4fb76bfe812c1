"""The second ResNet, of units with pre-activation (He, Zhang, Ren, Sun, ECCV 2016, arXiv:1603.05027)."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head, symmetric_uniform
from arch.blocks.preactivation import PreactivationUnit
from arch.blocks.residual import UNITS, check_stages, residual_stages
from arch.blocks.stem import image_stem, stem_stride
from arch.errors import unknown_name
from arch.models.classification.resnet import EXPANSION, default_strides
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples

# Section 4 of the paper, for images of 32 pixels: stages of n units make 6n + 2 layers of basic units, or 9n + 2 of
# bottleneck units, whose stride lies where the authors' code (github.com/KaimingHe/resnet-1k-layers) has it.
CIFAR = {"stage_features": (16, 32, 64), "stride_at": "first", "stem_features": 16, "stem": "small"}


class ResNetV2(nn.Module):
    """ResNet with pre-activation: a convolution, stages of units that leave the shortcut alone, norm and activation.

    timm's `resnetv2_*`, layer by layer, and, with the fields `CIFAR`, the paper's networks for CIFAR. No normalization
    and no activation follow the first convolution.

    Differs from the paper: the stride of a bottleneck unit lies on its 3x3 convolution, unless `stride_at` says
    "first", as the networks for CIFAR do.

    Initial values: convolutions from N(0, 2 / fan-out), classifier weights and bias from U(-1, 1) / sqrt(fan-in), norms
    at scale 1 and bias 0, as in the first ResNet.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: units of each stage.
        stage_features: channels of each stage's 3x3 convolutions; as many come out of basic units, four times as many
            out of bottleneck units.
        stage_strides: of the first unit of each stage; None is 1 for the first stage and 2 for the others.
        unit: "basic" or "bottleneck".
        stride_at: the convolution of a bottleneck unit that carries the stride, "second" (3x3) or "first" (1x1).
        shortcut: where the shape changes, "projection" or, without a parameter, "zero_pad"; see
            arch.blocks.preactivation.
        stem_features: channels of the first convolution.
        stem: "imagenet" (7x7 stride 2, max pool 3x3 stride 2) or, for images of 8 to 64 pixels, "small" (3x3 stride 1)
            or "stride2" (3x3 stride 2).
        dropout_rate: before the classifier.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions.
        features_only: returns maps instead of logits, and makes no head: sums, as the next stage takes them, and of the
            largest stride what the last normalization and activation make of it.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    stage_sizes: Sequence[int] = (3, 4, 6, 3)
    stage_features: Sequence[int] = (64, 128, 256, 512)
    stage_strides: Sequence[int] | None = None
    unit: str = "bottleneck"
    stride_at: str = "second"
    shortcut: str = "projection"
    stem_features: int = 64
    stem: str = "imagenet"
    dropout_rate: float = 0.0
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
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
            ValueError: integer images; an unknown stem, unit, stride_at or shortcut; stages that do not fit.
        """
        self._check()
        dtypes = resolve_dtypes("ResNetV2", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)

        def unit(stage: int, *, strides: int, name: str) -> PreactivationUnit:
            features = self.stage_features[stage]
            basic = self.unit == "basic"
            return PreactivationUnit(
                features=features if basic else EXPANSION * features,
                bottleneck_features=None if basic else features,
                strides=strides,
                stride_at=self.stride_at,
                shortcut=self.shortcut,
                conv=conv,
                norm=norm,
                act=self.act,
                name=name,
            )

        x = image_stem(
            x.astype(dtypes.compute),
            owner="ResNetV2",
            kind=self.stem,
            features=self.stem_features,
            kernel_size=7,
            pool=True,
            conv=conv,
            norm=lambda name: _unchanged,
            act=_unchanged,
        )
        features_at = residual_stages(
            x,
            stride=stem_stride(self.stem, pool=True),
            stage_sizes=self.stage_sizes,
            stage_strides=default_strides(self.stage_sizes) if self.stage_strides is None else self.stage_strides,
            unit=unit,
        )
        *_, stride = features_at
        x = features_at[stride] = self.act(norm(name="final_norm")(features_at[stride]))
        if self.features_only:
            return features_at
        uniform = symmetric_uniform(1 / math.sqrt(x.shape[-1]))
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=uniform,
            bias_init=uniform,
            dtypes=dtypes,
        )

    def _check(self) -> None:
        if self.unit not in UNITS:
            raise unknown_name("ResNetV2: unit", self.unit, UNITS)
        check_stages("ResNetV2", self.stage_sizes, stage_features=self.stage_features, stage_strides=self.stage_strides)


def _unchanged(x: jax.Array) -> jax.Array:
    return x
