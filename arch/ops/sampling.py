"""The bilinear sampler that spatial transformers, deformable and irregular convolution, RoI align and shifts share."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from arch.errors import check_map, unknown_name
from arch.ops._lowerings import rows as sparse_rows
from arch.ops._lowerings.moves import move
from arch.ops.conv2d import as_pair, conv2d

# The name scope of what reads between pixels by a convolution, so that who counts convolutions can tell it from others.
INTERPOLATION = "read_between_pixels"


class _Boundary(NamedTuple):
    """What a user of the sampler does at the border of a map of `size` pixels along an axis.

    Attributes:
        low, high: a point counts where low <= coordinate <= size + high.
        open_end: the upper end itself does not count. The lower one does where pixels outside are 0: what is read
            there is 0, but grows towards the map, and derivatives are those to the right.
        clamped: a point that counts is moved into [0, size - 1] first; else pixels outside are 0.
    """

    low: float
    high: float
    open_end: bool
    clamped: bool


_BOUNDARIES = {
    "zeros": _Boundary(-1.0, 0.0, open_end=True, clamped=False),
    "deformable": _Boundary(-1.0, 0.0, open_end=True, clamped=False),
    "roi_align": _Boundary(-1.0, 0.0, open_end=False, clamped=True),
    "deformable_roi": _Boundary(-0.5, -0.5, open_end=False, clamped=True),
}


def bilinear_sample(
    x: jax.Array, ys: jax.Array, xs: jax.Array, *, boundary: str = "zeros", image: jax.Array | None = None
) -> jax.Array:
    """Reads maps at real points: sum over pixels (m, n) of x[m, n] * max(0, 1 - |y - m|) * max(0, 1 - |x - n|).

    Between pixels the derivative in a coordinate is the difference of the two neighbours; at a pixel it is that to the
    right, as in torch. A coordinate that is not a number gives an output that is not, and passes no gradient on.

    Paper: Jaderberg et al., Spatial Transformer Networks (arXiv:1506.02025), section 3.3, equation 5.
    Parameters: none.
    MACs: 4 * points * channels.

    Args:
        x: [num_images, height, width, channels], floating point.
        ys: [num_images, ...] or [...], real rows of the points, in pixels; pixel centres are at integers.
        xs: columns of the points, the shape of ys.
        boundary: what counts outside the map, by the name of who uses it. "zeros" (spatial transformer, shift) and
            "deformable": pixels outside are 0. "roi_align": a point in [-1, size] is moved into the map, others give 0.
            "deformable_roi": a point in [-0.5, size - 0.5] is moved into the map, others give 0, and `is_inside` tells
            that they do not count.
        image: integers in [0, num_images), broadcastable to the shape of ys: the map that each point reads; others
            read the nearest. None: the points ys[i] read x[i].

    Returns:
        [*ys.shape, channels], dtype of x; coordinates and sums are kept in at least float32.

    Raises:
        ValueError: an unknown boundary; x that is not floating point NHWC or has no pixels; coordinates whose shapes or
            dtypes do not fit.
    """
    _check_points("bilinear_sample", x, ys, xs)
    image = _images("bilinear_sample", x, ys, image)
    return _sum(x, ys[..., None], xs[..., None], None, boundary, image[..., None])


def bilinear_sum(
    x: jax.Array,
    ys: jax.Array,
    xs: jax.Array,
    weights: jax.Array,
    *,
    boundary: str = "zeros",
    image: jax.Array | None = None,
) -> jax.Array:
    """Weighted sums of bilinear samples: sum over p of weights[..., p] * bilinear_sample(x, ys, xs)[..., p, :].

    The samples themselves are never in memory.

    Args:
        x: [num_images, height, width, channels], floating point.
        ys: [..., points], as in `bilinear_sample`.
        xs: the shape of ys.
        weights: real, broadcastable to the shape of ys.
        boundary, image: as in `bilinear_sample`.

    Returns:
        [*ys.shape[:-1], channels], dtype of x.

    Raises:
        ValueError: what `bilinear_sample` refuses; points without an axis to sum over.
    """
    owner = "bilinear_sum"
    _check_points(owner, x, ys, xs)
    if ys.ndim < (1 if image is not None else 2):
        raise ValueError(f"{owner}: ys{list(ys.shape)} must have an axis of points beside the images; add one")
    return _sum(x, ys, xs, weights, boundary, _images(owner, x, ys, image))


def is_inside(ys: jax.Array, xs: jax.Array, height: int, width: int, boundary: str) -> jax.Array:
    """Which points count; the others read 0. A coordinate that is not a number counts, so that it shows.

    Args:
        ys, xs: coordinates of the points, in pixels.
        height, width: of the map.
        boundary: as in `bilinear_sample`.

    Returns:
        Booleans of the shape of ys.
    """
    policy = _policy(boundary)
    outside = False
    for coordinate, size in ((ys, height), (xs, width)):
        high = size + policy.high
        outside |= (coordinate < policy.low) | (coordinate >= high if policy.open_end else coordinate > high)
    return ~outside


def bilinear_shift(x: jax.Array, dy: jax.Array | float, dx: jax.Array | float) -> jax.Array:
    """Moves whole channels by real displacements, read bilinearly: out[i, j, c] = x[i + dy[c], j + dx[c], c].

    `bilinear_sample` where all pixels of a channel move alike: whole pixels first, then a 2x2 depthwise convolution.

    Paper: Jeon and Kim, Constructing Fast Network through Deconstruction of Convolution (arXiv:1806.07370), section 3.
    Parameters: none.
    MACs: 4 * height * width * channels.

    Args:
        x: [batch, height, width, channels], floating point; 0 outside.
        dy: [] or [channels], real displacements along the height, in pixels; may be learned.
        dx: [] or [channels], along the width.

    Returns:
        The shape and dtype of x; displacements and sums are kept in at least float32.

    Raises:
        ValueError: x that is not floating point NHWC or has no pixels; displacements of another shape.
    """
    owner = "bilinear_shift"
    _check_image(owner, x)
    batch, height, width, channels = x.shape
    dy, dx = jnp.asarray(dy), jnp.asarray(dx)
    for displacement in (dy, dx):
        if displacement.shape not in ((), (channels,)):
            raise ValueError(
                f"{owner}: a displacement of shape {list(displacement.shape)} must be one number or one for each of "
                f"channels={channels}; reshape it"
            )
    dtype = jnp.result_type(dy, dx, x.dtype, jnp.float32)
    dy, dx = dy.astype(dtype), dx.astype(dtype)
    if dy.ndim == dx.ndim == 0:
        ys, xs = jnp.arange(height, dtype=dtype)[:, None] + dy, jnp.arange(width, dtype=dtype) + dx
        return bilinear_sample(x, *(jnp.broadcast_to(points, (batch, height, width)) for points in (ys, xs)))
    displacements = jnp.stack([jnp.broadcast_to(displacement, (channels,)) for displacement in (dy, dx)])
    displacements = lax.optimization_barrier(displacements)  # computed once, as the coordinates in _sum
    size = jnp.asarray([[height], [width]], dtype)
    # Farther, all is outside; replaced first, so that neither values nor gradients meet inf or a huge integer.
    near = jnp.where(jnp.abs(displacements) < size + 1, displacements, size + 1)
    floor = lax.stop_gradient(jnp.floor(near))
    rows, columns = (jnp.stack([1 - share, share]) for share in near - floor)
    kernel = (rows[:, None] * columns)[:, :, None]
    # Tables of a number a channel: fused into what reads them, they would be computed anew for every pixel.
    steps, kernel = lax.optimization_barrier((floor.astype(jnp.int32), kernel))
    window = move(x, steps, (height + 1, width + 1)).astype(dtype)
    highest = lax.Precision.HIGHEST  # what lies between pixels needs all digits
    with jax.named_scope(INTERPOLATION):
        out = conv2d(window, kernel, padding="VALID", feature_group_count=channels, precision=highest)
    return jnp.where(jnp.any(jnp.isnan(displacements), axis=0), jnp.nan, out).astype(x.dtype)


def affine_grid(theta: jax.Array, size: int | Sequence[int], align_corners: bool) -> jax.Array:
    """The points of an affine map of a regular grid: [x_source, y_source] = theta @ [x_target, y_target, 1].

    Coordinates are normalized: -1 and 1 are the centres of the first and the last pixel with align_corners, the outer
    edges of them without.

    Paper: Jaderberg et al., Spatial Transformer Networks (arXiv:1506.02025), section 3.2, equation 1.
    Parameters: none.
    MACs: 0, data movement.

    Args:
        theta: [batch, 2, 3], floating point; row 0 makes x, row 1 makes y.
        size: height and width of the output, in pixels; a number stands for both.
        align_corners: which convention the coordinates have. An axis of one pixel lies at 0 in both.

    Returns:
        [batch, height, width, 2] in the order (x, y), at least float32.

    Raises:
        ValueError: theta that is not floating point [batch, 2, 3]; a size that is not of pixels.
    """
    if theta.ndim != 3 or theta.shape[1:] != (2, 3) or not jnp.issubdtype(theta.dtype, jnp.floating):
        raise ValueError(f"affine_grid: theta={theta.dtype}{list(theta.shape)} must be real [batch, 2, 3]; reshape it")
    theta = theta.astype(jnp.promote_types(theta.dtype, jnp.float32))
    size = as_pair("affine_grid: size", size)
    ys, xs = (_base_points(pixels, align_corners, theta.dtype) for pixels in size)
    theta = theta[:, None, None]
    # Not a matrix product: accelerators would round it to fewer digits than coordinates need.
    return xs[None, None, :, None] * theta[..., 0] + ys[None, :, None, None] * theta[..., 1] + theta[..., 2]


def grid_sample(x: jax.Array, grid: jax.Array, align_corners: bool) -> jax.Array:
    """Reads maps bilinearly at normalized points, 0 outside: `bilinear_sample` at the pixels that `grid` stands for.

    A pixel is (g + 1) * (size - 1) / 2 with align_corners, ((g + 1) * size - 1) / 2 without. torch's function of this
    name with `padding_mode="zeros"`.

    Paper: Jaderberg et al., Spatial Transformer Networks (arXiv:1506.02025), section 3.3, equation 5.
    Parameters: none.
    MACs: 4 * out_height * out_width * channels.

    Args:
        x: [batch, height, width, channels], floating point.
        grid: [batch, out_height, out_width, 2] in the order (x, y), as `affine_grid` makes it.
        align_corners: which convention the coordinates have.

    Returns:
        [batch, out_height, out_width, channels], dtype of x.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check_image("grid_sample", x)
    if grid.ndim != 4 or grid.shape[0] != x.shape[0] or grid.shape[3] != 2:
        raise ValueError(
            f"grid_sample: grid{list(grid.shape)} must be [{x.shape[0]}, out_height, out_width, 2], as the batch of x "
            "says; reshape it"
        )
    grid = grid.astype(jnp.promote_types(grid.dtype, jnp.float32))
    height, width = x.shape[1:3]
    ys, xs = (
        (g + 1) * ((size - 1) / 2) if align_corners else ((g + 1) * size - 1) / 2
        for g, size in ((grid[..., 1], height), (grid[..., 0], width))
    )
    return bilinear_sample(x, ys, xs)


