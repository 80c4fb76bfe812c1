import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.efficiency.complexity import abstract_variables, count, count_params
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.gradually_updated import GraduallyUpdated, gradually_update
from tests.compiling import quick_jit
from tests.ops.numpy_conv import convolve, slopes

NO_BIAS = functools.partial(Conv, use_bias=False)
PARTS = {"reduce": 1, "conv": 3, "expand": 1, "projection": 1}


def _kernels(random, channels, num_segments, projection):
    features = channels // num_segments
    double = 2 * features
    widths = {"reduce": (channels, double), "conv": (double, double), "expand": (double, features)}
    if projection:
        widths["projection"] = channels, features
    return {
        f"segment{i}_{part}": random.standard_normal((PARTS[part], PARTS[part], *widths[part]))
        for i in range(1, num_segments + 1)
        for part in widths
    }


def _layer_loop(x, kernels, num_segments, projection, *, parallel=False):
    """The layer in float64 NumPy; the act is tanh, the norm x * 2 - 0.1, that of the projection x * 3."""
    features = x.shape[-1] // num_segments
    state = x.copy()
    for i in range(num_segments):
        seen = x if parallel else state
        name = f"segment{i + 1}_"
        change = np.tanh(convolve(seen, kernels[name + "reduce"]) * 2 - 0.1)
        change = np.tanh(convolve(change, kernels[name + "conv"]) * 2 - 0.1)
        change = convolve(change, kernels[name + "expand"]) * 2 - 0.1
        if projection:
            change += convolve(seen, kernels[name + "projection"]) * 3
        state = state.copy()
        state[..., i * features : (i + 1) * features] += change
    return state


def _norm(name):
    return (lambda x: x * 3) if name.endswith("projection_norm") else (lambda x: x * 2 - 0.1)


@pytest.mark.parametrize("num_segments,projection", [(3, True), (1, False)])
def test_layer_against_a_loop_with_its_gradients(x64, num_segments, projection):
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 3, 4, 6))
    kernels = _kernels(random, 6, num_segments, projection)
    probe = random.standard_normal(x.shape)
    layer = GraduallyUpdated(num_segments, projection=projection, conv=NO_BIAS, norm=_norm, act=jnp.tanh)

    @quick_jit
    def run(x, kernels):
        def apply(x, kernels):
            return layer.apply({"params": {name: {"kernel": kernel} for name, kernel in kernels.items()}}, x)

        out, pull = jax.vjp(apply, x, kernels)
        return out, *pull(probe)

    out, grad_x, grads = run(x, kernels)
    np.testing.assert_allclose(out, _layer_loop(x, kernels, num_segments, projection), rtol=1e-12, atol=1e-12)
    parallel = _layer_loop(x, kernels, num_segments, projection, parallel=True)
    assert (np.abs(out - parallel).max() > 0.1) == (num_segments > 1)  # side by side it is another network

    def loss(x, **kernels):
        return np.sum(_layer_loop(x, kernels, num_segments, projection) * probe)

    for name, (direction, slope) in slopes(loss, {"x": x, **kernels}).items():
        np.testing.assert_allclose(np.vdot({"x": grad_x, **grads}[name], direction), slope, rtol=1e-7)


def test_each_update_sees_those_before_it():
    """Updates that sum all channels: 1 + 111, then 10 + (112 + 10 + 100), then 100 + (112 + 232 + 100)."""
    x = np.asarray([[1.0, 10.0, 100.0]], np.float32)
    out = quick_jit(lambda x: gradually_update(x, [lambda x: jnp.sum(x, -1, keepdims=True)] * 3))(x)
    np.testing.assert_array_equal(out, [[112.0, 232.0, 544.0]])


def test_bfloat16_stays():
    layer = GraduallyUpdated(2, projection=True)
    shapes = jax.eval_shape(layer.init_with_output, jax.random.key(0), jnp.zeros((1, 3, 3, 4), jnp.bfloat16))
    assert shapes[0].dtype == jnp.bfloat16 and shapes[0].shape == (1, 3, 3, 4)


def _layer(num_segments, projection):
    return GraduallyUpdated(num_segments, projection=projection, conv=NO_BIAS, norm=bind(BatchNorm, train=True))


def test_multiply_adds():
    for projection in (True, False):
        counted = count(_layer(2, projection), (2, 5, 7, 8))
        features, taps = 4, 2 * 8 * 4 + 36 * 16 + 2 * 16 + projection * 8 * 4
        assert counted.macs == 2 * 5 * 7 * 2 * taps
        assert counted.params == 2 * (taps + (10 + 2 * projection) * features)


@pytest.mark.slow
@pytest.mark.parametrize(
    "widths,segments,rest,projection,params",
    [
        # GUNN-15 for CIFAR-10 and GUNN-18 for ImageNet; `rest` is stem, 1x1 convolutions between layers and classifier.
        ((240, 300, 360), (20, 25, 30), 332_946, True, 1_585_746),
        ((400, 800, 1600, 2000), (10, 20, 40, 50), 6_845_736, False, 28_909_736),
    ],
)
def test_published_sizes(widths, segments, rest, projection, params):
    for width, num_segments in zip(widths, segments, strict=True):
        x = jax.ShapeDtypeStruct((1, 2, 2, width), jnp.float32)
        rest += count_params(abstract_variables(_layer(num_segments, projection), x))
    assert rest == params


@pytest.mark.parametrize(
    "count,channels,message",
    [
        (0, 6, r"^gradually_update: len\(updates\)=0 must divide channels=6; choose a divisor of 6$"),
        (4, 6, r"^gradually_update: len\(updates\)=4 must divide channels=6; choose a divisor of 6$"),
        (3, 6, r"^gradually_update: updates\[0\] must return its segment's shape \(1, 2\), not \(1, 6\); give it 2 ch"),
    ],
)
def test_refusals(count, channels, message):
    with pytest.raises(ValueError, match=message):
        gradually_update(jnp.zeros((1, channels)), [lambda x: x] * count)
