import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch.attention.encoding import ContextEncoding, Encoding, class_presence, context_encoding, se_loss
from arch.norm import bind
from arch.norm.batch import BatchNorm
from tests.attention.derivatives import check_derivatives
from tests.compiling import quick_jit

EVALUATED_NORM = bind(BatchNorm, train=False)


def encoding_loop(x, codewords, scale):
    """The formula, a pixel and a codeword at a time, with all the differences."""
    out = np.zeros((len(x), *codewords.shape))
    for n, i, j in np.ndindex(x.shape[:3]):
        residuals = [x[n, i, j] - codeword for codeword in codewords]
        exponents = np.array([-s * sum(value * value for value in r) for s, r in zip(scale, residuals, strict=True)])
        powers = np.exp(exponents - exponents.max())
        for k, residual in enumerate(residuals):
            out[n, k] += powers[k] / powers.sum() * residual
    return out


def numbers(num_codewords, *shape, seed=0):
    """x, codewords and scale, float64."""
    random = np.random.default_rng(seed)
    codewords = random.standard_normal((num_codewords, shape[-1]))
    return random.standard_normal(shape), codewords, random.uniform(0.1, 1.0, num_codewords)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def test_encoding_and_its_derivatives_against_a_loop(x64):
    check_derivatives(context_encoding, encoding_loop, *numbers(4, 2, 3, 5, 6), rtol=1e-6)


def test_one_codeword_takes_all_pixels(x64):
    x, codewords, scale = numbers(1, 2, 3, 4, 5)
    expected = (x - codewords[0]).sum((1, 2))
    np.testing.assert_allclose(quick_jit(context_encoding)(x, codewords, scale)[:, 0], expected, rtol=1e-12)


def test_order_of_pixels_is_of_no_matter_and_weights_sum_to_one(x64):
    x, codewords, scale = numbers(4, 2, 3, 4, 5)
    run = quick_jit(context_encoding)
    out = run(x, codewords, scale)
    order = np.random.default_rng(1).permutation(12)
    shuffled = x.reshape(2, 12, 5)[:, order].reshape(x.shape)
    np.testing.assert_allclose(run(shuffled, codewords, scale), out, rtol=1e-10, atol=1e-12)
    # Codewords that all are one word share its residuals; whatever their scales, the weights sum to one.
    same = np.broadcast_to(codewords[:1], codewords.shape)
    np.testing.assert_allclose(run(x, same, scale).sum(1), (x - codewords[0]).sum((1, 2)), rtol=1e-10)


def test_float32_is_near_float64_far_from_the_origin():
    """Distances of 1 between numbers of 100: expanded, differences of numbers of 10^5, each rounded to 2^-7."""
    x, codewords, scale = numbers(4, 1, 4, 4, 8)
    x, codewords = (0.3 * a + 100 for a in (x, codewords))
    arrays = [a.astype(np.float32) for a in (x, codewords, scale)]
    out = quick_jit(context_encoding)(*arrays)
    np.testing.assert_allclose(out, encoding_loop(*(a.astype(np.float64) for a in arrays)), atol=0.05)


def test_distances_are_never_negative():
    """A pixel that is the first codeword, by a large scale; the second, of scale 0, has half of it or more."""
    x = 30 * np.random.default_rng(0).standard_normal((64, 8), np.float32)
    codewords = np.stack([x, np.zeros_like(x)], axis=1)
    run = quick_jit(
        jax.vmap(lambda x, codewords: context_encoding(x[None, None, None], codewords, jnp.array([1e3, 0])))
    )
    share = (run(x, codewords)[:, 0, 1] * x).sum(1) / (x * x).sum(1)
    assert share.min() >= 0.5 - 1e-5 and share.max() > 0.9  # rounding goes both ways


def test_far_pixels_go_whole_to_a_codeword():
    """Exponents of 10^9 and more, which a compiler may round in one way for their maximum, in another elsewhere."""

    @quick_jit
    def run(*arrays):
        out, pull_back = jax.vjp(context_encoding, *arrays)
        return out, pull_back(jnp.ones_like(out))

    unit, codewords, scale = (a.astype(np.float32) for a in numbers(5, 2, 4, 8, 16))
    for magnitude in (1e4, 1e5, 1e6):
        x = unit * np.float32(magnitude)
        out, gradients = run(x, codewords, scale)
        expected = encoding_loop(*(a.astype(np.float64) for a in (x, codewords, scale)))
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_bfloat16_is_encoded_in_float32():
    x, codewords, scale = (a.astype(np.float32) for a in numbers(4, 2, 8, 8, 16))
    half = jnp.asarray(x, jnp.bfloat16)
    run = quick_jit(context_encoding)
    out = run(half, codewords, scale)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, run(half.astype(jnp.float32), codewords, scale).astype(jnp.bfloat16))