def _sum(
    x: jax.Array, ys: jax.Array, xs: jax.Array, weights: jax.Array | None, boundary: str, image: jax.Array
) -> jax.Array:
    """`bilinear_sum` of arguments that fit; `image` has the rank of ys."""
    height, width, channels = x.shape[1:]
    dtype = jnp.result_type(ys.dtype, xs.dtype, x.dtype, jnp.float32)
    # Computed once. XLA computed them in two programs that rounded differently: the number of a pixel came from
    # coordinate 0.9999999 and its share from 1, which together are a pixel off.
    ys, xs = lax.optimization_barrier((ys.astype(dtype), xs.astype(dtype)))
    inside = is_inside(ys, xs, height, width, boundary)
    scale = inside.astype(dtype) if weights is None else jnp.where(inside, weights.astype(dtype), 0)
    rows = _neighbours(ys, inside, height, boundary)
    columns = _neighbours(xs, inside, width, boundary)
    index = [(image * height + row) * width + column for row, _ in rows for column, _ in columns]
    shares = [scale * above * left for _, above in rows for _, left in columns]
    index, shares = (jnp.stack(corners, axis=-1) for corners in (index, shares))
    terms = 4 * ys.shape[-1]
    out = sparse_rows.read(x.reshape(-1, channels), shares.reshape(-1, terms), index.reshape(-1, terms))
    # Here, and not in the shares: the gradient of a pixel is not to be spoiled by a point that is nowhere.
    not_a_number = jnp.any(jnp.isnan(ys) | jnp.isnan(xs), axis=-1, keepdims=True)
    out = out.reshape(*ys.shape[:-1], channels)
    return jnp.where(not_a_number, jnp.asarray(jnp.nan, x.dtype), out)


