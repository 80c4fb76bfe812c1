import functools

import jax
import numpy as np
import pytest

from arch.efficiency.complexity import count
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.interleaved_group_conv import IGC, ChannelLocalConv
from tests.compiling import quick_jit
from tests.ops.numpy_conv import convolve, slopes

NO_BIAS = functools.partial(Conv, use_bias=False)
SYMMETRIC = ((1, 1), (1, 1))


def _check(layer, kernels, x, oracle):
    """Value, and gradients in x and in both kernels, in float64."""
    expected = oracle(x, **kernels)
    probe = np.random.default_rng(9).standard_normal(expected.shape)

    @quick_jit
    def run(x, kernels):
        def apply(x, kernels):
            return layer.apply({"params": {name: {"kernel": kernel} for name, kernel in kernels.items()}}, x)

        out, pull = jax.vjp(apply, x, kernels)
        return out, *pull(probe)

    out, grad_x, grads = run(x, kernels)
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)
    found = slopes(lambda x, **kernels: np.sum(oracle(x, **kernels) * probe), {"x": x, **kernels})
    for name, (direction, slope) in found.items():
        np.testing.assert_allclose(np.vdot({"x": grad_x, **grads}[name], direction), slope, rtol=1e-7)


@pytest.mark.parametrize("primary,in_features,features,stride", [(2, 6, 6, 1), (3, 6, 12, 2), (4, 4, 4, 2)])
def test_igc_is_one_dense_convolution_with_its_gradients(x64, primary, in_features, features, stride):
    random = np.random.default_rng(0)
    per_group, inputs = features // primary, in_features // primary
    kernels = {
        "primary": random.standard_normal((3, 3, inputs, features)),
        "secondary": random.standard_normal((1, 1, primary, features)),
    }

    def oracle(x, primary, secondary):
        """Output l' * M + m meets input c in group l of the first, through channel m of that group alone."""
        dense = np.zeros((3, 3, in_features, features))
        for c, target, m in np.ndindex(in_features, features // per_group, per_group):
            group = c // inputs
            weight = secondary[0, 0, group, m * (features // per_group) + target]
            dense[:, :, c, target * per_group + m] = primary[:, :, c % inputs, group * per_group + m] * weight
        return convolve(x, dense, stride=stride)

    layer = IGC(features, primary, strides=stride, padding=SYMMETRIC, conv=NO_BIAS)
    _check(layer, kernels, random.standard_normal((2, 5, 4, in_features)), oracle)


def test_igc_connects_all_channels_once(x64):
    """Kernels of ones over one pixel: the matrix from inputs to outputs counts the paths."""
    layer = IGC(12, 3, kernel_size=1, conv=functools.partial(NO_BIAS, kernel_init=jax.nn.initializers.ones))

    @quick_jit
    def paths():
        variables = layer.init(jax.random.key(0), np.zeros((1, 1, 1, 12)))
        return jax.jacobian(lambda x: layer.apply(variables, x.reshape(1, 1, 1, 12)).reshape(12))(np.zeros(12))

    np.testing.assert_array_equal(paths(), np.ones((12, 12)))


@pytest.mark.parametrize("primary,secondary,depth,params", [(24, 2, 8, 48_442), (4, 8, 62, 973_738)])
def test_sizes_of_the_cifar_networks(primary, secondary, depth, params):
    """Published by the authors' code: 3x3 stem, three stages of blocks, each with a norm; linear."""
    width = primary * secondary
    total = 27 * width + 2 * width + 4 * width * 10 + 10
    for stage in range(3):
        features = width * 2**stage
        blocks = (depth - 2) // 3
        first = count(IGC(features, primary, conv=NO_BIAS), (1, 8, 8, width if stage == 0 else features // 2))
        other = count(IGC(features, primary, conv=NO_BIAS), (1, 8, 8, features))
        total += first.params + (blocks - 1) * other.params + blocks * 2 * features
        assert other.macs == 64 * (features * features // primary * 9 + features * primary)
    assert total == params


def _tanh_norm(name):
    """Something that is not linear stands for the norm, to show where it is."""
    assert name == "spatial_norm"
    return jax.numpy.tanh


@pytest.mark.parametrize(
    "spatial,pointwise,features,stride,interlaced",
    [(3, 2, 4, 1, False), (3, 2, 4, 1, True), (6, 2, 8, 2, False), (2, 3, 3, 1, True)],
)
def test_clc_is_two_dense_convolutions_with_zeros(x64, spatial, pointwise, features, stride, interlaced):
    random = np.random.default_rng(0)
    channels = 12
    members, neighbours = channels // spatial, channels // pointwise
    kernels = {
        "spatial": random.standard_normal((3, 3, members, channels)),
        "pointwise": random.standard_normal((1, 1, neighbours, features)),
    }

    def oracle(x, **kernels):
        first, second = np.zeros((3, 3, channels, channels)), np.zeros((1, 1, channels, features))
        for group, i, j in np.ndindex(spatial, members, members):
            seen = group + i * spatial if interlaced else group * members + i
            # The kernel has its outputs group by group; the map has them interlaced: c mod g1 is the group.
            first[:, :, seen, group + j * spatial] = kernels["spatial"][:, :, i, group * members + j]
        per_group = features // pointwise
        for group in range(pointwise):
            rows, columns = slice(group * neighbours, (group + 1) * neighbours), slice(group * per_group, None)
            second[0, 0, rows, columns][:, :per_group] = kernels["pointwise"][0, 0][:, columns][:, :per_group]
        return convolve(np.tanh(convolve(x, first, stride=stride)), second)

    layer = ChannelLocalConv(
        features,
        spatial,
        pointwise,
        strides=stride,
        padding=SYMMETRIC,
        interlaced_inputs=interlaced,
        conv=NO_BIAS,
        norm=_tanh_norm,
    )
    _check(layer, kernels, random.standard_normal((2, 5, 4, channels)), oracle)


@pytest.mark.parametrize("interlaced", [False, True])
def test_clc_refuses_exactly_what_does_not_connect_all_channels(interlaced):
    channels = 12
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    index = np.arange(channels)
    for spatial in divisors:
        for pointwise in divisors:
            input_group = index % spatial if interlaced else index // (channels // spatial)
            first = input_group[:, None] == index % spatial
            second = index[:, None] // (channels // pointwise) == index // (channels // pointwise)
            layer = ChannelLocalConv(channels, spatial, pointwise, interlaced_inputs=interlaced)
            run = functools.partial(jax.eval_shape, layer.init, jax.random.key(0), np.zeros((1, 2, 2, channels)))
            if (first @ second).all():
                run()
            else:
                with pytest.raises(ValueError, match=rf"^ChannelLocalConv: num_spatial_groups={spatial} must be at mo"):
                    run()


@functools.cache
def _clc_block(width, features, stride, size):
    norm = bind(BatchNorm, train=True)
    layer = ChannelLocalConv(features, width // 2, 2, strides=stride, conv=NO_BIAS, norm=norm)
    return count(layer, (1, size, size, width))


@pytest.mark.parametrize(
    "repeats,params,conv_macs", [((1, 1, 5, 2), 3_253_640, 341_949_440), ((1, 1, 7, 3), 4_085_128, 423_535_616)]
)
def test_sizes_of_clcnet(repeats, params, conv_macs):
    """clcNet-A and -B of the authors' code: a 3x3 stem of 32, then blocks of g1 = in / 2, g2 = 2; linear."""
    total, macs = 27 * 32 + 64 + 1024 * 1000 + 1000, 112 * 112 * 27 * 32
    size, width = 112, 32
    blocks = [(64, 1)]
    for stage, repeat in enumerate(repeats):
        blocks += [(128 * 2**stage, 2)] + [(128 * 2**stage, 1)] * repeat
    for features, stride in blocks:
        counted = _clc_block(width, features, stride, size)
        size, width = size // stride, features
        total, macs = total + counted.params + 2 * features, macs + counted.macs
    assert (total, macs) == (params, conv_macs)
