import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops import bilinear
from arch.ops.bilinear import LowRankBilinear, bilinear_pool, l2_normalize, low_rank_bilinear, signed_sqrt
from tests.compiling import quick_jit

RANDOM = np.random.RandomState(0)


def _outer_products(x, y):
    """Sums over positions, a pixel at a time."""
    out = np.zeros((x.shape[0], x.shape[3], y.shape[3]))
    for n, i, j in np.ndindex(x.shape[:3]):
        out[n] += np.outer(x[n, i, j], y[n, i, j])
    return out


def test_bilinear_features_are_outer_products_row_by_row(x64):
    x, y = RANDOM.standard_normal((2, 3, 4, 5)), RANDOM.standard_normal((2, 3, 4, 2))
    cotangent = RANDOM.standard_normal((2, 10))

    @quick_jit
    def results(x, y):
        return bilinear_pool(x, reduction="sum"), *jax.vjp(bilinear_pool, x, y)

    alone, pair, pull_back = results(x, y)
    np.testing.assert_allclose(alone, _outer_products(x, x).reshape(2, 25), rtol=1e-12)
    np.testing.assert_allclose(pair, _outer_products(x, y).reshape(2, 10) / 12, rtol=1e-12)
    x_gradient, y_gradient = pull_back(cotangent)
    matrices = cotangent.reshape(2, 5, 2) / 12
    np.testing.assert_allclose(x_gradient, np.einsum("nhwj,nij->nhwi", y, matrices), rtol=1e-12)
    np.testing.assert_allclose(y_gradient, np.einsum("nhwi,nij->nhwj", x, matrices), rtol=1e-12)


def test_the_triangle_keeps_inner_products(x64):
    x = RANDOM.standard_normal((2, 3, 3, 4))
    cotangent = RANDOM.standard_normal((2, 10))

    @quick_jit
    def results(x):
        out, pull_back = jax.vjp(lambda x: bilinear_pool(x, triangle=True), x)
        return out, pull_back(cotangent)[0]

    out, gradient = results(x)
    matrices = _outer_products(x, x) / 9
    np.testing.assert_allclose(out[0] @ out[1], np.sum(matrices[0] * matrices[1]), rtol=1e-12)
    np.testing.assert_allclose(out[:, [0, 4, 7, 9]], np.diagonal(matrices, axis1=1, axis2=2), rtol=1e-12)
    upper = np.zeros((2, 4, 4))
    rows, columns = np.triu_indices(4)
    upper[:, rows, columns] = cotangent * np.where(rows == columns, 1, np.sqrt(2))
    expected = np.einsum("nhwi,nij->nhwj", x, upper + upper.swapaxes(1, 2)) / 9
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-14)


def test_signed_sqrt_and_its_slope(x64):
    x = np.float64([-1e4, -2.0, -1e-9, 0.0, 1e-15, 1e-9, 0.25, 3.0, 1e12])
    epsilons = (1e-10, 1e-8, 1e-5)
    ones = np.ones_like(x)
    roots = [functools.partial(signed_sqrt, epsilon=epsilon) for epsilon in epsilons]
    pairs = quick_jit(lambda x: [jax.jvp(root, (x,), (ones,)) for root in roots])(x)
    for epsilon, (out, slope) in zip(epsilons, pairs, strict=True):
        wide = np.longdouble(x)
        expected = np.sign(wide) * (np.sqrt(np.abs(wide) + epsilon) - np.sqrt(np.longdouble(epsilon)))
        np.testing.assert_allclose(out, np.float64(expected), rtol=1e-9, atol=0)
        np.testing.assert_allclose(slope, 0.5 / np.sqrt(np.abs(x) + epsilon), rtol=1e-12)


def test_signed_sqrt_is_near_the_root_and_has_a_finite_gradient_at_zero():
    x = np.float32([-4, -1, 0, 0.25, 9])
    out, gradient = quick_jit(lambda x: (signed_sqrt(x), jax.grad(lambda x: jnp.sum(signed_sqrt(x)))(x)))(x)
    np.testing.assert_allclose(out, [-2, -1, 0, 0.5, 3], atol=1.1e-4)
    np.testing.assert_allclose(gradient[2], 5000, rtol=1e-6)


def test_l2_normalize_and_its_gradient(x64):
    x, cotangent = RANDOM.standard_normal((2, 3, 4))
    x[1] = 0

    @quick_jit
    def results(x):
        out, pull_back = jax.vjp(l2_normalize, x)
        return out, pull_back(cotangent)[0], l2_normalize(x, axis=(0, 1))

    out, gradient, whole = results(x)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    length[1] = 1e-6  # the root of epsilon
    np.testing.assert_allclose(out, x / length, rtol=1e-11)
    expected = (cotangent - x * np.sum(x * cotangent, 1, keepdims=True) / length**2) / length
    np.testing.assert_allclose(gradient, expected, rtol=1e-9)
    np.testing.assert_allclose(whole, x / np.linalg.norm(x), rtol=1e-11)


