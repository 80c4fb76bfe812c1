"""Convolution and its two gradients as JAX primitives.

All three are bilinear, and transposing one of them in either argument gives another: that is all JAX needs for forward
and reverse mode of any order. A program is chosen when a primitive is lowered, for the platform it is lowered for.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from arch.ops._lowerings import choice, linear
from arch.ops._lowerings.geometry import Geometry


def value(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution of [batch, height, width, in] with [taps, taps, in / groups, out]."""
    return linear.bind(value_p, x, kernel, geometry=geometry)


def input_gradient(gradient: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in x: [batch, height, width, in]."""
    return linear.bind(input_gradient_p, gradient, kernel, geometry=geometry)


def kernel_gradient(x: jax.Array, gradient: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in the kernel: [taps, taps, in / groups, out]."""
    return linear.bind(kernel_gradient_p, x, gradient, geometry=geometry)


def macs(name: str, left: Sequence[int], right: Sequence[int], geometry: Geometry) -> int:
    """Multiply-adds of the primitive of that name, from the shapes of its operands; taps on padding count.

    A convolution and its two gradients cost the same, whatever path they take.
    """
    # The size of the output times the taps and input features that each of its values sees.
    if name == value_p.name:
        return math.prod(geometry.output_shape(left, right)) * math.prod(right[:3])
    kernel = geometry.kernel_shape(left, right) if name == kernel_gradient_p.name else right
    return math.prod(right if name == kernel_gradient_p.name else left) * math.prod(kernel[:3])


def _primitive(part: str, out_shape: Callable[..., tuple[int, ...]]) -> Primitive:
    """The primitive of one of the three; `part` names its function in every path."""

    def run(left: jax.Array, right: jax.Array, *, geometry: Geometry, on_cpu: bool) -> jax.Array:
        shape = geometry.kernel_shape(left.shape, right.shape) if part == "kernel_gradient" else right.shape
        path = choice.choose(part, geometry, left.shape[0], shape, left.dtype, on_cpu=on_cpu)
        return getattr(path, part)(left, right, geometry)

    def out_aval(left: Any, right: Any, *, geometry: Geometry) -> tuple[tuple[int, ...], Any]:
        return out_shape(geometry, left.shape, right.shape), left.dtype

    return linear.primitive(f"conv2d_{part}", out_aval, run)


value_p = _primitive("value", Geometry.output_shape)
input_gradient_p = _primitive("input_gradient", Geometry.input_shape)
kernel_gradient_p = _primitive("kernel_gradient", Geometry.kernel_shape)
NAMES = tuple(primitive.name for primitive in (value_p, input_gradient_p, kernel_gradient_p))

ad.defbilinear(
    value_p,
    lambda out, x, kernel, *, geometry: input_gradient(out, kernel, geometry),
    lambda out, x, kernel, *, geometry: kernel_gradient(x, out, geometry),
)
ad.defbilinear(
    input_gradient_p,
    lambda out, gradient, kernel, *, geometry: value(out, kernel, geometry),
    lambda out, gradient, kernel, *, geometry: kernel_gradient(out, gradient, geometry),
)
ad.defbilinear(
    kernel_gradient_p,
    lambda out, x, gradient, *, geometry: input_gradient(gradient, out, geometry),
    lambda out, x, gradient, *, geometry: value(x, out, geometry),
)


# Batching. A mapped operand takes its axis into the batch or into features; where both are mapped, each index of the
# axis becomes groups of its own. The rules below take and return axis 0.


def _batch_value(x: jax.Array, kernel: jax.Array, mapped: tuple[bool, bool], geometry: Geometry) -> jax.Array:
    match mapped:
        case True, False:
            return _from_batch(value(_to_batch(x), kernel, geometry), x.shape[0])
        case False, True:
            out = value(x, _to_group_features(kernel, geometry.groups), geometry)
            return _from_group_features(out, geometry.groups, kernel.shape[0])
    size = x.shape[0]
    return _from_features(value(_to_features(x), _to_features(kernel), _in_groups(geometry, size)), size)


def _batch_input_gradient(
    gradient: jax.Array, kernel: jax.Array, mapped: tuple[bool, bool], geometry: Geometry
) -> jax.Array:
    match mapped:
        case True, False:
            return _from_batch(input_gradient(_to_batch(gradient), kernel, geometry), gradient.shape[0])
        case False, True if _may_widen_input(geometry):
            size, *_, in_features, out_features = kernel.shape
            kernel = jnp.moveaxis(kernel, 0, 2).reshape(*geometry.kernel_size, size * in_features, out_features)
            return _from_features(input_gradient(gradient, kernel, geometry), size)
        case False, True:
            gradient = jnp.broadcast_to(gradient, (kernel.shape[0], *gradient.shape))
    size = kernel.shape[0]
    return _from_features(
        input_gradient(_to_features(gradient), _to_features(kernel), _in_groups(geometry, size)), size
    )


def _batch_kernel_gradient(
    x: jax.Array, gradient: jax.Array, mapped: tuple[bool, bool], geometry: Geometry
) -> jax.Array:
    match mapped:
        case False, True:
            out = kernel_gradient(x, _to_group_features(gradient, geometry.groups), geometry)
            return _from_group_features(out, geometry.groups, gradient.shape[0])
        case True, False if _may_widen_input(geometry):
            size, in_features = x.shape[0], x.shape[4]
            out = kernel_gradient(_to_features(x), gradient, geometry)
            out = out.reshape(*geometry.kernel_size, size, in_features, gradient.shape[3])
            return jnp.moveaxis(out, 2, 0)
        case True, False:
            gradient = jnp.broadcast_to(gradient, (x.shape[0], *gradient.shape))
    size = x.shape[0]
    return _from_features(kernel_gradient(_to_features(x), _to_features(gradient), _in_groups(geometry, size)), size)


def _batcher(rule: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, int]]:
    def batch(
        operands: Sequence[jax.Array], axes: Sequence[int | None], *, geometry: Geometry
    ) -> tuple[jax.Array, int]:
        mapped = tuple(axis is not None for axis in axes)
        operands = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(operands, axes, strict=True)]
        return rule(*operands, mapped, geometry), 0

    return batch


