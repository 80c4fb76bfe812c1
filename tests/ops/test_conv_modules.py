"""Depthwise, separable and factorized convolution: against flax, and as the dense convolutions that they equal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch.efficiency.complexity import count
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv, DepthwiseConv, FactorizedConv, SeparableConv
from tests.compiling import quick_jit

NO_BIAS = functools.partial(Conv, use_bias=False)


def _close(actual, expected, tolerance):
    """Up to `tolerance` of the largest value."""
    expected = np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=0, atol=tolerance * np.max(np.abs(expected))
    )


def _random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


DEPTHWISE = [
    (1, {"kernel_size": (3, 3)}),
    (2, {"kernel_size": (3, 2), "strides": (2, 1), "bias_init": nn.initializers.normal()}),
    (1, {"kernel_size": (5, 5), "kernel_dilation": 2, "padding": ((4, 4), (3, 1)), "use_bias": False}),
    (3, {"kernel_size": (3, 3), "padding": "VALID", "dtype": jnp.bfloat16}),
    (1, {"kernel_size": (2, 2), "strides": 2, "param_dtype": jnp.bfloat16, "kernel_init": nn.initializers.ones}),
]


def test_depthwise_is_flaxs_convolution_with_a_group_for_each_channel():
    x = jnp.asarray(_random(0, 2, 7, 8, 6), jnp.float32)

    @quick_jit
    def run(key, x):
        ours = [DepthwiseConv(depth_multiplier=m, **fields) for m, fields in DEPTHWISE]
        theirs = [nn.Conv(6 * m, feature_group_count=6, **fields) for m, fields in DEPTHWISE]
        return [[layer.init_with_output(key, x) for layer in layers] for layers in (ours, theirs)]

    for (ours, our_variables), (theirs, their_variables) in zip(*run(jax.random.key(1), x), strict=True):
        jax.tree.map(np.testing.assert_array_equal, our_variables, their_variables)
        assert ours.dtype == theirs.dtype
        _close(ours, theirs, 1e-5 if ours.dtype == jnp.float32 else 2e-2)


def test_depthwise_output_channel_sees_its_input_channel():
    layer = DepthwiseConv((2, 2), depth_multiplier=3, padding="VALID", use_bias=False)
    x, kernel = _random(0, 1, 4, 3, 2), _random(1, 2, 2, 1, 6)
    expected = np.zeros((1, 3, 2, 6))
    for row, column, a, b, feature in np.ndindex(3, 2, 2, 2, 6):
        expected[0, row, column, feature] += x[0, row + a, column + b, feature // 3] * kernel[a, b, 0, feature]
    variables = {"params": {"kernel": jnp.asarray(kernel, jnp.float32)}}
    _close(layer.apply(variables, jnp.asarray(x, jnp.float32)), expected, 1e-5)


def _dense(x, kernel, strides, padding, dilation):
    """A dense convolution as a sum over taps, in float64 NumPy; padding as pairs."""
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    sizes = [
        (size - d * (taps - 1) - 1) // s + 1
        for size, taps, s, d in zip(x.shape[1:3], kernel.shape, strides, dilation, strict=False)
    ]
    out = np.zeros((x.shape[0], *sizes, kernel.shape[3]))
    for tap in np.ndindex(*kernel.shape[:2]):
        rows, columns = (
            slice(t * d, t * d + (size - 1) * s + 1, s)
            for t, d, s, size in zip(tap, dilation, strides, sizes, strict=True)
        )
        out += x[:, rows, columns] @ kernel[tap]
    return out


# kernel_size, strides, padding as the layer takes it, the same for 7x6 pixels as pairs, dilation
GEOMETRIES = [
    ((3, 3), (1, 1), "SAME", ((1, 1), (1, 1)), (1, 1)),
    ((5, 4), (2, 2), "SAME", ((2, 2), (1, 1)), (1, 1)),
    ((3, 2), (2, 1), "VALID", ((0, 0), (0, 0)), (2, 3)),
    ((3, 5), (1, 2), 2, ((2, 2), (2, 2)), (2, 1)),
    ((2, 3), (3, 2), ((0, 1), (2, 3)), ((0, 1), (2, 3)), (1, 2)),
]


def _fields(geometry):
    kernel_size, strides, padding, _, dilation = geometry
    return {"kernel_size": kernel_size, "strides": strides, "padding": padding, "kernel_dilation": dilation}


def test_factorized_and_separable_are_dense_convolutions_of_fewer_parameters(x64):
    """K[i, j, c, o] = sum over m of horizontal[j, c, m] * vertical[i, m, o], and sum of depthwise[i, j, c, m] *
    pointwise[c, m, o]: with nothing between and no bias, at the borders too."""
    x = _random(0, 2, 7, 6, 4)
    runs, expected = [], []
    for geometry in GEOMETRIES:
        (height, width), strides, _, pairs, dilation = geometry
        horizontal, vertical = _random(1, 1, width, 4, 3), _random(2, height, 1, 3, 5)
        layer = FactorizedConv(5, middle_features=3, conv=NO_BIAS, **_fields(geometry))
        runs.append((layer, {"horizontal": {"kernel": horizontal}, "vertical": {"kernel": vertical}}))
        expected.append(_dense(x, np.einsum("jcm,imo->ijco", horizontal[0], vertical[:, 0]), strides, pairs, dilation))

        depthwise, pointwise = _random(3, height, width, 1, 8), _random(4, 1, 1, 8, 5)
        layer = SeparableConv(5, depth_multiplier=2, conv=NO_BIAS, **_fields(geometry))
        runs.append((layer, {"depthwise": {"kernel": depthwise}, "pointwise": {"kernel": pointwise}}))
        split = depthwise.reshape(height, width, 4, 2), pointwise.reshape(4, 2, 5)
        expected.append(_dense(x, np.einsum("ijcm,cmo->ijco", *split), strides, pairs, dilation))

    outs = quick_jit(
        lambda all_params: [layer.apply({"params": p}, x) for (layer, _), p in zip(runs, all_params, strict=True)]
    )
    for out, other in zip(outs([params for _, params in runs]), expected, strict=True):
        _close(out, other, 1e-12)


class _Composed(nn.Module):
    """Two convolutions of flax with flax's norm and an activation between, under the same names."""

    first: dict
    second: dict
    names: tuple[str, str]

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(**self.first, use_bias=False, name=self.names[0])(x)
        x = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5, name=f"{self.names[0]}_norm")(x)
        return nn.Conv(**self.second, use_bias=False, name=self.names[1])(nn.relu(x))


