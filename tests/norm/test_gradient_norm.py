"""The three readings of gradient normalization: against NumPy, singular values, and what each is meant to hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from arch import models
from arch.norm.gradient import (
    SpectralNorm,
    SpectralNormConv,
    SpectralNormDense,
    grad_norm_loss,
    gradient_penalty,
    interpolate_examples,
    normalize_gradients,
    renormalize_weights,
    spectral_sigma,
    task_gradient_norms,
)
from arch.ops.conv import Conv, ConvTranspose, DepthwiseConv
from tests.compiling import quick_jit


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def _train_task_weights(norms, losses, initial_losses, alpha, num_steps=400):
    """The weights after every step of gradient descent with a falling rate."""

    def step(weights, rate):
        slope = jax.grad(grad_norm_loss)(weights, norms, losses, initial_losses, alpha)
        weights = renormalize_weights(weights - rate * slope)
        return weights, weights

    rates = 0.05 * 0.985 ** np.arange(num_steps)
    ones = jnp.ones(len(norms))
    return np.asarray(quick_jit(lambda rates: jax.lax.scan(step, ones, rates)[1])(rates))


def test_grad_norm_loss_and_its_gradient_against_the_formula(x64):
    """Also that the gradient sees nothing but w_i |grad L_i|: each is its sign times the length."""
    weights, norms, losses, start = np.abs(_random(4, 5)) + 0.1
    alpha = 1.5
    lengths = weights * norms
    paces = losses / start / np.mean(losses / start)
    difference = lengths - lengths.mean() * paces**alpha
    value, slopes = quick_jit(jax.value_and_grad(grad_norm_loss, argnums=(0, 1, 2, 3)))(weights, norms, losses, start)
    np.testing.assert_allclose(value, np.abs(difference).sum(), rtol=1e-12)
    np.testing.assert_allclose(slopes[0], np.sign(difference) * norms, rtol=1e-12)
    for slope in slopes[1:]:
        np.testing.assert_array_equal(slope, 0.0)


def test_equal_tasks_keep_weight_one():
    weights = _train_task_weights(np.full(3, 0.7), np.full(3, 2.0), np.full(3, 5.0), alpha=1.5)
    np.testing.assert_allclose(weights, 1.0, atol=1e-6)


def test_a_task_scaled_by_ten_gets_a_tenth_of_the_weight(x64):
    """Its loss and gradient are ten times the other's, its pace is the same; sums stay 2 and weights positive."""
    scale = np.array([1.0, 10.0])
    weights = _train_task_weights(0.3 * scale, 0.5 * scale, 0.8 * scale, alpha=1.5)
    np.testing.assert_allclose(weights.sum(1), 2.0, rtol=1e-12)
    assert (weights > 0).all()
    np.testing.assert_allclose(weights[-1, 1] / weights[-1, 0], 0.1, rtol=0.02)


def test_a_slower_task_gets_a_larger_gradient():
    """With alpha = 1 lengths end up in the ratio of the paces; with alpha = 0 equal."""
    norms, losses, start = np.float32([1.0, 1.0]), np.float32([0.6, 0.2]), np.float32([1.0, 1.0])
    for alpha, ratio in ((1.0, 3.0), (0.0, 1.0)):
        weights = _train_task_weights(norms, losses, start, alpha)[-1]
        np.testing.assert_allclose(weights[0] / weights[1], ratio, rtol=0.02)


def test_degenerate_tasks_stay_finite():
    """Zero losses, zero initial losses, zero gradients, and a step that would have made a weight negative."""
    zero, one = np.zeros(2, np.float32), np.ones(2, np.float32)
    run = quick_jit(jax.value_and_grad(grad_norm_loss))
    for norms, losses, start in ((one, zero, one), (one, one, zero), (zero, one, one), (zero, zero, zero)):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run(one, norms, losses, start)))
    weights = np.asarray(renormalize_weights(jnp.array([-3.0, 1.0, 4.0])))
    assert (weights > 0).all()
    np.testing.assert_allclose(weights.sum(), 3.0, rtol=1e-6)


