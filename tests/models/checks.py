"""What the tests of several networks share: the weights of the recorded networks, and comparisons with them."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.extend import core

from arch import AUXILIARY
from arch.efficiency.complexity import abstract_variables
from arch.ops.stochastic import Examples
from arch.weights.convert import FROM_TORCH, TO_TORCH, Names, torch_name
from tests.compiling import quick_jit
from tests.goldens.fill import fill, hash_of, images, probe, summary

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"


def filled_variables(model, names: Names, absent: tuple[str, ...] = (), image_size: int = 32):
    """The weights of a recorded network in our layout; those that the published network lacks (`absent`) are zero."""
    x = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    shapes = abstract_variables(model, x, train=False)
    filled = {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        name = torch_name(model, path, names)
        if name in absent:
            filled[path] = np.zeros(leaf.shape)
            continue
        value = fill(name, tuple(leaf.shape[axis] for axis in TO_TORCH[leaf.ndim]))
        filled[path] = np.transpose(value, FROM_TORCH[value.ndim])
    return traverse_util.unflatten_dict(filled)


def random_variables(model, x: np.ndarray, seed: int = 0):
    """Float64 values for all parameters and statistics of a network, without compiling it; the rest as it starts."""
    shapes = abstract_variables(model, jax.ShapeDtypeStruct(x.shape, x.dtype), train=False)
    rest = sorted(set(shapes) - {"params", "batch_stats"})
    random, variables = np.random.default_rng(seed), {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        values = random.standard_normal(leaf.shape)
        if path[0] in rest:
            continue
        if leaf.ndim > 1:
            variables[path] = values * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            variables[path] = np.exp(0.3 * values) if path[-1] in ("scale", "var") else 0.1 * values
    variables = traverse_util.unflatten_dict(variables)
    if rest:  # masks and indices; the compiler drops what only the others need
        init = quick_jit(lambda x: {name: model.init(jax.random.key(0), x, train=False)[name] for name in rest})
        variables |= jax.device_get(init(x))
    return variables


def check_parity(model, golden: str, net: str, image_size: int, names: Names, absent=(), jit=quick_jit):
    """Logits, updated running statistics and the gradient of every parameter, from the same weights, in float64."""
    golden = np.load(GOLDENS / golden)
    variables = filled_variables(model, names, absent, image_size)
    x = images(image_size)

    def loss(params):
        logits, updated = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.mean(logits * probe()), (logits, updated["batch_stats"])

    @jit
    def run(params):
        return model.apply({**variables, "params": params}, x, train=False), jax.grad(loss, has_aux=True)(params)

    # As NumPy arrays: JAX would compile every operation for every shape.
    eval_logits, (grads, (logits, stats)) = jax.device_get(run(variables["params"]))
    np.testing.assert_allclose(eval_logits, golden[f"{net}/eval"], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(logits, golden[f"{net}/train"], rtol=1e-8, atol=1e-8)

    expected = dict(zip(golden[f"{net}/names"], golden[f"{net}/summaries"], strict=True))
    for path, value in traverse_util.flatten_dict({"params": grads, "batch_stats": stats}).items():
        name = torch_name(model, path, names)
        if name not in absent:
            actual = summary(name, np.transpose(value, TO_TORCH[value.ndim]))
            np.testing.assert_allclose(actual, expected.pop(name), rtol=1e-6, atol=1e-9, err_msg=name)
        assert np.isfinite(value).all() and np.any(value != 0), f"{path} is not finite, or zero"
    assert not expected, "tensors of the published network that ours lacks"


def check_eval_parity(model, golden: str, net: str, image_size: int, names: Names, absent=(), jit=quick_jit):
    """Logits in evaluation, and the maps that were recorded, from the same weights, in float64 (fixture x64).

    The weights are those of the published network, name by name and to the bit: that is what the hash says. Where maps
    were recorded, they are those that `features_only` gives for their strides.
    """
    golden = np.load(GOLDENS / golden)
    variables = filled_variables(model, names, absent, image_size)
    tensors = {
        torch_name(model, path, names): np.transpose(value, TO_TORCH[value.ndim])
        for path, value in traverse_util.flatten_dict(variables).items()
    }
    tensors = {name: value for name, value in tensors.items() if name not in absent}
    assert sorted(tensors) == sorted(golden[f"{net}/names"])
    assert hash_of(tensors) == int(golden[f"{net}/hash"])
    features = model.clone(features_only=True)
    strides = [int(key.rpartition("/")[2]) for key in golden.files if key.startswith(f"{net}/map/")]

    @jit
    def run(variables, x):
        maps = features.apply(variables, x, train=False) if strides else {}
        return model.apply(variables, x, train=False), {stride: maps[stride].mean((1, 2)) for stride in strides}

    logits, maps = jax.device_get(run(variables, images(image_size)))
    np.testing.assert_allclose(logits, golden[f"{net}/eval"], rtol=1e-8, atol=1e-8)
    for stride, value in maps.items():
        np.testing.assert_allclose(value, golden[f"{net}/map/{stride}"], rtol=1e-8, atol=1e-8, err_msg=str(stride))


def check_examples_reach_norms_and_dropout(model, variables=None) -> None:
    """Examples of weight 0 change nothing for the others, and noise follows an example's id."""
    random = np.random.default_rng(0)
    x = random.standard_normal((8, 16, 16, 3), np.float32)
    if variables is None:
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.asarray(x), train=False))
        variables = jax.tree.map(lambda leaf: random.uniform(0.1, 1.0, leaf.shape).astype(np.float32), shapes)

    @quick_jit
    def apply(x, weight, ids):
        return model.apply(
            variables,
            x,
            train=True,
            examples=Examples(weight, ids),
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )

    weight, ids = np.float32([1.0] * 6 + [0.0] * 2), np.arange(8)
    logits, stats = apply(x, weight, ids)
    spoiled, spoiled_stats = apply(np.where(weight[:, None, None, None] > 0, x, np.float32(9.0)), weight, ids)
    np.testing.assert_allclose(spoiled[:6], logits[:6], atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), spoiled_stats, stats)
    order = np.array([3, 1, 0, 2, 5, 4, 7, 6])
    np.testing.assert_allclose(apply(x[order], weight, ids[order])[0], logits[order], atol=1e-4)
    assert np.abs(apply(x, weight, ids + 8)[0] - logits).max() > 1e-2


