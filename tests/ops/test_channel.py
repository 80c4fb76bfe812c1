import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.channel import channel_shuffle


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4, 6, 12])
def test_shuffle_is_the_index_formula(num_groups):
    channels = 12
    x = np.arange(2 * 3 * channels).reshape(2, 3, channels)
    expected = np.empty_like(x)
    for c in range(channels):
        expected[..., c] = x[..., (c % num_groups) * (channels // num_groups) + c // num_groups]
    np.testing.assert_array_equal(channel_shuffle(jnp.asarray(x), num_groups), expected)


def test_shuffle_by_the_other_count_is_the_inverse():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 24))
    for num_groups in (2, 3, 8):
        np.testing.assert_array_equal(channel_shuffle(channel_shuffle(x, num_groups), 24 // num_groups), x)


def test_every_group_sees_all_groups_after_a_shuffle():
    groups_of = jnp.repeat(jnp.arange(3), 6)
    shuffled = channel_shuffle(groups_of[None], 3)[0].reshape(3, 6)
    for group in np.asarray(shuffled):
        assert set(group) == {0, 1, 2}


def test_gradient_is_the_inverse_permutation():
    x, probe = jax.random.normal(jax.random.key(0), (2, 2, 12))
    grad = jax.grad(lambda x: jnp.vdot(channel_shuffle(x, 3), probe))(x)
    np.testing.assert_array_equal(grad, channel_shuffle(probe, 4))


@pytest.mark.parametrize("num_groups", [0, 3, -2])
def test_groups_that_do_not_divide_are_refused(num_groups):
    with pytest.raises(
        ValueError,
        match=f"^channel_shuffle: num_groups={num_groups} must divide channels=232; choose a divisor of 232$",
    ):
        channel_shuffle(jnp.zeros((1, 2, 2, 232)), num_groups)
