"""Batch normalization folded into the convolution before it, for inference, in whole networks.

In evaluation a norm with running statistics is y = a * x + b a channel, a = scale / sqrt(var + epsilon) and
b = bias - a * mean. After a convolution with kernel K and bias c it is the convolution with kernel a * K and bias
a * c + b. Which norm follows which convolution is not read off names: the network is traced once, and a norm is folded
where its input is what a convolution put out, nothing else reads that output, and nothing else reads the kernel.
"""

import collections
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from arch.norm.precise import has_running_statistics
from arch.ops.conv import Conv, ConvTranspose, DepthwiseConv

Path = tuple[str, ...]
Interceptor = Callable[[Callable[..., Any], tuple, Mapping[str, Any], nn.module.InterceptorContext], Any]

# Linear in the parameter `kernel`, whose last axis is the output channels. Subclasses may do other things with it.
_LINEAR = (Conv, DepthwiseConv, ConvTranspose, nn.Conv, nn.ConvTranspose, nn.Dense)


class Pair(NamedTuple):
    """A norm that can be folded.

    Attributes:
        layer: path of the convolution or dense layer.
        norm: path of the norm.
        module: the norm, unbound.
        call_kwargs: what it is called with beside x.
        dtype: of its output.
    """

    layer: Path
    norm: Path
    module: nn.Module
    call_kwargs: Mapping[str, Any]
    dtype: jnp.dtype


def fold(
    model: nn.Module, variables: Mapping[str, Any], x: jax.Array | jax.ShapeDtypeStruct, **call_kwargs: Any
) -> tuple[Callable[[Mapping[str, Any], jax.Array], Any], dict[str, Any]]:
    """Folds every norm that `foldable` finds: `apply, folded = fold(model, variables, x, train=False)`.

    What is left as it is: a norm without running statistics, or that no convolution precedes; a convolution whose
    output has a second reader; a layer or norm that is called more than once; a layer whose kernel is not a parameter
    as it stands (under weight or spectral normalization, remat, scan).

    Args:
        model: a linen module that is called with one array.
        variables: params and batch_stats, arrays.
        x: an input, or its shape; other batch and image sizes can be given to `apply` later.
        **call_kwargs: further arguments of its `__call__`; they must ask for evaluation: `train=False`.

    Returns:
        apply: (folded variables, x) -> what `model.apply(variables, x, **call_kwargs)` returns; pure, to be jitted,
            differentiated or exported.
        folded: the variables without those of the folded norms, their layers with a new `kernel` and a `bias`, in the
            parameters' dtype. Calculated in float32 at least.

    Raises:
        ValueError: a norm that is called in training mode.
    """
    pairs = foldable(model, variables, x, **call_kwargs)
    interceptor = _folded(pairs)

    def apply(variables: Mapping[str, Any], x: jax.Array) -> Any:
        with nn.intercept_methods(interceptor):
            return model.apply(variables, x, **call_kwargs)

    # Compiled as one: small operations on many shapes would take far longer.
    return apply, jax.jit(functools.partial(_fold_variables, pairs))(variables)


def foldable(
    model: nn.Module, variables: Mapping[str, Any], x: jax.Array | jax.ShapeDtypeStruct, **call_kwargs: Any
) -> list[Pair]:
    """The norms that `fold` folds, found by tracing; nothing is compiled, nothing runs.

    Args:
        model, x, call_kwargs: as in `fold`.
        variables: as in `fold`; shapes are enough.

    Raises:
        ValueError: a norm that is called in training mode.
    """
    layers, norms = {}, {}

    def traced(variables: Mapping[str, Any], x: jax.Array) -> Any:
        with nn.intercept_methods(_marking(traverse_util.flatten_dict(variables), layers, norms)):
            return model.apply(variables, x, **call_kwargs)

    jaxpr = jax.make_jaxpr(traced)(variables, x).jaxpr
    structure = jax.tree.structure(variables)
    inputs = traverse_util.flatten_dict(jax.tree.unflatten(structure, jaxpr.invars[: structure.num_leaves]))
    readers = _readers(jaxpr)
    calls = collections.Counter([*layers.values(), *(pair.norm for pair in norms.values())])
    pairs = []
    for eqn in jaxpr.eqns:
        path = layers.get(_label(eqn))
        if path is None:
            continue
        output_readers = readers.get(eqn.outvars[0], [])
        pair = norms.get(_label(output_readers[0])) if len(output_readers) == 1 else None
        kernel_readers = readers[inputs["params", *path, "kernel"]]
        if pair is not None and len(kernel_readers) == calls[path] == calls[pair.norm] == 1:
            pairs.append(pair._replace(layer=path))
    return pairs


