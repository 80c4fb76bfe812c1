"""JAX primitives of arrays and one static Geometry, whose program is chosen for the platform it is lowered for."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import core, lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from arch.ops._lowerings.geometry import Geometry


def primitive(name: str, out_shape: Callable[..., tuple[int, ...]], run: Callable[..., jax.Array]) -> Primitive:
    """A primitive of two arrays with its type, its lowerings and its eager form.

    Args:
        name: as it shows in a jaxpr.
        out_shape: of (geometry, shape, shape); the dtype is that of the first array.
        run: of (array, array, geometry=, on_cpu=).
    """
    primitive = Primitive(name)

    @primitive.def_abstract_eval
    def abstract_eval(left: Any, right: Any, *, geometry: Geometry) -> Any:
        return left.update(shape=out_shape(geometry, left.shape, right.shape), weak_type=False)

    @functools.partial(jax.jit, static_argnames="geometry")
    def eager(left: jax.Array, right: jax.Array, *, geometry: Geometry) -> jax.Array:
        return primitive.bind(left, right, geometry=geometry)

    primitive.def_impl(lambda left, right, *, geometry: eager(left, right, geometry=geometry))
    for platform, on_cpu in ((None, False), ("cpu", True)):
        lower = mlir.lower_fun(functools.partial(run, on_cpu=on_cpu), multiple_results=False)
        mlir.register_lowering(primitive, functools.partial(_lower_per_device, lower), platform=platform)
    return primitive


def bind(primitive: Primitive, left: jax.Array, right: jax.Array, geometry: Geometry) -> jax.Array:
    """Applies a primitive; under shard_map to operands that vary over the same axes.

    The transpose of pcast sums where an operand did not vary.
    """
    varying = [jax.typeof(operand).manual_axis_type.varying for operand in (left, right)]
    left = lax.pcast(left, tuple(varying[1] - varying[0]), to="varying")
    right = lax.pcast(right, tuple(varying[0] - varying[1]), to="varying")
    return primitive.bind(left, right, geometry=geometry)


def _lower_per_device(
    lower: Callable[..., Any], context: mlir.LoweringRuleContext, *operands: Any, **params: Any
) -> Any:
    """Lowers without the axes of shard_map that operands vary over: the mesh is not in scope any more, and they differ
    from those of the constants that a path makes."""
    avals = [core.ShapedArray(aval.shape, aval.dtype) for aval in context.avals_in]
    return lower(context.replace(avals_in=avals), *operands, **params)
