"""Frozen batch norm: an affine map of what batch norm has learned, in training too."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arch.norm.batch import BatchNorm
from arch.norm.frozen import FrozenBatchNorm
from arch.ops.stochastic import Examples
from arch.optim import masks
from arch.optim.momentum import momentum_sgd
from tests.compiling import quick_jit

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "norms.npz"


def _trained(golden):
    """The variables of torch's BatchNorm2d after its step."""
    stats = {"mean": golden["batch/new_mean"], "var": golden["batch/new_var"]}
    return {"params": {"scale": golden["scale"], "bias": golden["bias"]}, "batch_stats": stats}


def _step(layer, variables, probe, train=True, examples=None):
    def loss(params, x):
        out, updated = layer.apply(
            {**variables, "params": params}, x, train=train, examples=examples, mutable=["batch_stats"]
        )
        return jnp.sum(out * probe), (out, updated["batch_stats"])

    return quick_jit(jax.grad(loss, argnums=(0, 1), has_aux=True))


def test_training_is_what_torch_evaluates_and_nothing_moves(x64):
    golden = np.load(GOLDEN)
    variables, x, probe = _trained(golden), golden["x"], golden["probe"]
    unit = (x - golden["batch/new_mean"]) / np.sqrt(golden["batch/new_var"] + 1e-5)
    grad_x = probe * golden["scale"] / np.sqrt(golden["batch/new_var"] + 1e-5)
    trained = {"scale": (probe * unit).sum((0, 1, 2)), "bias": probe.sum((0, 1, 2))}
    for train_affine in (True, False):
        step = _step(FrozenBatchNorm(train_affine=train_affine), variables, probe)
        (grads, actual_grad_x), (out, stats) = step(variables["params"], x)
        np.testing.assert_allclose(out, golden["batch/eval_out"], atol=1e-10)
        np.testing.assert_allclose(actual_grad_x, grad_x, atol=1e-10)
        for name, gradient in trained.items():
            np.testing.assert_allclose(grads[name], gradient if train_affine else np.zeros(6), atol=1e-10)
        jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


def test_training_and_evaluation_and_batch_norms_evaluation_are_one():
    golden = np.load(GOLDEN)
    variables, x = jax.tree.map(np.float32, (_trained(golden), golden["x"]))
    examples = Examples(weight=np.zeros(4, np.float32))
    outs = [
        quick_jit(lambda x, layer=layer, train=train: layer.apply(variables, x, train=train, examples=examples))(x)
        for layer, train in ((FrozenBatchNorm(), True), (FrozenBatchNorm(), False), (BatchNorm(), False))
    ]
    np.testing.assert_array_equal(outs[0], outs[1])
    np.testing.assert_array_equal(outs[0], outs[2])


def test_an_optimiser_with_weight_decay_leaves_the_affine_alone():
    """Its gradient is zero, and the mask of the default, or one by path, keeps the decay away from it."""
    golden = np.load(GOLDEN)
    variables, x, probe = jax.tree.map(np.float32, (_trained(golden), golden["x"], golden["probe"]))
    kernel = np.float32([[1.0, -2.0], [0.5, 3.0]])
    params = {"norm1": variables["params"], "dense": {"kernel": kernel}}
    (gradient, _), _ = _step(FrozenBatchNorm(), variables, probe)(variables["params"], x)
    grads = {"norm1": gradient, "dense": {"kernel": np.zeros_like(kernel)}}
    for mask in (None, masks.select(params, exclude="norm")):
        tx = momentum_sgd(0.1, weight_decay=0.5, decay_mask=mask)
        updates, _ = tx.update(grads, tx.init(params), params)
        moved = optax.apply_updates(params, updates)
        jax.tree.map(np.testing.assert_array_equal, moved["norm1"], params["norm1"])
        np.testing.assert_allclose(moved["dense"]["kernel"], 0.95 * kernel, rtol=1e-6)


def test_bfloat16_keeps_float32_variables_of_batch_norms_tree():
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 4)).astype(jnp.bfloat16)
    shapes = [
        jax.eval_shape(lambda x, layer=layer: layer.init(jax.random.key(0), x, train=True), x)
        for layer in (FrozenBatchNorm(), BatchNorm())
    ]
    assert shapes[0] == shapes[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes[0])} == {jnp.dtype("float32")}
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes[0])
    assert jax.eval_shape(lambda x: FrozenBatchNorm().apply(variables, x, train=True), x).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "x,message", [(np.zeros((2, 3, 3, 4), np.uint8), "uint8"), (np.zeros(4, np.float32), r"float32\[4\]")]
)
def test_images_that_are_no_numbers_and_vectors_are_refused(x, message):
    with pytest.raises(ValueError, match=f"^FrozenBatchNorm: x={message}.* must be floating point .*; convert it"):
        jax.eval_shape(lambda x: FrozenBatchNorm().init(jax.random.key(0), x, train=True), x)
