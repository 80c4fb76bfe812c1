"""Shifts, resizing, sub-pixel rearrangement, pooling with indices and unpooling, against torch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from arch.ops.resize import pixel_shuffle, resize
from arch.ops.shift import spatial_shift
from arch.ops.unpooling import max_pool_with_argmax, max_unpool
from scripts.op_cases.case import OpCase, image, to_nchw


def _map(batch: int, size: int, channels: int) -> Callable[[np.random.Generator], tuple[np.ndarray, ...]]:
    return lambda random: (image(random, batch, size, size, channels),)


def _resize_case(size: int, out_size: int, channels: int, method: str) -> OpCase:
    def interpolate(x: Any) -> Any:
        import torch

        options = {"align_corners": False} if method == "bilinear" else {}
        return torch.nn.functional.interpolate(x, (out_size, out_size), mode=method, **options)

    return OpCase(
        name="resize",
        size=f"8x{size}x{size}x{channels} to {out_size}x{out_size}, {method}",
        make=_map(8, size, channels),
        ours=functools.partial(resize, size=out_size, method=method),
        peer=interpolate,
    )


def _pixel_shuffle_case(size: int, channels: int, scale: int) -> OpCase:
    def shuffle(x: Any) -> Any:
        import torch

        return torch.nn.functional.pixel_shuffle(x, scale)

    return OpCase(
        name="pixel_shuffle",
        size=f"8x{size}x{size}x{channels}, scale {scale}",
        make=_map(8, size, channels),
        ours=functools.partial(pixel_shuffle, scale=scale),
        peer=shuffle,
    )


def _spatial_shift_case(size: int, channels: int, taps: int, assignment: str) -> OpCase:
    """Against a depthwise convolution with one-hot kernels, which torch has."""
    share = channels // taps**2

    def kernels() -> np.ndarray:
        one_hot = np.zeros((channels, 1, taps * taps), np.float32)
        for channel in range(channels):
            tap = channel // share if assignment == "contiguous" else channel % taps**2
            one_hot[channel, 0, tap if channel < share * taps**2 else taps**2 // 2] = 1
        return one_hot.reshape(channels, 1, taps, taps)

    def convolve(x: Any, kernel: Any) -> Any:
        import torch

        return torch.nn.functional.conv2d(x, kernel, padding=taps // 2, groups=channels)

    return OpCase(
        name="spatial_shift",
        size=f"8x{size}x{size}x{channels}, {taps}x{taps}, {assignment}",
        make=_map(8, size, channels),
        ours=functools.partial(spatial_shift, kernel_size=taps, assignment=assignment),
        peer=convolve,
        to_peer=lambda x: (to_nchw(x), kernels()),
    )


# Values and indices are added, so that both are computed and one array comes out.


def _max_pool_case(size: int, channels: int, window: int, padding: int) -> OpCase:
    def ours(x: jax.Array) -> jax.Array:
        values, indices = max_pool_with_argmax(x, window, 2, padding)
        return values + indices.astype(x.dtype)

    def pool(x: Any) -> Any:
        import torch

        values, indices = torch.nn.functional.max_pool2d(x, window, 2, padding, return_indices=True)
        return values + indices.to(x.dtype)

    return OpCase(
        name="max_pool_with_argmax",
        size=f"8x{size}x{size}x{channels}, {window}x{window} windows",
        make=_map(8, size, channels),
        ours=ours,
        peer=pool,
    )


def _max_unpool_case(size: int, channels: int) -> OpCase:
    def make(random: np.random.Generator) -> tuple[np.ndarray, ...]:
        half = size // 2
        corners = 2 * np.indices((half, half)).reshape(2, 1, half, half, 1)
        rows, columns = corners + random.integers(0, 2, (2, 8, half, half, channels))
        return image(random, 8, half, half, channels), (rows * size + columns).astype(np.int32)

    def unpool(x: Any, indices: Any) -> Any:
        import torch

        return torch.nn.functional.max_unpool2d(x, indices, 2, output_size=(size, size))

    return OpCase(
        name="max_unpool",
        size=f"8x{size // 2}x{size // 2}x{channels} to {size}x{size}, 2x2 windows",
        make=make,
        ours=lambda x, indices: max_unpool(x, indices, size, window_shape=2),
        peer=unpool,
        to_peer=lambda x, indices: (to_nchw(x), to_nchw(indices).astype(np.int64)),
    )


CASES: tuple[OpCase, ...] = (
    _resize_case(28, 56, 128, "bilinear"),
    _resize_case(56, 40, 128, "bilinear"),
    _resize_case(28, 56, 128, "nearest"),
    _pixel_shuffle_case(28, 256, 2),
    _spatial_shift_case(28, 128, 3, "contiguous"),
    _spatial_shift_case(56, 64, 3, "modulo"),
    _max_pool_case(56, 64, 2, 0),
    _max_pool_case(56, 64, 3, 1),
    _max_unpool_case(56, 64),
)
