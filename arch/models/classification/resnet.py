"""ResNet (He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385) and ResNeXt (Xie et al., CVPR 2017, arXiv:1611.05431)."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head
from arch.blocks.residual import BottleneckUnit
from arch.blocks.stem import image_stem, stem_stride
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples

# A bottleneck unit puts out so many times the features of its stage.
EXPANSION = 4


class ResNet(nn.Module):
    """ResNet of bottleneck units, table 1 of He et al., and, in groups, ResNeXt, table 1 of Xie et al.

    torchvision's networks, layer by layer.

    Differs from the paper: the stride lies on the 3x3 convolution of a unit ("v1.5").

    Initial values: torchvision's. Convolutions from N(0, 2 / fan-out), where the fan-out of a grouped convolution
    counts the channels of all groups, classifier weights and bias from U(-1, 1) / sqrt(fan-in), norms at scale 1 and
    bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: units of each stage; the first is of stride 2, in the first stage of 1.
        stage_features: channels of each stage's 3x3 convolutions, for one group of base width 64; four times as many
            come out.
        groups: of the 3x3 convolutions ("cardinality").
        base_width: channels of a group where the stage has 64 features.
        stem_features: channels of the first convolution.
        stem: "imagenet" (7x7 stride 2, max pool 3x3 stride 2) or, for images of 8 to 64 pixels, "small" (3x3 stride 1)
            or "stride2" (3x3 stride 2).
        zero_init_residual: the scale of each unit's last normalization starts at 0 (arXiv:1706.02677, section 5.1).
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
    stage_sizes: Sequence[int] = (3, 4, 6, 3)
    stage_features: Sequence[int] = (64, 128, 256, 512)
    groups: int = 1
    base_width: int = 64
    stem_features: int = 64
    stem: str = "imagenet"
    zero_init_residual: bool = False
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
            ValueError: integer images; an unknown stem; stages or groups that do not fit.
        """
        if len(self.stage_sizes) != len(self.stage_features):
            raise ValueError(
                f"ResNet: stage_features={tuple(self.stage_features)} must be one for each of "
                f"stage_sizes={tuple(self.stage_sizes)}; change either"
            )
        dtypes = resolve_dtypes("ResNet", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)

        x = image_stem(
            x.astype(dtypes.compute),
            owner="ResNet",
            kind=self.stem,
            features=self.stem_features,
            kernel_size=7,
            pool=True,
            conv=conv,
            norm=norm,
            act=self.act,
        )
        stride = stem_stride(self.stem, pool=True)
        features_at = {stride: x}
        for stage, (size, features) in enumerate(zip(self.stage_sizes, self.stage_features, strict=True), start=1):
            stage_strides = 1 if stage == 1 else 2
            for unit in range(1, size + 1):
                x = BottleneckUnit(
                    features=EXPANSION * features,
                    bottleneck_features=self._bottleneck_features(features),
                    strides=stage_strides if unit == 1 else 1,
                    groups=self.groups,
                    zero_init_residual=self.zero_init_residual,
                    conv=conv,
                    norm=norm,
                    act=self.act,
                    name=f"stage{stage}_unit{unit}",
                )(x)
            stride *= stage_strides
            features_at[stride] = x
        if self.features_only:
            return features_at
        uniform = _symmetric_uniform(1 / math.sqrt(x.shape[-1]))
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

    def _bottleneck_features(self, features: int) -> int:
        """Channels of a stage's 3x3 convolutions, in all groups."""
        group_width = features * self.base_width // 64
        if self.groups < 1 or group_width < 1:
            raise ValueError(
                f"ResNet: base_width={self.base_width} and groups={self.groups} must leave a channel a group at "
                f"stage_features={features}; raise base_width to {math.ceil(64 / features)}, groups to 1, or more"
            )
        return group_width * self.groups


def _symmetric_uniform(limit: float) -> Initializer:
    """Initial values from U(-limit, limit)."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Dtype) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init
