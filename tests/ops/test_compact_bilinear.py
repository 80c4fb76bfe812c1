import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from arch.ops.compact_bilinear import (
    CompactBilinear,
    RandomMaclaurin,
    TensorSketch,
    compact_bilinear_pool,
    draw_random_maclaurin,
    draw_tensor_sketch,
)
from tests.compiling import quick_jit

RANDOM = np.random.RandomState(0)


def _signs(*shape):
    return RANDOM.choice(np.int8([-1, 1]), shape)


def _tensor_sketch(x_features, y_features, features):
    bins = [RANDOM.randint(0, features, count).astype(np.int32) for count in (x_features, y_features)]
    return TensorSketch(bins[0], _signs(x_features), bins[1], _signs(y_features), features)


def _random_maclaurin(x_features, y_features, features):
    return RandomMaclaurin(_signs(x_features, features), _signs(y_features, features))


def _form(projection):
    """[features, x_features, y_features]: the projection as a bilinear form for each number of the result."""
    if isinstance(projection, RandomMaclaurin):
        x_signs, y_signs = np.float64(projection.x_signs), np.float64(projection.y_signs)
        return np.einsum("id,jd->dij", x_signs, y_signs) / np.sqrt(x_signs.shape[1])
    # The circular convolution of two count sketches adds their bins.
    form = np.zeros((projection.features, len(projection.x_signs), len(projection.y_signs)))
    for i, j in np.ndindex(form.shape[1:]):
        d = (projection.x_indices[i] + projection.y_indices[j]) % projection.features
        form[d, i, j] = float(projection.x_signs[i]) * float(projection.y_signs[j])
    return form


# Height and width, channels and bins: where outer products are summed first, and where sketches are; odd and single.
SIZES = [((3, 4), 5, 3, 16), ((1, 1), 7, 6, 9), ((1, 1), 2, 2, 1), ((2, 3), 3, 4, 7)]


@pytest.mark.parametrize("make", [_tensor_sketch, _random_maclaurin])
def test_two_streams_against_the_form_of_the_projection(x64, make):
    cases = []
    for size, x_features, y_features, features in SIZES:
        x, y = RANDOM.standard_normal((2, *size, x_features)), RANDOM.standard_normal((2, *size, y_features))
        cases.append((x, y, make(x_features, y_features, features), RANDOM.standard_normal((2, features))))

    @quick_jit
    def results(cases):
        found = []
        for x, y, projection, cotangent in cases:
            pool = functools.partial(compact_bilinear_pool, projection=projection, reduction="sum")
            out, pull_back = jax.vjp(pool, x, y)
            found.append((out, *pull_back(cotangent)))
        return found

    for (x, y, projection, cotangent), found in zip(cases, results(cases), strict=True):
        form = _form(projection)
        matrices = np.einsum("nd,dij->nij", cotangent, form)
        np.testing.assert_allclose(found[0], np.einsum("nhwi,dij,nhwj->nd", x, form, y), atol=1e-12)
        np.testing.assert_allclose(found[1], np.einsum("nij,nhwj->nhwi", matrices, y), atol=1e-12)
        np.testing.assert_allclose(found[2], np.einsum("nij,nhwi->nhwj", matrices, x), atol=1e-12)


