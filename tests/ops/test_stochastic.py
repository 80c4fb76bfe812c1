import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.stochastic import Dropout, Examples, dropout, example_keys


def test_example_keys_depend_on_the_id_alone():
    key = jax.random.key(3)
    data = jax.random.key_data(example_keys(key, jnp.array([5, 0, 5])))
    np.testing.assert_array_equal(data[0], data[2])
    np.testing.assert_array_equal(data[1], jax.random.key_data(jax.random.fold_in(key, 0)))
    assert (data[0] != data[1]).any()


@pytest.mark.parametrize("num_devices", [2, 8])
def test_dropout_is_the_same_for_any_layout_of_devices(num_devices):
    x = jax.random.normal(jax.random.key(0), (8, 5, 6))
    key = jax.random.key(1)
    expected = dropout(x, key, 0.4)
    ids = jnp.arange(8).reshape(num_devices, -1)
    layer = Dropout(0.4)

    def on_device(x, ids):
        return layer.apply({}, x, train=True, examples=Examples(id=ids), rngs={"dropout": key})

    split = x.reshape(num_devices, -1, 5, 6)
    alone = layer.apply({}, x, train=True, rngs={"dropout": key})
    np.testing.assert_array_equal(jax.pmap(on_device)(split, ids).reshape(x.shape), alone)
    np.testing.assert_array_equal(jax.vmap(on_device)(split, ids).reshape(x.shape), alone)
    by_function = jax.pmap(lambda x, ids: dropout(x, key, 0.4, ids))(split, ids)
    np.testing.assert_array_equal(by_function.reshape(x.shape), expected)


def test_dropout_keeps_the_expected_share_and_mean():
    x = jnp.ones((100, 1000))
    y = np.asarray(dropout(x, jax.random.key(0), 0.3))
    assert set(np.unique(y)) == {np.float32(0.0), np.float32(1.0) / np.float32(0.7)}
    # Five standard deviations of a mean of 1e5 draws.
    assert abs((y == 0).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 1e5)
    assert np.unique(y != 0, axis=0).shape[0] == 100, "examples must not share noise"


def test_dropout_at_its_ends_and_in_evaluation():
    x = jax.random.normal(jax.random.key(0), (3, 4))
    np.testing.assert_array_equal(dropout(x, jax.random.key(1), 0.0), x)
    np.testing.assert_array_equal(dropout(x, jax.random.key(1), 1.0), np.zeros_like(x))
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x, train=False), x)
    assert np.isfinite(jax.grad(lambda x: dropout(x, jax.random.key(1), 1.0).sum())(x)).all()


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_rate_outside_the_unit_interval_is_refused(rate):
    with pytest.raises(ValueError, match=rf"^dropout: rate={rate} must lie in \[0, 1\]; it is"):
        dropout(jnp.ones((1, 1)), jax.random.key(0), rate)
    with pytest.raises(ValueError, match=rf"^Dropout: rate={rate} must lie in \[0, 1\]; it is"):
        Dropout(rate).apply({}, jnp.ones((1, 1)), train=False)
