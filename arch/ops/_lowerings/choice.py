"""Which program a convolution or one of its gradients runs."""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from arch.errors import unknown_name
from arch.ops._lowerings import dense, depthwise, grouped, im2col, matmul, reference, winograd
from arch.ops._lowerings.geometry import Geometry

FAST_PATHS = {"depthwise": depthwise, "grouped": grouped, "im2col": im2col, "matmul": matmul, "winograd": winograd}
IMPLEMENTATIONS = ("auto", "reference", *FAST_PATHS)
# Of the output of a grouped 1x1 convolution, in the whole batch: a batch of products has to bring the groups in front,
# which costs more on larger maps than taking them apart.
GROUPED_MATMUL_PIXELS = 2048


def check(owner: str, geometry: Geometry, kernel_shape: Sequence[int], dtype: Any) -> None:
    """Raises ValueError for an implementation that is not there, or that cannot take this convolution."""
    name = geometry.implementation
    if name not in IMPLEMENTATIONS:
        raise unknown_name(f"{owner}: implementation", name, IMPLEMENTATIONS)
    if name not in FAST_PATHS:
        return
    reason = FAST_PATHS[name].unsupported(geometry, kernel_shape)
    if reason is None and not jnp.issubdtype(dtype, jnp.floating):
        reason = f"dtype={dtype} must be floating point"
    if reason is not None:
        raise ValueError(f"{owner}: implementation={name!r}: {reason}; choose 'auto'")


def choose(
    part: str, geometry: Geometry, batch: int, kernel_shape: Sequence[int], dtype: Any, *, on_cpu: bool
) -> ModuleType:
    """The module whose functions run, from static shapes alone.

    Args:
        part: "value", "input_gradient" or "kernel_gradient".
        geometry: of the convolution.
        batch: examples.
        kernel_shape: [taps, taps, in_features / groups, out_features].
        dtype: of both operands.
        on_cpu: the program is being made for a CPU.
    """
    # A convolution without pixels has nothing to win, and slices have nothing to take.
    if geometry.is_empty or not jnp.issubdtype(dtype, jnp.floating) or geometry.implementation == "reference":
        return reference
    if geometry.implementation in FAST_PATHS:
        path = FAST_PATHS[geometry.implementation]
        # What was dense when it was checked may have groups now: those of a kernel that vmap has mapped.
        return path if path.unsupported(geometry, kernel_shape) is None else grouped
    if not on_cpu:
        return reference
    if geometry.groups == 1:
        return dense.choose(part, geometry, batch, kernel_shape, dtype)
    if depthwise.unsupported(geometry, kernel_shape) is None:
        return depthwise
    is_small = batch * math.prod(geometry.output_size) <= GROUPED_MATMUL_PIXELS
    return matmul if is_small and matmul.unsupported(geometry, kernel_shape) is None else grouped