def _marking(flat: Mapping[Path, Any], layers: dict[str, Path], norms: dict[str, Pair]) -> Interceptor:
    """Names, in the traced program, the outputs of layers and the inputs of norms; fills `layers` and `norms`."""

    def mark(call: Callable, args: tuple, kwargs: Mapping[str, Any], context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__" or not args:
            return call(*args, **kwargs)
        if has_running_statistics(module):
            return _mark_norm(call, args, kwargs, module, norms)
        out = call(*args, **kwargs)
        if type(module) not in _LINEAR or getattr(module, "transpose_kernel", False):
            return out
        # Under a lifted transformation it sees another value than the network's variable.
        kernel = flat.get(("params", *module.path, "kernel"))
        if kernel is None or module.get_variable("params", "kernel") is not kernel:
            return out
        label = f"layer {len(layers)}"
        layers[label] = module.path
        return checkpoint_name(out, label)

    return mark


def _mark_norm(
    call: Callable, args: tuple, kwargs: Mapping[str, Any], module: nn.Module, norms: dict[str, Pair]
) -> Any:
    """Calls a norm on its named input."""
    if kwargs.get("train") or kwargs.get("use_running_average") is False:
        path = "/".join(module.path)
        raise ValueError(f"fold: norm={path} must be in evaluation; fold(model, variables, x, train=False)")
    label = f"norm {len(norms)}"
    x, *rest = args
    out = call(checkpoint_name(x, label), *rest, **kwargs)
    unbound = module.clone(parent=None, name=None)
    norms[label] = Pair((), module.path, unbound, dict(kwargs), out.dtype)
    return out


def _label(eqn: core.JaxprEqn | None) -> str | None:
    """The name that an equation gives its input, if it does."""
    return eqn.params["name"] if eqn is not None and eqn.primitive.name == "name" else None


def _readers(jaxpr: core.Jaxpr) -> dict[core.Var, list[core.JaxprEqn | None]]:
    """The equations that read each value; None stands for the program's result."""
    readers: dict[core.Var, list[core.JaxprEqn | None]] = {}
    reads = [(var, eqn) for eqn in jaxpr.eqns for var in eqn.invars] + [(var, None) for var in jaxpr.outvars]
    for var, eqn in reads:
        if not isinstance(var, core.Literal):
            readers.setdefault(var, []).append(eqn)
    return readers


def _fold_variables(pairs: list[Pair], variables: Mapping[str, Any]) -> dict[str, Any]:
    flat = traverse_util.flatten_dict(variables)
    for pair in pairs:
        own: dict[str, Any] = {}
        for path in [path for path in flat if path[1:-1] == pair.norm]:
            own.setdefault(path[0], {})[path[-1]] = flat.pop(path)
        kernel_path, bias_path = (("params", *pair.layer, name) for name in ("kernel", "bias"))
        kernel = flat[kernel_path]
        factor, offset = _affine(pair, own, kernel)
        bias = factor * flat[bias_path] + offset if bias_path in flat else offset
        flat[kernel_path], flat[bias_path] = (kernel * factor).astype(kernel.dtype), bias.astype(kernel.dtype)
    return traverse_util.unflatten_dict(flat)


def _affine(pair: Pair, variables: Mapping[str, Any], kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a and b [channels] of the norm, as a * x + b: its derivative, and its value at 0."""
    dtype = jnp.promote_types(kernel.dtype, jnp.float32)
    norm = pair.module.clone(dtype=dtype)
    zeros = jnp.zeros((1, 1, 1, kernel.shape[-1]), dtype)
    b, a = jax.jvp(lambda x: norm.apply(variables, x, **pair.call_kwargs), (zeros,), (jnp.ones_like(zeros),))
    return a.reshape(-1), b.reshape(-1)


def _folded(pairs: list[Pair]) -> Interceptor:
    """Adds the new biases, and leaves out the norms."""
    layers = {pair.layer for pair in pairs}
    dtypes = {pair.norm: pair.dtype for pair in pairs}

    def interceptor(call: Callable, args: tuple, kwargs: Mapping[str, Any], context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if module.path in dtypes:
            return args[0].astype(dtypes[module.path])
        out = call(*args, **kwargs)
        if module.path not in layers or module.use_bias:
            return out
        return out + module.get_variable("params", "bias").astype(out.dtype)

    return interceptor
