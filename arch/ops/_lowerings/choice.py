"""Which program a convolution or one of its gradients runs."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from arch.errors import unknown_name
from arch.ops._lowerings import depthwise, grouped, matmul, reference
from arch.ops._lowerings.geometry import Geometry

FAST_PATHS = {"depthwise": depthwise, "grouped": grouped, "matmul": matmul}
IMPLEMENTATIONS = ("auto", "reference", *FAST_PATHS)


def check(geometry: Geometry, kernel_shape: Sequence[int], dtype: Any) -> None:
    """Raises ValueError for an implementation that is not there, or that cannot take this convolution."""
    name = geometry.implementation
    if name not in IMPLEMENTATIONS:
        raise unknown_name("conv2d: implementation", name, IMPLEMENTATIONS)
    if name not in FAST_PATHS:
        return
    reason = FAST_PATHS[name].unsupported(geometry, kernel_shape)
    if reason is None and not jnp.issubdtype(dtype, jnp.floating):
        reason = f"dtype={dtype} must be floating point"
    if reason is not None:
        raise ValueError(f"conv2d: implementation={name!r}: {reason}; choose 'auto'")


def choose(geometry: Geometry, kernel_shape: Sequence[int], dtype: Any, *, on_cpu: bool) -> ModuleType:
    """The module whose functions run, from static shapes alone.

    On CPU, "auto" is a rule from measurements (float32, two AVX2 cores; shapes of ShuffleNet v1 and v2 and of
    ResNeXt-50): depthwise convolutions as shifted products, other grouped ones by blocks, 1x1 ones as matrix products,
    and the dense rest as JAX has it. One choice serves a convolution and both of its gradients. On other platforms it
    is JAX's own convolution: nothing was measured there.

    Args:
        geometry: of the convolution.
        kernel_shape: [taps, taps, in_features / groups, out_features].
        dtype: of both operands.
        on_cpu: the program is being made for a CPU.
    """
    # A convolution without pixels has nothing to win, and slices have nothing to take.
    if geometry.is_empty or not jnp.issubdtype(dtype, jnp.floating) or geometry.implementation == "reference":
        return reference
    if geometry.implementation in FAST_PATHS:
        return FAST_PATHS[geometry.implementation]
    if not on_cpu:
        return reference
    if geometry.groups > 1 and depthwise.unsupported(geometry, kernel_shape) is None:
        return depthwise
    if matmul.unsupported(geometry, kernel_shape) is None:
        return matmul
    return grouped if geometry.groups > 1 else reference