def test_the_features_of_the_paper_do_not_see_a_scale_of_the_map(x64):
    x = RANDOM.standard_normal((2, 4, 4, 6))
    features = quick_jit(lambda x: l2_normalize(signed_sqrt(bilinear_pool(x), 1e-14)))
    roots = np.sign(_outer_products(x, x)) * np.sqrt(np.abs(_outer_products(x, x)))
    expected = (roots / np.linalg.norm(roots, axis=(1, 2), keepdims=True)).reshape(2, -1)
    for scale in (1.0, 30.0):
        np.testing.assert_allclose(features(scale * x), expected, atol=1e-6)


def test_the_improved_bilinear_features_take_the_root_first(x64):
    x = RANDOM.standard_normal((2, 3, 4, 5))

    def features(x):
        return l2_normalize(signed_sqrt(bilinear.matrix_sqrt(bilinear.second_moment(x)), 1e-14).reshape(2, 25))

    values, vectors = np.linalg.eigh(_outer_products(x, x) / 12)
    root = (vectors * np.sqrt(values)[:, None]) @ vectors.mT
    expected = (np.sign(root) * np.sqrt(np.abs(root))).reshape(2, 25)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(quick_jit(features)(x), expected, atol=1e-6)


@pytest.mark.parametrize("middle_features", [pytest.param(None, marks=pytest.mark.slow), 4])
def test_low_rank_scores_are_those_of_full_matrices(x64, middle_features):
    x, bias, cotangent = RANDOM.standard_normal((2, 3, 4, 6)), RANDOM.standard_normal(5), RANDOM.standard_normal((2, 5))
    projection = np.eye(6) if middle_features is None else RANDOM.standard_normal((6, middle_features))
    positive, negative = (RANDOM.standard_normal((projection.shape[1], 5, rank)) for rank in (2, 3))

    @quick_jit
    def results(x, positive, negative, bias, projection):
        def scores(x, positive, negative, bias, projection, **options):
            shared = None if middle_features is None else projection
            return low_rank_bilinear(x, positive, negative, bias, projection=shared, **options)

        mean = scores(x, positive, negative, None, projection, reduction="mean")
        return mean, *jax.vjp(scores, x, positive, negative, bias, projection)

    mean, out, pull_back = results(x, positive, negative, bias, projection)
    gradients = pull_back(cotangent)
    # W_k = U_k+ U_k+^T - U_k- U_k-^T with U_k = P V_k; scores <W_k, X X^T>.
    plus, minus = (np.einsum("cm,mkr->ckr", projection, factors) for factors in (positive, negative))
    matrices = np.einsum("ckr,dkr->kcd", plus, plus) - np.einsum("ckr,dkr->kcd", minus, minus)
    moments = _outer_products(x, x)
    expected = np.einsum("kcd,ncd->nk", matrices, moments)
    np.testing.assert_allclose(out, expected + bias, rtol=1e-10)
    np.testing.assert_allclose(mean, expected / 12, rtol=1e-10)
    weighted = np.einsum("nk,ncd->kcd", cotangent, moments)
    np.testing.assert_allclose(gradients[0], 2 * np.einsum("nk,kcd,nhwd->nhwc", cotangent, matrices, x), rtol=1e-9)
    for gradient, sign, factors in ((gradients[1], 2, plus), (gradients[2], -2, minus)):
        np.testing.assert_allclose(
            gradient, sign * np.einsum("cm,kcd,dkr->mkr", projection, weighted, factors), rtol=1e-9
        )
    np.testing.assert_allclose(gradients[3], cotangent.sum(0), rtol=1e-12)
    if middle_features is not None:
        turned = np.einsum("kcd,dm->kcm", weighted, projection)
        factor_products = np.einsum("mkr,lkr->kml", positive, positive) - np.einsum("mkr,lkr->kml", negative, negative)
        np.testing.assert_allclose(gradients[4], 2 * np.einsum("kcm,kml->cl", turned, factor_products), rtol=1e-9)


def test_low_rank_scores_never_form_the_bilinear_features():
    channels = 512
    classifier = LowRankBilinear(features=20, rank=8, middle_features=100)
    x = jnp.zeros((2, 7, 7, channels))
    variables = jax.eval_shape(classifier.init, jax.random.key(0), x)
    loss = jax.grad(lambda variables, x: jnp.sum(classifier.apply(variables, x)), argnums=(0, 1))
    text = str(jax.make_jaxpr(loss)(variables, x))
    assert "49,160" not in text and "98,160" not in text  # one product for the scores, of [49, 100] and [100, 20 * 4]
    assert "49,80" in text and f"{channels},{channels}" not in text and "100,100" not in text


