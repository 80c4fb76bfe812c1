"""ShuffleNet v1 (Zhang, Zhou, Lin, Sun, CVPR 2018, arXiv:1707.01083)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head
from arch.blocks.residual import check_stages
from arch.blocks.shuffle import SHUFFLES_V1, ShuffleUnitV1
from arch.blocks.stem import image_stem, stem_stride
from arch.errors import unknown_name
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples

# (groups, width multiplier) -> channels of the stem, and of the first stage; each stage has twice those of the one
# before. Width 1 is table 1 of the paper, the others are the authors' code.
WIDTHS = {
    (1, 1.0): (24, 144),
    (2, 1.0): (24, 200),
    (3, 0.5): (12, 120),
    (3, 1.0): (24, 240),
    (3, 1.5): (24, 360),
    (3, 2.0): (48, 480),
    (4, 1.0): (24, 272),
    (8, 0.5): (16, 192),
    (8, 1.0): (24, 384),
    (8, 1.5): (24, 576),
    (8, 2.0): (48, 768),
}

# ShuffleNet v1-50: see the network.
LARGE = {
    "groups": 3,
    "stage_sizes": (3, 4, 6, 3),
    "stage_strides": (1, 2, 2, 2),
    "stage_features": (360, 720, 1440, 2880),
    "stem_features": 64,
    "bottleneck_ratio": 0.5,
    "first_unit_groups": (1, 2),
}


class ShuffleNetV1(nn.Module):
    """ShuffleNet v1, table 1 and section 3 of the paper.

    Two readings of the unit: `paper` shuffles before the depthwise convolution, so that the first channel of each
    group comes first; `megvii`, the authors' released code, shuffles after it and in the other direction, the inverse
    permutation. Both mix the groups, at the same cost; released weights need the latter, and classifier_bias=False.

    ShuffleNet v1-50 (shufflenet_v1_50) is the large network that the ShuffleNet v2 paper compares with (section 4 of
    arXiv:1807.11164): its widths, depth and 2.3 GMACs are published, its units are not. Bottlenecks of a quarter would
    cost half of that; here they have half of the unit's channels, which costs 2.3 GMACs. The last convolution of its
    first unit cannot be in 3 groups, as 360 - 64 channels do not divide by 3; here it is in 2, and as the unit has
    stride 1 its input is joined as it is. `bottleneck_ratio` and `first_unit_groups` are the fields of this guess.

    Differs from the paper: 3x3 padding is symmetric, and the average pool counts it, as in the released code; the
    initial values.

    Initial values: those of our ShuffleNet v2. Convolutions from U(-1, 1) / sqrt(fan-in), classifier weights from
    N(0, 0.01), as the authors have them, its bias 0, norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        groups: of the 1x1 convolutions; 1 is not shuffled.
        width_multiplier: with `groups` a key of WIDTHS; unused where both features are given.
        stage_sizes: units of each stage.
        stage_strides: of the first unit of each stage, which joins its input; None is 2 for all.
        stage_features: channels of each stage; None takes those of the width.
        stem_features: channels of the first convolution; None takes those of the width.
        bottleneck_ratio: channels of the depthwise convolution, as a part of the unit's.
        first_unit_groups: of the two 1x1 convolutions of the very first unit; None is `groups`. The first is not in
            groups (section 3.3), as its input has few channels.
        variant: "paper" or "megvii".
        classifier_bias: whether the classifier has one; the authors' has none.
        stem: "imagenet" (3x3 stride 2, max pool 3x3 stride 2) or, for images of 8 to 64 pixels, "small" (3x3 stride 1)
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
    groups: int = 3
    width_multiplier: float = 1.0
    stage_sizes: Sequence[int] = (4, 8, 4)
    stage_strides: Sequence[int] | None = None
    stage_features: Sequence[int] | None = None
    stem_features: int | None = None
    bottleneck_ratio: float = 0.25
    first_unit_groups: Sequence[int | None] = (1, None)
    variant: str = "paper"
    classifier_bias: bool = True
    stem: str = "imagenet"
    dropout_rate: float = 0.0
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
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
            ValueError: integer images; an unknown variant, stem or width; features or groups that do not fit.
        """
        stem_features, stage_features, stage_strides = self._resolve_stages()
        dtypes = resolve_dtypes("ShuffleNetV1", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)

        x = image_stem(
            x.astype(dtypes.compute),
            owner="ShuffleNetV1",
            kind=self.stem,
            features=stem_features,
            kernel_size=3,
            pool=True,
            conv=conv,
            norm=norm,
            act=self.act,
        )
        stride = stem_stride(self.stem, pool=True)
        features_at = {stride: x}
        reduce_groups, expand_groups = self.first_unit_groups
        for stage, (size, features, strides) in enumerate(
            zip(self.stage_sizes, stage_features, stage_strides, strict=True), start=2
        ):
            for unit in range(1, size + 1):
                x = ShuffleUnitV1(
                    features=features,
                    bottleneck_features=self._bottleneck_features(features),
                    strides=strides if unit == 1 else 1,
                    groups=self.groups,
                    shuffle=self.variant,
                    conv=conv,
                    norm=norm,
                    act=self.act,
                    reduce_groups=reduce_groups,
                    expand_groups=expand_groups,
                    join=unit == 1,
                    name=f"stage{stage}_unit{unit}",
                )(x)
                reduce_groups = expand_groups = None
            stride *= strides
            features_at[stride] = x
        if self.features_only:
            return features_at
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=nn.initializers.normal(0.01),
            use_bias=self.classifier_bias,
            dtypes=dtypes,
        )

    def _bottleneck_features(self, features: int) -> int:
        """Channels of the depthwise convolution of a unit."""
        bottleneck_features = round(features * self.bottleneck_ratio)
        if bottleneck_features < 1 or bottleneck_features % self.groups:
            raise ValueError(
                f"ShuffleNetV1: bottleneck_ratio={self.bottleneck_ratio} of stage_features={features} must leave a "
                f"multiple of groups={self.groups}, not {bottleneck_features}; change the stage's features"
            )
        return bottleneck_features

    def _resolve_stages(self) -> tuple[int, Sequence[int], Sequence[int]]:
        """Channels of the stem and of the stages, and the strides of the stages."""
        if self.variant not in SHUFFLES_V1:
            raise unknown_name("ShuffleNetV1: variant", self.variant, SHUFFLES_V1)
        if self.groups < 1:
            raise ValueError(f"ShuffleNetV1: groups={self.groups} must be at least 1; 1 is not shuffled")
        stem_features, stage_features = self.stem_features, self.stage_features
        if stem_features is None or stage_features is None:
            width = (self.groups, self.width_multiplier)
            if width not in WIDTHS:
                published = ", ".join(f"{multiplier} in {groups}" for groups, multiplier in WIDTHS)
                raise ValueError(
                    f"ShuffleNetV1: width_multiplier={self.width_multiplier} in groups={self.groups} must be one of "
                    f"{published}; or give stem_features and stage_features"
                )
            stem, first = WIDTHS[width]
            stem_features = stem if stem_features is None else stem_features
            if stage_features is None:
                stage_features = [first * 2**stage for stage in range(len(self.stage_sizes))]
        strides = (2,) * len(self.stage_sizes) if self.stage_strides is None else self.stage_strides
        check_stages("ShuffleNetV1", self.stage_sizes, stage_features=stage_features, stage_strides=strides)
        return stem_features, stage_features, strides
