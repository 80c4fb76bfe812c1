"""MobileNet v2 (Sandler, Howard, Zhu, Zhmoginov, Chen, CVPR 2018, arXiv:1801.04381)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head
from arch.blocks.inverted_residual import InvertedResidual
from arch.blocks.residual import check_stages
from arch.blocks.stem import image_stem, stem_stride
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples
from arch.ops.widths import make_divisible


class MobileNetV2(nn.Module):
    """MobileNet v2, table 2 of the paper; torchvision's network, layer by layer.

    Channels of the stem and of the stages are scaled by the width and made divisible by 8; those of the last
    convolution only where the network is widened.

    Differs from the paper: 3x3 padding is symmetric, as in torchvision. Early versions misprint table 2: the 64
    channels that come in before the stage of 96 lie on a map of 14x14, not of 28x28.

    Initial values: torchvision's. Convolutions from N(0, 2 / fan-out), where the fan-out of a depthwise convolution
    counts all of its channels, classifier weights from N(0, 0.01), its bias 0, norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        width_multiplier: of the channels of every layer, above 0.
        stage_sizes: units of each stage.
        stage_features: channels of each stage, at width 1.
        stage_strides: of the first unit of each stage.
        expand_ratios: of the units of each stage: channels of the depthwise convolution, as a multiple of the input's.
        stem_features: channels of the first convolution, at width 1.
        head_features: channels of the last convolution, at width 1 or less.
        stem: "imagenet" (3x3 stride 2) or, for images of 8 to 64 pixels, "small" (3x3 stride 1)
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
    width_multiplier: float = 1.0
    stage_sizes: Sequence[int] = (1, 2, 3, 4, 3, 3, 1)
    stage_features: Sequence[int] = (16, 24, 32, 64, 96, 160, 320)
    stage_strides: Sequence[int] = (1, 2, 2, 2, 1, 2, 1)
    expand_ratios: Sequence[float] = (1, 6, 6, 6, 6, 6, 6)
    stem_features: int = 32
    head_features: int = 1280
    stem: str = "imagenet"
    dropout_rate: float = 0.2
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.relu6
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
            ValueError: integer images; an unknown stem; stages that do not fit; a width that is not positive.
        """
        check_stages(
            "MobileNetV2",
            self.stage_sizes,
            stage_features=self.stage_features,
            stage_strides=self.stage_strides,
            expand_ratios=self.expand_ratios,
        )
        dtypes = resolve_dtypes("MobileNetV2", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)

        x = image_stem(
            x.astype(dtypes.compute),
            owner="MobileNetV2",
            kind=self.stem,
            features=make_divisible(self.stem_features * self.width_multiplier),
            kernel_size=3,
            pool=False,
            conv=conv,
            norm=norm,
            act=self.act,
        )
        stride = stem_stride(self.stem, pool=False)
        features_at = {stride: x}
        stages = zip(self.stage_sizes, self.stage_features, self.stage_strides, self.expand_ratios, strict=True)
        for stage, (size, features, strides, expand_ratio) in enumerate(stages, start=1):
            for unit in range(1, size + 1):
                x = InvertedResidual(
                    features=make_divisible(features * self.width_multiplier),
                    strides=strides if unit == 1 else 1,
                    expand_ratio=expand_ratio,
                    conv=conv,
                    norm=norm,
                    act=self.act,
                    name=f"stage{stage}_unit{unit}",
                )(x)
            stride *= strides
            features_at[stride] = x
        if self.features_only:
            return features_at
        head_features = make_divisible(self.head_features * max(1.0, self.width_multiplier))
        x = conv(features=head_features, kernel_size=(1, 1), name="head_conv")(x)
        x = self.act(norm(name="head_norm")(x))
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=nn.initializers.normal(0.01),
            dtypes=dtypes,
        )
