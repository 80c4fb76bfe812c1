import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch.ops import spatial_transformer
from arch.ops.sampling import affine_grid, grid_sample
from arch.ops.spatial_transformer import LocalizationNet, SpatialTransformer
from tests.compiling import quick_jit


class Mean(nn.Module):
    """A localization network without parameters."""

    @nn.compact
    def __call__(self, x):
        return x.mean((1, 2))


def told(theta):
    """Variables of a transformer with `Mean` that always tells `theta`."""
    return {"params": {"theta": {"kernel": np.zeros((2, 6), np.float32), "bias": np.float32(theta).reshape(6)}}}


def test_it_starts_as_the_identity_and_learns():
    x = np.random.RandomState(0).standard_normal((2, 4, 5, 2)).astype(np.float32)
    layer = SpatialTransformer(localization=Mean)

    @quick_jit
    def results(x):
        variables = layer.init(jax.random.key(0), x)
        gradient = jax.grad(lambda variables, x: jnp.sum(layer.apply(variables, x) ** 3), (0, 1))(variables, x)
        return layer.apply(variables, x), gradient

    out, (gradient, grad_x) = jax.device_get(results(x))
    np.testing.assert_allclose(out, x, atol=1e-5)
    np.testing.assert_allclose(grad_x, 3 * x**2, atol=1e-3)
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_parameters():
    layer = SpatialTransformer(localization=functools.partial(LocalizationNet, features=(4, 5), hidden_features=3))
    variables = jax.eval_shape(lambda: layer.init(jax.random.key(0), jnp.zeros((2, 6, 7, 3))))
    assert jax.tree.map(lambda leaf: leaf.shape, variables["params"]) == {
        "localization": {
            "conv0": {"kernel": (5, 5, 3, 4), "bias": (4,)},
            "conv1": {"kernel": (5, 5, 4, 5), "bias": (5,)},
            "hidden": {"kernel": (2 * 2 * 5, 3), "bias": (3,)},
        },
        "theta": {"kernel": (3, 6), "bias": (6,)},
    }


@pytest.mark.parametrize("align_corners", [True, False])
def test_whole_pixels_shift_with_zeros(align_corners):
    x = np.random.RandomState(1).standard_normal((1, 4, 5, 2)).astype(np.float32)
    spans = (3, 4) if align_corners else (4, 5)
    down, right = (2 * step / span for step, span in zip((1, -2), spans, strict=True))
    layer = SpatialTransformer(align_corners=align_corners, localization=Mean)
    out = quick_jit(layer.apply)(told([[1, 0, right], [0, 1, down]]), x)
    expected = np.zeros_like(x)
    expected[:, :3, 2:] = x[:, 1:, :3]
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_gradients_of_the_map_against_central_differences(x64):
    random = np.random.RandomState(2)
    x, probe = random.standard_normal((1, 5, 5, 2)), random.standard_normal((1, 3, 4, 2))
    layer = SpatialTransformer(size=(3, 4), localization=Mean, param_dtype=jnp.float64)
    variables = jax.tree.map(np.float64, told([[0.83, 0.21, 0.11], [-0.17, 0.71, 0.07]]))
    loss = quick_jit(lambda variables: jnp.sum(layer.apply(variables, x) * probe))
    gradient = quick_jit(jax.grad(loss.__wrapped__))(variables)["params"]["theta"]["bias"]
    for entry in range(6):
        ends = []
        for step in (-1e-6, 1e-6):
            moved = jax.tree.map(np.copy, variables)
            moved["params"]["theta"]["bias"][entry] += step
            ends.append(float(loss(moved)))
        np.testing.assert_allclose(gradient[entry], (ends[1] - ends[0]) / 2e-6, rtol=1e-6)


def test_bfloat16_images_have_float32_maps():
    """Columns of an image of 400 pixels, which bfloat16 cannot tell apart."""
    x = np.zeros((1, 1, 400, 2), np.float32)
    x[0, 0, 301] = 1
    out = quick_jit(SpatialTransformer(localization=Mean).apply)(told([[1, 0, 0], [0, 1, 0]]), x.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), x, atol=1e-3)


def test_names_of_the_sampler():
    assert spatial_transformer.affine_grid is affine_grid and spatial_transformer.grid_sample is grid_sample
