"""Units that learn what to add to their input, and the stages that they make."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from arch.errors import unknown_name
from arch.ops.conv import symmetric_padding

SHORTCUTS = ("projection", "zero_pad", "none")
STRIDES_AT = ("first", "second")

# Makes a function of x from the network's convolution, norm or activation, as the field says, and from its name.
Part = Callable[..., Callable[[jax.Array], jax.Array]]


class BasicUnit(nn.Module):
    """3x3, 3x3 and a shortcut, of ResNet (arXiv:1512.03385), figure 5, left. The last activation follows the addition.

    Attributes:
        features: output channels.
        strides: of the first convolution and of the shortcut, in pixels.
        zero_init_residual: as in `BottleneckUnit`.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name and fields.
        act: the activation.
        kernel_dilation: of both convolutions, in pixels.
        shortcut, shortcut_kernel_size, gate, context: as in `BottleneckUnit`.
        spatial_conv: makes both convolutions instead of `conv`, which None takes.
    """

    features: int
    strides: int
    zero_init_residual: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]
    kernel_dilation: int = 1
    shortcut: str = "projection"
    shortcut_kernel_size: int = 1
    spatial_conv: Callable[..., nn.Module] | None = None
    gate: Part | None = None
    context: Part | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features].

        Raises:
            ValueError: an unknown shortcut, or one that does not fit.
        """
        shortcut = _shortcut(self, x)
        for number, strides in ((1, self.strides), (2, 1)):
            x = (self.spatial_conv or self.conv)(
                features=self.features,
                kernel_size=(3, 3),
                strides=(strides, strides),
                padding=symmetric_padding((3, 3), self.kernel_dilation),
                kernel_dilation=(self.kernel_dilation, self.kernel_dilation),
                name=f"conv{number}",
            )(x)
            x = self.act(self.norm(name="norm1")(x)) if number == 1 else _last_norm(self, x, "norm2")
        return _join(self, shortcut, x)


