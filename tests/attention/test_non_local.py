import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import norm
from arch.attention.non_local import FORMS, NonLocal, non_local
from arch.efficiency.complexity import count_macs
from tests.compiling import quick_jit
from tests.programs import largest_array

MAP = (2, 3, 2, 4)


def non_local_loop(theta, phi, g, form, kernel=None, scale=1.0):
    """The formula of section 3 in float64, a pair of positions at a time; positions are the axes between."""
    batch, positions = theta.shape[0], theta.shape[1:-1]
    theta, phi, g = (np.asarray(x, np.float64).reshape(batch, -1, x.shape[-1]) for x in (theta, phi, g))
    out = np.zeros((batch, theta.shape[1], g.shape[2]))
    for n, i in np.ndindex(out.shape[:2]):
        logits = [scale * theta[n, i] @ phi_j for phi_j in phi[n]]
        if form == "concatenation":
            weights = [max(0.0, scale * kernel @ np.concatenate([theta[n, i], phi_j])) for phi_j in phi[n]]
        else:
            weights = logits if form == "dot_product" else [np.exp(logit - max(logits)) for logit in logits]
        normalizer = sum(weights) if "gaussian" in form else len(weights)
        out[n, i] = sum(weight * g_j for weight, g_j in zip(weights, g[n], strict=True)) / normalizer
    return out.reshape(batch, *positions, -1)


def difference_quotients(function, probe, arrays, step=1e-6):
    """Gradients of sum(function(*arrays) * probe), a number at a time, by central differences."""
    gradients = [np.empty_like(array) for array in arrays]
    for array, gradient in zip(arrays, gradients, strict=True):
        for index in np.ndindex(array.shape):
            sums, value = [], array[index]
            for array[index] in (value + step, value - step):
                sums.append(np.sum(function(*arrays) * probe))
            array[index] = value
            gradient[index] = (sums[0] - sums[1]) / (2 * step)
    return gradients


# Positions of theta, positions of phi and g, features, features of g: few and many for their number of features.
@pytest.mark.parametrize("shape", [((2, 2), (3,), 4, 5), ((2, 3), (2, 1, 3), 2, 1)])
def test_value_and_gradients_against_a_loop(x64, shape):
    queries, keys, features, value_features = shape
    random = np.random.default_rng(0)
    theta = random.standard_normal((2, *queries, features))
    phi, g = random.standard_normal((2, *keys, features)), random.standard_normal((2, *keys, value_features))
    kernel, probe = random.standard_normal(2 * features), random.standard_normal((2, *queries, value_features))

    @quick_jit
    def results(*inputs):
        results = {}
        for form in FORMS:

            def apply(theta, phi, g, *kernel, form=form):
                return non_local(theta, phi, g, form=form, concat_kernel=kernel[0] if kernel else None, scale=0.7)

            out, pull_back = jax.vjp(apply, *(inputs if form == "concatenation" else inputs[:3]))
            results[form] = out, *pull_back(probe)
        return results

    for form, (out, *gradients) in results(theta, phi, g, kernel).items():
        inputs = [theta, phi, g, kernel][: len(gradients)]

        def loop(theta, phi, g, kernel=None, form=form):
            return non_local_loop(theta, phi, g, form, kernel, scale=0.7)

        np.testing.assert_allclose(out, loop(*inputs), atol=1e-13, err_msg=form)
        for ours, theirs in zip(gradients, difference_quotients(loop, probe, inputs), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-7, err_msg=form)


