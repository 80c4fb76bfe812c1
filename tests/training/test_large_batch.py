"""What changes a large batch silently: a sum in the place of a mean, decay that is counted once a worker, and units
that start as their shortcut. After Goyal et al. (arXiv:1706.02677), sections 3 and 5.1; the training step beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from arch import AXIS_NAME
from arch.models import create
from arch.optim.momentum import momentum_sgd
from arch.training.state import create_state
from arch.training.step import make_train_step

WORKERS, PER_WORKER, CLASSES = 4, 4, 3


class Linear(nn.Module):
    """Logits of the pixels."""

    @nn.compact
    def __call__(self, x, *, train, examples=None):
        return nn.Dense(CLASSES, param_dtype=x.dtype, name="classifier")(x.reshape(x.shape[0], -1))


@pytest.fixture
def batch(x64):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(WORKERS, PER_WORKER, 2, 2, 1))
    labels = rng.integers(0, CLASSES, (WORKERS, PER_WORKER)).astype(np.int32)
    return {"image": images, "label": labels, "weight": np.ones((WORKERS, PER_WORKER))}


def start(tx):
    sizes = {"seed": 0, "image_shape": (2, 2, 1), "num_classes": CLASSES, "dtype": jnp.float64}
    return create_state(Linear(), tx, **sizes)


def worker_loss(params, batch):
    """The mean over one worker's examples."""
    logits = Linear().apply({"params": params}, batch["image"], train=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()


def truth(params, batch):
    """The gradient of the mean over all examples, on one device."""
    return jax.grad(worker_loss)(params, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch))


def over_workers(function, *args):
    return jax.tree.map(lambda x: x[0], jax.pmap(function, axis_name=AXIS_NAME, in_axes=(None, 0))(*args))


def assert_equal(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), found, expected)


def step_from(params_state, tx, batch):
    step = make_train_step(Linear(), tx, seed=0, preprocess=lambda images, keys: images)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * WORKERS), params_state)
    return jax.tree.map(lambda x: x[0], jax.pmap(step, axis_name=AXIS_NAME)(states, batch))


def test_a_workers_mean_that_is_summed_is_k_times_the_gradient_and_the_step_is_not(batch):
    """Remark 3: the loss of a worker is divided by kn, because the all-reduce sums."""
    tx = optax.sgd(1.0)
    state = start(tx)
    expected = truth(state.params, batch)
    summed = over_workers(lambda p, b: jax.lax.psum(jax.grad(worker_loss)(p, b), AXIS_NAME), state.params, batch)
    assert_equal(summed, jax.tree.map(lambda g: WORKERS * g, expected))
    stepped = step_from(state, tx, batch)
    assert_equal(jax.tree.map(lambda a, b: a - b, state.params, stepped.params), expected)


def test_decay_in_a_workers_loss_counts_k_times_and_the_optimisers_once(batch):
    """The decay belongs behind the sum over workers."""
    decay = 0.1

    def decayed_loss(params, batch):
        squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params))
        return worker_loss(params, batch) / WORKERS + decay / 2 * squares

    tx = momentum_sgd(1.0, 0.0, weight_decay=decay, decay_mask=True)
    state = start(tx)
    expected = truth(state.params, batch)
    summed = over_workers(lambda p, b: jax.lax.psum(jax.grad(decayed_loss)(p, b), AXIS_NAME), state.params, batch)
    assert_equal(summed, jax.tree.map(lambda g, w: g + WORKERS * decay * w, expected, state.params))
    stepped = step_from(state, tx, batch)
    moved = jax.tree.map(lambda a, b: a - b, state.params, stepped.params)
    assert_equal(moved, jax.tree.map(lambda g, w: g + decay * w, expected, state.params))


def test_a_loss_scaled_for_the_rate_changes_the_decay(batch):
    """Remark 1: a loss times k at rate 1 is a rate of k without decay, and another step with it."""
    scale, decay = 4.0, 0.1

    def update(loss_scale, rate):
        tx = optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate))
        params = start(tx).params
        gradient = jax.tree.map(lambda g: loss_scale * g, truth(params, batch))
        return tx.update(gradient, tx.init(params), params)[0], params

    (scaled_rate, params), (scaled_loss, _) = update(1.0, scale), update(scale, 1.0)
    difference = jax.tree.map(lambda a, b: a - b, scaled_loss, scaled_rate)
    assert_equal(difference, jax.tree.map(lambda w: (scale - 1) * decay * w, params))


@pytest.mark.slow
def test_units_whose_last_scale_is_zero_start_as_their_shortcut(x64):
    """Section 5.1: no gradient reaches their convolutions yet, all reaches the scale."""
    fields = {"stage_sizes": (2, 1), "stage_features": (4, 8), "stem_features": 4, "stem": "small"}
    model = create("resnet50", num_classes=CLASSES, zero_init_residual=True, classifier_std=0.01, **fields)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)))
    variables = model.init(jax.random.key(0), images, train=False)
    params, statistics = variables["params"], variables["batch_stats"]

    def loss(params):
        logits, _ = model.apply(
            {"params": params, "batch_stats": statistics}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(jnp.square(logits - 1))

    gradient = jax.grad(loss)(params)
    units = [name for name in params if "unit" in name]
    assert len(units) == 3
    for name in units:
        assert not np.any(params[name]["norm3"]["scale"])
        assert np.any(gradient[name]["norm3"]["scale"])
        for layer in ("conv1", "conv2", "conv3"):
            assert not np.any(gradient[name][layer]["kernel"]), (name, layer)
    kernel = params["classifier"]["kernel"]
    assert not np.any(params["classifier"]["bias"]) and 0.005 < float(jnp.std(kernel)) < 0.02
