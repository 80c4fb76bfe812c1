"""Statistics that are measured anew for evaluation: of the last batch, of several, and averaged over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import norm as norms
from arch.norm.batch import BatchNorm
from arch.training.statistics import Remeasure

SEED, SHAPE = 5, (2, 2, 3)


class Net(nn.Module):
    """A norm of the images, then one of their squares."""

    norm: type[nn.Module] = BatchNorm

    @nn.compact
    def __call__(self, x, *, train, examples=None):
        norm = norms.bind(self.norm, train=train, examples=examples)
        return norm(name="second")(jnp.square(norm(name="first")(x)))


def noisy(images, keys):
    """Augmented by a key for each example."""
    return images + jax.vmap(lambda key: jax.random.normal(key, SHAPE, images.dtype))(keys)


def plain(images, keys):
    return images


def batch(step, size=16, shift=0.0):
    rng = np.random.default_rng([3, step])
    images = rng.normal(size=(size, *SHAPE)) * (1 + np.arange(3)) + shift * np.arange(size)[:, None, None, None]
    return {"image": images, "label": np.zeros(size, np.int32), "weight": np.ones(size)}


def remeasure(name, batches, devices=1, part_size=16, preprocess=plain):
    """The running statistics on the host, the same on all devices."""
    model = Net()
    variables = model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False)
    variables = jax.tree.map(lambda leaf: np.stack([leaf] * devices), jax.device_get(variables))
    run = Remeasure(model, name, part_size=part_size, seed=SEED, preprocess=preprocess)
    split = [(step, jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), one)) for step, one in batches]
    found = jax.device_get(run({"": variables}, split))[""]["batch_stats"]
    for device in range(1, devices):
        jax.tree.map(lambda x, i=device: np.testing.assert_array_equal(x[0], x[i]), found)
    return jax.tree.map(lambda x: x[0], found)


def moments(*batches):
    values = np.concatenate([one["image"].reshape(-1, 3) for one in batches])
    return {"mean": values.mean(0), "var": values.var(0)}


def assert_close(found, expected, tolerance=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), found, expected)


@pytest.mark.parametrize("devices", [1, 4])
def test_of_the_last_batch(x64, devices):
    one = batch(7, shift=1.0)
    assert_close(remeasure("last_batch", [(7, one)], devices)["first"], moments(one))


def test_averaged_over_devices_the_spread_of_their_means_is_missing(x64):
    """Law of total variance: the averaged one is lower by the variance of the means, here of two shifted shards."""
    one = batch(7, shift=1.0)
    shards = [moments({"image": one["image"][:8]}), moments({"image": one["image"][8:]})]
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *shards)
    found = remeasure("last_batch_averaged", [(7, one)], devices=2)["first"]
    assert_close(found, expected)
    between = np.var([shard["mean"] for shard in shards], axis=0)
    assert between.min() > 10
    assert_close(found["var"] + between, moments(one)["var"], 1e-10)


def test_of_several_batches(x64):
    three = [batch(step, shift=step / 10) for step in range(3)]
    assert_close(remeasure("precise", list(enumerate(three)), devices=2)["first"], moments(*three))


def test_in_parts_the_first_norm_has_those_of_the_whole(x64):
    """Deeper norms see inputs that are normalized a part at a time, as in training."""
    one = batch(0, shift=0.5)
    assert_close(remeasure("last_batch", [(0, one)], part_size=4)["first"], moments(one))


@pytest.mark.parametrize("part_size", [16, 4])
def test_images_are_augmented_as_they_were_in_that_step(x64, part_size):
    """The same on any number of devices, another one at another step."""
    one = batch(0)
    expected = remeasure("last_batch", [(4, one)], part_size=part_size, preprocess=noisy)["first"]
    found = remeasure("last_batch", [(4, one)], devices=4, part_size=part_size // 4, preprocess=noisy)["first"]
    assert_close(found, expected)
    other = remeasure("last_batch", [(5, one)], part_size=part_size, preprocess=noisy)["first"]
    assert abs(other["mean"] - expected["mean"]).max() > 1e-2


def test_examples_of_no_weight_do_not_count(x64):
    one = batch(0)
    one["weight"][10:] = 0
    assert_close(remeasure("last_batch", [(0, one)])["first"], moments({"image": one["image"][:10]}))


def test_every_version_gets_its_own_from_batches_that_are_read_once(x64):
    """The second norm sees squares of what the first puts out, and so depends on its scale."""
    model = Net()
    variables = jax.device_get(model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False))
    versions = {"": variables, "ema_": jax.tree.map(lambda leaf: 2 * leaf, variables)}
    versions = jax.tree.map(lambda leaf: leaf[None], versions)
    one = jax.tree.map(lambda leaf: leaf[None], batch(0))
    remeasure_both = Remeasure(model, "precise", part_size=16, seed=SEED, preprocess=plain)
    found = jax.device_get(remeasure_both(versions, iter([(0, one)])))
    assert_close(found["ema_"]["batch_stats"]["first"], found[""]["batch_stats"]["first"])
    means = [found[name]["batch_stats"]["second"]["mean"] for name in ("", "ema_")]
    np.testing.assert_allclose(means[1], 4 * means[0], rtol=1e-12)
