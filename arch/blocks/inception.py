"""Branches side by side: the modules and stems of the Inception networks, written as tables of their layers."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from arch.blocks.conv_unit import ConvUnit
from arch.blocks.stem import SMALL_STRIDES, STEMS
from arch.errors import unknown_name
from arch.ops.pooling import avg_pool, max_pool
from arch.ops.widths import make_divisible


@dataclasses.dataclass(frozen=True)
class ConvStep:
    """A convolution of a branch, with its normalization and activation.

    Attributes:
        features: output channels, at width 1.
        kernel_size: height and width, in taps; a number stands for both.
        strides: in pixels.
        padding: "SAME", "VALID" or None, which pads with half of the kernel on either side.
    """

    features: int
    kernel_size: int | tuple[int, int] = 1
    strides: int = 1
    padding: str | None = None


# One after the other in a branch: a convolution; several of the same input, whose outputs are concatenated; a pooling.
Step = ConvStep | tuple[ConvStep, ...] | Callable[[jax.Array], jax.Array]
Branches = tuple[tuple[Step, ...], ...]


class InceptionModule(nn.Module):
    """Branches of one input, their channels concatenated (Szegedy et al., arXiv:1409.4842, section 4).

    Unit N of branch B is named branchB_unitN, where poolings do not count; units of one input have a letter more.

    Attributes:
        branches: the steps of each.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    branches: Branches
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, out_height, out_width, channels of all branches]."""
        return run_branches(x, self.branches, conv=self.conv, norm=self.norm, act=self.act)


class InceptionResidualUnit(nn.Module):
    """x + scale * 1x1(branches of x), then the activation (Szegedy et al., arXiv:1602.07261, section 3.2).

    The 1x1 convolution, `project`, has a bias, and neither normalization nor activation.

    Attributes:
        branches: as in `InceptionModule`; they keep height and width.
        scale: of what is added; 0.1 to 0.3 keeps wide networks from dying early in training, says section 3.3.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
        last_act: whether it follows the sum.
    """

    branches: Branches
    scale: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]
    last_act: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to the same shape."""
        mixed = run_branches(x, self.branches, conv=self.conv, norm=self.norm, act=self.act)
        update = self.conv(features=x.shape[-1], kernel_size=(1, 1), use_bias=True, name="project")(mixed)
        out = x + self.scale * update
        return self.act(out) if self.last_act else out


def run_branches(x: jax.Array, branches: Branches, **layers: Callable) -> jax.Array:
    """Every branch of x, concatenated; its units belong to the module that calls it, from its compact `__call__`.

    Args:
        x: [batch, height, width, channels].
        branches: the steps of each.
        **layers: conv, norm and act, as `ConvUnit` has them.
    """
    outs = [run_steps(x, steps, f"branch{branch}", **layers) for branch, steps in enumerate(branches, start=1)]
    return jnp.concatenate(outs, axis=-1)


def run_steps(x: jax.Array, steps: Sequence[Step], name: str, first: int = 1, **layers: Callable) -> jax.Array:
    """One step after the other; the units are called `name`_unitN, N from `first` on."""
    number = first
    for step in steps:
        if isinstance(step, ConvStep):
            x = _unit(step, f"{name}_unit{number}", layers)(x)
        elif isinstance(step, tuple):
            parallel = zip(step, "abcdefgh", strict=False)
            x = jnp.concatenate(
                [_unit(each, f"{name}_unit{number}{letter}", layers)(x) for each, letter in parallel], -1
            )
        else:
            x = step(x)
            continue
        number += 1
    return x


def _unit(step: ConvStep, name: str, layers: dict[str, Callable]) -> ConvUnit:
    return ConvUnit(
        step.features, step.strides, kernel_size=step.kernel_size, padding=step.padding, name=name, **layers
    )


def widen(branches: Branches, width_multiplier: float) -> Branches:
    """The same branches, of so many times the features, made divisible by 8."""

    def wide(step: Step) -> Step:
        if isinstance(step, ConvStep):
            return dataclasses.replace(step, features=make_divisible(step.features * width_multiplier))
        return tuple(map(wide, step)) if isinstance(step, tuple) else step

    return tuple(tuple(map(wide, steps)) for steps in branches)


