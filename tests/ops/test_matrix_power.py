import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.matrix_power import matrix_power, matrix_sqrt, newton_schulz_sqrt
from tests.compiling import quick_jit

RANDOM = np.random.RandomState(0)


def _covariances(*shape, num_samples=20):
    samples = RANDOM.standard_normal((*shape, num_samples))
    return samples @ samples.swapaxes(-1, -2) / num_samples


def _with_eigenvalues(values):
    turn, _ = np.linalg.qr(RANDOM.standard_normal((len(values), len(values))))
    return turn * values @ turn.T


def _power(a, alpha, normalization=None):
    """By NumPy; eigenvalues below 1e-14 of the largest count as 0."""
    values, vectors = np.linalg.eigh((a + a.swapaxes(-1, -2)) / 2)
    values = np.where(values > 1e-14 * values[..., -1:], values, 0) ** alpha
    power = (vectors * values[..., None, :]) @ vectors.swapaxes(-1, -2)
    if normalization is None:
        return power
    return power / np.linalg.norm(power, {"frobenius": "fro", "spectral": 2}[normalization], (-2, -1))[..., None, None]


def _newton_schulz(a, num_iterations):
    """The published loop, one matrix at a time, the last Z included."""
    out = np.empty_like(a)
    for n, each in enumerate(a):
        identity = np.eye(len(each))
        y, z = each / np.trace(each), identity
        for _ in range(num_iterations):
            t = 0.5 * (3 * identity - z @ y)
            y, z = y @ t, t @ z
        out[n] = np.sqrt(np.trace(each)) * y
    return out


def _derivatives(function, a, tangent, cotangent):
    """Value, derivative along `tangent`, and gradient of sum(function * cotangent)."""

    @quick_jit
    def results(a):
        out, pushed = jax.jvp(function, (a,), (tangent,))
        return out, pushed, jax.vjp(function, a)[1](cotangent)[0]

    return results(a)


def _central_difference(function, a, tangent, step=1e-5):
    return (function(a + step * tangent) - function(a - step * tangent)) / (2 * step)


POWERS = [(0.5, None), (0.3, None), (2.5, "frobenius"), (0.7, "spectral")]


def test_powers_and_their_derivatives_against_numpy(x64):
    a = _covariances(3, 6)
    tangent, *cotangents = RANDOM.standard_normal((1 + len(POWERS), *a.shape))

    def powers(a):
        return [matrix_power(a, alpha, normalization=normalization) for alpha, normalization in POWERS]

    out, pushed, gradient = _derivatives(powers, a, tangent, cotangents)
    product = 0
    for each, each_pushed, cotangent, options in zip(out, pushed, cotangents, POWERS, strict=True):
        np.testing.assert_allclose(each, _power(a, *options), rtol=1e-11, atol=1e-13)
        expected = _central_difference(lambda a, options=options: _power(a, *options), a, tangent)
        np.testing.assert_allclose(each_pushed, expected, atol=1e-8 * np.abs(expected).max())
        product += np.sum(expected * cotangent)
    np.testing.assert_allclose(np.sum(gradient * tangent), product, rtol=1e-7)


def test_root_squared_is_the_matrix_and_its_gradient_solves_the_equation_of_lyapunov(x64):
    a, cotangent = _covariances(2, 5), RANDOM.standard_normal((2, 5, 5))
    root, _, gradient = map(np.asarray, _derivatives(matrix_sqrt, a, cotangent, cotangent))
    np.testing.assert_allclose(root @ root, a, atol=1e-13)
    np.testing.assert_allclose(root @ gradient + gradient @ root, (cotangent + cotangent.mT) / 2, atol=1e-12)


# Eigenvalues that are equal, almost equal, far apart.
SPECTRA = [(1, 1, 1, 1), (2, 2, 1, 1), (1, 1 + 1e-9, 1 + 2e-9, 3), (1e-9, 1e-3, 1, 1e3), (0.5, 0.5 + 1e-5, 1, 2)]
ALPHAS = (0.5, 0.3, 1.5)


