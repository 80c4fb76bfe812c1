"""JAX primitives that are linear in some of their arrays, whose transposes are primitives too.

That is all JAX needs for forward and reverse mode of any order. The program is chosen for the platform that it is
lowered for.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import core, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir


def primitive(
    name: str, out_aval: Callable[..., tuple[tuple[int, ...], Any]], run: Callable[..., jax.Array]
) -> Primitive:
    """A primitive of arrays with its type, its lowerings and its eager form.

    Args:
        name: as it shows in a jaxpr.
        out_aval: of (*arrays, **params): shape and dtype of the output, which is 0 where an array is empty.
        run: of (*arrays, **params, on_cpu=).
    """
    primitive = Primitive(name)

    @primitive.def_abstract_eval
    def abstract_eval(*avals: Any, **params: Any) -> Any:
        shape, dtype = out_aval(*avals, **params)
        return avals[0].update(shape=shape, dtype=dtype, weak_type=False)

    @functools.partial(jax.jit, static_argnums=0)
    def eager(params: tuple[tuple[str, Any], ...], *arrays: jax.Array) -> jax.Array:
        return primitive.bind(*arrays, **dict(params))

    def run_unless_empty(*arrays: jax.Array, on_cpu: bool, **params: Any) -> jax.Array:
        if any(0 in array.shape for array in arrays):
            return jnp.zeros(*out_aval(*arrays, **params))
        return run(*arrays, on_cpu=on_cpu, **params)

    primitive.def_impl(lambda *arrays, **params: eager(tuple(params.items()), *arrays))
    for platform, on_cpu in ((None, False), ("cpu", True)):
        lower = mlir.lower_fun(functools.partial(run_unless_empty, on_cpu=on_cpu), multiple_results=False)
        mlir.register_lowering(primitive, functools.partial(_lower_per_device, lower), platform=platform)
    return primitive


def bind(primitive: Primitive, *arrays: jax.Array, **params: Any) -> jax.Array:
    """Applies a primitive; under shard_map to arrays that vary over the same axes.

    The transpose of pcast sums where an array did not vary.
    """
    varying = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    everywhere = frozenset().union(*varying)
    arrays = [
        lax.pcast(array, tuple(everywhere - own), to="varying") for array, own in zip(arrays, varying, strict=True)
    ]
    return primitive.bind(*arrays, **params)


def define(primitive: Primitive, transposes: Sequence[Callable[..., jax.Array]]) -> None:
    """Gives a primitive its derivatives.

    Args:
        primitive: linear in each of its first arrays.
        transposes: of these arrays, functions of (cotangent, *arrays, **params), where the array itself is its type.
    """

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
        out = bind(primitive, *primals, **params)
        terms = [
            bind(primitive, *primals[:at], tangents[at], *primals[at + 1 :], **params)
            for at in range(len(transposes))
            if not isinstance(tangents[at], ad.Zero)
        ]
        return out, functools.reduce(jnp.add, terms) if terms else ad.Zero(jax.typeof(out).to_tangent_aval())

    def transpose(cotangent: Any, *arrays: Any, **params: Any) -> list[Any]:
        (at,) = [at for at, array in enumerate(arrays) if ad.is_undefined_primal(array)]
        known = [array.aval if ad.is_undefined_primal(array) else array for array in arrays]
        zero = isinstance(cotangent, ad.Zero)
        out: list[Any] = [None] * len(arrays)
        out[at] = ad.Zero(arrays[at].aval) if zero else transposes[at](cotangent, *known, **params)
        return out

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose


def mapped(array: jax.Array, axis: int | None, size: int) -> jax.Array:
    """An array with its mapped axis in front; one that is not mapped is repeated."""
    return jnp.broadcast_to(array, (size, *array.shape)) if axis is None else jnp.moveaxis(array, axis, 0)


def _lower_per_device(lower: Callable[..., Any], context: mlir.LoweringRuleContext, *arrays: Any, **params: Any) -> Any:
    """Lowers without the axes of shard_map that arrays vary over: the mesh is not in scope any more, and they differ
    from those of the constants that a program makes."""
    avals = [core.ShapedArray(aval.shape, aval.dtype) for aval in context.avals_in]
    return lower(context.replace(avals_in=avals), *arrays, **params)
