"""Spatial transformer and deformable convolution, against torch and torchvision."""

from typing import Any

import jax
import numpy as np

from arch.ops.deformable import deform_conv2d
from arch.ops.sampling import affine_grid, grid_sample
from scripts.op_cases.case import OpCase, image, to_nchw


def _transformer_case(size: int, channels: int) -> OpCase:
    """Each image turned and zoomed by a map of its own, some of it outside."""

    def make(random: np.random.Generator) -> tuple[np.ndarray, ...]:
        identity = np.eye(2, 3, dtype=np.float32)
        return image(random, 8, size, size, channels), identity + 0.2 * image(random, 8, 2, 3)

    def ours(x: jax.Array, theta: jax.Array) -> jax.Array:
        return grid_sample(x, affine_grid(theta, (size, size), False), False)

    def transform(x: Any, theta: Any) -> Any:
        import torch

        grid = torch.nn.functional.affine_grid(theta, (8, 1, size, size), align_corners=False)
        return torch.nn.functional.grid_sample(x, grid, align_corners=False)

    return OpCase(
        name="grid_sample",
        size=f"8x{size}x{size}x{channels}, with affine_grid",
        make=make,
        ours=ours,
        peer=transform,
        differentiated=(0, 1),
    )


def _deform_case(size: int, channels: int, masked: bool) -> OpCase:
    """Offsets of up to two pixels."""

    def make(random: np.random.Generator) -> tuple[np.ndarray, ...]:
        offsets = random.uniform(-2, 2, (8, size, size, 18)).astype(np.float32)
        kernel = image(random, 3, 3, channels, channels) / np.float32(3 * channels**0.5)
        mask = random.uniform(0, 1, (8, size, size, 9)).astype(np.float32)
        return (image(random, 8, size, size, channels), offsets, kernel, mask)[: 4 if masked else 3]

    def ours(x: jax.Array, offsets: jax.Array, kernel: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        return deform_conv2d(x, offsets, kernel, mask=mask, padding=1)

    def convolve(x: Any, offsets: Any, kernel: Any, mask: Any = None) -> Any:
        import torchvision

        return torchvision.ops.deform_conv2d(x, offsets, kernel, padding=1, mask=mask)

    def to_peer(x: np.ndarray, offsets: np.ndarray, kernel: np.ndarray, *mask: np.ndarray) -> tuple[np.ndarray, ...]:
        return to_nchw(x), to_nchw(offsets), np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)), *map(to_nchw, mask)

    return OpCase(
        name="deform_conv2d",
        size=f"8x{size}x{size}x{channels}, 3x3, {'v2' if masked else 'v1'}",
        make=make,
        ours=ours,
        peer=convolve,
        to_peer=to_peer,
        differentiated=tuple(range(4 if masked else 3)),
    )


CASES: tuple[OpCase, ...] = (
    _transformer_case(56, 64),
    _transformer_case(28, 256),
    _deform_case(14, 256, masked=False),
    _deform_case(28, 64, masked=True),
)