@pytest.mark.parametrize("make", [_tensor_sketch, pytest.param(_random_maclaurin, marks=pytest.mark.slow)])
def test_one_stream_has_two_sketches(x64, make):
    cases = []
    for size, channels, features in (((3, 4), 5, 16), ((1, 1), 7, 9)):
        x, cotangent = RANDOM.standard_normal((2, *size, channels)), RANDOM.standard_normal((2, features))
        cases.append((x, make(channels, channels, features), cotangent))

    @quick_jit
    def results(cases):
        found = []
        for x, projection, cotangent in cases:
            out, pull_back = jax.vjp(functools.partial(compact_bilinear_pool, projection=projection), x)
            found.append((out, pull_back(cotangent)[0]))
        return found

    for (x, projection, cotangent), (out, gradient) in zip(cases, results(cases), strict=True):
        form, num_pixels = _form(projection), x.shape[1] * x.shape[2]
        np.testing.assert_allclose(out, np.einsum("nhwi,dij,nhwj->nd", x, form, x) / num_pixels, atol=1e-12)
        expected = np.einsum("nd,dij,nhwj->nhwi", cotangent, form + form.swapaxes(1, 2), x) / num_pixels
        np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_tensor_sketch_is_the_product_of_spectra(x64):
    """The formula of the paper, a pixel at a time."""
    x, projection = RANDOM.standard_normal((2, 2, 3, 5)), _tensor_sketch(5, 5, 12)
    expected = np.zeros((2, 12))
    for n, i, j in np.ndindex(2, 2, 3):
        spectra = []
        for indices, signs in (
            (projection.x_indices, projection.x_signs),
            (projection.y_indices, projection.y_signs),
        ):
            sketch = np.zeros(12)
            for c in range(5):
                sketch[indices[c]] += signs[c] * x[n, i, j, c]
            spectra.append(np.fft.fft(sketch))
        expected[n] += np.fft.ifft(spectra[0] * spectra[1]).real
    out = quick_jit(lambda x: compact_bilinear_pool(x, projection=projection, reduction="sum"))(x)
    np.testing.assert_allclose(out, expected, atol=1e-12)


@pytest.mark.parametrize("draw", [draw_tensor_sketch, pytest.param(draw_random_maclaurin, marks=pytest.mark.slow)])
def test_inner_products_are_right_on_average_over_draws(draw):
    """<phi(x, y), phi(x', y')> is <x, x'> <y, y'> on average, and its error falls as the number of features grows."""
    x, other = np.float32(RANDOM.standard_normal((2, 1, 1, 1, 6)))
    y, other_y = np.float32(RANDOM.standard_normal((2, 1, 1, 1, 4)))
    num_draws = 2000

    @quick_jit
    def products(keys):
        def product(key, features, *streams):
            projection = draw(key, streams[0].shape[-1], streams[1].shape[-1], features)
            first, second = (compact_bilinear_pool(*streams[i : i + 2], projection=projection)[0] for i in (0, 2))
            return jnp.vdot(first, second)

        pairs = ((8, x, x, other, other), (8, x, y, other, other_y), (128, x, y, other, other_y))
        return [jax.vmap(lambda key, pair=pair: product(key, *pair))(keys) for pair in pairs]

    one_stream, two_streams, more_features = map(np.float64, products(jax.random.split(jax.random.key(0), num_draws)))
    exact, exact_y = np.vdot(x, other), np.vdot(y, other_y)
    for found, expected in (
        (one_stream, exact**2),
        (two_streams, exact * exact_y),
        (more_features, exact * exact_y),
    ):
        assert abs(found.mean() - expected) < 5 * found.std() / np.sqrt(num_draws)
    np.testing.assert_allclose(two_streams.std() / more_features.std(), np.sqrt(128 / 8), rtol=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("draw", [draw_tensor_sketch, draw_random_maclaurin])
def test_draws_are_uniform_and_follow_their_key(draw):
    drawn = quick_jit(lambda key: draw(key, 2000, 3000, 50))
    first, again, other = (jax.device_get(drawn(jax.random.key(seed))) for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, first, other)))
    assert not np.array_equal(first.x_signs[:2000], first.y_signs[:2000])
    for signs in (first.x_signs, first.y_signs):
        assert signs.dtype == jnp.int8 and set(np.unique(signs)) == {-1, 1}
        assert abs(np.mean(signs)) < 5 / np.sqrt(signs.size)
    if draw is draw_tensor_sketch:
        for indices in (first.x_indices, first.y_indices):
            counts = np.bincount(indices, minlength=50)
            assert len(counts) == 50
            assert np.abs(counts - counts.mean()).max() < 5 * np.sqrt(counts.mean())


