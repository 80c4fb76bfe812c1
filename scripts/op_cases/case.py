"""One comparison of scripts/bench_ops.py."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class OpCase:
    """An operator of ours and the same of torch or torchvision, on the same numbers.

    Attributes:
        name: the operator.
        size: what it is timed at, in words: "8x56x56x116, 2 groups".
        make: random numbers -> our inputs, NumPy arrays of float32 and of integers.
        ours: inputs as jax arrays -> one array.
        peer: inputs as torch tensors -> one tensor. torch is imported inside.
        to_peer: our inputs -> the peer's, as NumPy arrays (NCHW where it wants that); not timed.
        from_peer: the peer's output, as a NumPy array -> in our layout; not timed.
        differentiated: positions of the inputs whose gradients forward+backward takes; none times the forward alone.
    """

    name: str
    size: str
    make: Callable[[np.random.Generator], tuple[np.ndarray, ...]]
    ours: Callable[..., Any]
    peer: Callable[..., Any]
    to_peer: Callable[..., tuple[np.ndarray, ...]] = lambda *inputs: tuple(map(to_nchw, inputs))
    from_peer: Callable[[np.ndarray], np.ndarray] = lambda out: to_nhwc(out)
    differentiated: tuple[int, ...] = (0,)


def to_nchw(array: np.ndarray) -> np.ndarray:
    """[batch, height, width, channels] -> [batch, channels, height, width]; other ranks stay."""
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def to_nhwc(array: np.ndarray) -> np.ndarray:
    """[batch, channels, height, width] -> [batch, height, width, channels]; other ranks stay."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if array.ndim == 4 else array


def image(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Standard normal float32 numbers."""
    return random.standard_normal(shape, np.float32)