batching.primitive_batchers[value_p] = _batcher(_batch_value)
batching.primitive_batchers[input_gradient_p] = _batcher(_batch_input_gradient)
batching.primitive_batchers[kernel_gradient_p] = _batcher(_batch_kernel_gradient)


def _in_groups(geometry: Geometry, size: int) -> Geometry:
    return dataclasses.replace(geometry, groups=geometry.groups * size)


def _may_widen_input(geometry: Geometry) -> bool:
    """More input features leave the path as good: not so where it is depthwise, or could be."""
    return geometry.groups == 1 and geometry.implementation != "depthwise"


def _to_batch(a: jax.Array) -> jax.Array:
    """[size, batch, ...] to [size * batch, ...]."""
    return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])


def _from_batch(a: jax.Array, size: int) -> jax.Array:
    return a.reshape(size, a.shape[0] // size, *a.shape[1:])


def _to_features(a: jax.Array) -> jax.Array:
    """[size, ..., features] to [..., size * features]."""
    return jnp.moveaxis(a, 0, 3).reshape(*a.shape[1:4], a.shape[0] * a.shape[4])


def _from_features(a: jax.Array, size: int) -> jax.Array:
    return jnp.moveaxis(a.reshape(*a.shape[:3], size, a.shape[3] // size), 3, 0)


def _to_group_features(a: jax.Array, groups: int) -> jax.Array:
    """[size, ..., groups * features] to [..., groups * size * features]."""
    size, *rest, features = a.shape
    a = jnp.moveaxis(a.reshape(size, *rest, groups, features // groups), 0, 4)
    return a.reshape(*rest, size * features)


def _from_group_features(a: jax.Array, groups: int, size: int) -> jax.Array:
    a = jnp.moveaxis(a.reshape(*a.shape[:3], groups, size, a.shape[3] // (groups * size)), 4, 0)
    return a.reshape(*a.shape[:4], groups * a.shape[5])
