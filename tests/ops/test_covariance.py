import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.covariance import covariance_pool, gaussian_embedding, second_moment, vectorize_symmetric
from tests.compiling import quick_jit

RANDOM = np.random.RandomState(0)
MAPS = [(2, 3, 4, 5), (1, 1, 1, 3), (2, 1, 7, 1)]


def _outer_products(x, y):
    """Sums over positions, a pixel at a time."""
    out = np.zeros((x.shape[0], x.shape[3], y.shape[3]))
    for n, i, j in np.ndindex(x.shape[:3]):
        out[n] += np.outer(x[n, i, j], y[n, i, j])
    return out


def _pull_back(function, *inputs, cotangent):
    """Value and gradients of sum(function * cotangent)."""

    @quick_jit
    def results(*inputs):
        out, back = jax.vjp(function, *inputs)
        return out, back(cotangent)

    return results(*inputs)


def test_moments_of_one_stream_and_of_two_with_their_gradients(x64):
    shapes = [*MAPS, (2, 3, 4, 2)]
    xs = [RANDOM.standard_normal(shape) for shape in shapes]
    cotangents = [RANDOM.standard_normal((shape[0], shape[3], shape[3])) for shape in MAPS]
    cotangents += [RANDOM.standard_normal((2, 5, 2))]

    def moments(*xs):
        return [*map(second_moment, xs[:3]), second_moment(xs[0], xs[3], reduction="sum")]

    outs, gradients = _pull_back(moments, *xs, cotangent=cotangents)
    expected = [np.zeros(shape) for shape in shapes]
    for x, cotangent, out, gradient in zip(xs[:3], cotangents, outs, expected, strict=False):
        num_pixels = x.shape[1] * x.shape[2]
        np.testing.assert_allclose(out, _outer_products(x, x) / num_pixels, rtol=1e-12, atol=1e-14)
        gradient += np.einsum("nhwi,nij->nhwj", x, cotangent + cotangent.swapaxes(1, 2)) / num_pixels
    np.testing.assert_allclose(outs[3], _outer_products(xs[0], xs[3]), rtol=1e-12)
    expected[0] += np.einsum("nhwj,nij->nhwi", xs[3], cotangents[3])
    expected[3] += np.einsum("nhwi,nij->nhwj", xs[0], cotangents[3])
    for gradient, by_hand in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, by_hand, rtol=1e-12, atol=1e-13)


def test_covariance_is_that_of_numpy_with_its_derivatives(x64):
    xs, tangents = ([RANDOM.standard_normal(shape) + 3 for shape in MAPS] for _ in range(2))
    cotangents = [RANDOM.standard_normal((shape[0], shape[3], shape[3])) for shape in MAPS]

    @quick_jit
    def results(xs):
        covariances = lambda xs: list(map(covariance_pool, xs))  # noqa: E731
        out, pull_back = jax.vjp(covariances, xs)
        return out, pull_back(cotangents)[0], jax.jvp(covariances, (xs,), (tangents,))[1]

    for x, tangent, cotangent, *found in zip(xs, tangents, cotangents, *results(xs), strict=True):
        out, gradient, pushed = found
        positions = x.reshape(x.shape[0], -1, x.shape[3])
        for covariance, each in zip(out, positions, strict=True):
            expected = np.cov(each, rowvar=False, bias=True).reshape(covariance.shape)
            np.testing.assert_allclose(covariance, expected, atol=1e-13)
        # d/dX of tr(G^T X J X^T), with J X^T the centred positions.
        centred = positions - positions.mean(1, keepdims=True)
        expected = centred @ (cotangent + cotangent.swapaxes(1, 2)) / positions.shape[1]
        np.testing.assert_allclose(gradient, expected.reshape(x.shape), atol=1e-13)
        np.testing.assert_allclose(np.sum(pushed * cotangent), np.sum(expected.reshape(x.shape) * tangent), atol=1e-11)


def test_covariance_in_float32_keeps_digits_beside_a_large_mean():
    x = (1e3 + 1e-2 * RANDOM.standard_normal((2, 16, 16, 4))).astype(np.float32)
    out = quick_jit(covariance_pool)(x)
    for covariance, each in zip(out, np.float64(x).reshape(2, -1, 4), strict=True):
        np.testing.assert_allclose(covariance, np.cov(each, rowvar=False, bias=True), atol=1e-9)  # of 1e-4


