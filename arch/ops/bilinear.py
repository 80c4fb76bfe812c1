"""Bilinear features: products of channels, pooled over positions, their normalization, and a classifier of low rank.

The lecture's recipe is a linear 1x1 convolution to d channels with d ** 2 above the number of classes, bilinear pooling
and a classifier, with a matrix root between (whitening) where needed.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax

from arch.ops.compact_bilinear import CompactBilinear as CompactBilinear
from arch.ops.compact_bilinear import RandomMaclaurin as RandomMaclaurin
from arch.ops.compact_bilinear import TensorSketch as TensorSketch
from arch.ops.compact_bilinear import compact_bilinear_pool as compact_bilinear_pool
from arch.ops.compact_bilinear import draw_random_maclaurin as draw_random_maclaurin
from arch.ops.compact_bilinear import draw_tensor_sketch as draw_tensor_sketch
from arch.ops.covariance import as_positions, as_streams, reduce_positions, sum_outer_products, vectorize_symmetric
from arch.ops.covariance import covariance_pool as covariance_pool
from arch.ops.covariance import gaussian_embedding as gaussian_embedding
from arch.ops.covariance import second_moment as second_moment
from arch.ops.matrix_power import matrix_power as matrix_power
from arch.ops.matrix_power import matrix_sqrt as matrix_sqrt
from arch.ops.matrix_power import newton_schulz_sqrt as newton_schulz_sqrt


def bilinear_pool(
    x: jax.Array,
    y: jax.Array | None = None,
    *,
    reduction: str = "mean",
    triangle: bool = False,
    dtype: Dtype | None = None,
) -> jax.Array:
    """The outer products of the channels of two maps, averaged or summed over positions, as vectors.

    B[i, j] = (1 / N) sum over positions p of x[p, i] * y[p, j], N = height * width, row by row; `second_moment` is B
    itself. What follows in the paper is l2_normalize(signed_sqrt(B)); the improved bilinear CNN (arXiv:1707.06772)
    takes `matrix_sqrt` of `second_moment` before these two.

    Paper: Lin et al., Bilinear CNN (arXiv:1504.07889), section 3.
    Parameters: none.
    MACs: height * width * x_features * y_features.
    Differs from the paper: it averages by default; the paper sums over positions.

    Args:
        x: [batch, height, width, x_features], floating point.
        y: [batch, height, width, y_features], a second stream; None takes x.
        reduction: "mean" or "sum", over positions.
        triangle: of one stream, takes the upper triangle alone, and sqrt(2) times what lies off the diagonal, so that
            inner products stay.
        dtype: of the result; None takes what x and y promote to. Sums are kept in float32 at least.

    Returns:
        [batch, x_features * y_features], or [batch, x_features * (x_features + 1) / 2].

    Raises:
        ValueError: maps that are not floating point NHWC, that have no pixel or not the same ones; a triangle of two
            streams; another reduction.
    """
    owner = "bilinear_pool"
    if triangle and y is not None:
        raise ValueError(f"{owner}: triangle={triangle} needs one stream, two have no symmetric product; leave it out")
    x, y = as_streams(owner, x, y)
    products = reduce_positions(owner, sum_outer_products(x, y), reduction, x.shape[1])
    if triangle:
        vectors = vectorize_symmetric(products, off_diagonal_scale=math.sqrt(2))
    else:
        vectors = products.reshape(x.shape[0], x.shape[2] * y.shape[2])
    return vectors.astype(dtype or jnp.result_type(x, y))


def signed_sqrt(x: jax.Array, epsilon: float = 1e-8) -> jax.Array:
    """The square root of the size of each value, with its sign, and with a slope at 0 that is not infinite.

    sign(x) * (sqrt(|x| + epsilon) - sqrt(epsilon)) = x / (sqrt(|x| + epsilon) + sqrt(epsilon)): the second form loses
    no digits to a difference, and has its slope at 0, 1 / (2 sqrt(epsilon)).

    Paper: Lin et al., Bilinear CNN (arXiv:1504.07889), section 3.
    Parameters: none.
    MACs: 0, elementwise.
    Differs from the paper: epsilon; the root alone has gradients that are infinite or not a number at 0.

    Args:
        x: any shape, floating point.
        epsilon: above 0; about that of the smallest values that matter, or less.

    Returns:
        The shape and dtype of x; computed in float32 at least.

    Raises:
        ValueError: x that is not floating point; epsilon that is not above 0.
    """
    _check_values("signed_sqrt", x, epsilon)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide / (jnp.sqrt(jnp.abs(wide) + epsilon) + math.sqrt(epsilon))).astype(x.dtype)


def l2_normalize(x: jax.Array, *, axis: int | tuple[int, ...] = -1, epsilon: float = 1e-12) -> jax.Array:
    """Divides by the Euclidean length: x / sqrt(sum(x ** 2) + epsilon).

    Paper: Lin et al., Bilinear CNN (arXiv:1504.07889), section 3.
    Parameters: none.
    MACs: 0, elementwise.
    Differs from the paper: epsilon; 0 stays 0, with a finite gradient.

    Args:
        x: any shape, floating point.
        axis: of a vector.
        epsilon: above 0, added to the square of the length.

    Returns:
        The shape and dtype of x; computed in float32 at least.

    Raises:
        ValueError: x that is not floating point; epsilon that is not above 0.
    """
    _check_values("l2_normalize", x, epsilon)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squares = jnp.sum(lax.square(wide), axis=axis, keepdims=True)
    return (wide * lax.rsqrt(squares + epsilon)).astype(x.dtype)


def low_rank_bilinear(
    x: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    bias: jax.Array | None = None,
    *,
    projection: jax.Array | None = None,
    reduction: str = "sum",
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Linear classifiers of bilinear features whose matrices have a low rank, without these features.

    score_k = |U_k+^T X|_F^2 - |U_k-^T X|_F^2 + b_k = <W_k, X X^T> + b_k with W_k = U_k+ U_k+^T - U_k- U_k-^T and X
    [in_features, height * width]. X X^T is never formed. With a `projection` P, which all classes share, U_k = P V_k.

    Paper: Kong and Fowlkes, Low-rank Bilinear Pooling (arXiv:1611.05109), sections 2 and 3.
    Parameters: positive [middle_features, features, rank / 2], negative likewise, bias [features], and projection
        [in_features, middle_features] where there is one; else middle_features = in_features.
    MACs: height * width * middle_features * (features * rank + in_features), the last term with a projection.

    Args:
        x: [batch, height, width, in_features], floating point.
        positive: [middle_features, features, positive_rank], U+ or V+ of each class.
        negative: [middle_features, features, negative_rank], U- or V- of each class.
        bias: [features]; None adds none.
        projection: [in_features, middle_features], P; None takes the channels of x as they are.
        reduction: "sum" or "mean", over positions.
        precision: of the products, as jax.lax takes it.

    Returns:
        [batch, features], the scores, of the dtype that the arrays promote to; squares are summed in float32 at least.

    Raises:
        ValueError: a map that is not floating point NHWC, or that has no pixel; factors that do not fit it or each
            other; another reduction.
    """
    owner = "low_rank_bilinear"
    values = as_positions(owner, x)
    _check_factors(owner, x.shape[-1], positive.shape, negative.shape, None if projection is None else projection.shape)
    arrays = [array for array in (x, positive, negative, bias, projection) if array is not None]
    dtype = jnp.result_type(*arrays)
    wide = jnp.promote_types(dtype, jnp.float32)
    product = functools.partial(jnp.matmul, precision=precision, preferred_element_type=wide)
    values = values.astype(dtype)
    if projection is not None:
        values = product(values, projection.astype(dtype)).astype(dtype)

    def energy(factors: jax.Array) -> jax.Array:
        channels, features, rank = factors.shape
        parts = product(values, factors.reshape(channels, features * rank).astype(dtype))
        return jnp.sum(jnp.sum(lax.square(parts), axis=1).reshape(-1, features, rank), axis=2)

    scores = reduce_positions(owner, energy(positive) - energy(negative), reduction, values.shape[1])
    return (scores if bias is None else scores + bias.astype(wide)).astype(dtype)


