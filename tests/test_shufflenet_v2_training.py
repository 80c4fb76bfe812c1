"""The whole network through the trainer's own step: k devices equal one, every variable, and it exports."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models, norm, optim
from arch.training.state import create_state
from arch.training.step import make_train_step, pmap_train_step
from configs import shufflenet_v2

CLASSES, SIZE = 10, 16


def preprocess(images, keys):
    return images.astype(jnp.float32) / 128 - 1


def batch(step, size=8):
    rng = np.random.default_rng([5, step])
    return {
        "image": rng.integers(0, 256, (size, SIZE, SIZE, 3), dtype=np.uint8),
        "label": rng.integers(0, CLASSES, size).astype(np.int32),
        "weight": np.ones(size, np.float32),
    }


def parts(norm_name, dtype):
    """(model, tx, state, step) of ShuffleNet v2 0.5x as the recipe has it."""
    config = shufflenet_v2.get_config()
    model = models.create(
        config.model.name, num_classes=CLASSES, norm=norm.create(norm_name), dtype=dtype, **config.model.fields
    )
    tx, _ = optim.create(config.optimizer, config.schedule, optim.batches.constant(80, 100, 8))
    state = create_state(model, tx, seed=0, image_shape=(SIZE, SIZE, 3), num_classes=CLASSES, dtype=dtype)
    return model, tx, state, make_train_step(model, tx, seed=0, preprocess=preprocess, reset_metrics_every_steps=10)


def train(devices, norm_name="sync_batch_norm", num_steps=3):
    """(state, gradients of the first step) after `num_steps` in float64."""
    _, _, state, step = parts(norm_name, jnp.float64)
    step = jax.pmap(step, axis_name="batch", devices=jax.local_devices()[:devices])
    state = jax.tree.map(lambda x: np.stack([x] * devices), jax.device_get(state))
    gradients = None
    for i in range(num_steps):
        one = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch(i))
        state = step(state, one)
        # Momentum's buffer after the first step is the gradient, with decay.
        gradients = gradients or jax.tree.map(lambda x: np.asarray(x)[0], state.opt_state)
    return jax.tree.map(lambda x: np.asarray(x)[0], state), gradients


@pytest.fixture
def one_device(x64):
    return cached_one_device()


@functools.cache
def cached_one_device():
    return train(1)


def largest_difference(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
def test_k_devices_equal_one_with_sync_batch_norm(one_device, devices):
    (expected, expected_gradients), (got, gradients) = one_device, train(devices)
    assert largest_difference(gradients, expected_gradients) < 1e-7
    assert largest_difference(got.batch_stats, expected.batch_stats) < 1e-7
    assert largest_difference(got.params, expected.params) < 1e-7
    assert largest_difference(got.params, jax.device_get(parts("sync_batch_norm", jnp.float64)[2].params)) > 1e-2


@pytest.mark.slow
def test_per_replica_batch_norm_differs(one_device):
    assert largest_difference(train(2, "batch_norm")[0].params, one_device[0].params) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_the_whole_step_exports_for_tpu_and_gpu(dtype):
    step = parts("sync_batch_norm", jnp.dtype(dtype))[-1]
    devices = jax.local_device_count()
    shapes = jax.eval_shape(lambda: parts("sync_batch_norm", jnp.dtype(dtype))[2])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((devices, *x.shape), x.dtype), shapes)
    one = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch(0, size=2 * devices))
    exported = jax.export.export(jax.jit(pmap_train_step(step)), platforms=["tpu", "cuda"])(shapes, one)
    assert exported.platforms == ("tpu", "cuda")
    assert exported.nr_devices == devices
    assert "stablehlo.all_reduce" in exported.mlir_module()
    assert [leaf.shape for leaf in jax.tree.leaves(exported.out_avals)] == [x.shape for x in jax.tree.leaves(shapes)]
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in exported.out_avals)  # parameters are never bfloat16