def test_the_classifier_has_the_parameters_of_the_paper():
    classifier = LowRankBilinear(features=200, rank=8, middle_features=100)
    x = jnp.asarray(RANDOM.standard_normal((1, 2, 2, 512)), jnp.float32)
    out, variables = quick_jit(classifier.init_with_output)(jax.random.key(0), x)
    params = variables["params"]
    shapes = {name: leaf.shape for name, leaf in params.items()}
    assert shapes == {
        "projection": (512, 100),
        "positive": (100, 200, 4),
        "negative": (100, 200, 4),
        "bias": (200,),
    }
    # Outputs of each factor have the variance of its inputs.
    np.testing.assert_allclose(np.std(params["positive"]), 100**-0.5, rtol=0.02)
    np.testing.assert_allclose(np.std(params["projection"]), 512**-0.5, rtol=0.02)
    rest = [params[name] for name in ("positive", "negative", "bias")]
    expected = quick_jit(low_rank_bilinear)(x, *rest, projection=params["projection"])
    np.testing.assert_allclose(out, expected, atol=1e-4)
    half = LowRankBilinear(features=200, rank=8, middle_features=100, dtype=jnp.bfloat16)
    assert jax.eval_shape(half.apply, {"params": params}, x).dtype == jnp.bfloat16


def test_bfloat16_is_computed_in_float32():
    x = jnp.asarray(RANDOM.uniform(0, 1, (1, 40, 40, 3)), jnp.bfloat16)
    functions = (bilinear_pool, signed_sqrt, l2_normalize)

    @quick_jit
    def results(x):
        out, pull_back = jax.vjp(lambda x: [function(x) for function in functions], x)
        exact = [function(x.astype(jnp.float32)) for function in functions]
        return out, exact, pull_back([jnp.ones_like(each) for each in out])[0]

    out, exact, gradient = results(x)
    assert gradient.dtype == jnp.bfloat16
    for each, each_exact in zip(out, exact, strict=True):
        assert each.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(each), each_exact, rtol=2**-8)


NAMES = [
    "CompactBilinear",
    "compact_bilinear_pool",
    "covariance_pool",
    "draw_random_maclaurin",
    "draw_tensor_sketch",
    "gaussian_embedding",
    "matrix_power",
    "matrix_sqrt",
    "newton_schulz_sqrt",
    "second_moment",
    "vectorize_symmetric",
]


def test_all_names_are_found_in_one_file():
    for name in NAMES:
        assert callable(getattr(bilinear, name))


@pytest.mark.parametrize(
    "call,message",
    [
        (
            lambda x: bilinear_pool(x.astype(int)),
            r"bilinear_pool: x=int32\[.*\] must be floating point NHWC; convert it",
        ),
        (lambda x: bilinear_pool(x, x, triangle=True), "bilinear_pool: triangle=True needs one stream, .*"),
        (lambda x: bilinear_pool(x, x[:, :1]), r"bilinear_pool: the streams .*, not \(1, 4\) and \(1, 2\); .*"),
        (lambda x: bilinear_pool(x, reduction="add"), "bilinear_pool: reduction: unknown name 'add'; .*"),
        (lambda x: signed_sqrt(x, 0.0), "signed_sqrt: epsilon=0.0 must be above 0, .*"),
        (lambda x: l2_normalize(x.astype(int)), "l2_normalize: x must be floating point, not int32; .*"),
        (
            lambda x: low_rank_bilinear(x, jnp.zeros((5, 2, 1)), jnp.zeros((3, 2, 1))),
            r"low_rank_bilinear: positive=\(5, 2, 1\) must have channels=3; .*",
        ),
        (
            lambda x: low_rank_bilinear(x, jnp.zeros((3, 2, 1)), jnp.zeros((3, 4, 1))),
            "low_rank_bilinear: positive has classes=2 and negative 4, .*",
        ),
        (
            lambda x: low_rank_bilinear(x, jnp.zeros((2, 2, 1)), jnp.zeros((2, 2, 1)), projection=jnp.zeros((4, 2))),
            r"low_rank_bilinear: projection=\(4, 2\) must have the in_features=3 of x; .*",
        ),
        (
            lambda x: LowRankBilinear(features=2, rank=5).init(jax.random.key(0), x),
            "LowRankBilinear: rank=5 must be even and above 0; give 6",
        ),
    ],
)
def test_refusals_are_one_line(call, message):
    with pytest.raises(ValueError, match=rf"^{message}(\n|$)"):
        call(jnp.zeros((1, 2, 2, 3)))