def test_task_gradient_norms_of_a_shared_layer(x64):
    """Least squares, whose gradients are known; and the network gets no gradient from the weights' loss."""
    x, kernel, targets = _random(8, 3), _random(3, 4, seed=1), _random(2, 8, 4, seed=2)

    def losses(shared):
        out = x @ shared["kernel"]
        return jnp.stack([jnp.mean((out - targets[0]) ** 2), 10.0 * jnp.mean((out - targets[1]) ** 2)])

    values, norms = quick_jit(functools.partial(task_gradient_norms, losses))({"kernel": kernel})
    errors = x @ kernel - targets
    np.testing.assert_allclose(values, [1, 10] * (errors**2).mean((1, 2)), rtol=1e-12)
    expected = [np.linalg.norm(2 * x.T @ error / error.size) for error in errors]
    np.testing.assert_allclose(norms, expected * np.array([1, 10]), rtol=1e-12)

    def of_weights(shared):
        values, norms = task_gradient_norms(losses, shared)
        return grad_norm_loss(jnp.ones(2), norms, values, 2 * values)

    np.testing.assert_array_equal(quick_jit(jax.grad(of_weights))({"kernel": kernel})["kernel"], 0.0)


def _gradients(dtype=np.float32):
    layers = {"conv": {"kernel": _random(3, 3, 2, 4), "bias": _random(4, seed=1)}, "norm": {"scale": np.zeros(4)}}
    return jax.tree.map(lambda leaf: leaf.astype(dtype), layers)


def _normalized(gradients, **fields):
    tx = normalize_gradients(**fields)
    return quick_jit(lambda g: tx.update(g, tx.init(g))[0])(gradients)


def test_normalized_gradients_by_leaf_and_by_module():
    gradients = _gradients()
    kernel, bias = gradients["conv"]["kernel"], gradients["conv"]["bias"]
    by_leaf, by_module = _normalized(gradients), _normalized(gradients, per="module")
    np.testing.assert_allclose(by_leaf["conv"]["kernel"], kernel / np.linalg.norm(kernel), rtol=1e-6)
    np.testing.assert_allclose(by_leaf["conv"]["bias"], bias / np.linalg.norm(bias), rtol=1e-6)
    together = np.sqrt(np.sum(kernel**2) + np.sum(bias**2))
    np.testing.assert_allclose(by_module["conv"]["kernel"], kernel / together, rtol=1e-6)
    np.testing.assert_allclose(by_module["conv"]["bias"], bias / together, rtol=1e-6)
    for out in (by_leaf, by_module):
        np.testing.assert_array_equal(out["norm"]["scale"], 0.0)


@pytest.mark.parametrize("factor", [1e-25, 1e-3, 1e30])
def test_normalized_gradients_do_not_see_the_scale(factor):
    """Also where squares of float32 would be lost."""
    scaled = jax.tree.map(lambda leaf: leaf * np.float32(factor), _gradients())
    expected = _normalized(_gradients(), epsilon=0.0)
    actual = _normalized(scaled, epsilon=0.0)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), actual, expected)


def test_normalized_gradients_in_a_chain_and_in_bfloat16():
    """Before momentum: the first step of SGD has the length of the rate, the second that of 1.9 rates."""
    gradients = {"kernel": _gradients()["conv"]["kernel"]}
    tx = optax.chain(normalize_gradients(), optax.sgd(0.1, momentum=0.9))

    @quick_jit
    def two_steps(g):
        first, state = tx.update(g, tx.init(g))
        return first, tx.update(jax.tree.map(lambda leaf: 50 * leaf, g), state)[0]

    lengths = [np.linalg.norm(step["kernel"]) for step in two_steps(gradients)]
    np.testing.assert_allclose(lengths, [0.1, 0.19], rtol=1e-5)
    rounded = _normalized(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), gradients))["kernel"]
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.linalg.norm(np.float32(rounded)), 1.0, rtol=2e-2)


def test_penalty_of_linear_and_quadratic_critics(x64):
    """Gradients are w and 2 x; the penalty's own gradient by central differences, and 0 at a zero gradient."""
    x, w = _random(4, 2, 3, 1), _random(6, seed=1)
    x[3] = 0.0
    linear, quadratic = lambda x: x.reshape(4, 6) @ w, lambda x: (x**2).sum((1, 2, 3))

    @quick_jit
    def run(x):
        total = lambda x: gradient_penalty(quadratic, x, target=0.5).sum()  # noqa: E731
        return gradient_penalty(linear, x), gradient_penalty(quadratic, x, target=0.5), jax.grad(total)(x)

    of_linear, of_quadratic, slope = run(x)
    np.testing.assert_allclose(of_linear, (np.linalg.norm(w) - 1) ** 2, rtol=1e-12)
    lengths = 2 * np.sqrt((x**2).sum((1, 2, 3), keepdims=True))
    np.testing.assert_allclose(of_quadratic, (lengths.reshape(-1) - 0.5) ** 2, rtol=1e-12)
    np.testing.assert_allclose(slope, 2 * (lengths - 0.5) * 4 * x / np.where(lengths > 0, lengths, 1), rtol=1e-12)


