import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.efficiency.complexity import count
from arch.ops.conv import Conv
from arch.ops.large_kernel import LargeKernelConv
from tests.compiling import quick_jit
from tests.ops.numpy_conv import convolve, slopes

NO_BIAS = functools.partial(Conv, use_bias=False)
NAMES = ("left_vertical", "left_horizontal", "right_horizontal", "right_vertical")


def _kernels(random, height, width, in_features, middle, features):
    shapes = [
        (height, 1, in_features, middle),
        (1, width, middle, features),
        (1, width, in_features, middle),
        (height, 1, middle, features),
    ]
    return {name: random.standard_normal(shape) for name, shape in zip(NAMES, shapes, strict=True)}


def _dense(left_vertical, left_horizontal, right_horizontal, right_vertical):
    """The one kernel: sums over the middle channels of outer products of columns and rows."""
    left = np.einsum("icm,jmo->ijco", left_vertical[:, 0], left_horizontal[0])
    return left + np.einsum("jcm,imo->ijco", right_horizontal[0], right_vertical[:, 0])


def _params(kernels):
    return {"params": {name: {"kernel": kernel} for name, kernel in kernels.items()}}


@pytest.mark.parametrize("height,width,middle", [(5, 5, 3), (3, 7, None)])
def test_is_one_dense_convolution_with_its_gradients(x64, height, width, middle):
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 6, 4, 3))
    kernels = _kernels(random, height, width, 3, middle or 4, 4)
    probe = random.standard_normal((2, 6, 4, 4))
    layer = LargeKernelConv(4, (height, width), middle_features=middle, conv=NO_BIAS)

    @quick_jit
    def run(x, kernels):
        out, pull = jax.vjp(lambda x, kernels: layer.apply(_params(kernels), x), x, kernels)
        return out, *pull(probe)

    out, grad_x, grads = run(x, kernels)
    np.testing.assert_allclose(out, convolve(x, _dense(**kernels)), rtol=1e-12, atol=1e-12)

    def loss(x, **kernels):
        return np.sum(convolve(x, _dense(**kernels)) * probe)

    for name, (direction, slope) in slopes(loss, {"x": x, **kernels}).items():
        np.testing.assert_allclose(np.vdot({"x": grad_x, **grads}[name], direction), slope, rtol=1e-7)


def test_biases_of_the_first_two_are_lost_in_the_padding(x64):
    """Inside, a bias b of the first adds sum(b * second) to the dense convolution; at borders a part of it."""
    random = np.random.default_rng(1)
    x, kernels = np.zeros((1, 9, 9, 2)), _kernels(random, 3, 3, 2, 2, 2)
    bias = random.standard_normal(2)
    params = {name: {"kernel": kernel, "bias": np.zeros(2)} for name, kernel in kernels.items()}
    params["left_vertical"]["bias"] = bias
    out = quick_jit(LargeKernelConv(2, 3).apply)({"params": params}, x)
    taps = kernels["left_horizontal"][0]
    np.testing.assert_allclose(out[0, :, 1:-1], np.broadcast_to(bias @ taps.sum(0), (9, 7, 2)), rtol=1e-12)
    np.testing.assert_allclose(out[0, :, 0], np.broadcast_to(bias @ taps[1:].sum(0), (9, 2)), rtol=1e-12)


@pytest.mark.parametrize(
    "kernel_size,in_features,middle,features,params",
    [
        (15, 256, None, 21, 174_594),
        (15, 2048, None, 21, 1_303_554),
        (7, 1024, None, 21, 307_314),
        # The large separable convolution of Light-Head R-CNN, large and small.
        (15, 2048, 256, 490, 19_493_332),
        (15, 576, 64, 490, 2_047_828),
    ],
)
def test_published_sizes_and_multiply_adds(kernel_size, in_features, middle, features, params):
    layer = LargeKernelConv(features, kernel_size, middle_features=middle)
    counted = count(layer, (1, 16, 16, in_features))
    assert counted.params == params
    assert counted.macs == 16 * 16 * 2 * kernel_size * (middle or features) * (in_features + features)


def test_bfloat16_and_one_pixel():
    layer = LargeKernelConv(3, 7, conv=functools.partial(NO_BIAS, dtype=jnp.bfloat16))
    kernels = _kernels(np.random.default_rng(2), 7, 7, 2, 3, 3)
    params = jax.tree.map(lambda kernel: kernel.astype(np.float32), _params(kernels))
    out = quick_jit(layer.apply)(params, jnp.ones((1, 1, 1, 2), jnp.bfloat16))
    assert out.shape == (1, 1, 1, 3) and out.dtype == jnp.bfloat16
    # Only the taps in the middle meet the pixel.
    middle = [kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] for kernel in kernels.values()]
    expected = np.ones(2) @ (middle[0] @ middle[1] + middle[2] @ middle[3])
    np.testing.assert_allclose(
        np.asarray(out[0, 0, 0], np.float64), expected, rtol=0, atol=2e-2 * np.abs(expected).max()
    )


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match=r"^LargeKernelConv: kernel_size=\(3, 4\) must be odd, .*; add or drop a tap"):
        LargeKernelConv(4, (3, 4)).init(jax.random.key(0), jnp.zeros((1, 5, 5, 2)))
