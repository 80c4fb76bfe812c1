"""How far each layer is from what the device can do (Williams, Waterman, Patterson, CACM 52(4), 2009).

A layer cannot be faster than its multiply-adds at the device's arithmetic rate, nor than its bytes at the device's
bandwidth. Both rates are measured here, by a large matrix product and by a large copy.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from flax.typing import Dtype

from arch.efficiency.latency import build, measure
from arch.efficiency.layers import Layer

MATRIX_SIZES = (1024, 2048)
COPY_BYTES = 2**30  # more than any cache holds: servers have 0.5 GB of it


@dataclasses.dataclass(frozen=True)
class Peaks:
    """What the device reaches at best.

    Attributes:
        macs_per_s: multiply-adds a second, of a product of square matrices.
        bytes_per_s: read and written a second, of an array that no cache holds.
    """

    macs_per_s: float
    bytes_per_s: float

    def limit_s(self, layer: Layer) -> float:
        """The time that a layer takes at least, in seconds."""
        return max(layer.macs.total / self.macs_per_s, layer.bytes_moved / self.bytes_per_s)

    def bound(self, layer: Layer) -> str:
        """What limits it: "arithmetic" or "memory"."""
        by_arithmetic = layer.macs.total / self.macs_per_s >= layer.bytes_moved / self.bytes_per_s
        return "arithmetic" if by_arithmetic else "memory"


@dataclasses.dataclass(frozen=True)
class Roof:
    """One layer beside its limit.

    Attributes:
        layer: its size and cost.
        seconds: that it takes.
        limit_s: that it takes at least.
        bound: what limits it: "arithmetic" or "memory".
    """

    layer: Layer
    seconds: float
    limit_s: float
    bound: str

    @property
    def reached(self) -> float:
        """The part of what is possible: 1 is at the limit. Arrays that stay in a cache can exceed it."""
        return self.limit_s / self.seconds


def measure_peaks(
    dtype: Dtype = jnp.float32,
    *,
    rounds: int = 10,
    matrix_sizes: Sequence[int] = MATRIX_SIZES,
    copy_bytes: int = COPY_BYTES,
) -> Peaks:
    """What a quarter of the rounds reach at least, on the default device.

    Args:
        dtype: of the matrices and of the array.
        rounds: of measurements.
        matrix_sizes: of the products, of which the fastest counts.
        copy_bytes: size of the array that is read and written.
    """
    calls = {}
    for size in matrix_sizes:
        x = jnp.ones((size, size), dtype)
        calls[size] = build(jnp.matmul, x, x).call
    # An addition, because a copy might be left out.
    array = jnp.ones(copy_bytes // jnp.dtype(dtype).itemsize, dtype)
    calls["copy"] = build(lambda x: x + 1, array).call
    timings = measure({str(name): call for name, call in calls.items()}, rounds=rounds)
    best = {name: timing.low_s or timing.median_s for name, timing in timings.items()}
    return Peaks(
        macs_per_s=max(size**3 / best[str(size)] for size in matrix_sizes),
        bytes_per_s=2 * array.nbytes / best["copy"],
    )


def roofs(layers: Sequence[Layer], seconds: Mapping[str, float], peaks: Peaks) -> list[Roof]:
    """The layers that multiply and whose time is known, in their order.

    Args:
        layers: of a network.
        seconds: of each layer by its path, such as `arch.efficiency.breakdown.Breakdown.layers`.
        peaks: of the device.
    """
    return [
        Roof(layer, seconds[layer.path], peaks.limit_s(layer), peaks.bound(layer))
        for layer in layers
        if layer.macs.total and seconds.get(layer.path)
    ]
