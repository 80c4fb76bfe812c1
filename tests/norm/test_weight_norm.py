"""Weight normalization and standardization, against torch, the papers' formulas and what they promise."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import models, norm
from arch.norm.group import GroupNorm
from arch.norm.weight import (
    CONVS,
    MeanOnlyBatchNorm,
    WeightNorm,
    WeightNormConv,
    WeightNormDense,
    WeightStandardization,
    WeightStandardizedConv,
    initialize_from_batch,
    weight_norm,
    weight_standardization,
)
from arch.ops.conv import Conv, ConvTranspose, DepthwiseConv
from arch.ops.stochastic import Examples
from tests.compiling import quick_jit

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "layer_norms.npz"


class _NormedDepthwiseConv(WeightNorm, DepthwiseConv):
    pass


class _NormedConvTranspose(WeightNorm, ConvTranspose):
    pass


class _NormedFlaxConv(WeightNorm, nn.Conv):
    pass


class _StandardizedConvTranspose(WeightStandardization, ConvTranspose):
    pass


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_torch_parity_forward_and_backward(x64):
    golden = np.load(GOLDEN)
    layer = WeightNormConv(8, 3, padding="VALID", feature_group_count=2, param_dtype=jnp.float64)

    @quick_jit
    def run(params, x):
        out, pullback = jax.vjp(lambda *a: layer.apply({"params": a[0]}, a[1]), params, x)
        return out, *pullback(golden["conv/probe"])

    out, grads, grad_x = run({key: golden[f"conv/{key}"] for key in ("g", "v", "bias")}, golden["conv/x"])
    np.testing.assert_allclose(out, golden["conv/out"], atol=1e-10)
    np.testing.assert_allclose(grad_x, golden["conv/grad_x"], atol=1e-10)
    for key, grad in grads.items():
        np.testing.assert_allclose(grad, golden[f"conv/grad_{key}"], atol=1e-10)


def test_the_formula_and_its_derivatives(x64):
    """w = g v / |v|, dg = dw . v / |v|, dv = g / |v| dw - g dg / |v|^2 v, of each output channel; v . dv = 0."""
    random = np.random.default_rng(0)
    v, dw, g = random.standard_normal((3, 2, 4, 5)), random.standard_normal((3, 2, 4, 5)), random.standard_normal(5)
    v[..., 3] *= 1e-6

    @quick_jit
    def run(v, g, dw):
        w, pullback = jax.vjp(weight_norm, v, g)
        return w, *pullback(dw), weight_norm(7.0 * v, g)

    w, dv, dg, of_longer = run(v, g, dw)
    for channel in range(5):
        one, length = v[..., channel], np.sqrt((v[..., channel] ** 2).sum())
        grad_g = (dw[..., channel] * one).sum() / length
        grad_v = g[channel] / length * dw[..., channel] - g[channel] * grad_g / length**2 * one
        np.testing.assert_allclose(w[..., channel], g[channel] * one / length, rtol=1e-12)
        np.testing.assert_allclose(dg[channel], grad_g, rtol=1e-10)
        np.testing.assert_allclose(dv[..., channel], grad_v, rtol=1e-8, atol=1e-12 / length)
        np.testing.assert_allclose((one * dv[..., channel]).sum(), 0.0, atol=1e-12)
    # So that weight decay on v does nothing but keep it from growing.
    np.testing.assert_allclose(of_longer, w, rtol=1e-12)


def test_a_direction_of_zeros_gives_zeros_and_finite_gradients():
    v = _normal(3, 3, 2, 4)
    v[..., 1] = 0.0

    def run(v, g):
        w, pullback = jax.vjp(weight_norm, v, g)
        return w, pullback(jnp.ones_like(w))

    w, grads = quick_jit(run)(v, np.ones(4, np.float32))
    np.testing.assert_array_equal(w[..., 1], 0.0)
    assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(grads))
    np.testing.assert_allclose(np.sqrt((np.square(w, dtype=np.float64)).sum((0, 1, 2))), [1, 0, 1, 1], atol=1e-6)


def test_every_layer_starts_as_it_would_without():
    """The same key gives the same kernel, split into its lengths and directions."""
    pairs = [
        (Conv(8, 3, feature_group_count=2), WeightNormConv(8, 3, feature_group_count=2)),
        (DepthwiseConv(3, depth_multiplier=2), _NormedDepthwiseConv(3, depth_multiplier=2)),
        (nn.Dense(5), WeightNormDense(5)),
        (nn.Conv(8, (3, 3)), _NormedFlaxConv(8, (3, 3))),
        (ConvTranspose(6, 3, strides=2), _NormedConvTranspose(6, 3, strides=2)),
        (ConvTranspose(6, 3, transpose_kernel=True), _NormedConvTranspose(6, 3, transpose_kernel=True)),
    ]

    @quick_jit
    def run(x):
        return [tuple(layer.init_with_output(jax.random.key(1), x) for layer in pair) for pair in pairs]

    for ((expected, plain), (actual, normed)), (layer, _) in zip(run(_normal(2, 5, 5, 4)), pairs, strict=True):
        np.testing.assert_allclose(actual, expected, atol=2e-6)
        plain, normed = plain["params"], normed["params"]
        assert set(normed) == {"v", "g", "bias"}
        np.testing.assert_array_equal(normed["v"], plain["kernel"])
        axes = (0, 1, 3) if getattr(layer, "transpose_kernel", False) else tuple(range(plain["kernel"].ndim - 1))
        np.testing.assert_allclose(normed["g"], np.sqrt(np.square(plain["kernel"]).sum(axes)), rtol=1e-6)
        assert normed["g"].shape == plain["bias"].shape


def test_directions_never_get_shorter_under_plain_gradient_descent(x64):
    x, target = np.random.default_rng(0).standard_normal((2, 16, 6))
    layer = WeightNormDense(6, param_dtype=jnp.float64)

    @quick_jit
    def train(params):
        def step(params, _):
            grads = jax.grad(lambda p: jnp.mean((layer.apply({"params": p}, x) - target) ** 2))(params)
            params = jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)
            return params, jnp.square(params["v"]).sum(0)

        return jax.lax.scan(step, params, length=30)[1]

    v = np.random.default_rng(1).standard_normal((6, 6))
    lengths = train({"v": v, "g": np.ones(6), "bias": np.zeros(6)})
    lengths = np.concatenate([np.square(v).sum(0)[None], lengths])
    assert (np.diff(lengths, axis=0) >= 0).all() and (lengths[-1] > lengths[0] + 1e-3).all()


def test_bfloat16_activations_meet_float32_weights():
    layer = WeightNormConv(8, 3, dtype=jnp.bfloat16)
    x = _normal(2, 5, 5, 4)
    out, variables = quick_jit(lambda x: layer.init_with_output(jax.random.key(0), x))(x.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    exact = quick_jit(Conv(8, 3).apply)({"params": {"kernel": variables["params"]["v"], "bias": np.zeros(8)}}, x)
    np.testing.assert_allclose(out.astype(np.float32), exact, atol=2e-2)


class _Net(nn.Module):
    """Three times convolution, norm, ReLU, and a convolution that is called twice."""

    conv: object
    norm: object
    use_bias: bool = False

    @nn.compact
    def __call__(self, x, *, train):
        for number in range(3):
            x = self.conv(features=8, kernel_size=3, use_bias=self.use_bias, name=f"conv{number}")(x)
            if self.norm is not None:
                x = self.norm(name=f"norm{number}")(x, train=train)
            x = nn.relu(x)
        twice = self.conv(features=8, kernel_size=1, use_bias=True, name="twice")
        return twice(nn.relu(twice(x)))


def _initialized_outputs(net, x):
    """(variables before, after, what each layer puts out after), from one batch."""

    @quick_jit
    def run(x):
        before = net.init(jax.random.key(0), x, train=True)
        after = initialize_from_batch(net, before, x, train=True)
        _, state = net.apply(after, x, train=True, mutable=True, capture_intermediates=True)
        return (
            before,
            after,
            {name: calls["__call__"] for name, calls in state["intermediates"].items() if name[0] != "_"},
        )

    return run(x)


def _assert_mean_0_var_1(out, mean=True):
    out = np.asarray(out, np.float64)
    if mean:
        np.testing.assert_allclose(out.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(out.var((0, 1, 2)), 1.0, atol=1e-5)


_SLOW_KINDS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("bias", "mean_only_batch_norm")]


@pytest.mark.parametrize("kind", ["none", *_SLOW_KINDS])
def test_data_dependent_initialization_of_a_network(kind):
    """Pre-activations have mean 0 and variance 1; so do those of an input of mean 100."""
    net = _Net(WeightNormConv, None if kind == "bias" else norm.create(kind), use_bias=kind == "bias")
    before, after, outs = _initialized_outputs(net, 100 + 30 * _normal(8, 6, 6, 3))
    for number in range(3):
        _assert_mean_0_var_1(outs[f"conv{number}" if kind == "bias" else f"norm{number}"][0])
        np.testing.assert_array_equal(after["params"][f"conv{number}"]["v"], before["params"][f"conv{number}"]["v"])
    # The second call of a layer does not set it again.
    _assert_mean_0_var_1(outs["twice"][0])
    assert np.abs(np.asarray(outs["twice"][1]).var((0, 1, 2)) - 1).max() > 0.01
    jax.tree.map(np.testing.assert_array_equal, after.get("batch_stats"), before.get("batch_stats"))


def test_data_dependent_initialization_leaves_a_constant_channel_its_length():
    x = np.ones((4, 5, 5, 3), np.float32) * np.array([3.3, -700.0, 0.0], np.float32)
    x[..., 0] += _normal(4, 5, 5)
    layer = _NormedDepthwiseConv(1)
    before, after = quick_jit(lambda x: (v := layer.init(jax.random.key(0), x), initialize_from_batch(layer, v, x)))(x)
    before, after = before["params"], after["params"]
    np.testing.assert_array_equal(after["g"][1:], before["g"][1:])
    out = x * np.sign(before["v"][0, 0, 0]) * after["g"] + after["bias"]
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0.0, atol=1e-3)
    np.testing.assert_allclose(out.std((0, 1, 2)), [1, 0, 0], atol=1e-5)


def test_data_dependent_initialization_over_devices_is_that_of_the_whole_batch():
    x, layer = 2 + _normal(8, 5, 5, 3), WeightNormConv(4, 3)
    x[:4] *= 5

    @quick_jit
    def run(x):
        variables = layer.init(jax.random.key(0), x)
        initialize = functools.partial(initialize_from_batch, layer, variables)
        devices = jax.vmap(functools.partial(initialize, axis_name="batch"), axis_name="batch")
        return initialize(x)["params"], devices(x.reshape(4, 2, *x.shape[1:]))["params"]

    whole, devices = run(x)
    for name, expected in whole.items():
        every = np.broadcast_to(expected, (4, *expected.shape))
        np.testing.assert_allclose(devices[name], every, rtol=1e-5, atol=1e-6)


def test_data_dependent_initialization_needs_something_to_set():
    net = _Net(Conv, norm.create("none"))
    x = np.zeros((2, 4, 4, 3), np.float32)
    with pytest.raises(ValueError, match=r"^initialize_from_batch: the model must have WeightNorm layers, 0 found; "):
        jax.eval_shape(
            lambda x: initialize_from_batch(net, net.init(jax.random.key(0), x, train=True), x, train=True), x
        )


def _mean_only_step(layer, x, probe, weight=None):
    """Output, gradient of x, and running mean, of a training step."""
    variables = {
        "params": {"bias": jnp.full(x.shape[-1], 0.5, x.dtype)},
        "batch_stats": {"mean": jnp.ones(x.shape[-1])},
    }

    def run(x):
        out, state = layer.apply(variables, x, train=True, examples=Examples(weight=weight), mutable=["batch_stats"])
        return jnp.sum(out * probe), (out, state["batch_stats"]["mean"])

    (_, (out, mean)), grad = jax.value_and_grad(run, has_aux=True)(x)
    return out, grad, mean


def test_mean_only_batch_norm_subtracts_the_weighted_mean():
    x, probe = 50 + _normal(6, 3, 3, 4), _normal(6, 3, 3, 4, seed=1)
    weight = np.array([1, 1, 0, 2, 1, 0], np.float32)
    shares = (weight / weight.sum() / 9)[:, None, None, None]
    out, grad, mean = quick_jit(functools.partial(_mean_only_step, MeanOnlyBatchNorm(momentum=0.75)))(x, probe, weight)
    exact = x.astype(np.float64)
    expected_mean = (shares * exact).sum((0, 1, 2))
    np.testing.assert_allclose(out, exact - expected_mean + 0.5, atol=1e-5)
    np.testing.assert_allclose(grad, probe - shares * probe.sum((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(mean, 0.75 + 0.25 * expected_mean, rtol=1e-6)
    untouched = quick_jit(functools.partial(_mean_only_step, MeanOnlyBatchNorm()))(x, probe, 0 * weight)
    np.testing.assert_array_equal(untouched[2], np.ones(4))


def test_mean_only_batch_norm_evaluates_by_its_running_mean_and_starts_unmoved():
    x, layer = 5 + _normal(4, 3, 3, 2), MeanOnlyBatchNorm()
    variables = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, train=True), x)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"bias": (2,)}, "batch_stats": {"mean": (2,)}}
    started = quick_jit(lambda x: layer.init(jax.random.key(0), x, train=True))(x)
    np.testing.assert_array_equal(started["batch_stats"]["mean"], 0.0)
    variables = {"params": {"bias": np.float32([0.5, 1])}, "batch_stats": {"mean": np.float32([3, -1])}}
    out = quick_jit(functools.partial(layer.apply, train=False))(variables, x)
    np.testing.assert_allclose(out, x - np.float32([3, -1]) + np.float32([0.5, 1]), atol=1e-6)


@pytest.mark.parametrize("how", ["vmap", pytest.param("pmap", marks=pytest.mark.slow)])
def test_mean_only_batch_norm_over_devices_is_that_of_the_whole_batch(how):
    x, probe = 50 + _normal(8, 3, 3, 4), _normal(8, 3, 3, 4, seed=1)
    weight = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    step = functools.partial(_mean_only_step, MeanOnlyBatchNorm(axis_name="batch"))
    mapped = jax.pmap(step, "batch") if how == "pmap" else quick_jit(jax.vmap(step, axis_name="batch"))
    out, grad, mean = mapped(*(a.reshape(2, 4, *a.shape[1:]) for a in (x, probe, weight)))
    expected = quick_jit(functools.partial(_mean_only_step, MeanOnlyBatchNorm()))(x, probe, weight)
    np.testing.assert_allclose(out.reshape(x.shape), expected[0], atol=1e-5)
    np.testing.assert_allclose(grad.reshape(x.shape), expected[1], atol=1e-5)
    np.testing.assert_allclose(mean, np.stack([expected[2]] * 2), rtol=1e-6)


def test_without_a_norm_there_is_a_bias_and_a_scale_only_where_a_block_starts_at_zero():
    x = _normal(2, 3, 3, 4)
    variables = {"params": {"bias": np.float32([1, 2, 3, 4])}}
    out = quick_jit(functools.partial(norm.create("none")().apply, train=True))(variables, x)
    np.testing.assert_allclose(out, x + variables["params"]["bias"], atol=1e-6)
    layer = norm.create("none")(scale_init=nn.initializers.zeros_init())
    out, variables = quick_jit(lambda x: layer.init_with_output(jax.random.key(0), x, train=True))(x)
    np.testing.assert_array_equal(out, 0.0)
    assert set(variables["params"]) == {"scale", "bias"}


def test_standardized_weights_are_those_of_the_formula():
    kernel = 5 + 0.1 * _normal(3, 3, 4, 6)
    exact = kernel.astype(np.float64)
    for axis in (-1, -2):
        axes = tuple(other for other in range(4) if other != axis % 4)
        expected = (exact - exact.mean(axes, keepdims=True)) / np.sqrt(exact.var(axes, keepdims=True) + 1e-5)
        actual = quick_jit(functools.partial(weight_standardization, axis=axis))(kernel)
        np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_standardized_weights_do_not_change_with_scale_and_shift(x64):
    random = np.random.default_rng(0)
    kernel, a, b = random.standard_normal((3, 3, 4, 6)), random.uniform(0.1, 10, 6), random.standard_normal(6)

    @quick_jit
    def run(kernel, a, b):
        def standardize(kernel, a, b):
            return weight_standardization(a * kernel + b, epsilon=1e-30)

        same, pullback = jax.vjp(standardize, kernel, a, b)
        return weight_standardization(kernel, epsilon=1e-30), same, pullback(jnp.cos(kernel))

    standardized, same, grads = run(kernel, a, b)
    np.testing.assert_allclose(same, standardized, atol=1e-12)
    # The gradient has no part along a kernel and none along ones.
    np.testing.assert_allclose(grads[1], 0.0, atol=1e-10)
    np.testing.assert_allclose(grads[2], 0.0, atol=1e-10)


def test_a_network_of_standardized_weights_and_group_norm_does_not_see_scale_and_shift():
    """Its parameters are those of the plain network."""
    net = _Net(WeightStandardizedConv, functools.partial(GroupNorm, 4))
    x, factor = _normal(2, 6, 6, 3), np.linspace(1, 8, 8, dtype=np.float32)

    @quick_jit
    def run(x, factor):
        variables = net.init(jax.random.key(0), x, train=True)
        # Where kernels are large, epsilon is nothing to their variance.
        large = jax.tree.map(lambda leaf: 50 * leaf if leaf.ndim == 4 else leaf, variables)
        changed = jax.tree.map(lambda leaf: 0.5 + factor * leaf if leaf.ndim == 4 else leaf, large)
        return variables, net.apply(large, x, train=True), net.apply(changed, x, train=True)

    variables, out, of_changed = run(x, factor)
    np.testing.assert_allclose(of_changed, out, atol=1e-4)
    plain = _Net(Conv, functools.partial(GroupNorm, 4))
    expected = jax.eval_shape(lambda x: plain.init(jax.random.key(0), x, train=True), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, expected)


def test_a_transposed_convolution_standardizes_its_output_channels():
    layer = _StandardizedConvTranspose(6, 3, transpose_kernel=True, use_bias=False)
    plain = ConvTranspose(6, 3, transpose_kernel=True, use_bias=False)
    x, kernel = _normal(1, 4, 4, 5), _normal(3, 3, 6, 5, seed=1)
    standardized = (kernel - kernel.mean((0, 1, 3), keepdims=True)) / np.sqrt(
        kernel.var((0, 1, 3), keepdims=True) + 1e-5
    )
    out = quick_jit(layer.apply)({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(out, quick_jit(plain.apply)({"params": {"kernel": standardized}}, x), atol=1e-4)


@pytest.mark.parametrize(
    "layer,message",
    [
        (
            WeightStandardizedConv(4, 1, feature_group_count=4),
            r"weight_standardization: kernel=\[1, 1, 1, 4\] must have at least 2 weights an output channel, not 1; ",
        ),
        (
            _NormedConvTranspose(4, 3, transpose_kernel=True, feature_group_count=2),
            "_NormedConvTranspose: transpose_kernel leaves no axis of output channels to feature_group_count=2; ",
        ),
    ],
)
def test_layers_that_cannot_be_normalized_are_refused(layer, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        jax.eval_shape(lambda x: layer.init(jax.random.key(0), x), np.zeros((1, 3, 3, 4), np.float32))


def test_what_mean_only_batch_norm_refuses():
    for layer, x, message in (
        (MeanOnlyBatchNorm(momentum=1.5), np.zeros((1, 2, 2, 4), np.float32), "momentum=1.5 must lie in"),
        (MeanOnlyBatchNorm(), np.zeros((1, 2, 2, 4), np.uint8), "x=uint8"),
        (MeanOnlyBatchNorm(), np.zeros(4, np.float32), "x=float32"),
    ):
        with pytest.raises(ValueError, match=f"^MeanOnlyBatchNorm: {message}"):
            jax.eval_shape(lambda x, layer=layer: layer.init(jax.random.key(0), x, train=True), x)


_SMALL = {
    "shufflenet_v2_x0_5": {"stage_sizes": (1, 2, 1)},
    "mobilenet_v2": {"stage_sizes": (1,) * 7},
    "resnet50": {"stage_sizes": (1, 1, 1, 1), "zero_init_residual": True},
    "resnext50_32x4d": {"stage_sizes": (1, 1, 1, 1)},
}
_CHOICES = [("weight_norm", "none"), ("weight_standardization", "group_norm"), ("conv", "layer_norm_hwc_elementwise")]
_OTHERS = ("instance_norm", "layer_norm_hwc", "layer_norm_c", "mean_only_batch_norm", "none")
_CASES = [("resnet50", *choice) for choice in _CHOICES]
_CASES += [
    pytest.param(model, *choice, marks=pytest.mark.slow)
    for model in _SMALL
    for choice in [*_CHOICES, *(("conv", kind) for kind in _OTHERS)]
    if (model, *choice) not in _CASES
]


@pytest.mark.parametrize("model,conv,kind", _CASES)
def test_every_network_takes_every_convolution_and_norm_by_name(model, conv, kind):
    """By tracing: under bfloat16 the parameters and the logits are float32."""
    x = np.zeros((2, 32, 32, 3), jnp.bfloat16)
    net = models.create(model, conv=CONVS[conv], norm=norm.create(kind), num_classes=10, **_SMALL[model])
    logits, variables = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x, train=False), x)
    assert logits.shape == (2, 10) and logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
