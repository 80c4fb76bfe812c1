"""Channel shuffle and shift, pairs of grouped convolutions, gradual updates, large kernels, swish."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from arch.ops.activation import swish
from arch.ops.channel import channel_shift, channel_shuffle
from arch.ops.conv import Conv
from arch.ops.gradually_updated import GraduallyUpdated
from arch.ops.interleaved_group_conv import IGC, ChannelLocalConv
from arch.ops.large_kernel import LargeKernelConv
from scripts.op_cases.case import OpCase, image, to_nchw

NO_BIAS = functools.partial(Conv, use_bias=False)


def _shuffle(size: int, channels: int, num_groups: int) -> OpCase:
    def peer(x: Any) -> Any:
        import torch

        return torch.nn.functional.channel_shuffle(x, num_groups)

    return OpCase(
        name="channel_shuffle",
        size=f"8x{size}x{size}x{channels}, {num_groups} groups",
        make=lambda random: (image(random, 8, size, size, channels),),
        ours=lambda x: channel_shuffle(x, num_groups),
        peer=peer,
    )


def _shift(size: int, channels: int, shift: int) -> OpCase:
    return OpCase(
        name="channel_shift",
        size=f"8x{size}x{size}x{channels}, by {shift}",
        make=lambda random: (image(random, 8, size, size, channels),),
        ours=lambda x: channel_shift(x, shift),
        peer=lambda x: x.roll(shift, 1),
    )


def _swish() -> OpCase:
    def peer(x: Any) -> Any:
        import torch

        return torch.nn.functional.silu(x)

    return OpCase(
        name="swish",
        size="8x56x56x64",
        make=lambda random: (image(random, 8, 56, 56, 64),),
        ours=swish,
        peer=peer,
    )


def _trained_swish() -> OpCase:
    def peer(x: Any, beta: Any) -> Any:
        return x * (beta[:, None, None] * x).sigmoid()

    return OpCase(
        name="swish",
        size="8x56x56x64, beta for each channel",
        make=lambda random: (image(random, 8, 56, 56, 64), image(random, 64)),
        ours=swish,
        peer=peer,
        differentiated=(0, 1),
    )


def _layer(
    name: str, size: str, layer: nn.Module, shape: Sequence[int], peer: Callable[..., Any], names: Sequence[str]
) -> OpCase:
    """A module of bias-free convolutions `names`; the peer takes x and their kernels, as torch has them."""

    def make(random: np.random.Generator) -> tuple[np.ndarray, ...]:
        x = image(random, *shape)
        params = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
        shapes = [params[name]["kernel"].shape for name in names]
        return x, *(image(random, *kernel) / np.sqrt(np.prod(kernel[:3], dtype=np.float32)) for kernel in shapes)

    def ours(x: jax.Array, *kernels: jax.Array) -> jax.Array:
        params = {name: {"kernel": kernel} for name, kernel in zip(names, kernels, strict=True)}
        return layer.apply({"params": params}, x)

    def to_peer(x: np.ndarray, *kernels: np.ndarray) -> tuple[np.ndarray, ...]:
        return to_nchw(x), *(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)) for kernel in kernels)

    return OpCase(name, size, make, ours, peer, to_peer, differentiated=tuple(range(len(names) + 1)))


def _interleaved(size: int, primary: int, secondary: int) -> OpCase:
    features = primary * secondary

    def peer(x: Any, first: Any, second: Any) -> Any:
        from torch.nn import functional

        x = functional.channel_shuffle(functional.conv2d(x, first, padding=1, groups=primary), primary)
        return functional.channel_shuffle(functional.conv2d(x, second, groups=secondary), secondary)

    layer = IGC(features, primary, conv=NO_BIAS)
    text = f"8x{size}x{size}x{features}, {primary} of {secondary}"
    return _layer("IGC", text, layer, (8, size, size, features), peer, ("primary", "secondary"))


def _channel_local(size: int, channels: int) -> OpCase:
    groups = channels // 2

    def peer(x: Any, first: Any, second: Any) -> Any:
        from torch.nn import functional

        x = functional.channel_shuffle(functional.conv2d(x, first, padding=1, groups=groups), groups)
        return functional.conv2d(x, second, groups=2)

    layer = ChannelLocalConv(channels, groups, 2, conv=NO_BIAS)
    text = f"8x{size}x{size}x{channels}, {groups} and 2 groups"
    return _layer("ChannelLocalConv", text, layer, (8, size, size, channels), peer, ("spatial", "pointwise"))


def _large_kernel(size: int, channels: int, kernel_size: int, features: int) -> OpCase:
    names = ("left_vertical", "left_horizontal", "right_horizontal", "right_vertical")

    def peer(x: Any, *kernels: Any) -> Any:
        from torch.nn import functional

        conv = functools.partial(functional.conv2d, padding="same")
        return conv(conv(x, kernels[0]), kernels[1]) + conv(conv(x, kernels[2]), kernels[3])

    text = f"8x{size}x{size}x{channels}, {kernel_size} taps to {features}"
    layer = LargeKernelConv(features, kernel_size, conv=NO_BIAS)
    return _layer("LargeKernelConv", text, layer, (8, size, size, channels), peer, names)


def _gradually_updated(size: int, channels: int, num_segments: int) -> OpCase:
    parts = ("reduce", "conv", "expand", "projection")
    names = [f"segment{i}_{part}" for i in range(1, num_segments + 1) for part in parts]

    def peer(x: Any, *kernels: Any) -> Any:
        import torch
        from torch.nn import functional

        segments = list(x.chunk(num_segments, 1))
        for i in range(num_segments):
            seen = torch.cat(segments, 1)
            reduce, conv, expand, projection = kernels[4 * i : 4 * i + 4]
            change = functional.conv2d(functional.conv2d(seen, reduce).relu(), conv, padding=1).relu()
            segments[i] = segments[i] + functional.conv2d(change, expand) + functional.conv2d(seen, projection)
        return torch.cat(segments, 1)

    text = f"8x{size}x{size}x{channels}, {num_segments} segments"
    layer = GraduallyUpdated(num_segments, projection=True, conv=NO_BIAS)
    return _layer("GraduallyUpdated", text, layer, (8, size, size, channels), peer, names)


# The maps on which ShuffleNet v2 (1x, 2x) and v1 (8 groups) shuffle first; of the activations those that torch has.
CASES: tuple[OpCase, ...] = (
    _shuffle(28, 116, 2),
    _shuffle(28, 244, 2),
    _shuffle(28, 96, 8),
    _shift(56, 128, 16),
    _shift(28, 240, 40),
    _interleaved(28, 24, 4),
    _channel_local(28, 256),
    _large_kernel(28, 256, 15, 21),
    _gradually_updated(16, 300, 25),
    _swish(),
    _trained_swish(),
)
