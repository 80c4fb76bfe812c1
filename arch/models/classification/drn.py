"""Dilated residual networks B, C and D (Yu, Koltun, Funkhouser, CVPR 2017, arXiv:1705.09914)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.conv_unit import ConvUnit
from arch.blocks.head import classifier_head
from arch.blocks.residual import BasicUnit, BottleneckUnit, check_stages, residual_stages
from arch.blocks.stem import image_stem, stem_stride
from arch.errors import unknown_name
from arch.models.classification.resnet import EXPANSION
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples

UNITS = ("basic", "bottleneck", "plain", "conv")

# Fields of a ResNet that make it DRN-A: the strides of its last two stages are removed, and their 3x3 convolutions
# dilated by 2 and 4; as in the authors' code, in the first unit of either stage they are not.
DRN_A = {
    "stage_strides": (1, 2, 1, 1),
    "stage_dilations": (1, 1, 2, 4),
    "unit_fields": {"stage3_unit1": {"kernel_dilation": 1}, "stage4_unit1": {"kernel_dilation": 1}},
}


def drn_units(variant: str, unit: str) -> tuple[str, ...]:
    """The kind of each stage's units: stages 1 and 2 in place of max pooling, 3 to 6 of `unit`, 7 and 8 to degrid.

    Args:
        variant: "b" takes residual units everywhere, "c" none in stages 7 and 8, and "d" single convolutions in stages
            1, 2, 7 and 8.
        unit: "basic" or "bottleneck".

    Raises:
        ValueError: an unknown variant.
    """
    ends = {"b": ("basic", "basic"), "c": ("basic", "plain"), "d": ("conv", "conv")}
    if variant not in ends:
        raise unknown_name("drn_units: variant", variant, ends)
    first, last = ends[variant]
    return (first,) * 2 + (unit,) * 4 + (last,) * 2


class DRN(nn.Module):
    """Dilated residual network of eight stages, sections 4 and 5; the authors' code (github.com/fyu/drn).

    Stages 5 and 6 dilate their convolutions by 2 and 4 where a ResNet has strides, so that the last map is an eighth of
    the image. Stages 7 and 8, dilated by 2 and 1, remove the grid that dilation leaves; nor is there any max pooling,
    from which it comes. DRN-A, which has neither, is `ResNet` with the fields `DRN_A`: "drn_a_50" and its kin.

    Differs from the paper: nothing known. Differs from the authors' code: no projection where none is used. Their C-58
    holds one, in stage 7, which takes 1,049,600 parameters and 822,083,584 multiply-adds, and whose result is
    thrown away. DRN-B, of which they give no code, is C with residual units in stages 7 and 8.

    Initial values: the authors'. Convolutions, and the classifier's weights, from N(0, 2 / fan-out), norms at scale 1
    and bias 0; but the classifier's bias is 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: units of each stage.
        stage_units: their kind: "basic" (3x3, 3x3 and a shortcut), "bottleneck" (1x1, 3x3, 1x1 and a shortcut), "plain"
            (3x3, 3x3) or "conv" (3x3); see `drn_units`.
        stage_features: channels of each stage; of "bottleneck" units four times as many come out.
        stage_strides: of the first unit of each stage.
        stage_dilations: of the 3x3 convolutions of each stage, in pixels.
        stem_features: channels of the first convolution.
        stem: "imagenet" (7x7 stride 1) or, for images of 8 to 64 pixels, "small" (3x3 stride 1) or "stride2" (3x3
            stride 2).
        dropout_rate: before the classifier.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions and of the classifier's weights.
        features_only: returns maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    stage_sizes: Sequence[int] = (1, 1, 3, 4, 6, 3, 1, 1)
    stage_units: Sequence[str] = drn_units("d", "bottleneck")
    stage_features: Sequence[int] = (16, 32, 64, 128, 256, 512, 512, 512)
    stage_strides: Sequence[int] = (1, 2, 2, 2, 1, 1, 1, 1)
    stage_dilations: Sequence[int] = (1, 1, 1, 1, 2, 4, 2, 1)
    stem_features: int = 16
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
            ValueError: integer images; an unknown stem or unit; stages that do not fit.
        """
        self._check_stages()
        dtypes = resolve_dtypes("DRN", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)
        stem = {"kind": self.stem, "pool": False, "strides": 1}
        x = image_stem(
            x.astype(dtypes.compute),
            owner="DRN",
            features=self.stem_features,
            kernel_size=7,
            conv=conv,
            norm=norm,
            act=self.act,
            **stem,
        )
        features_at = residual_stages(
            x,
            stride=stem_stride(**stem),
            stage_sizes=self.stage_sizes,
            stage_strides=self.stage_strides,
            unit=functools.partial(self._unit, conv=conv, norm=norm),
        )
        if self.features_only:
            return features_at
        return classifier_head(
            features_at[max(features_at)],
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=self.kernel_init,
            dtypes=dtypes,
        )

    def _unit(
        self, stage: int, *, strides: int, name: str, conv: Callable[..., nn.Module], norm: Callable[..., Callable]
    ) -> nn.Module:
        """A unit of a stage, counted from 0."""
        kind, features = self.stage_units[stage], self.stage_features[stage]
        shared = {
            "strides": strides,
            "kernel_dilation": self.stage_dilations[stage],
            "conv": conv,
            "norm": norm,
            "act": self.act,
            "name": name,
        }
        if kind == "conv":
            return ConvUnit(features=features, **shared)
        if kind == "bottleneck":
            return BottleneckUnit(
                features=EXPANSION * features,
                bottleneck_features=features,
                groups=1,
                zero_init_residual=False,
                **shared,
            )
        shortcut = "none" if kind == "plain" else "projection"
        return BasicUnit(features=features, zero_init_residual=False, shortcut=shortcut, **shared)

    def _check_stages(self) -> None:
        """Every stage has its size, units, features, strides and dilation."""
        check_stages(
            "DRN",
            self.stage_sizes,
            stage_units=self.stage_units,
            stage_features=self.stage_features,
            stage_strides=self.stage_strides,
            stage_dilations=self.stage_dilations,
        )
        for kind in self.stage_units:
            if kind not in UNITS:
                raise unknown_name("DRN: stage_units", kind, UNITS)
