"""Oracles of operators made of convolutions: convolution in float64 NumPy, and slopes of NumPy functions."""

from collections.abc import Callable, Mapping

import numpy as np


def convolve(x: np.ndarray, kernel: np.ndarray, *, stride: int = 1, groups: int = 1) -> np.ndarray:
    """[batch, height, width, in] by [height, width, in / groups, out]; zeros of half a kernel on all sides."""
    before = [size // 2 for size in kernel.shape[:2]]
    x = np.pad(x, ((0, 0), *((size, size) for size in before), (0, 0)))
    sizes = [(size - taps) // stride + 1 for size, taps in zip(x.shape[1:3], kernel.shape, strict=False)]
    group_in, group_out = kernel.shape[2], kernel.shape[3] // groups
    out = np.zeros((x.shape[0], *sizes, kernel.shape[3]))
    for row, column, group in np.ndindex(*kernel.shape[:2], groups):
        pixels = x[:, row : row + (sizes[0] - 1) * stride + 1 : stride, column:][
            :, :, : (sizes[1] - 1) * stride + 1 : stride
        ]
        ins, outs = slice(group * group_in, (group + 1) * group_in), slice(group * group_out, (group + 1) * group_out)
        out[..., outs] += pixels[..., ins] @ kernel[row, column, :, outs]
    return out


def slopes(loss: Callable[..., float], arrays: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, tuple]:
    """For each array a random direction, and the slope of `loss(**arrays)` along it, by differences to order 4."""
    random, step = np.random.default_rng(seed), 3e-4
    found = {}
    for name, array in arrays.items():
        direction = random.standard_normal(array.shape)
        ahead, behind, two_ahead, two_behind = (
            loss(**{**arrays, name: array + steps * step * direction}) for steps in (1, -1, 2, -2)
        )
        found[name] = direction, (8 * (ahead - behind) - (two_ahead - two_behind)) / (12 * step)
    return found
