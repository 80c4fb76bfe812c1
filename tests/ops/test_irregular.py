import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from arch.ops import deformable
from arch.ops.irregular import IrregularConv, irregular_conv2d
from tests.compiling import quick_jit

STEP = 2.0**-20  # of differences to the right; exact where a function is linear


def irregular_loop(x, kernel, positions, strides):
    """The formula, output by output; each filter has positions of its own."""
    batch, height, width, _ = x.shape
    taps, _, features = kernel.shape
    out = np.zeros((batch, -(-height // strides[0]), -(-width // strides[1]), features))
    for i, j, k, o in itertools.product(*map(range, (*out.shape[1:3], taps, features))):
        y, x_ = np.multiply((i, j), strides) + positions[o, k]
        rows, columns = ([max(0, 1 - abs(at - m)) for m in range(n)] for at, n in ((y, height), (x_, width)))
        out[:, i, j, o] += np.einsum("nhwc,h,w,c->n", x, rows, columns, kernel[k, :, o])
    return out


@pytest.mark.parametrize(
    "per_filter,strides",
    [
        (False, (2, 3)),
        (True, (2, 3)),
        pytest.param(False, (1, 1), marks=pytest.mark.slow),
        pytest.param(True, (1, 1), marks=pytest.mark.slow),
    ],
)
def test_values_and_gradients_against_a_loop(x64, per_filter, strides):
    random = np.random.RandomState(0)
    x, kernel = random.standard_normal((2, 4, 5, 3)), random.standard_normal((4, 3, 2))
    positions = random.uniform(-2.5, 2.5, (2, 4, 2) if per_filter else (4, 2))
    positions[..., 0, :], positions[..., 1, :] = (1, -1), (0.5, -7)  # a whole one, and one outside
    every = np.broadcast_to(positions, (2, 4, 2))
    expected = irregular_loop(x, kernel, every, strides)
    probe = random.standard_normal(expected.shape)

    @quick_jit
    def results(*inputs):
        out, pull_back = jax.vjp(lambda *inputs: irregular_conv2d(*inputs, strides=strides), *inputs)
        return out, *pull_back(probe)

    out, grad_x, grad_kernel, grad_positions = jax.device_get(results(x, kernel, positions))
    np.testing.assert_allclose(out, expected, atol=1e-13)
    other_x, other_kernel = random.standard_normal(x.shape), random.standard_normal(kernel.shape)
    for gradient, other, moved in (
        (grad_x, other_x, irregular_loop(other_x, kernel, every, strides)),
        (grad_kernel, other_kernel, irregular_loop(x, other_kernel, every, strides)),
    ):
        np.testing.assert_allclose(np.vdot(gradient, other), np.vdot(probe, moved), rtol=1e-11)
    for index in np.ndindex(positions.shape):
        moved = positions.copy()
        moved[index] += STEP
        there = irregular_loop(x, kernel, np.broadcast_to(moved, (2, 4, 2)), strides)
        np.testing.assert_allclose(grad_positions[index], np.sum((there - expected) / STEP * probe), atol=1e-7)


@pytest.mark.parametrize(
    "per_filter,kernel_size,dilation,strides,padding",
    [
        pytest.param(False, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), marks=pytest.mark.slow),
        (True, (3, 2), (2, 1), (2, 1), ((2, 2), (0, 1))),
        pytest.param(False, (2, 3), (1, 2), (1, 2), ((0, 1), (2, 2)), marks=pytest.mark.slow),
    ],
)
def test_the_layer_starts_as_an_ordinary_convolution(per_filter, kernel_size, dilation, strides, padding):
    layer = IrregularConv(
        5,
        kernel_size,
        strides=strides,
        kernel_dilation=dilation,
        per_filter=per_filter,
        kernel_init=nn.initializers.uniform(),
    )
    x = np.random.RandomState(1).standard_normal((2, 6, 5, 3)).astype(np.float32)

    @quick_jit
    def results(x):
        params = layer.init(jax.random.key(0), x)["params"]
        params["bias"] += 0.5
        kernel = params["kernel"].reshape(*kernel_size, 3, 5)
        theirs = lax.conv_general_dilated(
            x, kernel, strides, padding, rhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip
        gradient = jax.grad(lambda params: jnp.sum(layer.apply({"params": params}, x) ** 2))(params)
        return params, layer.apply({"params": params}, x), theirs, gradient

    params, ours, theirs, gradient = jax.device_get(results(x))
    np.testing.assert_allclose(ours, theirs + 0.5, atol=1e-5)
    taps = kernel_size[0] * kernel_size[1]
    shapes = {"kernel": (taps, 3, 5), "bias": (5,), "positions": (5, taps, 2) if per_filter else (taps, 2)}
    assert {name: leaf.shape for name, leaf in params.items()} == shapes
    assert all(leaf.any() for leaf in gradient.values())


@pytest.mark.parametrize("per_filter", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bfloat16_and_positions_that_are_not_finite(per_filter):
    x = np.random.RandomState(2).standard_normal((1, 3, 3, 2)).astype(np.float32)
    positions = np.float32([[0, np.inf], [1e30, 0], [0.25, 0]])
    positions = np.broadcast_to(positions, (4, 3, 2)) if per_filter else positions

    @quick_jit
    def results(x, positions):
        kernel = jnp.ones((3, 2, 4), x.dtype)
        out, pull_back = jax.vjp(irregular_conv2d, x, kernel, positions)
        return out, pull_back(jnp.ones_like(out))

    out, gradients = jax.device_get(results(x.astype(jnp.bfloat16), positions))
    below = np.concatenate([x[:, 1:], np.zeros((1, 1, 3, 2))], axis=1)
    expected = (0.75 * x + 0.25 * below).sum(-1, keepdims=True)
    np.testing.assert_allclose(out.astype(np.float32), np.broadcast_to(expected, out.shape), atol=2e-2)
    assert out.dtype == jnp.bfloat16 and gradients[2].dtype == np.float32
    assert all(np.isfinite(gradient.astype(np.float32)).all() for gradient in gradients)


def test_names_of_deformable():
    assert deformable.irregular_conv2d is irregular_conv2d and deformable.IrregularConv is IrregularConv