PAIRS = {
    "separable": (
        SeparableConv(5, (3, 3), strides=2, padding=1, conv=NO_BIAS),
        {"features": 4, "kernel_size": (3, 3), "strides": 2, "padding": 1, "feature_group_count": 4},
        {"features": 5, "kernel_size": (1, 1)},
        ("depthwise", "pointwise"),
    ),
    "factorized": (
        FactorizedConv(5, 3, strides=(2, 1), conv=NO_BIAS),
        {"features": 5, "kernel_size": (1, 3)},
        {"features": 5, "kernel_size": (3, 1), "strides": (2, 1)},
        ("horizontal", "vertical"),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_norm_and_activation_lie_between_and_only_there(name):
    layer, first, second, names = PAIRS[name]
    ours = layer.clone(norm=bind(BatchNorm, train=True), act=nn.relu)
    theirs = _Composed(first, second, names)
    x = jnp.asarray(_random(0, 4, 6, 5, 4), jnp.float32)

    @quick_jit
    def run(key, x):
        results = []
        for module in (ours, theirs):
            variables = module.init(key, x)

            def loss(params, x, module=module, variables=variables):
                out, updates = module.apply({**variables, "params": params}, x, mutable=["batch_stats"])
                return jnp.sum(jnp.sin(out) * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), (out, updates)

            results.append((variables, jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)))
        return results

    (our_variables, actual), (their_variables, expected) = run(jax.random.key(1), x)
    assert set(our_variables["params"]) == {names[0], f"{names[0]}_norm", names[1]}
    jax.tree.map(np.testing.assert_array_equal, our_variables, their_variables)
    jax.tree.map(lambda a, b: _close(a, b, 1e-5), actual, expected)
    assert np.min(actual[1][0]) < 0


def test_the_factory_sets_what_both_convolutions_share():
    for cls, names in ((SeparableConv, ("depthwise", "pointwise")), (FactorizedConv, ("horizontal", "vertical"))):
        for conv in (Conv, nn.Conv):
            layer = cls(6, (3, 3), conv=functools.partial(conv, dtype=jnp.bfloat16))
            out, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), jnp.ones((1, 4, 4, 3)))
            assert out.dtype == jnp.bfloat16 and out.shape == (1, 4, 4, 6)
            assert set(variables["params"]) == set(names)
            assert all(set(parts) == {"kernel", "bias"} for parts in variables["params"].values())


