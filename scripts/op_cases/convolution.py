"""Convolutions of every kind, pooling, and the converted learned group convolution."""

import functools
from typing import Any

import jax
import numpy as np

from arch.ops.conv import Conv, FactorizedConv, SeparableConv
from arch.ops.conv2d import conv2d, conv_transpose2d, transposed_padding
from arch.ops.learned_group_conv import IndexedGroupConv
from arch.ops.pooling import global_avg_pool, max_pool
from scripts.op_cases.case import OpCase, image, to_nchw

NO_BIAS = functools.partial(Conv, use_bias=False)


def _oihw(kernel: np.ndarray) -> np.ndarray:
    """[height, width, in, out] as torch has it."""
    return kernel.transpose(3, 2, 0, 1).copy()


def _to_peer(x: np.ndarray, *kernels: np.ndarray) -> tuple[np.ndarray, ...]:
    return to_nchw(x), *map(_oihw, kernels)


def _conv2d(x: Any, kernel: Any, **options: Any) -> Any:
    import torch

    return torch.nn.functional.conv2d(x, kernel, **options)


def _conv(size: int, in_features: int, features: int, *, dilation: int = 1, groups: int = 1) -> OpCase:
    """3x3 at stride 1."""
    kind = f"dilation {dilation}" if dilation > 1 else "depthwise" if groups == in_features else f"{groups} groups"
    options = {"padding": dilation}
    return OpCase(
        name="DepthwiseConv" if groups == in_features else "conv2d",
        size=f"8x{size}x{size}x{in_features}, 3x3 to {features}, {kind}",
        make=lambda random: (
            image(random, 8, size, size, in_features),
            image(random, 3, 3, in_features // groups, features),
        ),
        ours=functools.partial(conv2d, kernel_dilation=dilation, feature_group_count=groups, **options),
        peer=functools.partial(_conv2d, dilation=dilation, groups=groups, **options),
        to_peer=_to_peer,
        differentiated=(0, 1),
    )


def _conv_transpose(size: int, in_features: int, features: int) -> OpCase:
    def peer(x: Any, kernel: Any) -> Any:
        import torch

        return torch.nn.functional.conv_transpose2d(x, kernel, stride=2, padding=1)

    return OpCase(
        name="conv_transpose2d",
        size=f"8x{size}x{size}x{in_features}, 4x4 stride 2 to {features}",
        make=lambda random: (image(random, 8, size, size, in_features), image(random, 4, 4, features, in_features)),
        ours=functools.partial(conv_transpose2d, strides=2, padding=transposed_padding(4, 1), transpose_kernel=True),
        peer=peer,
        to_peer=_to_peer,
        differentiated=(0, 1),
    )


def _factorized(size: int, features: int, taps: int) -> OpCase:
    def ours(x: jax.Array, horizontal: jax.Array, vertical: jax.Array) -> jax.Array:
        params = {"horizontal": {"kernel": horizontal}, "vertical": {"kernel": vertical}}
        return FactorizedConv(features, taps, conv=NO_BIAS).apply({"params": params}, x)

    def peer(x: Any, horizontal: Any, vertical: Any) -> Any:
        return _conv2d(_conv2d(x, horizontal, padding=(0, taps // 2)), vertical, padding=(taps // 2, 0))

    return OpCase(
        name="FactorizedConv",
        size=f"8x{size}x{size}x{features}, 1x{taps} + {taps}x1",
        make=lambda random: (
            image(random, 8, size, size, features),
            image(random, 1, taps, features, features),
            image(random, taps, 1, features, features),
        ),
        ours=ours,
        peer=peer,
        to_peer=_to_peer,
        differentiated=(0, 1, 2),
    )


def _separable(size: int, features: int) -> OpCase:
    def ours(x: jax.Array, depthwise: jax.Array, pointwise: jax.Array) -> jax.Array:
        params = {"depthwise": {"kernel": depthwise}, "pointwise": {"kernel": pointwise}}
        return SeparableConv(features, 3, conv=NO_BIAS).apply({"params": params}, x)

    return OpCase(
        name="SeparableConv",
        size=f"8x{size}x{size}x{features}, 3x3",
        make=lambda random: (
            image(random, 8, size, size, features),
            image(random, 3, 3, 1, features),
            image(random, 1, 1, features, features),
        ),
        ours=ours,
        peer=lambda x, depthwise, pointwise: _conv2d(_conv2d(x, depthwise, padding=1, groups=features), pointwise),
        to_peer=_to_peer,
        differentiated=(0, 1, 2),
    )


def _max_pool(size: int, channels: int) -> OpCase:
    def peer(x: Any) -> Any:
        import torch

        return torch.nn.functional.max_pool2d(x, 3, 2, 1)

    return OpCase(
        name="max_pool",
        size=f"8x{size}x{size}x{channels}, 3x3 stride 2",
        make=lambda random: (image(random, 8, size, size, channels),),
        ours=lambda x: max_pool(x, 3, 2, 1),
        peer=peer,
    )


def _global_avg_pool(size: int, channels: int) -> OpCase:
    return OpCase(
        name="global_avg_pool",
        size=f"8x{size}x{size}x{channels}",
        make=lambda random: (image(random, 8, size, size, channels),),
        ours=global_avg_pool,
        peer=lambda x: x.mean((2, 3)),
    )


def _indexed_group_conv(size: int, in_features: int, features: int, num_groups: int) -> OpCase:
    """As CondenseNet converts it: index, grouped convolution, shuffle."""
    taken = in_features // num_groups

    def make(random: np.random.Generator) -> tuple[np.ndarray, ...]:
        index = [np.sort(random.permutation(in_features)[:taken]) for _ in range(num_groups)]
        return image(random, 8, size, size, in_features), np.concatenate(index), image(random, 1, 1, taken, features)

    def ours(x: jax.Array, index: jax.Array, kernel: jax.Array) -> jax.Array:
        variables = {"params": {"kernel": kernel}, "condensation": {"index": index}}
        return IndexedGroupConv(features, num_groups).apply(variables, x)

    def peer(x: Any, index: Any, kernel: Any) -> Any:
        import torch

        out = _conv2d(x.index_select(1, index), kernel, groups=num_groups)
        return torch.nn.functional.channel_shuffle(out, num_groups)

    return OpCase(
        name="IndexedGroupConv",
        size=f"8x{size}x{size}x{in_features} to {features}, {num_groups} groups",
        make=make,
        ours=ours,
        peer=peer,
        to_peer=lambda x, index, kernel: (to_nchw(x), index, _oihw(kernel)),
        differentiated=(0, 2),
    )


CASES: tuple[OpCase, ...] = (
    _conv(56, 128, 128, groups=32),
    _conv(28, 256, 256, groups=32),
    _conv(28, 128, 128, dilation=2),
    _conv(56, 128, 128, groups=128),
    _separable(28, 256),
    _factorized(28, 128, 7),
    _conv_transpose(28, 128, 64),
    _max_pool(56, 64),
    _global_avg_pool(7, 2048),
    _global_avg_pool(28, 256),
    _indexed_group_conv(28, 256, 128, 4),
    _indexed_group_conv(56, 64, 64, 4),
)