def test_differences_are_never_formed():
    """No array of the program or of its gradient has a number for each pixel, codeword and channel."""
    x, codewords, scale = (a.astype(np.float32) for a in numbers(8, 2, 16, 16, 32))
    program = jax.make_jaxpr(jax.grad(lambda *a: jnp.sum(context_encoding(*a) ** 2), (0, 1, 2)))(x, codewords, scale)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (variable.aval.size for variable in equation.outvars)
            for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "jaxpr")):
                if hasattr(inner, "jaxpr"):
                    yield from sizes(inner.jaxpr)

    assert max(sizes(program.jaxpr)) == x.size


def test_initial_values_of_the_layer():
    layer = Encoding(num_codewords=32)
    params = quick_jit(layer.init)(jax.random.key(0), jnp.zeros((1, 1, 1, 512)))["params"]
    bound = (32 * 512) ** -0.5
    assert 0.99 * bound < np.abs(params["codewords"]).max() <= bound
    assert params["codewords"].min() < -0.99 * bound
    assert 0 <= params["scale"].min() < params["scale"].max() <= 1
    assert np.ptp(params["scale"]) > 0.8


def module_loop(variables, x, aggregate, norm_axis, form):
    """The module in NumPy, with the norms' running statistics."""
    params, stats = variables["params"], variables["batch_stats"]

    def norm(name, h):
        p, s = params[name], stats[name]
        return (h - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

    h = np.maximum(norm("project_norm", x @ params["project"]["kernel"][0, 0]), 0)
    codes = encoding_loop(h, params["encoding"]["codewords"], params["encoding"]["scale"])
    if norm_axis == "channels":
        codes = norm("encoding_norm", codes)
    else:
        codes = norm("encoding_norm", codes.transpose(0, 2, 1)).transpose(0, 2, 1)
    code = sum(np.maximum(codes[:, k], 0) for k in range(codes.shape[1]))
    code = code / codes.shape[1] if aggregate == "mean" else code
    weighted = x * sigmoid(code @ params["gate"]["kernel"] + params["gate"]["bias"])[:, None, None]
    out = np.maximum(x + weighted, 0) if form == "residual" else weighted
    return out, code @ params["presence"]["kernel"] + params["presence"]["bias"]


def filled(module, x):
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    random = np.random.default_rng(0)

    def value(path, leaf):
        numbers = 0.5 * random.standard_normal(leaf.shape)
        return np.exp(numbers) if path[-1].key in ("var", "scale") else numbers

    return jax.tree.map_with_path(value, shapes)


@pytest.mark.parametrize("aggregate,norm_axis,form", [
    ("mean", "codewords", "residual"),  # the released code
    ("sum", "channels", "scale"),  # the paper
])  # fmt: skip
def test_module_and_its_derivatives_against_a_loop(x64, aggregate, norm_axis, form):
    x = np.random.default_rng(1).standard_normal((2, 3, 2, 4))
    options = dict(aggregate=aggregate, norm_axis=norm_axis, form=form)
    module = ContextEncoding(5, EVALUATED_NORM, num_codewords=3, **options)

    def ours(variables, x):
        return jnp.concatenate([out.ravel() for out in module.apply(variables, x)])

    def oracle(variables, x):
        return np.concatenate([out.ravel() for out in module_loop(variables, x, **options)])

    check_derivatives(ours, oracle, filled(module, x), x, rtol=1e-5)


def test_statistics_of_training_are_over_codewords_or_channels():
    """The norm sees, for each codeword, all examples and channels, or the other way round."""
    x = np.random.default_rng(1).standard_normal((2, 3, 2, 6), np.float32)
    for axis, size in (("codewords", 3), ("channels", 6)):
        module = ContextEncoding(None, bind(BatchNorm, train=True), num_codewords=3, norm_axis=axis)
        (out, logits), state = jax.eval_shape(
            functools.partial(module.apply, mutable=["batch_stats"]), filled(module, x), x
        )
        assert logits is None and out.shape == x.shape
        assert state["batch_stats"]["encoding_norm"]["mean"].shape == (size,)


@pytest.mark.parametrize("num_classes,count", [(59, 572_571), (150, 619_254)])
def test_parameters_of_the_released_module(num_classes, count):
    module = ContextEncoding(num_classes, EVALUATED_NORM)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 1, 1, 512)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


def test_logits_of_bfloat16_are_float32():
    x = jax.ShapeDtypeStruct((2, 3, 3, 8), jnp.bfloat16)
    module = ContextEncoding(5, bind(BatchNorm, train=False, dtype=jnp.bfloat16))
    out, logits = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], x)
    assert (out.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)