def maps_of(model, size: int):
    """What the layers put out for one image of this size in pixels, as shapes, and the logits."""
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = abstract_variables(model, x, train=False)
    out, state = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=False, capture_intermediates=True, mutable=["intermediates"]), variables, x
    )
    return state["intermediates"], out


def check_float64_stays(model) -> None:
    """Nothing in a training step, forward and backward, is rounded to a narrower type; run it with the fixture x64."""
    x = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float64)
    variables = abstract_variables(model, x, train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float64")}

    def loss(variables, x):
        logits, updated = model.apply(
            variables,
            x,
            train=True,
            examples=Examples(jnp.ones(4), jnp.arange(4)),
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return jnp.mean(logits**2), updated

    step = jax.value_and_grad(loss, has_aux=True)
    assert floating_dtypes(jax.make_jaxpr(step)(variables, x).jaxpr) == {jnp.dtype("float64")}


def floating_dtypes(jaxpr: core.Jaxpr) -> set[jnp.dtype]:
    """Floating dtypes of all arrays that a program computes, those inside its calls too."""
    found = set()
    for eqn in jaxpr.eqns:
        found |= {var.aval.dtype for var in eqn.outvars if jnp.issubdtype(var.aval.dtype, jnp.floating)}
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: isinstance(v, core.ClosedJaxpr)):
            if isinstance(value, core.ClosedJaxpr | core.Jaxpr):
                found |= floating_dtypes(value.jaxpr if isinstance(value, core.ClosedJaxpr) else value)
    return found


def image(size: int, dtype: Any = jnp.float32, batch: int = 1) -> jax.ShapeDtypeStruct:
    """The shape of a batch of square images with three channels, of this size in pixels."""
    return jax.ShapeDtypeStruct((batch, size, size, 3), dtype)


def step(model: nn.Module) -> Callable[..., Any]:
    """(variables, images, key) -> the gradient of a function of the logits in training, all heads', and the logits."""

    def gradient(variables: Any, x: jax.Array, key: jax.Array) -> Any:
        rest = {name: tree for name, tree in variables.items() if name != "params"}

        def loss(params: Any) -> Any:
            variables = {**rest, "params": params}
            collections = ["batch_stats", AUXILIARY]
            logits, state = model.apply(variables, x, train=True, mutable=collections, rngs={"dropout": key})
            probe = jnp.sin(jnp.arange(logits.size, dtype=logits.dtype)).reshape(logits.shape)
            heads = [logits, *(auxiliary for auxiliary, _ in state.get(AUXILIARY, {}).values())]
            return sum(jnp.mean(head * probe) for head in heads), logits

        return jax.grad(loss, has_aux=True)(variables["params"])

    return gradient