@pytest.mark.parametrize("method", ["tensor_sketch", pytest.param("random_maclaurin", marks=pytest.mark.slow)])
def test_the_module_keeps_its_projection(method):
    x, y = (jnp.asarray(RANDOM.standard_normal((2, 3, 3, count)), jnp.float32) for count in (5, 4))
    layer = CompactBilinear(features=8, method=method)
    init, apply = quick_jit(layer.init), quick_jit(layer.apply)
    variables = init(jax.random.key(0), x, y)
    assert set(variables) == {"projections"}  # nothing to train
    saved = serialization.msgpack_restore(serialization.msgpack_serialize(serialization.to_state_dict(variables)))
    assert saved["projections"]["projection"]["x_signs"].dtype == np.int8
    projection = saved["projections"]["projection"]
    rebuilt = TensorSketch(**projection, features=8) if method == "tensor_sketch" else RandomMaclaurin(**projection)
    expected = np.einsum("nhwi,dij,nhwj->nd", x, _form(rebuilt), y) / 9
    np.testing.assert_allclose(apply(variables, x, y), expected, atol=1e-5)
    np.testing.assert_array_equal(apply(saved, x, y), apply(variables, x, y))
    np.testing.assert_array_equal(apply(init(jax.random.key(0), x, y), x, y), apply(variables, x, y))
    assert not np.array_equal(apply(init(jax.random.key(1), x, y), x, y), apply(variables, x, y))


@pytest.mark.slow
@pytest.mark.parametrize("make", [_tensor_sketch, _random_maclaurin])
def test_bfloat16_is_summed_in_float32(make):
    cases = []
    for size, channels, features in (((40, 40), 5, 16), ((1, 1), 7, 9)):
        x = jnp.asarray(RANDOM.uniform(0, 1, (1, *size, channels)), jnp.bfloat16)
        cases.append((x, make(channels, channels, features)))

    @quick_jit
    def results(cases):
        found = []
        for x, projection in cases:
            out, pull_back = jax.vjp(functools.partial(compact_bilinear_pool, projection=projection), x)
            wide = compact_bilinear_pool(x, projection=projection, dtype=jnp.float32)
            found.append((out, pull_back(jnp.ones_like(out))[0], wide))
        return found

    for (x, projection), (out, gradient, wide) in zip(cases, results(cases), strict=True):
        assert (out.dtype, gradient.dtype, wide.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
        values = np.float64(x).reshape(-1, x.shape[-1])
        exact = np.einsum("pi,dij,pj->d", values, _form(projection), values) / len(values)
        np.testing.assert_allclose(wide[0], exact, atol=2e-5)
        np.testing.assert_allclose(np.float32(out), wide, rtol=2**-8)


@pytest.mark.parametrize(
    "call,message",
    [
        (
            lambda x, projection: compact_bilinear_pool(x[..., :2], projection=projection),
            r"compact_bilinear_pool: channels=\(2, 2\) must be those of the projection, \(3, 3\); draw another",
        ),
        (
            lambda x, projection: compact_bilinear_pool(x, x[:, :1], projection=projection),
            r"compact_bilinear_pool: the streams .*, not \(1, 4\) and \(1, 2\); resize one",
        ),
        (
            lambda x, projection: compact_bilinear_pool(x[0], projection=projection),
            r"compact_bilinear_pool: x=float32\[2, 2, 3\] must be floating point NHWC; convert it",
        ),
        (
            lambda x, projection: compact_bilinear_pool(x, projection=projection, reduction="max"),
            "compact_bilinear_pool: reduction: unknown name 'max'; .*",
        ),
        (
            lambda x, projection: compact_bilinear_pool(x, projection={}),
            "compact_bilinear_pool: projection=dict must be a TensorSketch or a RandomMaclaurin; .*",
        ),
        (
            lambda x, projection: draw_tensor_sketch(jax.random.key(0), 3, 3, 0),
            "draw_tensor_sketch: features=0 must be at least 1; .*",
        ),
        (
            lambda x, projection: CompactBilinear(method="sketch").init(jax.random.key(0), x),
            "CompactBilinear: method: unknown name 'sketch'; did you mean 'tensor_sketch'.*",
        ),
    ],
)
def test_refusals_are_one_line(call, message):
    with pytest.raises(ValueError, match=rf"^{message}(\n|$)"):
        call(jnp.zeros((1, 2, 2, 3)), _tensor_sketch(3, 3, 4))
