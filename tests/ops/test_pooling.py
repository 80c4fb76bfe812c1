import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.pooling import global_avg_pool, max_pool


@pytest.mark.parametrize("size", [6, 7])
def test_max_pool_against_a_loop_on_negative_values(size):
    x = -1.0 - jax.random.uniform(jax.random.key(0), (2, size, size, 3))
    out_size = (size + 2 - 3) // 2 + 1
    padded = np.pad(np.asarray(x), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    expected = np.empty((2, out_size, out_size, 3))
    for i, j in np.ndindex(out_size, out_size):
        expected[:, i, j] = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2))
    np.testing.assert_array_equal(max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))), expected)


def test_global_avg_pool_of_bfloat16_is_summed_in_float32():
    x = jnp.full((1, 40, 40, 2), 1.0, jnp.bfloat16).at[0, 0, 0, 0].set(9.0)
    pooled = global_avg_pool(x)
    assert pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled, [[1.0 + 8.0 / 1600, 1.0]], rtol=1e-6)


def test_global_avg_pool_keeps_float64(x64):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5), jnp.float64)
    pooled = global_avg_pool(x)
    assert pooled.dtype == jnp.float64
    np.testing.assert_allclose(pooled, np.asarray(x).mean((1, 2)), rtol=1e-14)
