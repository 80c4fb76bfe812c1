"""Compact bilinear pooling: random projections whose inner products are, on average, those of bilinear features."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import serialization, struct
from flax.typing import Dtype
from jax import lax

from arch.errors import unknown_name
from arch.ops.covariance import as_streams, reduce_positions, sum_outer_products


@struct.dataclass
class TensorSketch:
    """A count sketch for each of two streams, of one number of bins.

    Attributes:
        x_indices: [x_features] int32, the bin of each channel, in [0, features).
        x_signs: [x_features] int8, 1 or -1.
        y_indices: [y_features], likewise of the second stream.
        y_signs: [y_features].
        features: number of bins.
    """

    x_indices: jax.Array
    x_signs: jax.Array
    y_indices: jax.Array
    y_signs: jax.Array
    features: int = struct.field(pytree_node=False)


@struct.dataclass
class RandomMaclaurin:
    """A matrix of signs for each of two streams.

    Attributes:
        x_signs: [x_features, features] int8, 1 or -1.
        y_signs: [y_features, features], likewise of the second stream.
    """

    x_signs: jax.Array
    y_signs: jax.Array


def draw_tensor_sketch(key: jax.Array, x_features: int, y_features: int, features: int) -> TensorSketch:
    """Bins and signs, uniform and independent, also of the two streams where they are the same map."""
    _check_features("draw_tensor_sketch", features)
    keys = jax.random.split(key, 4)
    return TensorSketch(
        x_indices=jax.random.randint(keys[0], (x_features,), 0, features, jnp.int32),
        x_signs=_signs(keys[1], (x_features,)),
        y_indices=jax.random.randint(keys[2], (y_features,), 0, features, jnp.int32),
        y_signs=_signs(keys[3], (y_features,)),
        features=features,
    )


def draw_random_maclaurin(key: jax.Array, x_features: int, y_features: int, features: int) -> RandomMaclaurin:
    """Signs, uniform and independent."""
    _check_features("draw_random_maclaurin", features)
    x_key, y_key = jax.random.split(key)
    return RandomMaclaurin(x_signs=_signs(x_key, (x_features, features)), y_signs=_signs(y_key, (y_features, features)))


def compact_bilinear_pool(
    x: jax.Array,
    y: jax.Array | None = None,
    *,
    projection: TensorSketch | RandomMaclaurin,
    reduction: str = "mean",
    dtype: Dtype | None = None,
) -> jax.Array:
    """A projection of bilinear features to a few thousand numbers, averaged or summed over positions.

    Tensor sketch: the mean over positions p of irfft(rfft(psi_x(x[p])) * rfft(psi_y(y[p]))), where the count sketch
    psi(v)[d] is the sum of signs[c] * v[c] over the channels c with indices[c] = d. Random Maclaurin: the mean of
    (W_x^T x[p]) * (W_y^T y[p]) / sqrt(features). Over draws of the projection <phi(x), phi(x')> is on average
    <x, x'> ** 2, and <x, x'> <y, y'> with two streams. As both are linear in the outer product of x[p] and y[p], these
    are summed first where that is less work: the tensor sketch of their sum B adds x_signs[i] * y_signs[j] * B[i, j] to
    bin (x_indices[i] + y_indices[j]) mod features. Otherwise the spectra are, so that one inverse transform does.

    Paper: Gao et al., Compact Bilinear Pooling (arXiv:1511.06062), section 3.
    Parameters: none; the projection is drawn once and not trained: indices and signs [x_features] and [y_features], or
        signs [x_features, features] and [y_features, features].
    MACs: tensor sketch height * width * x_features * y_features + x_features * y_features, or height * width *
        (x_features + y_features) and the transforms; random Maclaurin height * width * (x_features + y_features) *
        features, or x_features * y_features * (height * width + features).
    Differs from the paper: it averages by default; the paper sums over positions.

    Args:
        x: [batch, height, width, x_features], floating point.
        y: [batch, height, width, y_features], a second stream; None takes x.
        projection: from `draw_tensor_sketch` or `draw_random_maclaurin`.
        reduction: "mean" or "sum", over positions.
        dtype: of the result; None takes what x and y promote to. Transforms and sums are kept in float32 at least.

    Returns:
        [batch, features].

    Raises:
        ValueError: maps that are not floating point NHWC, that have no pixel or not the same ones; a projection for
            other numbers of channels; another reduction.
    """
    owner = "compact_bilinear_pool"
    x, y = as_streams(owner, x, y)
    if not isinstance(projection, (TensorSketch, RandomMaclaurin)):
        raise ValueError(
            f"{owner}: projection={type(projection).__name__} must be a TensorSketch or a RandomMaclaurin; make one of "
            "the arrays, or draw it"
        )
    channels = x.shape[2], y.shape[2]
    drawn_for = projection.x_signs.shape[0], projection.y_signs.shape[0]
    if channels != drawn_for:
        raise ValueError(f"{owner}: channels={channels} must be those of the projection, {drawn_for}; draw another")
    project = _tensor_sketch if isinstance(projection, TensorSketch) else _random_maclaurin
    pooled = reduce_positions(owner, project(x, y, projection), reduction, x.shape[1])
    return pooled.astype(dtype or jnp.result_type(x, y))


class CompactBilinear(nn.Module):
    """`compact_bilinear_pool` with a projection of its own, drawn from the rng "params" when it is initialized.

    The projection is the variable "projection" of the collection "projections": to be saved with the parameters and
    given to `apply`, never updated.

    Attributes:
        features: length of the result.
        method: "tensor_sketch" or "random_maclaurin".
        reduction: "mean" or "sum", over positions.
        dtype: of the result; None takes what the maps promote to.
    """

    features: int = 8192
    method: str = "tensor_sketch"
    reduction: str = "mean"
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array | None = None) -> jax.Array:
        """Maps [batch, height, width, x_features] and a like map y, or x again, to [batch, features].

        Raises:
            ValueError: an unknown method; whatever `compact_bilinear_pool` refuses.
        """
        if self.method == "tensor_sketch":
            draw, rebuild = draw_tensor_sketch, functools.partial(TensorSketch, features=self.features)
        elif self.method == "random_maclaurin":
            draw, rebuild = draw_random_maclaurin, RandomMaclaurin
        else:
            raise unknown_name("CompactBilinear: method", self.method, ("tensor_sketch", "random_maclaurin"))
        y_features = (x if y is None else y).shape[-1]

        def init() -> dict[str, Any]:
            # Arrays by name, which any checkpoint can hold.
            return serialization.to_state_dict(draw(self.make_rng("params"), x.shape[-1], y_features, self.features))

        projection = rebuild(**self.variable("projections", "projection", init).value)
        return compact_bilinear_pool(x, y, projection=projection, reduction=self.reduction, dtype=self.dtype)


def _tensor_sketch(x: jax.Array, y: jax.Array, projection: TensorSketch) -> jax.Array:
    """The sum over positions, [batch, features]."""
    # The smaller of the two: the matrix of outer products, or the sketches of all positions.
    if x.shape[2] * y.shape[2] <= 2 * x.shape[1] * projection.features:
        return _fold(sum_outer_products(x, y), projection)
    sketches = (
        _count_sketch(x, projection.x_indices, projection.x_signs, projection.features),
        _count_sketch(y, projection.y_indices, projection.y_signs, projection.features),
    )
    first, second = map(jnp.fft.rfft, sketches)
    return jnp.fft.irfft(jnp.sum(first * second, axis=1), n=projection.features)


def _fold(products: jax.Array, projection: TensorSketch) -> jax.Array:
    """The tensor sketch of [batch, x_features, y_features]: [batch, features]."""
    signed = products * (projection.x_signs[:, None] * projection.y_signs).astype(products.dtype)
    bins = (projection.x_indices[:, None] + projection.y_indices) % projection.features
    empty = jnp.zeros((products.shape[0], projection.features), products.dtype)
    return empty.at[:, bins.reshape(-1)].add(signed.reshape(products.shape[0], -1), mode="promise_in_bounds")


def _count_sketch(x: jax.Array, indices: jax.Array, signs: jax.Array, features: int) -> jax.Array:
    """[batch, positions, channels] -> [batch, positions, features], in float32 at least."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    # A row of all positions for each channel: few updates, each of them long.
    rows = jnp.moveaxis(x.astype(dtype) * signs.astype(dtype), 2, 0)
    return jnp.moveaxis(jnp.zeros((features, *rows.shape[1:]), dtype).at[indices].add(rows), 0, 2)


def _random_maclaurin(x: jax.Array, y: jax.Array, projection: RandomMaclaurin) -> jax.Array:
    """The sum over positions, [batch, features]."""
    num_positions, x_features, y_features = x.shape[1], x.shape[2], y.shape[2]
    features = projection.x_signs.shape[1]
    if x_features * y_features * (num_positions + features) <= num_positions * (x_features + y_features) * features:
        products = sum_outer_products(x, y)
        projected = _project(products, projection.y_signs) * projection.x_signs.astype(products.dtype)
    else:
        projected = _project(x, projection.x_signs) * _project(y, projection.y_signs)
    return jnp.sum(projected, axis=1) / features**0.5


def _project(x: jax.Array, signs: jax.Array) -> jax.Array:
    """[batch, rows, channels] -> [batch, rows, features], in float32 at least."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.matmul(x, signs.astype(x.dtype), precision=lax.Precision.HIGHEST, preferred_element_type=wide)


def _signs(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.rademacher(key, shape, jnp.int8)


def _check_features(owner: str, features: int) -> None:
    if features < 1:
        raise ValueError(f"{owner}: features={features} must be at least 1; the paper takes 8192")
