import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.local_response import local_response_norm


@pytest.mark.parametrize("channels", [1, 3, 9])
def test_against_a_loop(x64, channels):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, channels))
    for size, alpha, beta, offset in ((5, 1e-4, 0.75, 1.0), (3, 0.7, 0.5, 2.0), (1, 1.0, 1.0, 0.1)):
        expected = np.empty_like(x)
        for c in range(channels):
            around = x[..., max(0, c - size // 2) : c + size // 2 + 1]
            expected[..., c] = x[..., c] / (offset + alpha / size * (around**2).sum(-1)) ** beta
        np.testing.assert_allclose(local_response_norm(jnp.asarray(x), size, alpha, beta, offset), expected, rtol=1e-12)


def test_bfloat16_is_squared_in_float32():
    """1 + 2^-9 is 1 in bfloat16; its power of -128 in float32 is not."""
    x = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    out = local_response_norm(x, size=1, alpha=2.0**-9, beta=128.0)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), (1 + 2.0**-9) ** -128, rtol=2**-8)


@pytest.mark.parametrize("size", [0, 4])
def test_a_size_without_a_centre_is_refused(size):
    with pytest.raises(ValueError, match=f"^local_response_norm: size={size} must be odd and positive"):
        local_response_norm(jnp.zeros((1, 2, 2, 4)), size)
