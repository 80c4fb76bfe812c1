"""ResNet (He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385) and ResNeXt (Xie et al., CVPR 2017, arXiv:1611.05431)."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from flax.core import FrozenDict, freeze
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head, symmetric_uniform
from arch.blocks.residual import STRIDES_AT, UNITS, check_stages, residual_stages
from arch.blocks.stem import image_stem, stem_stride
from arch.errors import unknown_name
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples

# A bottleneck unit puts out so many times the features of its stage.
EXPANSION = 4

# Section 4.2 of ResNet, for images of 32 pixels: stages of n units make 6n + 2 layers, and option A no parameter.
CIFAR = {
    "unit": "basic",
    "stage_features": (16, 32, 64),
    "shortcut": "zero_pad",
    "stem_features": 16,
    "stem": "small",
}

# Section 5 of ResNeXt: 29 layers for images of 32 pixels.
CIFAR_RESNEXT29 = {"stage_sizes": (3, 3, 3), "stage_features": (64, 128, 256), "base_width": 64, "stem": "small"}


class ResNet(nn.Module):
    """ResNet, table 1 of He et al., its CIFAR networks, section 4.2, and, in groups, ResNeXt, table 1 of Xie et al.

    torchvision's networks, layer by layer.

    Differs from the paper: the stride of a bottleneck unit lies on its 3x3 convolution ("v1.5"), unless `stride_at`
    says "first".

    Initial values: torchvision's. Convolutions from N(0, 2 / fan-out), where the fan-out of a grouped convolution
    counts the channels of all groups, classifier weights and bias from U(-1, 1) / sqrt(fan-in), norms at scale 1 and
    bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: units of each stage.
        stage_features: channels of each stage's 3x3 convolutions, for one group of base width 64; as many come out of
            basic units, four times as many out of bottleneck units.
        stage_strides: of the first unit of each stage; None is 1 for the first stage and 2 for the others.
        stage_dilations: of the 3x3 convolutions of each stage; None is 1.
        unit: "basic" or "bottleneck".
        stride_at: the convolution of a bottleneck unit that carries the stride, "second" (3x3, "v1.5") or "first" (1x1,
            the paper's).
        groups: of the 3x3 convolutions ("cardinality") of bottleneck units, in all stages or in each.
        base_width: channels of a group where the stage has 64 features; None shares the stage's features among the
            groups.
        shortcut: where the shape changes, "projection" (option B of the paper) or "zero_pad" (option A); "none" makes
            the paper's plain networks. See arch.blocks.residual.
        gate: makes what the branch of every unit goes through before the addition, such as
            `arch.attention.channel.SqueezeExcite`, as `gate(conv=, act=, name="gate")`; None leaves it out.
        unit_fields: fields of single units that differ, by the unit's name: `{"stage4_unit1": {"kernel_dilation": 1}}`;
            among them spatial_conv, such as `arch.ops.deformable.DeformConv`, for the 3x3 convolutions, and context,
            what follows the unit, as `context(conv=, norm=, name="context")`.
        stem_features: channels of the first convolution.
        stem: "imagenet" (7x7 stride 2, max pool 3x3 stride 2) or, for images of 8 to 64 pixels, "small" (3x3 stride 1)
            or "stride2" (3x3 stride 2).
        zero_init_residual: the scale of each unit's last normalization starts at 0 (arXiv:1706.02677, section 5.1).
        classifier_std: of the classifier's weights, from N(0, classifier_std^2) with a bias of 0, such as the 0.01 of
            arXiv:1706.02677; None is torchvision's.
        dropout_rate: before the classifier.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions.
        features_only: returns maps instead of logits, and makes no head: a trunk for other networks.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    stage_sizes: Sequence[int] = (3, 4, 6, 3)
    stage_features: Sequence[int] = (64, 128, 256, 512)
    stage_strides: Sequence[int] | None = None
    stage_dilations: Sequence[int] | None = None
    unit: str = "bottleneck"
    stride_at: str = "second"
    groups: int | Sequence[int] = 1
    base_width: int | None = None
    shortcut: str = "projection"
    gate: Callable[..., nn.Module] | None = None
    unit_fields: Mapping[str, Mapping[str, Any]] = FrozenDict()
    stem_features: int = 64
    stem: str = "imagenet"
    zero_init_residual: bool = False
    classifier_std: float | None = None
    dropout_rate: float = 0.0
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    features_only: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype | None = None

    def __post_init__(self) -> None:
        self.unit_fields = freeze(self.unit_fields)  # modules are hashed
        super().__post_init__()

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
            ValueError: integer images; an unknown stem, unit, shortcut or stride_at; stages, groups or fields of units
                that do not fit.
        """
        self._check()
        dtypes = resolve_dtypes("ResNet", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        of_conv = {"use_bias": False, "kernel_init": self.kernel_init, **layer}
        conv = functools.partial(self.conv, **of_conv)
        norm = bind(self.norm, train=train, examples=examples, **layer)

        def unit(stage: int, *, strides: int, name: str) -> nn.Module:
            fields = self._fields_of(stage, name)
            if fields.get("spatial_conv"):
                fields["spatial_conv"] = functools.partial(fields["spatial_conv"], **of_conv)
            parts = {"conv": conv, "norm": norm, "act": self.act}
            return UNITS[self.unit](**{"strides": strides, **parts, **fields}, name=name)

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
        features_at = residual_stages(
            x,
            stride=stem_stride(self.stem, pool=True),
            stage_sizes=self.stage_sizes,
            stage_strides=self._stage_strides(),
            unit=unit,
        )
        if self.features_only:
            return features_at
        *_, x = features_at.values()
        kernel_init = bias_init = symmetric_uniform(1 / math.sqrt(x.shape[-1]))
        if self.classifier_std is not None:
            kernel_init, bias_init = nn.initializers.normal(self.classifier_std), nn.initializers.zeros
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dtypes=dtypes,
        )

    def _stage_strides(self) -> Sequence[int]:
        return default_strides(self.stage_sizes) if self.stage_strides is None else self.stage_strides

    def _fields_of(self, stage: int, name: str) -> dict[str, Any]:
        """Fields of a unit, from its stage, counted from 0, and its name; networks that differ in some extend it."""
        return self._unit_fields(stage) | dict(self.unit_fields.get(name, {}))

    def _unit_fields(self, stage: int) -> dict[str, Any]:
        """Fields of the units of a stage, counted from 0, but those that depend on the unit."""
        features = self.stage_features[stage]
        fields = {
            "features": features,
            "kernel_dilation": 1 if self.stage_dilations is None else self.stage_dilations[stage],
            "zero_init_residual": self.zero_init_residual,
            "shortcut": self.shortcut,
            "gate": self.gate,
        }
        if self.unit == "basic":
            return fields
        groups = self.groups if isinstance(self.groups, int) else self.groups[stage]
        return fields | {
            "features": EXPANSION * features,
            "bottleneck_features": self._bottleneck_features(features, groups),
            "groups": groups,
            "stride_at": self.stride_at,
        }

    def _bottleneck_features(self, features: int, groups: int) -> int:
        """Channels of a stage's 3x3 convolutions, in all groups."""
        if self.base_width is None and groups >= 1:
            return features
        group_width = 0 if self.base_width is None else features * self.base_width // 64
        if groups < 1 or group_width < 1:
            raise ValueError(
                f"ResNet: base_width={self.base_width} and groups={groups} must leave a channel a group at "
                f"stage_features={features}; raise base_width to {math.ceil(64 / features)}, groups to 1, or more"
            )
        return group_width * groups

    def _check(self) -> None:
        if self.unit not in UNITS:
            raise unknown_name("ResNet: unit", self.unit, UNITS)
        if self.stride_at not in STRIDES_AT:  # units that are basic would not look
            raise unknown_name("ResNet: stride_at", self.stride_at, STRIDES_AT)
        check_stages(
            "ResNet",
            self.stage_sizes,
            stage_features=self.stage_features,
            stage_strides=self.stage_strides,
            stage_dilations=self.stage_dilations,
            groups=None if isinstance(self.groups, int) else self.groups,
        )
        if self.unit == "basic" and (self.groups, self.base_width) != (1, None):
            raise ValueError(
                f"ResNet: groups={self.groups} and base_width={self.base_width} must be left out with unit='basic', "
                "which has one group; take unit='bottleneck'"
            )
        units = [f"stage{stage}_unit{n}" for stage, size in enumerate(self.stage_sizes, 1) for n in range(1, size + 1)]
        known = {field.name for field in dataclasses.fields(UNITS[self.unit])} - {"parent", "name"}
        for name, fields in self.unit_fields.items():
            if name not in units:
                raise unknown_name("ResNet: unit_fields", name, units)
            for field in set(fields) - known:
                raise unknown_name(f"ResNet: unit_fields of {name}", field, known)


def default_strides(stage_sizes: Sequence[int]) -> tuple[int, ...]:
    """1 for the first stage and 2 for the others."""
    return (1, *[2] * (len(stage_sizes) - 1))[: len(stage_sizes)]