def _neighbours(coordinate: jax.Array, inside: jax.Array, size: int, boundary: str) -> tuple[tuple, tuple]:
    """The two pixels of an axis between which each coordinate lies, each as its number and its share.

    A pixel outside the map has share 0, and the number of one that the point reads anyway.
    """
    # Replaced before anything is computed from it, so that neither values nor gradients meet inf or a huge integer.
    coordinate = jnp.where(inside & ~jnp.isnan(coordinate), coordinate, 0)
    if _policy(boundary).clamped:
        coordinate = jnp.where(coordinate < 0, 0, coordinate)
        coordinate = jnp.where(coordinate >= size - 1, size - 1, coordinate)
    floor = lax.stop_gradient(jnp.floor(coordinate))
    first, share = floor.astype(jnp.int32), coordinate - floor
    return (
        (jnp.maximum(first, 0), jnp.where(first >= 0, 1 - share, 0)),
        (jnp.minimum(first + 1, size - 1), jnp.where(first + 1 < size, share, 0)),
    )


def _images(owner: str, x: jax.Array, ys: jax.Array, image: jax.Array | None) -> jax.Array:
    """The image that each point reads, of the shape of ys or less."""
    if image is not None:
        return jnp.broadcast_to(jnp.clip(image, 0, x.shape[0] - 1).astype(jnp.int32), ys.shape)
    if ys.ndim < 1 or ys.shape[0] != x.shape[0]:
        raise ValueError(
            f"{owner}: ys.shape[0] of {list(ys.shape)} must be the {x.shape[0]} images of x; else give `image`"
        )
    return jnp.arange(x.shape[0], dtype=jnp.int32).reshape(-1, *(1,) * (ys.ndim - 1))


