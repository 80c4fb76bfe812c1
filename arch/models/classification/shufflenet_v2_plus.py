"""ShuffleNet v2+, of the authors of ShuffleNet v2: github.com/megvii-model/ShuffleNet-Series, folder ShuffleNetV2+."""

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
from arch.ops.pooling import global_avg_pool
from arch.ops.stochastic import Examples

# A unit's name -> its branch, and the taps of its depthwise convolutions.
UNITS = {
    "3x3": {"branch": "bottleneck", "kernel_size": 3},
    "5x5": {"branch": "bottleneck", "kernel_size": 5},
    "7x7": {"branch": "bottleneck", "kernel_size": 7},
    "xception": {"branch": "xception", "kernel_size": 3},
}


class ShuffleNetV2Plus(nn.Module):
    """ShuffleNet v2+, the authors' network, layer by layer; there is no paper.

    ShuffleNet v2 in four stages after a stem without pool, each unit of a kind of its own, with the activation h-swish
    and, in the last two stages and before the classifier, squeeze-and-excitation with a norm after its first layer, and
    the gate h-sigmoid. The first stage, and the gates' hidden layers, have ReLU.

    Initial values: those of our ShuffleNet v2. Convolutions from U(-1, 1) / sqrt(fan-in), linear layers from
    N(0, 0.01), as the authors have them, norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: units of each stage, the first of stride 2.
        stage_features: channels of each stage, even; the default is that of the large network.
        units: the kind of each unit, in order, a key of UNITS: a branch with one depthwise convolution of that size, or
            one with three of 3x3.
        stage_gates: whether the units of each stage have squeeze-and-excitation.
        stem_features: channels of the first convolution.
        head_features: channels of the last convolution, and of the linear layer before the classifier.
        se_reduction: of squeeze-and-excitation.
        gate_act: makes its gates.
        early_act: the activation of the first stage and inside squeeze-and-excitation; None is ReLU where `act` is
            h-swish, else `act`.
        classifier_bias: whether the classifier has one; the authors' has none.
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
    stage_sizes: Sequence[int] = (4, 4, 8, 4)
    stage_features: Sequence[int] = (68, 168, 336, 672)
    units: Sequence[str] = (
        *("3x3", "3x3", "xception", "5x5"),
        *("5x5", "5x5", "3x3", "3x3"),
        *("7x7", "3x3", "7x7", "5x5", "5x5", "3x3", "7x7", "3x3"),
        *("7x7", "5x5", "xception", "7x7"),
    )
    stage_gates: Sequence[bool] = (False, False, True, True)
    stem_features: int = 16
    head_features: int = 1280
    se_reduction: int = 4
    gate_act: Callable[[jax.Array], jax.Array] = nn.hard_sigmoid
    early_act: Callable[[jax.Array], jax.Array] | None = None
    classifier_bias: bool = False
    stem: str = "imagenet"
    dropout_rate: float = 0.2
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.hard_swish
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
            ValueError: integer images; an unknown stem or unit; stages, units or features that do not fit.
        """
        self._check_stages()
        early_act = self._resolve_early_act()
        dtypes = resolve_dtypes("ShuffleNetV2Plus", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)
        gate = functools.partial(
            SqueezeExcite,
            reduction=self.se_reduction,
            conv=conv,
            norm=norm,
            gate_norm=False,
            act=early_act,
            gate_act=self.gate_act,
        )

        x = image_stem(
            x.astype(dtypes.compute),
            owner="ShuffleNetV2Plus",
            kind=self.stem,
            features=self.stem_features,
            kernel_size=3,
            pool=False,
            conv=conv,
            norm=norm,
            act=self.act,
        )
        stride = stem_stride(self.stem, pool=False)
        features_at, kinds = {stride: x}, iter(self.units)
        stages = zip(self.stage_sizes, self.stage_features, self.stage_gates, strict=True)
        for stage, (size, features, gated) in enumerate(stages, start=1):
            for unit in range(1, size + 1):
                x = ShuffleUnitV2(
                    features=features,
                    strides=2 if unit == 1 else 1,
                    shortcut_features=x.shape[-1],
                    shuffle="before",
                    conv=conv,
                    norm=norm,
                    act=early_act if stage == 1 else self.act,
                    gate=gate if gated else None,
                    **UNITS[next(kinds)],
                    name=f"stage{stage}_unit{unit}",
                )(x)
            stride *= 2
            features_at[stride] = x
        if self.features_only:
            return features_at
        x = conv(features=self.head_features, kernel_size=(1, 1), name="head_conv")(x)
        x = global_avg_pool(self.act(norm(name="head_norm")(x)))[:, None, None]
        head_layer = layer | {"dtype": dtypes.head}
        x = gate(
            conv=functools.partial(conv, **head_layer),
            norm=bind(self.norm, train=train, examples=examples, **head_layer),
            name="head_gate",
        )(x)
        init = nn.initializers.normal(0.01)
        x = nn.Dense(self.head_features, use_bias=False, kernel_init=init, **head_layer, name="head_dense")(x)
        return classifier_head(
            self.act(x),
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=init,
            use_bias=self.classifier_bias,
            dtypes=dtypes,
        )

    def _resolve_early_act(self) -> Callable[[jax.Array], jax.Array]:
        """The activation of the first stage and inside squeeze-and-excitation."""
        if self.early_act is not None:
            return self.early_act
        return nn.relu if self.act is nn.hard_swish else self.act

    def _check_stages(self) -> None:
        """Every stage has its fields, and every unit its kind."""
        check_stages(
            "ShuffleNetV2Plus", self.stage_sizes, stage_features=self.stage_features, stage_gates=self.stage_gates
        )
        if len(self.units) != sum(self.stage_sizes):
            raise ValueError(
                f"ShuffleNetV2Plus: units, {len(self.units)}, must be one for each unit of "
                f"stage_sizes={tuple(self.stage_sizes)}; change either"
            )
        for kind in self.units:
            if kind not in UNITS:
                raise unknown_name("ShuffleNetV2Plus: units", kind, UNITS)
