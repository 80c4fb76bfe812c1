"""SENet (Hu, Shen, Sun, CVPR 2018, arXiv:1709.01507): ResNet and ResNeXt with squeeze-and-excitation, and SENet-154."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.attention.channel import SqueezeExcite
from arch.blocks.head import classifier_head, symmetric_uniform
from arch.blocks.residual import STRIDES_AT, UNITS, check_stages, residual_stages
from arch.blocks.stem import image_stem, stem_stride
from arch.errors import unknown_name
from arch.models.classification.resnet import EXPANSION, default_strides
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv, symmetric_padding
from arch.ops.dtypes import resolve_dtypes
from arch.ops.pooling import ceil_mode_padding, max_pool
from arch.ops.stochastic import Examples

POOLS = ("ceil", "symmetric")

# SE-ResNeXt in 32 groups of base width 4.
SE_RESNEXT = {"stage_features": (128, 256, 512, 1024), "groups": 32, "expansion": 2, "stride_at": "second"}

# The appendix of the paper, as the authors' network has it: SE-ResNeXt in 64 groups of base width 4, of which the first
# convolution of a unit is half as wide, those that halve the map on the shortcut are 3x3, and three of 3x3 the stem.
SENET154 = {
    "stage_sizes": (3, 8, 36, 3),
    "stage_features": (256, 512, 1024, 2048),
    "groups": 64,
    "expansion": 1,
    "reduced_ratio": 0.5,
    "stride_at": "second",
    "shortcut_kernel_size": 3,
    "stem_features": (64, 64, 128),
    "dropout_rate": 0.2,
}


class SENet(nn.Module):
    """Residual units, each with a gate for every channel of its branch, computed from the means of all of them.

    The authors' networks (github.com/hujie-frank/SENet), layer by layer, as timm's `legacy_seresnet50` and deeper,
    `legacy_seresnext*` and `legacy_senet154` have them: the stride of SE-ResNet's bottlenecks lies on the first 1x1
    convolution, the pooling has no padding and reaches over the end of the map, and the gates have biases and no norm.
    With `stride_at` "second" and `pool` "symmetric" they are timm's `seresnet50` and deeper. With `act_before_gate`
    those of basic units are timm's `legacy_seresnet18` and `legacy_seresnet34`, which the authors do not have.

    Initial values: convolutions from N(0, 2 / fan-out), those of the gates too, their biases 0; classifier weights and
    bias from U(-1, 1) / sqrt(fan-in), norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: units of each stage.
        stage_features: channels of each stage's 3x3 convolutions, in all groups.
        unit: "basic" or "bottleneck".
        expansion: output channels of a bottleneck unit for each of its 3x3 convolution.
        groups: of the 3x3 convolutions of bottleneck units.
        reduced_ratio: channels of the first convolution of a bottleneck unit for each of its 3x3 convolution.
        stride_at: the convolution of a bottleneck unit that carries the stride, "first" (1x1) or "second" (3x3).
        shortcut_kernel_size: of the projections that have a stride, in taps.
        reduction: channels for one feature of the gates' hidden layer.
        stem_features: channels of the first convolutions: of one, 7x7 stride 2, or of several, 3x3, the first with the
            stride.
        stem: "imagenet" (as above, and a max pool 3x3 stride 2) or, for images of 8 to 64 pixels, "small" (the first is
            3x3, stride 1) or "stride2" (3x3 stride 2), without pool.
        act_before_gate: the activation comes before the gate too, which then scales what is not negative.
        pool: padding of the max pool: "ceil", behind the map and only where a window reaches over, or "symmetric".
        zero_init_residual: the scale of each unit's last normalization starts at 0 (arXiv:1706.02677, section 5.1).
        dropout_rate: before the classifier.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation, in the gates too.
        gate_act: makes the gates.
        kernel_init: initial values of the convolutions.
        features_only: returns maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    stage_sizes: Sequence[int] = (3, 4, 6, 3)
    stage_features: Sequence[int] = (64, 128, 256, 512)
    unit: str = "bottleneck"
    expansion: int = EXPANSION
    groups: int = 1
    reduced_ratio: float = 1.0
    stride_at: str = "first"
    shortcut_kernel_size: int = 1
    reduction: int = 16
    act_before_gate: bool = False
    stem_features: Sequence[int] = (64,)
    stem: str = "imagenet"
    pool: str = "ceil"
    zero_init_residual: bool = False
    dropout_rate: float = 0.0
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.relu
    gate_act: Callable[[jax.Array], jax.Array] = nn.sigmoid
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
            ValueError: integer images; an unknown stem, pool, unit or stride_at; stages or channels that do not fit.
        """
        self._check()
        dtypes = resolve_dtypes("SENet", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        parts = {
            "conv": functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer),
            "norm": bind(self.norm, train=train, examples=examples, **layer),
            "act": self.act,
        }

        def unit(stage: int, *, strides: int, name: str) -> nn.Module:
            return UNITS[self.unit](**self._unit_fields(stage), **parts, strides=strides, name=name)

        features_at = residual_stages(
            self._stem(x.astype(dtypes.compute), parts),
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

    def _stem(self, x: jax.Array, parts: dict[str, Callable]) -> jax.Array:
        first, *more = self.stem_features
        kernel_size = 3 if more else 7
        x = image_stem(
            x,
            owner="SENet",
            kind=self.stem,
            features=first,
            kernel_size=kernel_size,
            more_features=more,
            pool=False,
            **parts,
        )
        if self.stem != "imagenet":
            return x
        ceil = self.pool == "ceil"
        padding = ceil_mode_padding(x.shape[1:3], 3, 2) if ceil else symmetric_padding((3, 3))
        return max_pool(x, 3, strides=2, padding=padding)

    def _unit_fields(self, stage: int) -> dict:
        features = self.stage_features[stage]
        gate = _activated_squeeze_excite if self.act_before_gate else SqueezeExcite
        fields = {
            "features": features,
            "zero_init_residual": self.zero_init_residual,
            "shortcut_kernel_size": self.shortcut_kernel_size,
            "gate": functools.partial(gate, reduction=self.reduction, gate_act=self.gate_act),
        }
        if self.unit == "basic":
            return fields
        return fields | {
            "features": self.expansion * features,
            "bottleneck_features": features,
            "reduced_features": round(self.reduced_ratio * features),
            "groups": self.groups,
            "stride_at": self.stride_at,
        }

    def _check(self) -> None:
        for name, choices in (("unit", UNITS), ("pool", POOLS), ("stride_at", STRIDES_AT)):
            if getattr(self, name) not in choices:
                raise unknown_name(f"SENet: {name}", getattr(self, name), choices)
        check_stages("SENet", self.stage_sizes, stage_features=self.stage_features)
        if self.unit == "basic" and self.groups != 1:
            raise ValueError(
                f"SENet: groups={self.groups} must be left out with unit='basic', which has one group; take "
                "unit='bottleneck'"
            )
        narrowest = min(self.stage_features, default=0)
        if self.stage_features and self.unit == "bottleneck" and round(self.reduced_ratio * narrowest) < 1:
            raise ValueError(
                f"SENet: reduced_ratio={self.reduced_ratio} must leave a channel of stage_features={narrowest}; raise "
                "either"
            )
        if not self.stem_features:
            raise ValueError(
                "SENet: stem_features=() must have one or more; give the channels of the first convolution"
            )


def _activated_squeeze_excite(*, act: Callable[[jax.Array], jax.Array], **fields: Any) -> Callable[..., jax.Array]:
    gate = SqueezeExcite(act=act, **fields)
    return lambda x: gate(act(x))