def test_interpolated_examples_lie_on_their_lines_and_follow_their_ids():
    real, fake = _random(2, 5, 3, 3, 2).astype(np.float32)
    draw = quick_jit(lambda ids: interpolate_examples(real, fake, jax.random.key(0), ids))
    mixed = np.asarray(draw(np.arange(5)))
    share = (mixed - fake) / (real - fake)
    np.testing.assert_allclose(share, np.broadcast_to(share[:, :1, :1, :1], share.shape), atol=1e-3)
    assert ((share > -1e-3) & (share < 1.001)).all() and len(np.unique(share[:, 0, 0, 0].round(3))) == 5
    np.testing.assert_allclose(draw(np.arange(5) + 2)[0], fake[0] + share[2, 0, 0, 0] * (real - fake)[0], atol=1e-5)


def test_sigma_after_fifty_steps_is_the_largest_singular_value():
    cases = [((3, 3, 4, 6), -1), ((20, 5), -1), ((3, 2, 6, 4), -2), ((1, 1, 8, 8), -1)]
    kernels = [_random(*shape).astype(np.float32) for shape, _ in cases]
    starts = [_random(shape[axis], seed=1) for shape, axis in cases]
    axes = [axis for _, axis in cases]
    run = quick_jit(
        lambda kernels, starts: [
            spectral_sigma(*case, 50, axis) for *case, axis in zip(kernels, starts, axes, strict=True)
        ]
    )
    for kernel, axis, (sigma, u) in zip(kernels, axes, run(kernels, starts), strict=True):
        matrix = np.moveaxis(kernel, axis, -1).reshape(-1, kernel.shape[axis])
        _, singular, right = np.linalg.svd(np.float64(matrix))
        np.testing.assert_allclose(sigma, singular[0], rtol=1e-4)
        assert singular[1] < 0.97 * singular[0]
        np.testing.assert_allclose(np.abs(u @ right[0]), 1.0, rtol=1e-3)


def test_sigma_has_the_gradient_of_fixed_vectors(x64):
    """d sigma / d W = v u^T, also where the iteration has not converged; a zero kernel gives zeros."""
    kernel, start = _random(3, 3, 2, 5), _random(5, seed=1)
    run = quick_jit(jax.value_and_grad(lambda k, u: spectral_sigma(k, u, 2), has_aux=True))
    (sigma, u), slope = run(kernel, start)
    matrix, expected = kernel.reshape(-1, 5), start / np.linalg.norm(start)
    for _ in range(2):
        v = matrix @ expected / np.linalg.norm(matrix @ expected)
        expected = v @ matrix / np.linalg.norm(v @ matrix)
    v = matrix @ expected / np.linalg.norm(matrix @ expected)
    np.testing.assert_allclose(u, expected, rtol=1e-12)
    np.testing.assert_allclose(sigma, v @ matrix @ expected, rtol=1e-12)
    np.testing.assert_allclose(slope.reshape(-1, 5), np.outer(v, expected), rtol=1e-11)
    for leaf in jax.tree.leaves(run(np.zeros_like(kernel), start)):
        assert np.isfinite(leaf).all()


class _SpectralDepthwise(SpectralNorm, DepthwiseConv):
    pass


class _SpectralTranspose(SpectralNorm, ConvTranspose):
    pass


_LAYERS = {
    "conv": (SpectralNormConv(6, 3, num_steps=50), Conv(6, 3), -1),
    "dense": (SpectralNormDense(5, num_steps=50), nn.Dense(5), -1),
    "depthwise": (_SpectralDepthwise(3, 2, num_steps=50), DepthwiseConv(3, 2), -1),
    "transpose": (
        _SpectralTranspose(6, 3, transpose_kernel=True, num_steps=50),
        ConvTranspose(6, 3, transpose_kernel=True),
        -2,
    ),
}