def _base_points(size: int, align_corners: bool, dtype: jnp.dtype) -> jax.Array:
    """The normalized coordinates of the pixels of an axis."""
    if not align_corners:
        return (2 * jnp.arange(size, dtype=dtype) + 1) / size - 1
    return jnp.linspace(-1, 1, size, dtype=dtype) if size > 1 else jnp.zeros(size, dtype)


def _policy(boundary: str) -> _Boundary:
    if boundary not in _BOUNDARIES:
        raise unknown_name("bilinear_sample: boundary", boundary, _BOUNDARIES)
    return _BOUNDARIES[boundary]


def _check_points(owner: str, x: jax.Array, ys: jax.Array, xs: jax.Array) -> None:
    _check_image(owner, x)
    if ys.shape != xs.shape:
        raise ValueError(f"{owner}: ys{list(ys.shape)} and xs{list(xs.shape)} must have one shape; broadcast one")
    if not (jnp.issubdtype(ys.dtype, jnp.floating) and jnp.issubdtype(xs.dtype, jnp.floating)):
        raise ValueError(f"{owner}: ys={ys.dtype} and xs={xs.dtype} must be floating point; convert them")


def _check_image(owner: str, x: jax.Array) -> None:
    check_map(owner, x)
    if 0 in x.shape[1:3]:
        raise ValueError(f"{owner}: x{list(x.shape)} must have pixels, not {x.shape[1]} x {x.shape[2]}; pad it")