def _divided_difference(alpha, first, second):
    """(first ** alpha - second ** alpha) / (first - second), without the loss of digits where they are close."""
    if abs(first - second) > 1e-2 * first:
        return (first**alpha - second**alpha) / (first - second)
    # The mean of the derivative between the two, by Gauss's rule.
    nodes, weights = np.polynomial.legendre.leggauss(10)
    between = (first + second) / 2 + nodes * (first - second) / 2
    return np.sum(weights * alpha * between ** (alpha - 1)) / 2


def test_derivatives_at_repeated_and_close_eigenvalues(x64):
    a = np.stack([np.diag(np.float64(spectrum)) for spectrum in SPECTRA])  # eigenvectors that rounding leaves alone
    tangent, *cotangents = RANDOM.standard_normal((1 + len(ALPHAS), *a.shape))
    tangent = tangent + tangent.mT

    @quick_jit
    def results(a):
        powers = [functools.partial(matrix_power, alpha=alpha, epsilon=0) for alpha in ALPHAS]
        pushed = [jax.jvp(power, (a,), (tangent,))[1] for power in powers]
        gradients = [jax.vjp(power, a)[1](each)[0] for power, each in zip(powers, cotangents, strict=True)]
        return pushed, gradients

    for alpha, cotangent, pushed, gradient in zip(ALPHAS, cotangents, *results(a), strict=True):
        quotients = np.array([[[_divided_difference(alpha, p, q) for q in each] for p in each] for each in SPECTRA])
        np.testing.assert_allclose(pushed, quotients * tangent, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(gradient, quotients * (cotangent + cotangent.mT) / 2, rtol=1e-7, atol=1e-12)


def test_derivative_at_close_eigenvalues_in_float32_keeps_its_digits():
    values = np.float32([1, 1.0002, 1.0005, 3])
    tangent = np.float32(RANDOM.standard_normal((4, 4)))
    tangent = tangent + tangent.T
    pushed = quick_jit(lambda a: jax.jvp(lambda a: matrix_power(a, 0.3), (a,), (tangent,))[1])(np.diag(values))
    quotients = np.array([[_divided_difference(0.3, p, q) for q in np.float64(values)] for p in np.float64(values)])
    np.testing.assert_allclose(pushed / tangent, quotients, rtol=2e-6)


def test_gradient_at_turned_repeated_eigenvalues_against_differences(x64):
    a = _with_eigenvalues([0.5, 2, 2, 2, 3])
    tangent, cotangent = RANDOM.standard_normal((2, 5, 5))
    _, pushed, gradient = _derivatives(matrix_sqrt, a, tangent, cotangent)
    expected = _central_difference(lambda a: _power(a, 0.5), a, tangent)
    np.testing.assert_allclose(pushed, expected, atol=1e-8)
    np.testing.assert_allclose(np.sum(gradient * tangent), np.sum(expected * cotangent), rtol=1e-7)


def test_powers_of_a_matrix_that_lacks_rank():
    samples, alphas = RANDOM.standard_normal((12, 4)), (0.5, 0.3)
    cotangents = np.float32(RANDOM.standard_normal((2, 12, 12)))
    out, _, gradient = _derivatives(
        lambda a: jnp.stack([matrix_power(a, alpha) for alpha in alphas]),
        np.float32(samples @ samples.T),
        cotangents[0],
        cotangents,
    )
    # As if no direction but the four of the samples were there: K is 0 between two of the others.
    values, vectors = np.linalg.eigh(samples @ samples.T)
    values = np.where(np.arange(12) < 8, 0, values)
    expected = 0
    for alpha, power, cotangent in zip(alphas, out, cotangents, strict=True):
        np.testing.assert_allclose(power, vectors * values**alpha @ vectors.T, atol=2e-5)
        quotients = np.array([[_divided_difference(alpha, p, q) if p or q else 0 for q in values] for p in values])
        expected += vectors @ (quotients * (vectors.T @ (cotangent + cotangent.T) / 2 @ vectors)) @ vectors.T
    np.testing.assert_allclose(gradient, expected, atol=1e-4)


def test_the_root_of_what_is_not_a_number_is_not_a_number():
    a = np.full((2, 2), np.nan, np.float32)
    for root in (matrix_sqrt, newton_schulz_sqrt):
        assert np.isnan(root(a)).all()


def test_the_root_of_nothing_is_nothing_with_no_gradient():
    zeros = np.zeros((2, 3, 3), np.float32)
    ones = np.ones_like(zeros)

    def roots(a):
        exact = [matrix_power(a, normalization=normalization) for normalization in ("frobenius", "spectral")]
        return [*exact, newton_schulz_sqrt(a)]

    for each in jax.tree.leaves(_derivatives(roots, zeros, ones, [ones] * 3)):
        np.testing.assert_array_equal(each, 0)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.5, 0.8])
