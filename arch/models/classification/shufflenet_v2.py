"""ShuffleNet v2 (Ma, Zhang, Zheng, Sun, ECCV 2018, arXiv:1807.11164)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.attention.channel import SqueezeExcite
from arch.blocks.head import classifier_head
from arch.blocks.residual import check_stages
from arch.blocks.shuffle import ShuffleUnitV2
from arch.blocks.stem import image_stem, stem_stride
from arch.errors import unknown_name
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples

VARIANTS = ("megvii", "torchvision")

# Table 5 of the paper: width multiplier -> (channels of stages 2, 3, 4; of the last convolution).
WIDTHS = {
    0.5: ((48, 96, 192), 1024),
    1.0: ((116, 232, 464), 1024),
    1.5: ((176, 352, 704), 1024),
    2.0: ((244, 488, 976), 2048),
}

# ShuffleNet v2-50, and v2-164 without its gates, of the paper's appendix.
LARGE = {
    "stage_sizes": (3, 4, 6, 3),
    "stage_strides": (1, 2, 2, 2),
    "stage_features": (244, 488, 976, 1952),
    "head_features": 2048,
    "stem_features": 64,
}
DEEP = {
    "stage_sizes": (10, 10, 23, 10),
    "stage_strides": (1, 2, 2, 2),
    "stage_features": (340, 680, 1360, 2720),
    "head_features": 2048,
    "stem_features": 64,
    "more_stem_features": (64, 128),
    "residual": True,
}


class ShuffleNetV2(nn.Module):
    """ShuffleNet v2, table 5 and section 3.2 of the paper.

    Two published networks: `megvii`, the authors' (its first unit of stage 2 keeps all 24 channels in the shortcut; its
    cost is the paper's), and `torchvision` (two equal branches, shuffle at the end of a unit). At 0.5x they cost the
    same.

    Variants, of section 4 and the appendix: ShuffleNet v2* for detection (`branch`), v2-50 (a stage at the stem's
    stride, `stage_strides`, and a wider stem), and SE-ShuffleNet v2-164 (three convolutions in the stem,
    `more_stem_features`; gates, `se_reduction`; `residual`).

    Differs from the paper: 3x3 padding is symmetric, as in both released networks; the initial values.

    Initial values: convolutions from U(-1, 1) / sqrt(fan-in), as torchvision has them, classifier weights from
    N(0, 0.01), as the authors have them, norms at scale 1 and bias 0. Under a norm the scale of a kernel leaves the
    function as it is and sets only the rate at which the kernel turns. The authors draw convolutions from
    N(0, 1 / input channels of a group), so depthwise ones from N(0, 1). Chosen on the 8x8 digits (0.5x, small stem,
    batch 48, momentum 0.9, 10 epochs): accuracy on 360 held-out images with the rate going from 0.05 to 0, two seeds,
    was 0.983, 0.983, against 0.975, 0.967 from He normal and 0.983, 0.975 from the authors' values. From rate
    0.2, too high for all three, He normal came out best (one seed: 0.892, against 0.817 and 0.761). Gates have the
    initial values of the convolutions, and biases of 0.

    The paper leaves open, and no published figure tells: the reduction of the gates, here 16 as in SENet; in the unit
    of v2*, what lies around the further depthwise convolution, here a norm alone; in the residual unit the order of the
    last layers, here norm, gate, addition, activation as in the authors' later code of a large ShuffleNet v2.

    Attributes:
        num_classes: outputs of the classifier.
        width_multiplier: 0.5, 1, 1.5 or 2, a row of WIDTHS; unused where both features are given.
        stage_sizes: units of each stage.
        stage_strides: of the first unit of each stage, which does not split its input; None is 2 for all.
        stage_features: channels of each stage, even; None takes those of the width.
        head_features: channels of the last convolution; None takes those of the width.
        stem_features: channels of the first convolution.
        more_stem_features: channels of each further convolution of the stem, 3x3 of stride 1, before the pool.
        branch: of the units, a key of arch.blocks.shuffle.BRANCHES: "bottleneck", "star" or "xception".
        se_reduction: of squeeze-and-excitation at the end of each unit's branch; None leaves it out.
        residual: the branch of a unit of stride 1 adds its input, for networks of more than 100 layers.
        variant: "megvii" or "torchvision".
        stem: "imagenet" (3x3 stride 2, max pool 3x3 stride 2) or, for images of 8 to 64 pixels, "small" (3x3 stride 1)
            or "stride2" (3x3 stride 2).
        dropout_rate: before the classifier; None is 0.2 for megvii at 2x, as the authors have it, else 0.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions.
        features_only: returns maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    width_multiplier: float = 1.0
    stage_sizes: Sequence[int] = (4, 8, 4)
    stage_strides: Sequence[int] | None = None
    stage_features: Sequence[int] | None = None
    head_features: int | None = None
    stem_features: int = 24
    more_stem_features: Sequence[int] = ()
    branch: str = "bottleneck"
    se_reduction: int | None = None
    residual: bool = False
    variant: str = "megvii"
    stem: str = "imagenet"
    dropout_rate: float | None = None
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
            ValueError: integer images; an unknown variant, stem or width; features that do not fit.
        """
        stage_features, head_features = self._resolve_features()
        stage_strides = self._resolve_strides()
        dtypes = resolve_dtypes("ShuffleNetV2", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)
        gate = None
        if self.se_reduction is not None:
            gate = functools.partial(SqueezeExcite, reduction=self.se_reduction, conv=conv, act=self.act)

        x = image_stem(
            x.astype(dtypes.compute),
            owner="ShuffleNetV2",
            kind=self.stem,
            features=self.stem_features,
            kernel_size=3,
            pool=True,
            conv=conv,
            norm=norm,
            act=self.act,
            more_features=self.more_stem_features,
        )
        stride = stem_stride(self.stem, pool=True)
        features_at = {stride: x}
        stages = zip(self.stage_sizes, stage_features, stage_strides, strict=True)
        for stage, (size, features, strides) in enumerate(stages, start=2):
            for unit in range(1, size + 1):
                x = ShuffleUnitV2(
                    features=features,
                    strides=strides if unit == 1 else 1,
                    split=unit > 1,
                    branch=self.branch,
                    gate=gate,
                    residual=self.residual,
                    shortcut_features=self._shortcut_features(x.shape[-1], features),
                    shuffle="before" if self.variant == "megvii" else "after",
                    conv=conv,
                    norm=norm,
                    act=self.act,
                    name=f"stage{stage}_unit{unit}",
                )(x)
            stride *= strides
            features_at[stride] = x
        if self.features_only:
            return features_at
        x = conv(features=head_features, kernel_size=(1, 1), name="head_conv")(x)
        x = self.act(norm(name="head_norm")(x))
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self._resolve_dropout_rate(),
            train=train,
            examples=examples,
            kernel_init=nn.initializers.normal(0.01),
            dtypes=dtypes,
        )

    def _resolve_strides(self) -> Sequence[int]:
        """Those of the first units."""
        strides = (2,) * len(self.stage_sizes) if self.stage_strides is None else self.stage_strides
        check_stages("ShuffleNetV2", self.stage_sizes, stage_strides=strides)
        if any(stride not in (1, 2) for stride in strides):
            raise ValueError(f"ShuffleNetV2: stage_strides={tuple(strides)} must be 1 or 2 each; change them")
        return strides

    def _shortcut_features(self, in_features: int, features: int) -> int:
        """Output channels of a stride-2 shortcut: the input's for megvii, half of the output's for torchvision."""
        if self.variant not in VARIANTS:
            raise unknown_name("ShuffleNetV2: variant", self.variant, VARIANTS)
        return in_features if self.variant == "megvii" else features // 2

    def _resolve_features(self) -> tuple[Sequence[int], int]:
        """Channels of the stages and of the last convolution."""
        stage_features, head_features = self.stage_features, self.head_features
        if stage_features is None or head_features is None:
            if self.width_multiplier not in WIDTHS:
                widths = ", ".join(map(str, WIDTHS))
                raise ValueError(
                    f"ShuffleNetV2: width_multiplier={self.width_multiplier} must be one of {widths}; "
                    "or give stage_features and head_features"
                )
            of_width = WIDTHS[self.width_multiplier]
            stage_features = of_width[0] if stage_features is None else stage_features
            head_features = of_width[1] if head_features is None else head_features
        check_stages("ShuffleNetV2", self.stage_sizes, stage_features=stage_features)
        if any(features % 2 for features in stage_features):
            raise ValueError(f"ShuffleNetV2: stage_features={tuple(stage_features)} must be even; change them")
        return stage_features, head_features

    def _resolve_dropout_rate(self) -> float:
        """The rate before the classifier."""
        if self.dropout_rate is not None:
            return self.dropout_rate
        return 0.2 if self.variant == "megvii" and self.width_multiplier == 2.0 else 0.0
