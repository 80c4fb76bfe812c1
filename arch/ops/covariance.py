"""Second-order statistics of the positions of a map, and the matrices that hold them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jax import lax

from arch.errors import check_map, unknown_name


def second_moment(
    x: jax.Array, y: jax.Array | None = None, *, reduction: str = "mean", dtype: Dtype | None = None
) -> jax.Array:
    """The outer products of the channels of two maps, averaged or summed over positions, as matrices.

    B[i, j] = (1 / N) sum over positions p of x[p, i] * y[p, j], N = height * width; y is x where it is not given, and B
    then symmetric and positive semi-definite.

    Paper: Lin et al., Bilinear CNN (arXiv:1504.07889), section 3.
    Parameters: none.
    MACs: height * width * x_features * y_features.

    Args:
        x: [batch, height, width, x_features], floating point.
        y: [batch, height, width, y_features], a second stream; None takes x.
        reduction: "mean" or "sum", over positions.
        dtype: of the result; None takes what x and y promote to. Sums are kept in float32 at least.

    Returns:
        [batch, x_features, y_features].

    Raises:
        ValueError: maps that are not floating point NHWC, that have no pixel or not the same ones; another reduction.
    """
    owner = "second_moment"
    x, y = as_streams(owner, x, y)
    sums = sum_outer_products(x, y)
    return reduce_positions(owner, sums, reduction, x.shape[1]).astype(dtype or jnp.result_type(x, y))


def covariance_pool(x: jax.Array, *, dtype: Dtype | None = None) -> jax.Array:
    """The covariance of the channels over the positions of a map.

    S = X J X^T with J = (I - 11^T / N) / N: S[i, j] = (1 / N) sum over p of (x[p, i] - m[i]) * (x[p, j] - m[j]), with
    the mean m over the N = height * width positions. Its rank is at most N - 1.

    Paper: Li et al., MPN-COV (arXiv:1703.08050), section 3.
    Parameters: none.
    MACs: height * width * features ** 2.

    Args:
        x: [batch, height, width, features], floating point.
        dtype: of the result; None takes that of x. Means and sums are kept in float32 at least. Give float32 for
            bfloat16 maps where a root follows: rounded to bfloat16, S has negative eigenvalues.

    Returns:
        [batch, features, features].

    Raises:
        ValueError: a map that is not floating point NHWC, or that has no pixel.
    """
    positions = as_positions("covariance_pool", x)
    values = positions.astype(jnp.promote_types(x.dtype, jnp.float32))
    # As in group normalization: a constant shift changes neither the result nor its derivatives, and saves digits.
    shifted = values - lax.stop_gradient(jnp.mean(values, axis=1, keepdims=True))
    centred = shifted - jnp.mean(shifted, axis=1, keepdims=True)
    return (_gram(centred) / positions.shape[1]).astype(dtype or x.dtype)


def gaussian_embedding(x: jax.Array, *, dtype: Dtype | None = None) -> jax.Array:
    """The matrix whose square root stands for the Gaussian with the mean and covariance of a map's channels.

    [[S + m m^T, m], [m^T, 1]], with the mean m and the covariance S of `covariance_pool`: the second moment of the
    channels and a one. Its root is `matrix_sqrt` or `newton_schulz_sqrt` of it.

    Paper: Wang et al., G2DeNet (CVPR 2017), section 3.
    Parameters: none.
    MACs: height * width * features ** 2.

    Args:
        x: [batch, height, width, features], floating point.
        dtype: as in `covariance_pool`.

    Returns:
        [batch, features + 1, features + 1].

    Raises:
        ValueError: a map that is not floating point NHWC, or that has no pixel.
    """
    positions = as_positions("gaussian_embedding", x)
    moment = sum_outer_products(positions, positions) / positions.shape[1]
    mean = jnp.mean(positions, axis=1, keepdims=True, dtype=moment.dtype)
    last = jnp.concatenate([mean, jnp.ones_like(mean[..., :1])], axis=2)
    rows = jnp.concatenate([moment, mean.swapaxes(1, 2)], axis=2)
    return jnp.concatenate([rows, last], axis=1).astype(dtype or x.dtype)


def vectorize_symmetric(a: jax.Array, *, off_diagonal_scale: float = 1.0) -> jax.Array:
    """The upper triangle of symmetric matrices, diagonal included, row by row.

    out[k(i, j)] = a[i, j] for j >= i, times `off_diagonal_scale` for j > i. With a scale of sqrt(2) inner products of
    the results are those of the matrices; with 1 they are the vectors of MPN-COV and iSQRT-COV.

    Paper: Li et al., MPN-COV (arXiv:1703.08050), section 3.
    Parameters: none.
    MACs: 0, data movement.

    Args:
        a: [..., size, size], floating point; below the diagonal it is not read.
        off_diagonal_scale: of what lies off the diagonal.

    Returns:
        [..., size * (size + 1) / 2], dtype of a.

    Raises:
        ValueError: a that is not square or not floating point.
    """
    a = as_matrices("vectorize_symmetric", a)
    size = a.shape[-1]
    rows, columns = np.triu_indices(size)
    flat = a.reshape(*a.shape[:-2], size * size)
    picked = flat.at[..., (rows * size + columns).astype(np.int32)].get(
        mode="promise_in_bounds", unique_indices=True, indices_are_sorted=True
    )
    if off_diagonal_scale == 1.0:
        return picked
    return picked * np.where(rows == columns, 1.0, off_diagonal_scale).astype(a.dtype)


def as_positions(owner: str, x: jax.Array, name: str = "x") -> jax.Array:
    """[batch, height, width, features], checked, as [batch, height * width, features]."""
    check_map(owner, x, name)
    if x.shape[1] * x.shape[2] == 0:
        raise ValueError(
            f"{owner}: height={x.shape[1]} and width={x.shape[2]} must be at least 1; give a map of pixels"
        )
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])


def as_streams(owner: str, x: jax.Array, y: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Two maps of the same pixels by `as_positions`; where y is None the second is the first."""
    x = as_positions(owner, x)
    if y is None:
        return x, x
    y = as_positions(owner, y, "y")
    if x.shape[:2] != y.shape[:2]:
        raise ValueError(
            f"{owner}: the streams must have one batch and number of pixels, not {x.shape[:2]} and {y.shape[:2]}; "
            "resize one"
        )
    return x, y


