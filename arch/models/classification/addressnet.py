"""AddressNet (Zhong et al., Shift-based Primitives for Efficient CNNs, WACV 2019, arXiv:1809.08458)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head
from arch.blocks.residual import check_stages, residual_stages
from arch.blocks.shift import AddressUnit
from arch.blocks.stem import image_stem, stem_stride
from arch.models.classification.resnet import default_strides
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples


class AddressNet(nn.Module):
    """A network for CIFAR of grouped 1x1 convolutions, in which channels move instead of anything else; our reading.

    Known are the three moves (channel shift, address shift, shortcut shift), that they lie between grouped 1x1
    convolutions, the depths 20 and 44, and rounded costs on CIFAR-100: 0.1 million parameters and 22 million
    multiply-adds, 0.2 and 53. No code was released.

    Differs from the paper, or fills what is not known: three stages of n units of two convolutions, depth 6 * n + 2 as
    in the ResNets for CIFAR; half of a unit's features are kept from its input and half are new, so that the first unit
    of a stage, which sees the average of its input at stride 2, keeps all of it; widths and groups that double from
    stage to stage, from 72 channels and 2 groups. It is among the nearest to the published costs of the readings that
    were tried: 0.109 and 0.224 million parameters, 21.9 and 49.8 million multiply-adds.

    Initial values: ours. Convolutions from N(0, 2 / fan-in), classifier weights from U(-1, 1) / sqrt(fan-in), its bias
    0, norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: units of each stage; the first is of stride 2, in the first stage of 1.
        stage_features: channels of each stage.
        stage_groups: of the 1x1 convolutions of each stage.
        new_ratio: share of a unit's features that it learns, in (0, 1]; the others it keeps.
        expand_ratio: channels between the two convolutions of a unit, as a multiple of its features.
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
    stage_sizes: Sequence[int] = (3, 3, 3)
    stage_features: Sequence[int] = (72, 144, 288)
    stage_groups: Sequence[int] = (2, 4, 8)
    new_ratio: float = 0.5
    expand_ratio: float = 1.0
    stem_features: int = 72
    stem: str = "small"
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
            ValueError: integer images; an unknown stem; stages, groups or shares that do not fit.
        """
        check_stages("AddressNet", self.stage_sizes, stage_features=self.stage_features, stage_groups=self.stage_groups)
        if not 0 < self.new_ratio <= 1:
            raise ValueError(f"AddressNet: new_ratio={self.new_ratio} must lie in (0, 1]; 0.5 is the paper's")
        dtypes = resolve_dtypes("AddressNet", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)

        def unit(stage: int, *, strides: int, name: str) -> AddressUnit:
            return AddressUnit(
                features=self.stage_features[stage],
                new_features=round(self.new_ratio * self.stage_features[stage]),
                strides=strides,
                expand_ratio=self.expand_ratio,
                groups=self.stage_groups[stage],
                conv=conv,
                norm=norm,
                act=self.act,
                name=name,
            )

        x = image_stem(
            x.astype(dtypes.compute),
            owner="AddressNet",
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
