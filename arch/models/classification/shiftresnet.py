"""ShiftResNet (Wu et al., Shift: A Zero FLOP, Zero Parameter Alternative, CVPR 2018, arXiv:1711.08141)."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head, symmetric_uniform
from arch.blocks.residual import check_stages, residual_stages
from arch.blocks.shift import ShiftResidualUnit
from arch.blocks.stem import image_stem, stem_stride
from arch.models.classification.resnet import default_strides
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples


class ShiftResNet(nn.Module):
    """The ResNet for CIFAR with a conv-shift-conv in place of the two 3x3 convolutions of a unit.

    The authors' code, layer by layer. Of depth 20, 56 and 110 there are 3, 9 and 18 units a stage.

    Differs from the paper: channels are given to taps as in the authors' CUDA code, in turn and not in groups. Two
    releases of their code differ in the last activation of a unit: before the addition, as here, or behind it
    (`act_after_addition`).

    Initial values: the authors', which are torch's. All weights, and the classifier's bias, from
    U(-1, 1) / sqrt(fan-in), norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: units of each stage; the first is of stride 2, in the first stage of 1.
        stage_features: channels of each stage.
        expand_ratio: channels that a unit shifts, as a multiple of its features: the paper's expansion.
        act_after_addition: the last activation of a unit follows the addition.
        assignment: of channels to taps, "modulo" as in the authors' code, or "contiguous", the paper's.
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
    stage_features: Sequence[int] = (16, 32, 64)
    expand_ratio: float = 3.0
    act_after_addition: bool = False
    assignment: str = "modulo"
    stem_features: int = 16
    stem: str = "small"
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
            ValueError: integer images; an unknown stem or assignment; stages that do not fit; fewer shifted channels
                than the 9 taps.
        """
        check_stages("ShiftResNet", self.stage_sizes, stage_features=self.stage_features)
        dtypes = resolve_dtypes("ShiftResNet", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)

        def unit(stage: int, *, strides: int, name: str) -> ShiftResidualUnit:
            return ShiftResidualUnit(
                features=self.stage_features[stage],
                strides=strides,
                expand_ratio=self.expand_ratio,
                act_after_addition=self.act_after_addition,
                assignment=self.assignment,
                conv=conv,
                norm=norm,
                act=self.act,
                name=name,
            )

        x = image_stem(
            x.astype(dtypes.compute),
            owner="ShiftResNet",
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