def average_step(count_padding: bool) -> Step:
    """Average pooling 3x3 that keeps the size."""
    return functools.partial(avg_pool, window_shape=(3, 3), strides=(1, 1), padding="SAME", count_padding=count_padding)


def max_step(strides: int, padding: str) -> Step:
    """Max pooling 3x3."""
    return functools.partial(max_pool, window_shape=(3, 3), strides=(strides, strides), padding=padding)


def resolve_padding(owner: str, stem: str, padding: str | None) -> str:
    """Of all windows that the paper does not pad: as given or, by default, none at the imagenet stem, else "SAME".

    Raises:
        ValueError: an unknown stem or padding.
    """
    if stem not in STEMS:
        raise unknown_name(f"{owner}: stem", stem, STEMS)
    if padding not in (None, "SAME", "VALID"):
        raise unknown_name(f"{owner}: padding", padding, ("SAME", "VALID"))
    return padding or ("SAME" if stem in SMALL_STRIDES else "VALID")


def factorized_stem(
    x: jax.Array, *, kind: str, padding: str, features: Sequence[int], **layers: Callable
) -> dict[int, jax.Array]:
    """The stem of Inception v3 and of Inception-ResNet v2: five convolutions and, for large images, two poolings.

    Convolutions 3x3, 3x3, 3x3, then 1x1, 3x3, of which all but the third and fourth have the padding that is given. The
    first has stride 2, and a max pool 3x3 of stride 2 follows the third and the fifth; for images of 8 to 64 pixels
    "small" has stride 1 and "stride2" stride 2 at the first, and neither pools. The units `stem_unit1` and so on belong
    to the module that calls it, from its compact `__call__`.

    Args:
        x: [batch, height, width, channels].
        kind: "imagenet", "small" or "stride2".
        padding: "SAME" or "VALID".
        features: channels of the five.
        **layers: conv, norm and act, as `ConvUnit` has them.

    Returns:
        {stride: the last map of that stride}; that of the largest stride is for the stages.
    """
    strides = SMALL_STRIDES.get(kind, 2)
    first, second, third, fourth, fifth = features
    steps = (ConvStep(first, 3, strides, padding), ConvStep(second, 3, 1, padding), ConvStep(third, 3))
    x = run_steps(x, steps, "stem", **layers)
    more_steps = (ConvStep(fourth), ConvStep(fifth, 3, 1, padding))
    if kind in SMALL_STRIDES:
        return {strides: run_steps(x, more_steps, "stem", first=4, **layers)}
    pool = max_step(2, padding)
    middle = run_steps(pool(x), more_steps, "stem", first=4, **layers)
    return {2: x, 4: middle, 8: pool(middle)}


def stem_windows(kind: str) -> tuple[tuple[int, int], ...]:
    """(size, stride) of the windows that the stems of all three networks of 299 pixels may leave without padding."""
    if kind in SMALL_STRIDES:
        return (3, SMALL_STRIDES[kind]), (3, 1), (3, 1)
    return (3, 2), (3, 1), (3, 2), (3, 1), (3, 2)


def check_size(
    owner: str, size: Sequence[int], windows: Sequence[tuple[int, int]], padding: str, what: str = "images"
) -> None:
    """Windows without padding must leave a pixel of what has this size.

    Args:
        owner: for the error.
        size: height and width, in pixels.
        windows: (size, stride) of each, one after the other.
        padding: "SAME", which refuses nothing, or "VALID".
        what: has the size.

    Raises:
        ValueError: the size is too small.
    """
    smallest = 1
    for window, stride in reversed(windows):
        smallest = (smallest - 1) * stride + window
    if padding == "VALID" and min(size) < smallest:
        raise ValueError(
            f"{owner}: {what} of height={size[0]} and width={size[1]} must have at least {smallest} pixels a side "
            'without padding; set padding="SAME", or give larger ones'
        )


def check_repeats(owner: str, stage_sizes: Sequence[int]) -> None:
    """The three stages of a network of 299 pixels have a module each, or more."""
    if len(stage_sizes) != 3 or min(stage_sizes) < 1:
        raise ValueError(f"{owner}: stage_sizes={tuple(stage_sizes)} must be 3 numbers of 1 or more; change them")
