"""Upsampling by resizing, by rearranging channels, and the initial values that make learned upsampling start as it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype, Initializer

from arch.errors import unknown_name
from arch.ops._lowerings import maps
from arch.ops._lowerings.resampling import METHODS, Resampling
from arch.ops.conv2d import as_pair

ORDERS = ("torch", "tf")


def resize(
    x: jax.Array,
    size: int | Sequence[int],
    method: str = "bilinear",
    *,
    align_corners: bool = False,
    antialias: bool = False,
) -> jax.Array:
    """Resizes maps, by the nearest pixel or by the line between the two nearest, along each axis.

    With s = in_size / out_size, output pixel i reads along each axis
        nearest: pixel floor(i * s), as torch's "nearest";
        nearest-exact: pixel floor((i + 1/2) * s), as torch's mode of that name and jax.image.resize;
        bilinear: the point (i + 1/2) * s - 1/2, moved into [0, in_size - 1], between its two neighbours; with
            align_corners the point i * (in_size - 1) / (out_size - 1), which is 0 for an output of one pixel.
    [batch, height, width, channels] -> [batch, *size, channels]. The map is linear. Pixels are chosen in exact
    arithmetic, where torch takes float32, and so is a pixel off at some sizes of "nearest".

    Paper: Odena et al., Deconvolution and Checkerboard Artifacts (Distill 2016), section "Better Upsampling"; Long et
        al., FCN (arXiv:1411.4038), section 3.3, for bilinear interpolation as a layer.
    Parameters: none.
    MACs: 0 for nearest, data movement; 4 * out_height * out_width * channels for bilinear, as for other samplers.

    Args:
        x: [batch, height, width, channels]; floating point, for the nearest pixel any dtype.
        size: height and width of the output, in pixels; a number stands for both.
        method: "bilinear", "nearest" or "nearest-exact".
        align_corners: of "bilinear": whether the centres of the corner pixels stay where they are, or their outer
            edges. Caffe's Interp layer has the centres; jax.image.resize, and torch by default, the edges.
        antialias: of "bilinear" by the edges: where the map shrinks, average all pixels under a triangle two output
            pixels wide, as jax.image.resize does by default. Without it pixels between the points are left out.

    Returns:
        [batch, *size, channels], dtype of x; sums are kept in at least float32.

    Raises:
        ValueError: x that is not a map of at least one pixel, or not floating point where pixels are averaged; a size
            below 1; an unknown method; an option that the method does not have.
    """
    owner = "resize"
    if method not in METHODS:
        raise unknown_name(f"{owner}: method", method, METHODS)
    if x.ndim != 4 or 0 in x.shape[1:3]:
        raise ValueError(f"{owner}: x{list(x.shape)} must be NHWC with at least one pixel; reshape it")
    if method == "bilinear" and not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{owner}: x must be floating point for 'bilinear', not {x.dtype}; convert it or take 'nearest'"
        )
    if method != "bilinear" and (align_corners or antialias):
        raise ValueError(
            f"{owner}: align_corners={align_corners} and antialias={antialias} must be False for method={method!r}; "
            "take 'bilinear'"
        )
    if align_corners and antialias:
        raise ValueError(f"{owner}: align_corners and antialias must not both be True; leave one out")
    in_size, out_size = x.shape[1:3], as_pair(f"{owner}: size", size)
    return x if in_size == out_size else maps.apply(Resampling(in_size, out_size, method, align_corners, antialias), x)


def pixel_shuffle(x: jax.Array, scale: int, order: str = "torch") -> jax.Array:
    """Makes of the channels of each pixel a block of scale x scale pixels: the second half of sub-pixel convolution.

    out[h * scale + i, w * scale + j, c] = x[h, w, (c * scale + i) * scale + j] in the order "torch",
    x[h, w, (i * scale + j) * features + c] in the order "tf"; [batch, height, width, features * scale^2] ->
    [batch, height * scale, width * scale, features]. The dense upsampling convolution of segmentation networks is this
    with classes as features. The inverse, and the gradient, is `pixel_unshuffle`.

    Paper: Shi et al., ESPCN (arXiv:1609.05158), section 3.2, equation 4.
    Parameters: none.
    MACs: 0, data movement.

    Args:
        x: [batch, height, width, channels], any dtype.
        scale: pixels of a block along each axis; its square divides the channels.
        order: of the channels: "torch" as in torch.nn.PixelShuffle, "tf" as in tf.nn.depth_to_space. They are equal
            where one feature comes out.

    Returns:
        [batch, height * scale, width * scale, channels / scale^2], dtype of x.

    Raises:
        ValueError: x that is not NHWC; channels that scale^2 does not divide; an unknown order.
    """
    _check_blocks("pixel_shuffle", x, scale, order)
    batch, height, width, channels = x.shape
    if channels % scale**2:
        raise ValueError(
            f"pixel_shuffle: scale^2={scale**2} must divide channels={channels}; choose channels that it divides"
        )
    features = channels // scale**2
    if order == "torch":
        blocks = x.reshape(batch, height, width, features, scale, scale).transpose(0, 1, 4, 2, 5, 3)
    else:
        blocks = x.reshape(batch, height, width, scale, scale, features).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(batch, height * scale, width * scale, features)


def pixel_unshuffle(x: jax.Array, scale: int, order: str = "torch") -> jax.Array:
    """Undoes `pixel_shuffle(x, scale, order)`: a block of scale x scale pixels becomes the channels of one.

    Paper: Shi et al., ESPCN (arXiv:1609.05158), section 3.2, equation 4, backwards.
    Parameters: none.
    MACs: 0, data movement.

    Args:
        x: [batch, height, width, channels], any dtype.
        scale: pixels of a block along each axis; divides height and width.
        order: of the channels of the output, as in `pixel_shuffle`.

    Returns:
        [batch, height / scale, width / scale, channels * scale^2], dtype of x.

    Raises:
        ValueError: x that is not NHWC; a height or width that scale does not divide; an unknown order.
    """
    _check_blocks("pixel_unshuffle", x, scale, order)
    batch, height, width, channels = x.shape
    if height % scale or width % scale:
        raise ValueError(
            f"pixel_unshuffle: scale={scale} must divide height={height} and width={width}; pad or crop the map"
        )
    blocks = x.reshape(batch, height // scale, scale, width // scale, scale, channels)
    blocks = blocks.transpose(0, 1, 3, 5, 2, 4) if order == "torch" else blocks.transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(batch, height // scale, width // scale, channels * scale**2)


def icnr_init(scale: int, initializer: Initializer, order: str = "torch") -> Initializer:
    """Initial values of a convolution before `pixel_shuffle`, with which the two start as a nearest resize and a
    convolution, free of checkerboards.

    Each kernel of the base initializer, drawn for features = channels / scale^2 outputs, is repeated for the scale^2
    pixels of a block: pixel_shuffle(conv(x, icnr), scale, order) = resize(conv(x, base), scale * size, "nearest"). A
    bias has to repeat in the same way; zeros do.

    Paper: Aitken et al., Checkerboard artifact free sub-pixel convolution (arXiv:1707.02937).
    Parameters: none.
    MACs: 0, at initialization.

    Args:
        scale: of the `pixel_shuffle`.
        initializer: of the base kernel; it sees the shape with features as its last axis.
        order: of the `pixel_shuffle`.

    Returns:
        `init(key, shape, dtype)` for kernels [..., channels], whose channels scale^2 divides.

    Raises:
        ValueError: a scale below 1; an unknown order; from `init`, channels that scale^2 does not divide.
    """
    _check_order("icnr_init", scale, order)

    def init(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
        *rest, channels = shape
        if channels % scale**2:
            raise ValueError(
                f"icnr_init: scale^2={scale**2} must divide channels={channels}; choose channels that it divides"
            )
        base = initializer(key, (*rest, channels // scale**2), dtype)
        return jnp.repeat(base, scale**2, axis=-1) if order == "torch" else jnp.tile(base, scale**2)

    return init


def bilinear_init() -> Initializer:
    """Initial values of a transposed convolution with which it starts as bilinear upsampling of each channel.

    With f = ceil(k / 2) and c = (k - 1) / 2 a tap along an axis of k is 1 - |i - c| / f, and the kernel their product
    from a channel to itself, 0 from one to another. For strides s take kernel_size = 2 * s - s % 2 and padding "SAME":
    away from the borders that is bilinear interpolation by the edges, as `resize` has it; pixels outside are 0.

    Paper: Long et al., FCN (arXiv:1411.4038), section 3.3; the formula is that of the authors' code.
    Parameters: kernel [kernel_height, kernel_width, in_features / groups, features].
    MACs: in_height * in_width * kernel_height * kernel_width * in_features * features / groups.

    Returns:
        `init(key, shape, dtype)` for kernels [height, width, in, out]; the key is not used. Taps are symmetric and
        channels too, so that `transpose_kernel` makes no difference. Where out is a multiple of in, as in a grouped
        layer, output o is upsampled from input o % in of its group.

    Raises:
        ValueError: from `init`, a shape that is not that of such a kernel.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
        del key
        if len(shape) != 4 or shape[3] % shape[2]:
            raise ValueError(
                f"bilinear_init: shape={tuple(shape)} must be (height, width, in, out), out a multiple of in; upsample "
                "as many channels as there are"
            )
        rows, columns = (1 - np.abs(np.arange(k) - (k - 1) / 2) / -(-k // 2) for k in shape[:2])
        channels = np.tile(np.eye(shape[2]), shape[3] // shape[2])
        return jnp.asarray(np.einsum("i,j,co->ijco", rows, columns, channels), dtype)

    return init


def _check_order(owner: str, scale: int, order: str) -> None:
    if order not in ORDERS:
        raise unknown_name(f"{owner}: order", order, ORDERS)
    if scale < 1:
        raise ValueError(f"{owner}: scale={scale} must be at least 1; leave it out for 1")


def _check_blocks(owner: str, x: jax.Array, scale: int, order: str) -> None:
    _check_order(owner, scale, order)
    if x.ndim != 4:
        raise ValueError(f"{owner}: x{list(x.shape)} must be NHWC; reshape it")
