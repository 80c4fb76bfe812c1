"""Parameters and multiply-adds of a network, counted by tracing it: nothing is compiled, nothing runs.

XLA's own analysis and `nn.tabulate` leave out the taps that fall on padding, 5 to 18% of a network; the literature
counts them, and so does this.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype
from jax.extend import core

from arch.ops._lowerings import primitives


@dataclasses.dataclass(frozen=True)
class Macs:
    """Multiply-adds of a program, padded taps included; biases, norms, activations and pooling are not counted.

    Attributes:
        conv: of convolutions.
        linear: of matrix products.
    """

    conv: int = 0
    linear: int = 0

    @property
    def total(self) -> int:
        """Of both kinds."""
        return self.conv + self.linear

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(self.conv + other.conv, self.linear + other.linear)

    def __mul__(self, times: int) -> "Macs":
        return Macs(self.conv * times, self.linear * times)


@dataclasses.dataclass(frozen=True)
class Complexity:
    """The size and cost of a network on one input.

    Attributes:
        params: trainable scalars.
        batch_stats: scalars of running statistics.
        conv_macs: multiply-adds of convolutions, for the whole input batch.
        linear_macs: multiply-adds of matrix products.
    """

    params: int
    batch_stats: int
    conv_macs: int
    linear_macs: int

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and matrix products; the literature's "FLOPs"."""
        return self.conv_macs + self.linear_macs


def complexity(
    module: nn.Module,
    input_shape: Sequence[int] = (1, 224, 224, 3),
    *,
    input_dtype: Dtype = jnp.float32,
    **call_kwargs: Any,
) -> Complexity:
    """The size and cost of a network: `complexity(model, train=False)`.

    Args:
        module: a linen module that is called with one array.
        input_shape: of that array, batch included.
        input_dtype: of that array.
        **call_kwargs: further arguments of its `__call__`, such as train.
    """
    x = jax.ShapeDtypeStruct(tuple(input_shape), input_dtype)
    variables = abstract_variables(module, x, **call_kwargs)
    # Statistics may move and noise may be drawn: a training pass can be counted too.
    apply = functools.partial(module.apply, mutable=["batch_stats"], **call_kwargs)
    macs = count_macs(lambda variables, x, key: apply(variables, x, rngs={"dropout": key}), variables, x, _key())
    return Complexity(count_params(variables), count_batch_stats(variables), macs.conv, macs.linear)


def abstract_variables(module: nn.Module, *args: Any, **call_kwargs: Any) -> Mapping[str, Any]:
    """Shapes and dtypes of a module's variables; `args` may be shapes too (jax.ShapeDtypeStruct)."""

    def init(key: jax.Array, *args: Any) -> Mapping[str, Any]:
        return module.init({"params": key, "dropout": key}, *args, **call_kwargs)

    return jax.eval_shape(init, _key(), *args)


def count_params(variables: Mapping[str, Any]) -> int:
    """Trainable scalars: those of the collection "params"; running statistics are not among them."""
    return _count_scalars(variables.get("params", {}))


def count_batch_stats(variables: Mapping[str, Any]) -> int:
    """Scalars of running statistics: those of the collection "batch_stats"."""
    return _count_scalars(variables.get("batch_stats", {}))


def count_macs(fn: Callable[..., Any], *args: Any) -> Macs:
    """Multiply-adds of one call of `fn`, of its gradients too where it takes them.

    A convolution costs out_elements * in_channels / groups * taps. One with dilated input (transposed) costs what the
    convolution costs whose transpose it is, so that zeros put between pixels are not counted. Loops are counted as
    often as they run, of a `cond` the dearest branch, and a program mapped over devices on all of them.

    Args:
        fn: a function of arrays that JAX can trace.
        *args: its arguments; shapes (jax.ShapeDtypeStruct) are enough.

    Raises:
        ValueError: multiply-adds in a `while_loop`, because how often it runs is not known.
    """
    return _jaxpr_macs(jax.make_jaxpr(fn)(*args).jaxpr)


def _jaxpr_macs(jaxpr: core.Jaxpr) -> Macs:
    return sum((_eqn_macs(eqn) for eqn in jaxpr.eqns), Macs())


def _eqn_macs(eqn: core.JaxprEqn) -> Macs:
    """Multiply-adds of one equation, with all that it calls."""
    name = eqn.primitive.name
    if name == "conv_general_dilated":
        return Macs(conv=_conv_macs(eqn))
    if name in primitives.NAMES:
        shapes = [var.aval.shape for var in eqn.invars]
        return Macs(conv=primitives.macs(name, *shapes, eqn.params["geometry"]))
    if name == "dot_general":
        return Macs(linear=_dot_macs(eqn))
    inner = [_jaxpr_macs(jaxpr) for jaxpr in _inner_jaxprs(eqn)]
    if not inner:
        return Macs()
    if name == "cond":
        return max(inner, key=lambda macs: macs.total)
    total = sum(inner, Macs())
    if name == "while" and total.total:
        raise ValueError("count_macs: a while_loop runs an unknown number of times; use scan, or fori_loop over range")
    return total * _repetitions(eqn)


def _repetitions(eqn: core.JaxprEqn) -> int:
    """How often an equation runs the program that it holds."""
    match eqn.primitive.name:
        case "scan":
            return eqn.params["length"]
        case "shard_map":  # pmap is one too
            mesh = eqn.params["mesh"]
            return math.prod(mesh.shape[axis] for axis in eqn.params["newly_manual_axes"])
        case _:
            return 1


def _inner_jaxprs(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs among an equation's parameters."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _conv_macs(eqn: core.JaxprEqn) -> int:
    lhs, rhs = (var.aval for var in eqn.invars)
    out = eqn.outvars[0].aval
    out_features, in_features, *spatial = eqn.params["dimension_numbers"].rhs_spec
    taps = math.prod(rhs.shape[axis] for axis in spatial)
    if math.prod(eqn.params["lhs_dilation"]) > 1:
        # Seen from the other side: each input element meets all taps of all outputs of its group.
        per_element = rhs.shape[out_features] // (eqn.params["feature_group_count"] * eqn.params["batch_group_count"])
        return lhs.size * per_element * taps // math.prod(eqn.params["window_strides"])
    return out.size * rhs.shape[in_features] * taps


def _dot_macs(eqn: core.JaxprEqn) -> int:
    lhs = eqn.invars[0].aval
    (contracting, _), _ = eqn.params["dimension_numbers"]
    return eqn.outvars[0].aval.size * math.prod(lhs.shape[axis] for axis in contracting)


def _count_scalars(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _key() -> jax.Array:
    return jax.eval_shape(lambda: jax.random.key(0))