def test_second_derivative_against_differences(x64, alpha):
    a = _with_eigenvalues([0.3, 0.7, 1.2, 2.5])
    first, second, cotangent = RANDOM.standard_normal((3, 4, 4))
    step = 1e-4

    def along(a):
        return jax.jvp(lambda a: jnp.vdot(matrix_power(a, alpha), cotangent), (a,), (first,))[1]

    gradient = quick_jit(jax.grad(along))(a)
    expected = sum(
        sign * other * np.vdot(_power(a + step * (sign * first + other * second), alpha), cotangent)
        for sign in (1, -1)
        for other in (1, -1)
    ) / (4 * step**2)
    np.testing.assert_allclose(np.vdot(gradient, second), expected, rtol=1e-5)


def test_epsilon_drops_small_eigenvalues(x64):
    a = np.diag([4.0, 0.04, 1.0])
    out = quick_jit(lambda a: (matrix_sqrt(a, 0.02), matrix_sqrt(a, 0.005), matrix_sqrt(a - np.diag([0, 1, 0]))))(a)
    for each, roots in zip(out, ([2, 0, 1], [2, 0.2, 1], [2, 0, 1]), strict=True):
        np.testing.assert_allclose(each, np.diag(roots), atol=1e-14)


def test_newton_schulz_after_so_many_steps_against_the_loop(x64):
    a, counts = _covariances(2, 16, num_samples=50), (1, 2, 3, 5)
    tangent, *cotangents = RANDOM.standard_normal((1 + len(counts), *a.shape))
    out, pushed, gradient = _derivatives(
        lambda a: [newton_schulz_sqrt(a, count) for count in counts], a, tangent, cotangents
    )
    product = 0
    for each, each_pushed, cotangent, count in zip(out, pushed, cotangents, counts, strict=True):
        np.testing.assert_allclose(each, _newton_schulz(a, count), atol=1e-13)
        expected = _central_difference(lambda a, count=count: _newton_schulz(a, count), a, tangent)
        np.testing.assert_allclose(each_pushed, expected, atol=1e-8)
        product += np.sum(expected * cotangent)
    np.testing.assert_allclose(np.sum(gradient * tangent), product, rtol=1e-6)


def test_five_steps_in_float32_are_five_steps_and_not_the_root():
    a = _covariances(1, 64, num_samples=196)
    out = quick_jit(newton_schulz_sqrt)(a.astype(np.float32))
    np.testing.assert_allclose(out, _newton_schulz(a, 5), atol=1e-5)
    exact = _power(a, 0.5)
    assert np.linalg.norm(out - exact) > 0.1 * np.linalg.norm(exact)


def test_recorded_errors_of_newton_schulz(x64):
    exact, counts = np.diag(np.sqrt([1.0, 2, 3, 4])), (1, 3, 5, 7)
    small, wide = np.float64([[2, 1], [1, 2]]), np.diag([1, 0.1, 0.01, 0.001])
    outs, small_out, wide_out = quick_jit(
        lambda a, small, wide: (
            [newton_schulz_sqrt(a, count) for count in counts],
            newton_schulz_sqrt(small),
            newton_schulz_sqrt(wide),
        )
    )(exact @ exact, small, wide)
    for out, error in zip(outs, (0.30049178, 0.05865282, 8.0817e-4, 4.54e-11), strict=True):
        np.testing.assert_allclose(np.linalg.norm(out - exact) / np.linalg.norm(exact), error, rtol=2e-3)
    np.testing.assert_allclose(np.diag(outs[2]), [0.9974444522, 1.4141901476, 1.7320506628, 1.9999999995], atol=1e-10)
    np.testing.assert_allclose(small_out[0], [1.3660247861, 0.3660260214], atol=1e-10)
    np.testing.assert_allclose(np.diag(wide_out), [1, 0.3149, 0.0633, 0.0071], atol=5e-5)