@pytest.mark.parametrize("name", PAIRS)
def test_an_activation_needs_no_norm(name):
    layer = PAIRS[name][0].clone(act=jnp.zeros_like)
    out, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 4)))
    assert not np.any(out) and set(variables["params"]) == set(PAIRS[name][3])


def test_parameters_and_multiply_adds():
    shape = (2, 8, 6, 16)
    cost = count(DepthwiseConv((3, 3), 2, strides=2), shape)
    assert (cost.params, cost.macs) == (9 * 32 + 32, 2 * 4 * 3 * 9 * 32)
    cost = count(SeparableConv(24, 5, strides=2, conv=NO_BIAS), shape)
    assert (cost.params, cost.macs) == (25 * 16 + 16 * 24, 2 * 4 * 3 * (25 * 16 + 16 * 24))
    # M * middle * (in + out) parameters; the first sees all rows, because only the second strides over them.
    cost = count(FactorizedConv(24, 7, middle_features=8, strides=2, conv=NO_BIAS), shape)
    assert (cost.params, cost.macs) == (7 * 8 * (16 + 24), 2 * 7 * (8 * 3 * 16 * 8 + 4 * 3 * 8 * 24))
    assert count(FactorizedConv(24, 7, conv=NO_BIAS), shape).params == 7 * 24 * (16 + 24)


@pytest.mark.parametrize(
    "layer,message",
    [
        (DepthwiseConv((3, 3), 0), "DepthwiseConv: depth_multiplier=0 must be at least 1; leave it out for 1"),
        (DepthwiseConv((3, 3, 3)), "DepthwiseConv: kernel_size=(3, 3, 3) must be one or two positive integers; "),
        (SeparableConv(8, 3, depth_multiplier=-1), "SeparableConv: depth_multiplier=-1 must be at least 1; "),
        (
            SeparableConv(8, 0),
            "SeparableConv: kernel_size=0 must be one or two positive integers; give (height, width)",
        ),
        (FactorizedConv(8, 0), "FactorizedConv: kernel_size=0 must be one or two positive integers; "),
        (FactorizedConv(8, 3, strides=(1, 2, 1)), "FactorizedConv: strides=(1, 2, 1) must be one or two "),
        (FactorizedConv(8, 3, padding="SAMEY"), "FactorizedConv: padding: unknown name 'SAMEY'; did you mean 'SAME'?"),
        (FactorizedConv(8, 3, padding=((1, 1),)), "FactorizedConv: padding=((1, 1),) must be a (before, after) for "),
    ],
)
def test_errors(layer, message):
    with pytest.raises(ValueError) as error:
        layer.init(jax.random.key(0), jnp.ones((1, 4, 4, 4)))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