@pytest.mark.parametrize(
    "name", ["conv", "transpose", *(pytest.param(n, marks=pytest.mark.slow) for n in ("dense", "depthwise"))]
)
def test_a_spectrally_normalized_layer_is_the_layer_with_its_kernel_divided(name):
    """In training u moves; in evaluation it stays, and the layer is the same; the kernel itself stays what it was."""
    layer, plain, axis = _LAYERS[name]
    x = _random(2, 6, 6, 4).astype(np.float32)

    @quick_jit
    def run(key, x):
        variables = layer.init(key, x)
        trained, state = layer.apply(variables, x, mutable=["batch_stats"])
        evaluated = layer.apply({**variables, **state}, x)
        return variables, plain.init(key, x)["params"], trained, evaluated, state

    variables, plain_params, trained, evaluated, state = run(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], plain_params)
    kernel = np.asarray(variables["params"]["kernel"])
    singular = np.linalg.svd(np.moveaxis(kernel, axis, -1).reshape(-1, kernel.shape[axis]), compute_uv=False)
    normalized = {**variables["params"], "kernel": kernel / singular[0]}
    expected = quick_jit(plain.apply)({"params": normalized}, x)
    np.testing.assert_allclose(trained, expected, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(evaluated, trained, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(state["batch_stats"]["u"]), 1.0, rtol=1e-5)


def test_a_spectrally_normalized_dense_layer_stretches_nothing():
    """|f(a) - f(b)| <= |a - b| from the first step on, and one direction is kept whole."""
    layer = SpectralNormDense(16, num_init_steps=50, kernel_init=nn.initializers.normal(3.0))
    a, b = _random(2, 64, 12).astype(np.float32)
    (of_a, of_b), variables = quick_jit(
        lambda key: (lambda v: ((layer.apply(v, a), layer.apply(v, b)), v))(layer.init(key, a))
    )(jax.random.key(0))
    ratios = np.linalg.norm(of_a - of_b, axis=1) / np.linalg.norm(a - b, axis=1)
    assert ratios.max() <= 1.0 + 1e-3
    kernel = np.float64(variables["params"]["kernel"])
    left = np.linalg.svd(kernel)[0][:, 0]
    np.testing.assert_allclose(np.linalg.norm(left @ kernel) / np.linalg.svd(kernel)[1][0], 1.0, rtol=1e-6)


def test_a_network_of_spectrally_normalized_convolutions_by_tracing():
    """As the `conv` of a catalogue network, in bfloat16: u of every convolution is state and float32."""
    small = {"stage_sizes": (1,), "stage_features": (16,), "dtype": jnp.bfloat16, "num_classes": 4}
    model = models.create("resnet50", conv=SpectralNormConv, **small)
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.bfloat16)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    found = [
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables["batch_stats"]) if path[-1].key == "u"
    ]
    assert len(found) == 1 + 3 and {leaf.dtype for leaf in found} == {np.dtype("float32")}
    logits, state = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]), variables, x)
    assert logits.shape == (2, 4) and jax.tree.structure(state["batch_stats"]) == jax.tree.structure(
        variables["batch_stats"]
    )


@pytest.mark.parametrize("call,message", [
    (lambda: normalize_gradients(per="layer"), "normalize_gradients: per: unknown name 'layer'; one of leaf, module"),
    (lambda: normalize_gradients(epsilon=-1.0), "normalize_gradients: epsilon=-1.0 must be at least 0; 0 divides"),
    (lambda: renormalize_weights(jnp.ones(2), 0.0), "renormalize_weights: minimum=0.0 must be above 0; "),
    (lambda: grad_norm_loss(*map(jnp.ones, (2, 3, 2, 2))), r"norms=\[3\] must be .* weights=\[2\]"),
    (lambda: task_gradient_norms(lambda w: w.sum(), jnp.ones(2)), r"losses=\[\] must be \[tasks\]; stack"),
    (lambda: gradient_penalty(lambda x: x, jnp.ones((2, 3))), r"critic\(x\)=\[2, 3\] must be one .* batch=2; reduce"),
    (lambda: gradient_penalty(lambda x: x, jnp.ones((2, 3), int)), r"x=int32\[2, 3\] must be floating point; convert"),
    (
        lambda: interpolate_examples(jnp.ones((2, 3)), jnp.ones((3, 3)), jax.random.key(0)),
        r"real=\[2, 3\] must have the shape of fake=\[3, 3\]; crop either",
    ),
])  # fmt: skip
def test_errors_name_the_rule_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()