def pool_loop(x):
    """The largest value of 2x2 pixels, where there are two; what is left over at an odd end does not count."""
    rows, columns = (min(2, size) for size in x.shape[1:3])
    out = np.empty((x.shape[0], x.shape[1] // rows, x.shape[2] // columns, x.shape[3]))
    for n, i, j, c in np.ndindex(out.shape):
        out[n, i, j, c] = x[n, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns, c].max()
    return out


def block_loop(x, params, form, subsampling, use_scale=True):
    """The block of figure 2 without a norm, in float64."""

    def linear(name, x):
        return x @ params[name]["kernel"][0, 0] + params[name]["bias"]

    source = pool_loop(x) if subsampling == "before" else x
    phi, g = source if form == "gaussian" else linear("phi", source), linear("g", source)
    if subsampling == "after":
        phi, g = pool_loop(phi), pool_loop(g)
    theta = x if form == "gaussian" else linear("theta", x)
    kernel = params["concat_kernel"][:, 0] if form == "concatenation" else None
    scale = g.shape[-1] ** -0.5 if form == "embedded_gaussian" and use_scale else 1.0
    return x + linear("out", non_local_loop(theta, phi, g, form, kernel, scale))


def random_variables(module, x, seed=0):
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    return jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(leaf.dtype), shapes)


def test_block_against_a_loop(x64):
    """All forms, all sub-samplings, odd sizes and sides of one pixel."""
    cases = [
        (form, subsampling, use_scale, shape)
        for form in FORMS
        for subsampling, use_scale, shape in (
            (None, True, (2, 3, 2, 4)),
            ("after", False, (2, 3, 5, 4)),
            ("before", True, (1, 4, 1, 5)),
        )
    ]
    random = np.random.default_rng(0)
    inputs = []
    for form, subsampling, use_scale, shape in cases:
        module, x = NonLocal(form, subsampling=subsampling, use_scale=use_scale), random.standard_normal(shape)
        inputs.append((random_variables(module, x), x))

    @quick_jit
    def outs(inputs):
        return [
            NonLocal(form, subsampling=subsampling, use_scale=use_scale).apply(variables, x)
            for (form, subsampling, use_scale, _), (variables, x) in zip(cases, inputs, strict=True)
        ]

    for case, (variables, x), out in zip(cases, inputs, outs(inputs), strict=True):
        expected = block_loop(x, variables["params"], *case[:3])
        np.testing.assert_allclose(out, expected, atol=1e-12, err_msg=str(case))


@pytest.mark.parametrize("normalize", [True, False])
def test_block_starts_as_the_identity_and_can_learn(normalize):
    x = np.random.default_rng(0).standard_normal(MAP, np.float32)
    bound = norm.bind(norm.create("batch_norm"), train=True) if normalize else None

    @quick_jit
    def results(x):
        variables = NonLocal("concatenation", norm=bound).init(jax.random.key(0), x)  # has what each form has
        params = variables.pop("params")

        def apply(params, form):
            return NonLocal(form, norm=bound).apply({"params": params, **variables}, x, mutable=["batch_stats"])[0]

        gradients = jax.grad(lambda params: jnp.sum(apply(params, "embedded_gaussian") ** 3))(params)
        return {form: apply(params, form) for form in FORMS}, gradients

    outs, gradients = results(x)
    for form, out in outs.items():
        np.testing.assert_array_equal(out, x, err_msg=form)
    assert np.abs(gradients["norm"]["scale"] if normalize else gradients["out"]["kernel"]).min() > 0


@pytest.mark.parametrize("channels,count", [(1024, 2_101_760), (512, 526_592)])
def test_published_number_of_parameters(channels, count):
    bound = norm.bind(norm.create("batch_norm"), train=False)
    x = jax.ShapeDtypeStruct((1, 2, 2, channels), jnp.float32)

    def number(form):
        params = jax.eval_shape(NonLocal(form, norm=bound).init, jax.random.key(0), x)["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(params)), set(params)

    assert number("embedded_gaussian") == number("dot_product") == (count, {"theta", "phi", "g", "out", "norm"})
    assert number("concatenation")[0] == count + channels
    half = channels * channels // 2 + channels // 2
    assert number("gaussian") == (count - 2 * half, {"g", "out", "norm"})


def test_gaussian_does_not_overflow():
    x = 1e4 * np.random.default_rng(0).standard_normal(MAP, np.float32)
    out, gradient = quick_jit(jax.value_and_grad(lambda x: jnp.sum(non_local(x, x, x, form="gaussian"))))(x)
    np.testing.assert_allclose(out, non_local_loop(x, x, x, "gaussian").sum(), rtol=1e-5)
    assert np.isfinite(gradient).all()


def apply_all(theta, phi, g, kernel):
    return {
        form: non_local(theta, phi, g, form=form, concat_kernel=kernel if form == "concatenation" else None)
        for form in FORMS
    }


def test_symmetries_of_positions():
    """Their order does not matter, nor that each is there twice, nor for a softmax what is equal everywhere."""
    random = np.random.default_rng(0)
    theta, phi, g = random.standard_normal((3, 2, 7, 4), np.float32)
    kernel = random.standard_normal(8, np.float32)
    order, other = random.permutation(7), random.permutation(7)
    apply = quick_jit(apply_all)
    expected = apply(theta, phi, g, kernel)
    permuted = apply(theta[:, order], phi[:, other], g[:, other], kernel)
    twice = quick_jit(apply_all)(theta, *(np.concatenate([x, x], 1) for x in (phi, g)), kernel)
    ones = apply(theta, phi, np.ones_like(g), kernel)
    for form in FORMS:
        np.testing.assert_allclose(permuted[form], expected[form][:, order], atol=1e-5)
        np.testing.assert_allclose(twice[form], expected[form], atol=1e-5)
        if "gaussian" in form:
            np.testing.assert_allclose(ones[form], 1, rtol=1e-6)


def test_concatenation_has_no_gradient_where_relu_has_none():
    """At a sum of exactly 0 the gradient of relu is 0, as in torch."""
    kernel = np.ones(4, np.float32)
    theta, g = np.ones((1, 2, 2), np.float32), np.ones((1, 3, 1), np.float32)
    phi = np.float32([-2, 0, -1])[None, :, None] * np.float32([1, 0])  # sums: 0, 2, 1

    def total(theta):
        return jnp.sum(non_local(theta, phi, g, form="concatenation", concat_kernel=kernel))

    out, gradient = quick_jit(jax.value_and_grad(total))(theta)
    np.testing.assert_allclose(out, 2 * (0 + 2 + 1) / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient, np.full((1, 2, 2), 2 / 3), rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_larger_than_all_pairs(form):
    """Forward and backward: never a number of features times all pairs; in the dot product no pairs at all."""
    batch, positions, features = 2, 64, 8
    x = jax.ShapeDtypeStruct((batch, positions, features), jnp.float32)
    kernel = [jax.ShapeDtypeStruct((2 * features,), jnp.float32)] if form == "concatenation" else []

    def loss(theta, phi, g, *kernel):
        return jnp.sum(non_local(theta, phi, g, form=form, concat_kernel=kernel[0] if kernel else None) ** 2)

    largest = largest_array(jax.grad(loss, argnums=tuple(range(3 + len(kernel)))), x, x, x, *kernel)
    assert largest == batch * positions * (features if form == "dot_product" else positions)


def test_multiply_adds_are_as_documented():
    positions, keys, features, value_features = 6, 9, 4, 5
    shapes = (1, positions, features), (1, keys, features), (1, keys, value_features), (2 * features,)
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def macs(form, *inputs):
        return count_macs(functools.partial(non_local, form=form), *inputs).total

    pairs = positions * keys
    assert macs("gaussian", *inputs[:3]) == pairs * (features + value_features)
    assert macs("dot_product", *inputs[:3]) == (positions + keys) * features * value_features < pairs * 9
    few = [jax.ShapeDtypeStruct((1, 2, features), jnp.float32)] * 3
    assert macs("dot_product", *few) == 2 * 2 * 2 * features < 2 * 2 * features**2

    def concatenation(theta, phi, g, concat_kernel):
        return non_local(theta, phi, g, form="concatenation", concat_kernel=concat_kernel)

    assert count_macs(concatenation, *inputs).total == pairs * value_features + (positions + keys) * features

    x = jax.ShapeDtypeStruct((1, 4, 4, 8), jnp.float32)

    def block_macs(**fields):
        block = NonLocal(**fields)
        return count_macs(block.apply, jax.eval_shape(block.init, jax.random.key(0), x), x).total

    assert block_macs() == 4 * 16 * 8 * 4 + 2 * 16 * 16 * 4
    assert block_macs(subsampling="after") == 4 * 16 * 8 * 4 + 2 * 16 * 4 * 4
    assert block_macs(subsampling="before") == 2 * 16 * 8 * 4 + 2 * 4 * 8 * 4 + 2 * 16 * 4 * 4


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_stays_and_is_near_float64(form):
    random = np.random.default_rng(0)
    shapes = (2, 9, 4), (2, 300, 4), (2, 300, 4), (8,)
    theta, phi, g, kernel = (jnp.asarray(random.standard_normal(shape), jnp.bfloat16) for shape in shapes)
    g += 8  # sums of 300 values about 8 are beyond the digits of bfloat16
    kernel = kernel if form == "concatenation" else None
    out = quick_jit(functools.partial(non_local, form=form))(theta, phi, g, concat_kernel=kernel)
    assert out.dtype == jnp.bfloat16
    expected = non_local_loop(theta, phi, g, form, None if kernel is None else np.asarray(kernel, np.float64))
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.01 * np.abs(expected).max())


SHAPES = {"theta": (2, 3, 4), "phi": (2, 5, 4), "g": (2, 5, 6)}


@pytest.mark.parametrize(
    "changes,options,message",
    [
        ({}, {"form": "gausian"}, "form: unknown name 'gausian'; did you mean 'gaussian'.*"),
        ({"theta": (2, 4)}, {}, r"theta=float32\[2, 4\] must be floating point \[batch, ..., features\]; .*"),
        ({"phi": (2, 5, 3)}, {}, r"phi=\[2, 5, 3\] must have .* of theta=\[2, 3, 4\]; .*"),
        ({"phi": (1, 5, 4)}, {}, r"phi=\[1, 5, 4\] must have .* of theta=\[2, 3, 4\]; .*"),
        ({"g": (2, 3, 6)}, {}, r"g=\[2, 3, 6\] must have .* of phi=\[2, 5, 4\], .*"),
        ({"phi": (2, 0, 4), "g": (2, 0, 6)}, {}, r"g=\[2, 0, 6\] must have .* one or more; .*"),
        ({}, {"form": "concatenation"}, r"form='concatenation' has no concat_kernel, but .* of \[8\]; .*"),
        ({}, {"concat_kernel": np.zeros(8)}, r"form='embedded_gaussian' has concat_kernel=\[8\], but .*"),
        (
            {},
            {"form": "concatenation", "concat_kernel": np.zeros(10)},
            r"concat_kernel=\[10\] must be \[8\], .* theta=\[2, 3, 4\] .*",
        ),
    ],
)
def test_non_local_refuses_in_one_line(changes, options, message):
    inputs = (np.zeros(shape, np.float32) for shape in (SHAPES | changes).values())
    with pytest.raises(ValueError, match=f"^non_local: {message}$"):
        non_local(*inputs, **options)


@pytest.mark.parametrize(
    "x,fields,message",
    [
        (np.zeros(MAP, int), {}, r": x=int64\[2, 3, 2, 4\] must be floating point NHWC; .*"),
        (np.zeros((3, 2, 4)), {}, r": x=float64\[3, 2, 4\] must be floating point NHWC; .*"),
        (np.zeros(MAP), {"form": "dot"}, ": form: unknown name 'dot'; .*"),
        (np.zeros(MAP), {"subsampling": "befor"}, ": subsampling: unknown name 'befor'; did you mean 'before'.*"),
        (np.zeros(MAP), {"inner_features": 0}, ": inner_features=0 must be at least 1; .*"),
    ],
)
def test_block_refuses_in_one_line(x, fields, message):
    with pytest.raises(ValueError) as caught:
        NonLocal(**fields).init(jax.random.key(0), x)
    assert re.fullmatch(f"NonLocal{message}", str(caught.value))
