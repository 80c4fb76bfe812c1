"""Powers of covariance matrices: by their eigenvalues with a stable gradient, or by Newton-Schulz iteration."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from arch.errors import unknown_name
from arch.ops.covariance import as_matrices

# float32 and matrices that lack rank: 20 steps are worse than 15, 30 are infinite.
_MAX_ITERATIONS = 20


def matrix_power(
    a: jax.Array, alpha: float = 0.5, *, epsilon: float | None = None, normalization: str | None = None
) -> jax.Array:
    """A power of symmetric positive semi-definite matrices, with a gradient that is finite at repeated eigenvalues.

    P = U diag(l ** alpha) U^T for A = U diag(l) U^T, where l below epsilon * max(l) counts as 0. The derivative has the
    divided differences of the power in the place of gaps between eigenvalues: dP = U (K * (U^T dA U)) U^T with
    K[i, j] = (l_i ** alpha - l_j ** alpha) / (l_i - l_j), alpha * l_i ** (alpha - 1) where they are equal, 0 where both
    are 0. For alpha = 1/2 it is 1 / (sqrt(l_i) + sqrt(l_j)): P dP + dP P = dA. Both modes work; a second derivative
    needs eigenvalues that differ.

    Paper: Li et al., MPN-COV (arXiv:1703.08050), section 3.
    Parameters: none.
    MACs: 2 * size ** 3, and an eigendecomposition.
    Differs from the paper: its gradient divides by gaps, and sets to 0 what is infinite. It drops small eigenvalues
        likewise.

    Args:
        a: [..., size, size], floating point; it is made symmetric first.
        alpha: the power, above 0.
        epsilon: share of the largest eigenvalue up to which one counts as 0; None takes size times the machine's.
        normalization: divides P by its norm: "frobenius", "spectral" (its largest eigenvalue); None leaves it.

    Returns:
        The shape and dtype of a; computed in float32 at least. The power of 0 is 0, and so is its gradient.

    Raises:
        ValueError: a that is not square or not floating point; alpha or epsilon out of range; another normalization.
    """
    owner = "matrix_power"
    a = as_matrices(owner, a)
    if not alpha > 0:
        raise ValueError(f"{owner}: alpha={alpha} must be above 0, as there may be no inverse; take 0.5 for the root")
    if normalization not in (None, "frobenius", "spectral"):
        raise unknown_name(f"{owner}: normalization", normalization, ("frobenius", "spectral"))
    wide = a.astype(jnp.promote_types(a.dtype, jnp.float32))
    if epsilon is None:
        epsilon = a.shape[-1] * float(jnp.finfo(wide.dtype).eps)
    if not 0 <= epsilon < 1:
        raise ValueError(f"{owner}: epsilon={epsilon} must lie in [0, 1); it is a share of the largest eigenvalue")
    power, largest = _power(wide, float(alpha), float(epsilon))
    if normalization == "frobenius":
        squares = jnp.sum(lax.square(power), axis=(-2, -1), keepdims=True)
        power = power * lax.rsqrt(jnp.where(squares > 0, squares, 1))
    elif normalization == "spectral":
        power = power / jnp.where(largest > 0, largest, 1)[..., None, None]
    return power.astype(a.dtype)


def matrix_sqrt(a: jax.Array, epsilon: float | None = None) -> jax.Array:
    """The square root of symmetric positive semi-definite matrices: `matrix_power` of 1/2, which see.

    P = U diag(sqrt(l)) U^T; dP = U ((U^T dA U) / (sqrt(l_i) + sqrt(l_j))) U^T, 0 where both are 0. The improved
    bilinear CNN is l2_normalize(signed_sqrt(matrix_sqrt(second_moment(x)))), flattened before the norm.

    Paper: Lin and Maji, Improved Bilinear Pooling with CNNs (arXiv:1707.06772), section 3.
    Parameters: none.
    MACs: 2 * size ** 3, and an eigendecomposition.
    Differs from the paper: eigenvalues where it has singular values, the same for these matrices.

    Args:
        a: [..., size, size], floating point; it is made symmetric first.
        epsilon: share of the largest eigenvalue up to which one counts as 0; None takes size times the machine's.

    Returns:
        The shape and dtype of a; computed in float32 at least.

    Raises:
        ValueError: a that is not square or not floating point; epsilon out of range.
    """
    return matrix_power(as_matrices("matrix_sqrt", a), 0.5, epsilon=epsilon)


def newton_schulz_sqrt(a: jax.Array, num_iterations: int = 5) -> jax.Array:
    """The square root of symmetric positive semi-definite matrices after so many steps of Newton and Schulz.

    Y = A / tr(A), Z = I; num_iterations times T = (3 I - Z Y) / 2, Y <- Y T, Z <- T Z; the result is sqrt(tr(A)) Y.
    Five steps are the published operator, not the root: small eigenvalues have not grown to theirs yet, and the result
    may be 40% off in the Frobenius norm where there are few pixels; 15 steps reach it in float64.

    Paper: Li et al., iSQRT-COV (arXiv:1712.01034), section 3.
    Parameters: none.
    MACs: 3 * num_iterations * size ** 3, less 3 * size ** 3 from the first step and the last Z, which need no product.

    Args:
        a: [..., size, size], floating point. A trace that is not above 0 gives 0 and no gradient.
        num_iterations: from 1 to 20; in float32, matrices that lack rank diverge in longer runs.

    Returns:
        The shape and dtype of a; computed in float32 at least.

    Raises:
        ValueError: a that is not square or not floating point; num_iterations out of range.
    """
    owner = "newton_schulz_sqrt"
    a = as_matrices(owner, a)
    if not 1 <= num_iterations <= _MAX_ITERATIONS:
        raise ValueError(
            f"{owner}: num_iterations={num_iterations} must lie in [1, {_MAX_ITERATIONS}]; longer runs diverge in "
            "float32, take matrix_sqrt for the exact root"
        )
    wide = a.astype(jnp.promote_types(a.dtype, jnp.float32))
    trace = jnp.trace(wide, axis1=-2, axis2=-1)[..., None, None]
    positive = ~(trace < jnp.finfo(wide.dtype).tiny)  # not a number stays what it is
    trace = jnp.where(positive, trace, 1)
    identity = jnp.eye(a.shape[-1], dtype=wide.dtype)

    y = jnp.where(positive, wide, 0) / trace
    z = 1.5 * identity - 0.5 * y
    y = _matmul(y, z)
    for step in range(1, num_iterations):
        t = 1.5 * identity - 0.5 * _matmul(z, y)
        y = _matmul(y, t)
        if step + 1 < num_iterations:
            z = _matmul(t, z)
    return (y * jnp.sqrt(trace)).astype(a.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _power(a: jax.Array, alpha: float, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """The power of a and its largest eigenvalue."""
    _, powers, vectors = _spectrum(a, alpha, epsilon)
    return _matmul(vectors * powers[..., None, :], vectors.mT), powers[..., -1]


@_power.defjvp
def _power_jvp(
    alpha: float, epsilon: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    (a,), (tangent,) = primals, tangents
    values, powers, vectors = _spectrum(a, alpha, epsilon)
    out = _matmul(vectors * powers[..., None, :], vectors.mT), powers[..., -1]
    turned = _matmul(_matmul(vectors.mT, (tangent + tangent.mT) / 2), vectors)
    if alpha == 0.5:  # (l_i - l_j) / (s_i - s_j) = s_i + s_j
        sums = powers[..., :, None] + powers[..., None, :]
        quotients = jnp.where(sums > 0, 1 / jnp.where(sums > 0, sums, 1), 0)
    else:
        quotients = _divided_differences(values, alpha)
    change = quotients * turned
    return out, (_matmul(_matmul(vectors, change), vectors.mT), change[..., -1, -1])


def _spectrum(a: jax.Array, alpha: float, epsilon: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eigenvalues, ascending, those of no account set to 0; their powers; eigenvectors."""
    values, vectors = jnp.linalg.eigh(a)
    values = jnp.where(values > epsilon * jnp.maximum(values[..., -1:], 0), values, 0)
    # Else XLA computes a power for each entry of the matrix that it scales.
    values, powers = lax.optimization_barrier((values, _powers(values, alpha)))
    return values, powers, vectors


def _powers(values: jax.Array, exponent: float) -> jax.Array:
    """values ** exponent, 0 for 0, with a finite derivative there."""
    return jnp.where(values > 0, jnp.where(values > 0, values, 1) ** exponent, 0)


def _divided_differences(values: jax.Array, alpha: float) -> jax.Array:
    """(l_i ** alpha - l_j ** alpha) / (l_i - l_j) for all pairs of [..., size] values from 0, without cancellation."""
    left, right = values[..., :, None], values[..., None, :]
    large, small = jnp.maximum(left, right), jnp.minimum(left, right)
    # large ** (alpha - 1) * (1 - r ** alpha) / (1 - r) with r = exp(t) = small / large; near 1 two terms of its series.
    both = small > 0
    t = jnp.log(jnp.where(both, small, 1) / jnp.where(both, large, 1))
    near = t > -(float(jnp.finfo(values.dtype).eps) ** 0.5)
    far = jnp.where(near, -1, t)
    quotient = jnp.where(near, alpha * (1 + (alpha - 1) / 2 * t), jnp.expm1(alpha * far) / jnp.expm1(far))
    return _powers(large, alpha - 1) * jnp.where(both, quotient, 1)


def _matmul(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)