def sum_outer_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """[batch, positions, features] twice -> [batch, x_features, y_features], in float32 at least."""
    return _gram(x) if x is y else _products(x, y)


def reduce_positions(owner: str, sums: jax.Array, reduction: str, num_positions: int) -> jax.Array:
    """Sums over positions, or their mean."""
    if reduction not in ("mean", "sum"):
        raise unknown_name(f"{owner}: reduction", reduction, ("mean", "sum"))
    return sums / num_positions if reduction == "mean" else sums


def as_matrices(owner: str, a: jax.Array) -> jax.Array:
    """Floating point [..., size, size]; `owner` refuses anything else."""
    if a.ndim < 2 or a.shape[-1] != a.shape[-2] or a.shape[-1] < 1 or not jnp.issubdtype(a.dtype, jnp.floating):
        raise ValueError(
            f"{owner}: a={a.dtype}{list(a.shape)} must be square floating point matrices; give [..., size, size]"
        )
    return jnp.asarray(a)


def _products(x: jax.Array, y: jax.Array) -> jax.Array:
    # Products of bfloat16 are exact in float32; those of float32 keep their digits on every device.
    wide = functools.reduce(jnp.promote_types, (x.dtype, y.dtype, jnp.float32))
    return jnp.einsum("npi,npj->nij", x, y, precision=lax.Precision.HIGHEST, preferred_element_type=wide)


@jax.custom_jvp
def _gram(x: jax.Array) -> jax.Array:
    """[batch, positions, features] -> [batch, features, features], the sum over positions of x x^T."""
    return _products(x, x)


@_gram.defjvp
def _gram_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # dX^T X and X^T dX are each other's transposes: one product instead of two, in the backward pass as well.
    (x,), (tangent,) = primals, tangents
    half = _products(tangent, x)
    return _gram(x), half + half.swapaxes(1, 2)