class LowRankBilinear(nn.Module):
    """`low_rank_bilinear` as the classifier of a network.

    Attributes:
        features: number of classes.
        rank: of the matrix of a class, an even number: half of it positive and half negative, as in the authors' code.
        middle_features: channels that all classes share (co-decomposition), 100 in the paper; None leaves it out.
        reduction: "sum" or "mean", over positions.
        use_bias: adds a value to each score.
        dtype: of the computation; None takes what x and the parameters promote to.
        param_dtype: of the parameters.
        precision: of the products, as jax.lax takes it.
        projection_init: initial values of [in_features, middle_features].
        factor_init: initial values of positive and negative, [middle_features, features, rank / 2].
        bias_init: initial values of [features].
    """

    features: int
    rank: int = 8
    middle_features: int | None = None
    reduction: str = "sum"
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: lax.PrecisionLike = None
    projection_init: Initializer = nn.initializers.lecun_normal()
    factor_init: Initializer = nn.initializers.lecun_normal(in_axis=0, out_axis=(1, 2))
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in_features] to [batch, features].

        Raises:
            ValueError: an odd rank; whatever `low_rank_bilinear` refuses.
        """
        if self.rank < 2 or self.rank % 2:
            raise ValueError(f"LowRankBilinear: rank={self.rank} must be even and above 0; give {self.rank + 1}")
        projection = None
        channels = x.shape[-1]
        if self.middle_features is not None:
            shape = (channels, self.middle_features)
            projection = self.param("projection", self.projection_init, shape, self.param_dtype)
            channels = self.middle_features
        shape = (channels, self.features, self.rank // 2)
        positive = self.param("positive", self.factor_init, shape, self.param_dtype)
        negative = self.param("negative", self.factor_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        *operands, projection = nn.dtypes.promote_dtype(x, positive, negative, bias, projection, dtype=self.dtype)
        return low_rank_bilinear(*operands, projection=projection, reduction=self.reduction, precision=self.precision)


def _check_values(owner: str, x: jax.Array, epsilon: float) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{owner}: x must be floating point, not {x.dtype}; convert it")
    if not epsilon > 0:
        raise ValueError(f"{owner}: epsilon={epsilon} must be above 0, or the gradient at 0 is none; leave it out")


def _check_factors(
    owner: str,
    in_features: int,
    positive: tuple[int, ...],
    negative: tuple[int, ...],
    projection: tuple[int, ...] | None,
) -> None:
    """Refuses shapes that do not fit the channels of x or each other."""
    if projection is not None and (len(projection) != 2 or projection[0] != in_features):
        raise ValueError(
            f"{owner}: projection={projection} must have the in_features={in_features} of x; give [in, middle]"
        )
    channels = in_features if projection is None else projection[1]
    for name, shape in (("positive", positive), ("negative", negative)):
        if len(shape) != 3 or shape[0] != channels:
            raise ValueError(f"{owner}: {name}={shape} must have channels={channels}; give [channels, classes, rank]")
    if positive[1] != negative[1]:
        raise ValueError(
            f"{owner}: positive has classes={positive[1]} and negative {negative[1]}, which must be one; slice them"
        )
