"""MobileNet v1 (Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam, 2017, arXiv:1704.04861)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head
from arch.blocks.residual import check_stages
from arch.blocks.separable import SeparableUnit
from arch.blocks.stem import image_stem, stem_stride
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv, SeparableConv, symmetric_padding
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples
from arch.ops.widths import make_divisible


class MobileNetV1(nn.Module):
    """MobileNet v1, table 1 of the paper.

    Published in widths 1, 0.75, 0.5 and 0.25, and for images of 224, 192, 160 and 128 pixels. Normalization and
    activation follow both halves of a separable convolution (figure 3); `norm_between` and `act_between` take them out
    after the first.

    Differs from the paper: 3x3 padding is symmetric, as in timm, where TF-slim pads at the end. Table 1 gives the last
    depthwise convolution stride 2, from 7x7 to 7x7: a misprint, here it has stride 1. timm's `mobilenetv1_100` has the
    activation `nn.relu6`, which the paper does not name, and is else the same, layer by layer.

    Initial values: those of our MobileNet v2, as the paper says nothing of them. Convolutions from N(0, 2 / fan-out),
    where the fan-out of a depthwise convolution counts all of its channels, classifier weights from N(0, 0.01), its
    bias 0, norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        width_multiplier: of the channels of every layer, above 0; other widths than the published are made divisible
            by 8, as in MobileNet v2.
        stage_sizes: units of each stage.
        stage_features: channels of each stage, at width 1.
        stage_strides: of the first unit of each stage.
        stem_features: channels of the first convolution, at width 1.
        norm_between: a normalization follows each depthwise convolution.
        act_between: an activation follows each depthwise convolution, and its normalization.
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
    stage_sizes: Sequence[int] = (1, 2, 2, 6, 2)
    stage_features: Sequence[int] = (64, 128, 256, 512, 1024)
    stage_strides: Sequence[int] = (1, 2, 2, 2, 2)
    stem_features: int = 32
    norm_between: bool = True
    act_between: bool = True
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
            ValueError: integer images; an unknown stem; stages that do not fit; a width that is not positive.
        """
        check_stages(
            "MobileNetV1", self.stage_sizes, stage_features=self.stage_features, stage_strides=self.stage_strides
        )
        dtypes = resolve_dtypes("MobileNetV1", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)
        separable_conv = functools.partial(
            SeparableConv,
            kernel_size=(3, 3),
            padding=symmetric_padding((3, 3)),
            conv=conv,
            norm=norm if self.norm_between else None,
            act=self.act if self.act_between else None,
        )

        x = image_stem(
            x.astype(dtypes.compute),
            owner="MobileNetV1",
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
        stages = zip(self.stage_sizes, self.stage_features, self.stage_strides, strict=True)
        for stage, (size, features, strides) in enumerate(stages, start=1):
            for unit in range(1, size + 1):
                x = SeparableUnit(
                    features=make_divisible(features * self.width_multiplier),
                    strides=strides if unit == 1 else 1,
                    separable_conv=separable_conv,
                    norm=norm,
                    act=self.act,
                    name=f"stage{stage}_unit{unit}",
                )(x)
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
            dtypes=dtypes,
        )