def test_class_presence_against_a_loop():
    labels = np.random.default_rng(0).choice([-1, 0, 2, 5, 6, 255], (4, 3, 3)).astype(np.int32)
    labels[0], labels[1] = 255, -1
    ignored = (-1, 255, 2, None)
    run = quick_jit(lambda labels: [class_presence(labels, 6, ignore_label) for ignore_label in ignored])
    for ignore_label, out in zip(ignored, run(labels), strict=True):
        expected = np.zeros((4, 6), np.float32)
        for n, i, j in np.ndindex(labels.shape):
            if labels[n, i, j] != ignore_label and 0 <= labels[n, i, j] < 6:
                expected[n, labels[n, i, j]] = 1
        assert out.dtype == jnp.float32
        np.testing.assert_array_equal(out, expected)


def test_class_presence_of_bytes():
    """255 is ignored, and 260 classes are not told apart by wrapping."""
    labels = np.array([[[0, 3], [255, 255]]], np.uint8)
    run = quick_jit(lambda labels: (class_presence(labels, 260, ignore_label=255), class_presence(labels, 260)))
    ignored, counted = run(labels)
    np.testing.assert_array_equal(np.flatnonzero(ignored), [0, 3])
    np.testing.assert_array_equal(np.flatnonzero(counted), [0, 3, 255])


def test_se_loss_and_its_derivatives_against_the_formula(x64):
    random = np.random.default_rng(0)
    labels = random.integers(-1, 4, (3, 2, 3))

    def loop(logits):
        out = np.zeros(3)
        for n, c in np.ndindex(3, 6):
            present = float((labels[n] == c).any())
            p = sigmoid(logits[n, c])
            out[n] -= (present * np.log(p) + (1 - present) * np.log(1 - p)) / 6
        return out

    check_derivatives(lambda logits: se_loss(logits, jnp.asarray(labels)), loop, 3 * random.standard_normal((3, 6)))


def test_se_loss_of_sure_logits_is_finite():
    logits, labels = np.array([[1e4, -1e4], [-1e4, 1e4]], jnp.bfloat16), np.zeros((2, 1, 1), np.int32)
    loss, pull_back = quick_jit(lambda logits: jax.vjp(lambda logits: se_loss(logits, labels), logits))(logits)
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, [0, np.float32(logits[0, 0])])
    np.testing.assert_array_equal(pull_back(jnp.ones(2))[0], [[0, 0], [-0.5, 0.5]])


@pytest.mark.parametrize("fields,message", [
    (dict(aggregate="men"), "ContextEncoding: aggregate: unknown name 'men'; did you mean 'mean'.*"),
    (dict(norm_axis="channel"), "ContextEncoding: norm_axis: unknown name 'channel'; did you mean 'channels'.*"),
    (dict(form="gate"), "ContextEncoding: form: unknown name 'gate'; .*residual.*"),
    (dict(num_codewords=0), "Encoding: num_codewords=0 must be at least 1; raise it"),
])  # fmt: skip
def test_module_refuses_in_one_line(fields, message):
    module = ContextEncoding(**dict(num_classes=3, norm=lambda name: nn.relu) | fields)
    with pytest.raises(ValueError) as error:
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2, 2, 4)))
    assert re.fullmatch(message, str(error.value))


def test_module_refuses_integers():
    module = ContextEncoding(num_classes=3, norm=lambda name: nn.relu)
    with pytest.raises(ValueError) as error:
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2, 2, 4), int))
    assert str(error.value) == "ContextEncoding: x=int32[1, 2, 2, 4] must be floating point NHWC; convert it"


@pytest.mark.parametrize("call,message", [
    (lambda: context_encoding(np.zeros((1, 4, 8), np.float32), np.zeros((3, 8)), np.zeros(3)),
     r"context_encoding: x=float32\[1, 4, 8\] must be floating point NHWC; convert it"),
    (lambda: context_encoding(np.zeros((1, 2, 2, 8)), np.zeros((3, 6)), np.zeros(3)),
     r"context_encoding: codewords=\[3, 6\] must be \[num_codewords, channels=8\]; reshape them"),
    (lambda: context_encoding(np.zeros((1, 2, 2, 8)), np.zeros((3, 8)), np.zeros(4)),
     r"context_encoding: scale=\[4\] must be \[num_codewords=3\]; reshape it"),
    (lambda: class_presence(np.zeros((2, 3, 3), np.float32), 4),
     r"class_presence: labels=float32\[2, 3, 3\] must be integers \[batch, height, width\]; convert them"),
    (lambda: class_presence(np.zeros((2, 3, 3), np.int32), 0),
     "class_presence: num_classes=0 must be at least 1; count the classes"),
    (lambda: se_loss(np.zeros((3, 4), np.float32), np.zeros((2, 3, 3), np.int32)),
     r"se_loss: logits=float32\[3, 4\] must be floating point \[batch, num_classes\], for labels=\[2, 3, 3\]; .*"),
])  # fmt: skip
def test_function_refuses_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()
