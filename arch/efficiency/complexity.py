"""Size and cost of a network, counted by tracing it: nothing is compiled, nothing runs.

XLA's own analysis and `nn.tabulate` leave out the taps that fall on padding, 5 to 18% of a network; the literature
counts them, and so does this. A convolution counts as one whatever program runs it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from arch.efficiency.arithmetic import Macs as Macs
from arch.efficiency.program import Operation, Origin, operations


@dataclasses.dataclass(frozen=True)
class Complexity:
    """The size and cost of a network on one input, the whole batch of it.

    Attributes:
        params: trainable scalars.
        batch_stats: scalars of running statistics.
        conv_macs: multiply-adds of convolutions, whatever their kernel comes from.
        linear_macs: multiply-adds of matrix products of which a side comes from variables alone.
        other_macs: multiply-adds of matrix products of data with data or with constants, as attention and second-order
            pooling have them, and of reading between pixels, four a value. The literature mostly leaves them out.
        elementwise: other scalar operations: one for each element that an elementwise operation writes, or a reduction
            reads, or is in a window of a pooling; n log2 n for a Fourier transform. Comparisons, choices, casts and
            moves are free, and so are decompositions of matrices, whose number of operations is not known.
        activations: scalars that convolutions and matrix products of data write: what Radosavovic et al., Designing
            Network Design Spaces (arXiv:2003.13678), call so.
        bytes_moved: an estimate of the traffic with memory, of variables too. A convolution, a product, a pooling or a
            move reads its operands and writes its output, once. Chains of elementwise operations, casts, choices,
            slices and broadcasts are one loop: it reads the arrays that it starts from and writes its last, when
            something else than such a chain takes that, or a reduction reads them and writes its own result alone.
    """

    params: int
    batch_stats: int
    conv_macs: int
    linear_macs: int
    other_macs: int
    elementwise: int
    activations: int
    bytes_moved: int

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and matrix products with parameters; the literature's "FLOPs"."""
        return self.conv_macs + self.linear_macs


@dataclasses.dataclass(frozen=True)
class Traced:
    """A network, traced on one input.

    Attributes:
        variables: shapes and dtypes.
        operations: what it computes.
    """

    variables: Mapping[str, Any]
    operations: Sequence[Operation]


def count(
    model: nn.Module,
    input_shape: Sequence[int] = (1, 224, 224, 3),
    *,
    input_dtype: Dtype = jnp.float32,
    **call_kwargs: Any,
) -> Complexity:
    """The size and cost of a network: `count(model, train=False)`.

    Regions of interest whose points the boxes decide are not counted.

    Args:
        model: a linen module that is called with one array.
        input_shape: of that array, batch included.
        input_dtype: of that array.
        **call_kwargs: further arguments of its `__call__`, such as train.
    """
    return total(trace(model, input_shape, input_dtype=input_dtype, **call_kwargs))


def trace(
    model: nn.Module,
    input_shape: Sequence[int] = (1, 224, 224, 3),
    *,
    input_dtype: Dtype = jnp.float32,
    **call_kwargs: Any,
) -> Traced:
    """What a network computes, operation by operation; arguments as in `count`."""
    x = jax.ShapeDtypeStruct(tuple(input_shape), input_dtype)
    variables = abstract_variables(model, x, **call_kwargs)
    # Statistics may move and noise may be drawn: a training pass can be counted too.
    mutable = [name for name in variables if name != "params"]
    apply = functools.partial(model.apply, mutable=mutable, **call_kwargs)
    ran = _operations(lambda variables, x, key: apply(variables, x, rngs={"dropout": key}), variables, x, _key())
    return Traced(variables, ran)


def trace_function(fn: Callable[..., Any], variables: Mapping[str, Any], *args: Any) -> Traced:
    """What `fn(variables, *args)` computes, such as a network whose norms are folded; shapes are enough."""
    return Traced(variables, _operations(fn, variables, *args))


def total(traced: Traced) -> Complexity:
    """The size and cost of a network that was traced."""
    macs = _sum_macs(traced.operations)
    return Complexity(
        params=count_params(traced.variables),
        batch_stats=count_batch_stats(traced.variables),
        conv_macs=macs.conv,
        linear_macs=macs.linear,
        other_macs=macs.other,
        elementwise=sum(operation.elementwise for operation in traced.operations),
        activations=sum(operation.activations for operation in traced.operations),
        bytes_moved=sum(operation.bytes for operation in traced.operations),
    )


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


def count_macs(fn: Callable[..., Any], variables: Any, *args: Any) -> Macs:
    """Multiply-adds of one call of `fn(variables, *args)`, of its gradients too where it takes them.

    A convolution costs out_elements * in_channels / groups * taps. One with dilated input (transposed) costs what the
    convolution costs whose transpose it is, so that zeros put between pixels are not counted. Loops are counted as
    often as they run, of a `cond` the dearest branch, and a program mapped over devices on all of them. The gradient
    of the kernel of a linear layer is a product of data with data.

    Args:
        fn: a function of arrays that JAX can trace, such as a module's `apply`.
        variables: its first argument, which tells linear layers from other matrix products.
        *args: its other arguments; shapes (jax.ShapeDtypeStruct) are enough.

    Raises:
        ValueError: multiply-adds in a `while_loop`, because how often it runs is not known.
    """
    return _sum_macs(_operations(fn, variables, *args))


def _operations(fn: Callable[..., Any], variables: Any, *args: Any) -> list[Operation]:
    origins = [Origin.PARAMETER] * len(jax.tree.leaves(variables)) + [Origin.DATA] * len(jax.tree.leaves(args))
    return operations(jax.make_jaxpr(fn)(variables, *args), origins)


def _sum_macs(ran: Sequence[Operation]) -> Macs:
    return sum((operation.macs for operation in ran), Macs())


def _count_scalars(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _key() -> jax.Array:
    return jax.eval_shape(lambda: jax.random.key(0))