def test_fifteen_steps_of_newton_schulz_reach_the_root(x64):
    a = _covariances(2, 16, num_samples=200)
    out = quick_jit(lambda a: newton_schulz_sqrt(a, 15))(a)
    np.testing.assert_allclose(out, _power(a, 0.5), atol=1e-12)


@pytest.mark.slow
def test_the_longest_run_of_newton_schulz_is_finite_where_rank_is_lacking():
    samples = RANDOM.standard_normal((2, 24, 6)).astype(np.float32)
    out = quick_jit(lambda a: newton_schulz_sqrt(a, 20))(samples @ samples.mT)
    assert np.isfinite(out).all()


@pytest.mark.slow
def test_bfloat16_has_a_root_that_is_computed_in_float32():
    a = jnp.asarray(_covariances(2, 8), jnp.bfloat16)
    ones = jnp.ones_like(a)

    def roots(a):
        return matrix_sqrt(a), newton_schulz_sqrt(a)

    out, _, gradient = _derivatives(roots, a, ones, (ones, ones))
    assert gradient.dtype == jnp.bfloat16
    for each, expected in zip(out, (_power(np.float64(a), 0.5), _newton_schulz(np.float64(a), 5)), strict=True):
        assert each.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(each), expected, rtol=2**-8, atol=1e-5)


@pytest.mark.slow
def test_roots_under_shard_map_and_export():
    a = _covariances(4, 3).astype(np.float32)

    def gradients(a):
        # Of tr(A) = sum(root ** 2): the identity, but for what five steps leave.
        return [jax.grad(lambda a, root=root: jnp.sum(root(a) ** 2))(a) for root in (matrix_sqrt, newton_schulz_sqrt)]

    spec = jax.sharding.PartitionSpec("batch")
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("batch",))
    mapped = quick_jit(jax.shard_map(gradients, mesh=mesh, in_specs=spec, out_specs=spec))(a)
    np.testing.assert_allclose(mapped[0], np.broadcast_to(np.eye(3), a.shape), atol=1e-5)
    tangent = RANDOM.standard_normal(a.shape)
    expected = _central_difference(lambda a: np.sum(_newton_schulz(a, 5) ** 2), np.float64(a), tangent)
    np.testing.assert_allclose(np.sum(mapped[1] * tangent), expected, rtol=1e-4)
    jax.export.export(jax.jit(gradients), platforms=("cpu", "cuda", "tpu"))(a)


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: matrix_sqrt(jnp.zeros((2, 3))), r"matrix_sqrt: a=float32\[2, 3\] must be square .*"),
        (lambda: matrix_power(jnp.zeros((3, 3), int)), r"matrix_power: a=int32\[3, 3\] must be square floating .*"),
        (lambda: matrix_power(jnp.eye(3), 0), "matrix_power: alpha=0 must be above 0, .*"),
        (lambda: matrix_power(jnp.eye(3), epsilon=1.5), r"matrix_power: epsilon=1.5 must lie in \[0, 1\); .*"),
        (lambda: matrix_power(jnp.eye(3), normalization="fro"), "matrix_power: normalization: .* mean 'frobenius'.*"),
        (lambda: newton_schulz_sqrt(jnp.zeros(3)), r"newton_schulz_sqrt: a=float32\[3\] must be square .*"),
        (lambda: newton_schulz_sqrt(jnp.eye(3), 0), r"newton_schulz_sqrt: num_iterations=0 must lie in \[1, 20\]; .*"),
        (lambda: newton_schulz_sqrt(jnp.eye(3), 30), r"newton_schulz_sqrt: num_iterations=30 must lie in .*"),
    ],
)
def test_refusals_are_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()
