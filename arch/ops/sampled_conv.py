"""What deformable and irregular convolution share: a convolution whose taps read anywhere."""

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops.conv2d import conv2d
from arch.ops.sampling import bilinear_sum

# Samples in memory at a time: few beside the maps of a network, and enough to keep an accelerator busy.
_BYTES_A_STEP = 128 * 1024 * 1024


def sampled_conv2d(
    x: jax.Array,
    ys: jax.Array,
    xs: jax.Array,
    kernel: jax.Array,
    *,
    weights: jax.Array | None = None,
    feature_group_count: int = 1,
) -> jax.Array:
    """A convolution of bilinear samples: y[p] = sum over taps k of kernel[k] @ x(ys[p, k], xs[p, k]) * weights[p, k].

    x is 0 outside. A few images at a time are sampled, or a few rows of one, and sampled once more for the gradients:
    the samples of all taps, which are as many maps of the size of x, are never in memory together.

    Paper: Dai et al., Deformable Convolutional Networks (arXiv:1703.06211), section 2.1, equations 2 and 3.
    Parameters: none.
    MACs: out_height * out_width * taps * in_features * (features / feature_group_count + 4); 4 of them are for reading.

    Args:
        x: [batch, height, width, in_features], floating point.
        ys: [batch, out_height, out_width, taps, num_groups], real rows of the points, in pixels. Group g is that of the
            input channels from g * in_features / num_groups on.
        xs: columns of the points, the shape of ys.
        kernel: [taps, in_features / feature_group_count, features], dtype of x.
        weights: real factors of the samples, the shape of ys; None takes 1.
        feature_group_count: groups of features, as in `conv2d`.

    Returns:
        [batch, out_height, out_width, features], dtype of x; coordinates are kept in at least float32.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    batch, out_height, out_width, taps, _ = ys.shape
    if 0 in ys.shape:
        return jnp.zeros((batch, out_height, out_width, kernel.shape[2]), x.dtype)
    points = [ys, xs] if weights is None else [ys, xs, weights]
    bytes_a_row = out_width * taps * x.shape[3] * x.dtype.itemsize
    images = _largest_divisor(batch, _BYTES_A_STEP // max(1, out_height * bytes_a_row))
    rows = _largest_divisor(out_height, _BYTES_A_STEP // max(1, images * bytes_a_row))

    def step(x: jax.Array, points: list[jax.Array]) -> jax.Array:
        return _convolve(x, points, kernel, feature_group_count)

    def some_images(arguments: tuple[jax.Array, list[jax.Array]]) -> jax.Array:
        x, points = arguments
        if rows >= out_height:
            return jax.checkpoint(step)(x, points)
        # Of one image, or there would be no need.
        blocks = [a.reshape(-1, 1, rows, *a.shape[2:]) for a in points]
        out = lax.map(lambda points: jax.checkpoint(step)(x, points), blocks)
        return out.reshape(1, out_height, *out.shape[3:])

    if images >= batch:
        return some_images((x, points))
    x, *points = (a.reshape(-1, images, *a.shape[1:]) for a in (x, *points))
    out = lax.map(some_images, (x, points))
    return out.reshape(batch, *out.shape[2:])


def _convolve(x: jax.Array, points: list[jax.Array], kernel: jax.Array, feature_group_count: int) -> jax.Array:
    """`sampled_conv2d` with all samples in memory."""
    ys, xs, *weights = (a[..., None] for a in points)
    batch, height, width, channels = x.shape
    _, out_height, out_width, taps, num_groups, _ = ys.shape
    if num_groups > 1:
        x = x.reshape(batch, height, width, num_groups, channels // num_groups).transpose(0, 3, 1, 2, 4)
        x = x.reshape(batch * num_groups, height, width, channels // num_groups)
    # The groups of an image are images of their own.
    image = jnp.arange(batch * num_groups).reshape(batch, 1, 1, 1, num_groups, 1)
    factors = weights[0] if weights else jnp.ones((), ys.dtype)
    samples = bilinear_sum(x, ys, xs, factors, boundary="deformable", image=image)
    if feature_group_count == 1:
        # One product over taps and channels.
        samples = samples.reshape(batch, out_height, out_width, taps * channels)
        return conv2d(samples, kernel.reshape(1, 1, taps * channels, kernel.shape[2]), padding="VALID")
    samples = samples.reshape(batch, out_height * out_width, taps, channels)
    out = conv2d(samples, kernel[None], padding="VALID", feature_group_count=feature_group_count)
    return out.reshape(batch, out_height, out_width, kernel.shape[2])


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number up to a limit, 1 if it is less."""
    limit = max(1, min(number, limit))
    return next(divisor for divisor in range(limit, 0, -1) if number % divisor == 0)