class BottleneckUnit(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut, of ResNet (arXiv:1512.03385), figure 5, and of ResNeXt (arXiv:1611.05431), fig. 3c.

    The last activation follows the addition.

    Differs from the paper: the 3x3 convolution carries the stride ("v1.5"), as in torchvision and in ResNeXt, unless
    `stride_at` says "first".

    Attributes:
        features: output channels.
        bottleneck_features: channels of the 3x3 convolution.
        strides: of one convolution and of the shortcut, in pixels.
        groups: of the 3x3 convolution; a divisor of bottleneck_features.
        zero_init_residual: the scale of the last normalization starts at 0, so that the unit starts as its shortcut
            (Goyal et al., arXiv:1706.02677, section 5.1).
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name and fields.
        act: the activation.
        stride_at: "first", the 1x1 convolution that narrows ("v1"), or "second", the 3x3 one.
        reduced_features: channels of the first convolution; None takes bottleneck_features.
        kernel_dilation: of the 3x3 convolution, in pixels.
        shortcut: "projection" is the input or, where the shape changes, a convolution with its normalization (option
            B); "zero_pad" every strides-th pixel, with channels of zeros behind those of the input (option A); "none"
            leaves it out, which makes a plain network.
        shortcut_kernel_size: of the projection where it has a stride, in taps; it is 1x1 where it has none.
        spatial_conv: makes the 3x3 convolution instead of `conv`, which None takes.
        gate: makes what the branch goes through before the addition, a function of x, as `gate(conv=, act=, name=)`;
            None leaves it out.
        context: makes what follows the last activation, as `context(conv=, norm=, name=)`; None leaves it out.
    """

    features: int
    bottleneck_features: int
    strides: int
    groups: int
    zero_init_residual: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]
    stride_at: str = "second"
    reduced_features: int | None = None
    kernel_dilation: int = 1
    shortcut: str = "projection"
    shortcut_kernel_size: int = 1
    spatial_conv: Callable[..., nn.Module] | None = None
    gate: Part | None = None
    context: Part | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features].

        Raises:
            ValueError: an unknown stride_at; an unknown shortcut, or one that does not fit.
        """
        first, second = split_stride("BottleneckUnit", self.strides, self.stride_at)
        shortcut = _shortcut(self, x)
        reduced = self.bottleneck_features if self.reduced_features is None else self.reduced_features
        x = self.conv(features=reduced, kernel_size=(1, 1), strides=(first, first), name="conv1")(x)
        x = self.act(self.norm(name="norm1")(x))
        x = (self.spatial_conv or self.conv)(
            features=self.bottleneck_features,
            kernel_size=(3, 3),
            strides=(second, second),
            padding=symmetric_padding((3, 3), self.kernel_dilation),
            kernel_dilation=(self.kernel_dilation, self.kernel_dilation),
            feature_group_count=self.groups,
            name="conv2",
        )(x)
        x = self.act(self.norm(name="norm2")(x))
        x = self.conv(features=self.features, kernel_size=(1, 1), name="conv3")(x)
        return _join(self, shortcut, _last_norm(self, x, "norm3"))


UNITS = {"basic": BasicUnit, "bottleneck": BottleneckUnit}


def split_stride(owner: str, strides: int, stride_at: str) -> tuple[int, int]:
    """The strides of the first and of the second convolution of a bottleneck.

    Raises:
        ValueError: an unknown stride_at.
    """
    if stride_at not in STRIDES_AT:
        raise unknown_name(f"{owner}: stride_at", stride_at, STRIDES_AT)
    return (strides, 1) if stride_at == "first" else (1, strides)


def zero_pad_shortcut(x: jax.Array, features: int, strides: int) -> jax.Array:
    """Every strides-th pixel, with channels of zeros behind those of x: option A of ResNet, section 4.2.

    Args:
        x: [batch, height, width, channels].
        features: output channels.
        strides: in pixels.

    Returns:
        [batch, height / strides, width / strides, features].

    Raises:
        ValueError: fewer features than channels.
    """
    missing = features - x.shape[-1]
    if missing < 0:
        raise ValueError(
            f"zero_pad_shortcut: features={features} must be at least channels={x.shape[-1]}; widen the stage, or take "
            "shortcut='projection'"
        )
    return jnp.pad(x[:, ::strides, ::strides], ((0, 0), (0, 0), (0, 0), (0, missing)))


def residual_stages(
    x: jax.Array,
    *,
    stride: int,
    stage_sizes: Sequence[int],
    stage_strides: Sequence[int],
    unit: Callable[..., Callable[[jax.Array], jax.Array]],
) -> dict[int, jax.Array]:
    """Stages of units, called `stage1_unit1` and so on; the first unit of a stage has its stride.

    Args:
        x: [batch, height, width, channels].
        stride: pixels of the image to a step of x.
        stage_sizes: units of each stage.
        stage_strides: of each stage, in steps of the map before it.
        unit: makes a unit of a stage, counted from 0, as `unit(stage, strides=, name=)`.

    Returns:
        {stride: the last map of that stride}, x among them; the last one is what the stages put out.
    """
    features_at = {stride: x}
    for stage, (size, stage_stride) in enumerate(zip(stage_sizes, stage_strides, strict=True)):
        for number in range(size):
            strides = stage_stride if number == 0 else 1
            x = unit(stage, strides=strides, name=f"stage{stage + 1}_unit{number + 1}")(x)
        stride *= stage_stride
        features_at[stride] = x
    return features_at


def check_stages(owner: str, stage_sizes: Sequence[int], **fields: Sequence | None) -> None:
    """Every stage has a unit, or more, and a value of each field; a field that is None is left out.

    Raises:
        ValueError: a stage without units; sizes or a field that are no sequence; a field of another length.
    """
    for name, values in {"stage_sizes": stage_sizes, **fields}.items():
        if values is None and name != "stage_sizes":
            continue
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise ValueError(f"{owner}: {name}={values!r} must be a sequence, one value a stage; give a tuple")
        if len(values) != len(stage_sizes):
            raise ValueError(
                f"{owner}: {name}={tuple(values)} must be one for each of stage_sizes={tuple(stage_sizes)}; change "
                "either"
            )
    if min(stage_sizes, default=1) < 1:
        raise ValueError(
            f"{owner}: stage_sizes={tuple(stage_sizes)} must be at least 1 each; leave out stages without units"
        )


def _shortcut(unit: BasicUnit | BottleneckUnit, x: jax.Array) -> jax.Array | None:
    """What the branch is added to. Its layers belong to the unit."""
    if unit.shortcut not in SHORTCUTS:
        raise unknown_name(f"{type(unit).__name__}: shortcut", unit.shortcut, SHORTCUTS)
    if unit.shortcut == "none":
        return None
    if unit.strides == 1 and x.shape[-1] == unit.features:
        return x
    if unit.shortcut == "zero_pad":
        return zero_pad_shortcut(x, unit.features, unit.strides)
    kernel_size = (unit.shortcut_kernel_size if unit.strides > 1 else 1,) * 2
    x = unit.conv(
        features=unit.features,
        kernel_size=kernel_size,
        strides=(unit.strides, unit.strides),
        padding=symmetric_padding(kernel_size),
        name="shortcut_conv",
    )(x)
    return unit.norm(name="shortcut_norm")(x)


def _last_norm(unit: BasicUnit | BottleneckUnit, x: jax.Array, name: str) -> jax.Array:
    init = {"scale_init": nn.initializers.zeros_init()} if unit.zero_init_residual else {}
    return unit.norm(name=name, **init)(x)


def _join(unit: BasicUnit | BottleneckUnit, shortcut: jax.Array | None, x: jax.Array) -> jax.Array:
    """The branch, gated, added to the shortcut, and what follows."""
    if unit.gate is not None:
        x = unit.gate(conv=unit.conv, act=unit.act, name="gate")(x)
    x = unit.act(x if shortcut is None else shortcut + x)
    if unit.context is not None:
        x = unit.context(conv=unit.conv, norm=unit.norm, name="context")(x)
    return x