def test_covariance_of_constant_features_is_nothing():
    x = np.broadcast_to(np.float32([0, 1e4, -0.1]), (2, 5, 5, 3))
    out, (gradient,) = _pull_back(covariance_pool, x, cotangent=np.ones((2, 3, 3), np.float32))
    np.testing.assert_allclose(out, 0, atol=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_covariance_knows_no_order_of_pixels_and_lacks_rank_where_there_are_few(x64):
    x = RANDOM.standard_normal((1, 2, 3, 8))
    pool = quick_jit(covariance_pool)
    out = pool(x)
    mixed = RANDOM.permutation(x.reshape(6, 8)).reshape(x.shape)
    np.testing.assert_allclose(pool(mixed), out, atol=1e-14)
    assert np.linalg.matrix_rank(out[0], tol=1e-10) == 5


def test_gaussian_embedding_is_made_of_mean_and_covariance(x64):
    x, cotangent = RANDOM.standard_normal((2, 3, 4, 5)) + 1, RANDOM.standard_normal((2, 6, 6))
    out, (gradient,) = _pull_back(gaussian_embedding, x, cotangent=cotangent)
    for embedded, each in zip(out, x.reshape(2, 12, 5), strict=True):
        mean = each.mean(0)
        covariance = np.cov(each, rowvar=False, bias=True)
        expected = np.block([[covariance + np.outer(mean, mean), mean[:, None]], [mean[None], np.ones((1, 1))]])
        np.testing.assert_allclose(embedded, expected, atol=1e-13)
    # As the second moment of [x, 1]: d/dx = [x, 1] (G + G^T) / N, without the last column.
    ones = np.concatenate([x, np.ones((2, 3, 4, 1))], -1)
    expected = np.einsum("nhwi,nij->nhwj", ones, cotangent + cotangent.swapaxes(1, 2))[..., :-1] / 12
    np.testing.assert_allclose(gradient, expected, atol=1e-13)


def test_the_triangle_is_read_row_by_row():
    a = np.float32([[[1, 2, 3], [2, 4, 5], [3, 5, 6]]])
    cotangent = np.arange(6, dtype=np.float32)
    out, (gradient,) = _pull_back(lambda a: vectorize_symmetric(a[0], off_diagonal_scale=2.0), a, cotangent=cotangent)
    np.testing.assert_array_equal(out, [1, 4, 6, 4, 10, 6])
    np.testing.assert_array_equal(gradient, [[[0, 2, 4], [0, 3, 8], [0, 0, 5]]])
    np.testing.assert_array_equal(quick_jit(vectorize_symmetric)(a), [[1, 2, 3, 4, 5, 6]])


def test_inner_products_of_triangles_are_those_of_matrices(x64):
    both = RANDOM.standard_normal((2, 4, 7, 7))
    both = both + both.swapaxes(2, 3)
    vectors = quick_jit(lambda a: vectorize_symmetric(a, off_diagonal_scale=2**0.5))(both)
    np.testing.assert_allclose(np.sum(vectors[0] * vectors[1], 1), np.sum(both[0] * both[1], (1, 2)), rtol=1e-12)


def test_bfloat16_is_summed_in_float32():
    x = jnp.asarray(RANDOM.uniform(0, 1, (1, 40, 40, 3)), jnp.bfloat16)
    pools = (second_moment, covariance_pool, gaussian_embedding)

    @quick_jit
    def results(x):
        rounded, pull_back = jax.vjp(lambda x: [pool(x) for pool in pools], x)
        gradient = pull_back([jnp.ones_like(out) for out in rounded])[0]
        wide = [pool(x, dtype=jnp.float32) for pool in pools]
        return rounded, wide, [pool(x.astype(jnp.float32)) for pool in pools], gradient

    rounded, wide, exact, gradient = results(x)
    assert gradient.dtype == jnp.bfloat16
    for each_rounded, each_wide, each_exact in zip(rounded, wide, exact, strict=True):
        assert (each_rounded.dtype, each_wide.dtype) == (jnp.bfloat16, jnp.float32)
        np.testing.assert_allclose(each_wide, each_exact, rtol=1e-5)
        np.testing.assert_allclose(np.float32(each_rounded), each_exact, rtol=2**-8)
    positions = np.float64(x).reshape(-1, 3)
    np.testing.assert_allclose(wide[1][0], np.cov(positions, rowvar=False, bias=True), atol=1e-6)


@pytest.mark.parametrize(
    "call,message",
    [
        (
            lambda: second_moment(jnp.zeros((1, 2, 3))),
            r"second_moment: x=float32\[.*\] must be floating point NHWC; .*",
        ),
        (
            lambda: covariance_pool(jnp.zeros((1, 2, 2, 3), jnp.uint8)),
            r"covariance_pool: x=uint8\[1, 2, 2, 3\] must .*",
        ),
        (lambda: gaussian_embedding(jnp.zeros((1, 0, 2, 3))), "gaussian_embedding: height=0 and width=2 must be .*"),
        (
            lambda: second_moment(jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 2, 3, 3))),
            r"second_moment: the streams must have one batch and number of pixels, not \(1, 4\) and \(1, 6\); .*",
        ),
        (lambda: second_moment(jnp.zeros((1, 2, 2, 3)), reduction="max"), "second_moment: reduction: unknown .*"),
        (lambda: vectorize_symmetric(jnp.zeros((2, 3))), r"vectorize_symmetric: a=float32\[2, 3\] must be square .*"),
    ],
)
def test_refusals_are_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()
