"""Operators that move channels over the map, in place of spatial convolution, and that set new channels beside old."""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.errors import check_map, unknown_name
from arch.ops._lowerings import maps
from arch.ops._lowerings.channel_shift import Shift
from arch.ops.conv2d import as_pair
from arch.ops.sampling import bilinear_shift

ASSIGNMENTS = ("contiguous", "modulo")


def spatial_shift(
    x: jax.Array,
    kernel_size: int | Sequence[int],
    *,
    assignment: str = "contiguous",
    kernel_dilation: int | Sequence[int] = 1,
) -> jax.Array:
    """Moves each channel by the displacement of one tap of a kernel: a depthwise convolution with one-hot kernels.

    out[i, j, c] = x[i + d * (t // kw - kh // 2), j + d * (t % kw - kw // 2), c], 0 outside, with t the tap of channel
    c, [kh, kw] the kernel size and d the dilation; [batch, height, width, channels] to the same shape. Of the channels
    each tap gets n = channels // (kh * kw):
        contiguous: t = c // n, the paper's groups;
        modulo: t = c mod (kh * kw), the authors' CUDA code.
    The channels from n * kh * kw on stay where they are. The gradient is the shift back.

    Paper: Wu et al., Shift (arXiv:1711.08141), section 3.1.
    Parameters: none.
    MACs: 0, data movement.
    Differs from the paper: kernels need not be square, and taps may be dilated. Strides are the caller's:
        shift(x)[:, ::2, ::2].

    Args:
        x: [batch, height, width, channels], any dtype.
        kernel_size: height and width, in taps; odd.
        assignment: of channels to taps, "contiguous" or "modulo". Between two 1x1 convolutions that are trained with it
            they are equal; ported weights need their own.
        kernel_dilation: distance between taps, in pixels.

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: x that is not NHWC; an even kernel; fewer channels than taps, of which none would move; an unknown
            assignment.
    """
    owner = "spatial_shift"
    _check_map(owner, x)
    if assignment not in ASSIGNMENTS:
        raise unknown_name(f"{owner}: assignment", assignment, ASSIGNMENTS)
    height, width = as_pair(f"{owner}: kernel_size", kernel_size)
    if height % 2 == 0 or width % 2 == 0:
        raise ValueError(f"{owner}: kernel_size={(height, width)} must be odd, or it has no centre; add or drop a tap")
    num_taps, channels = height * width, x.shape[3]
    if channels < num_taps:
        raise ValueError(
            f"{owner}: channels={channels} must be at least the {num_taps} taps of kernel_size={(height, width)}, or "
            "none would move; take more channels or a smaller kernel"
        )
    row_step, column_step = as_pair(f"{owner}: kernel_dilation", kernel_dilation)
    share = channels // num_taps

    def move(channel: int) -> tuple[int, int]:
        if channel >= share * num_taps:
            return 0, 0
        tap = channel // share if assignment == "contiguous" else channel % num_taps
        return row_step * (tap // width - height // 2), column_step * (tap % width - width // 2)

    return _shift(x, map(move, range(channels)))


def address_shift(x: jax.Array, distance: int = 1) -> jax.Array:
    """Moves a quarter of the channels each to the left, the right, up and down.

    With n = channels // 4, out[i, j, c] is x[i, j + distance, c] for the first n channels, x[i, j - distance, c] for
    the next, then x[i + distance, j, c] and x[i - distance, j, c], 0 outside; what is left over stays where it is.
    [batch, height, width, channels] to the same shape.

    Paper: Zhong et al., Shift-based Primitives (arXiv:1809.08458), section 3.
    Parameters: none.
    MACs: 0, data movement.
    Differs from the paper: there a pointer into the map moves, here the map does. No code was released: the order of
        the directions is ours, and zeros come in at the border as in `spatial_shift`.

    Args:
        x: [batch, height, width, channels], any dtype.
        distance: in pixels, at least 1.

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: x that is not NHWC; fewer than 4 channels; a distance below 1.
    """
    owner = "address_shift"
    _check_map(owner, x)
    channels = x.shape[3]
    if channels < 4:
        raise ValueError(f"{owner}: channels={channels} must be at least 4, one a direction; take more channels")
    if distance < 1:
        raise ValueError(f"{owner}: distance={distance} must be at least 1; leave it out for 1")
    moves = [(0, distance), (0, -distance), (distance, 0), (-distance, 0)]
    return _shift(x, [moves[c // (channels // 4)] if c < channels // 4 * 4 else (0, 0) for c in range(channels)])


def shortcut_shift(x: jax.Array, new: jax.Array) -> jax.Array:
    """Sets new channels beside those that are kept: a shortcut that concatenates, where a residual one adds.

    out[..., :channels] = x, out[..., channels:] = new: [..., channels] and [..., new_channels] -> [..., channels +
    new_channels].

    Paper: Zhong et al., Shift-based Primitives (arXiv:1809.08458), section 3.
    Parameters: none.
    MACs: 0, data movement.
    Differs from the paper: there the memory for both is taken in advance, and the layer writes its output behind its
        input; here that is the compiler's choice.

    Args:
        x: [..., channels], the input of the layers that the shortcut goes around, any dtype.
        new: [..., new_channels], their output, dtype of x.

    Returns:
        [..., channels + new_channels], dtype of x.

    Raises:
        ValueError: shapes that differ before the channels; two dtypes.
    """
    if x.ndim < 1 or x.shape[:-1] != new.shape[:-1]:
        raise ValueError(
            f"shortcut_shift: x{list(x.shape)} and new{list(new.shape)} must be equal up to the channels; pool or pad "
            "one"
        )
    if x.dtype != new.dtype:
        raise ValueError(f"shortcut_shift: x and new must be of one dtype, not {x.dtype} and {new.dtype}; cast one")
    return jnp.concatenate([x, new], axis=-1)


def active_shift(x: jax.Array, displacements: jax.Array) -> jax.Array:
    """Moves each channel by a real displacement of its own, which can be learned.

    out[i, j, c] = x[i + displacements[c, 0], j + displacements[c, 1], c], read bilinearly, pixels outside being 0;
    [batch, height, width, channels] to the same shape. Whole displacements give the shift by whole pixels. The
    derivative in a displacement is the difference of the pixels around; at a whole one, of those to its right.

    Paper: Jeon and Kim, Constructing Fast Network through Deconstruction of Convolution (arXiv:1806.07370), section 3.
    Parameters: displacements [channels, 2] in the module.
    MACs: 4 * height * width * channels.
    Differs from the paper: x before y there, y before x here. The authors divide the gradient of each channel's
        displacement by its length before they take a step, with a learning rate 1000 times smaller than that of the
        weights and no weight decay: that is for the optimizer to do.

    Args:
        x: [batch, height, width, channels], floating point.
        displacements: [channels, 2], floating point: rows, columns, in pixels.

    Returns:
        The shape and dtype of x; displacements are kept in at least float32.

    Raises:
        ValueError: x that is not floating point NHWC; displacements of another shape, or integers.
    """
    check_map("active_shift", x)
    if displacements.shape != (x.shape[3], 2) or not jnp.issubdtype(displacements.dtype, jnp.floating):
        raise ValueError(
            f"active_shift: displacements={displacements.dtype}{list(displacements.shape)} must be floating point "
            f"[channels={x.shape[3]}, 2]; give a row and a column for each channel"
        )
    return bilinear_shift(x, displacements[:, 0], displacements[:, 1])


def _uniform_init(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, minval=-1.0, maxval=1.0)


class ActiveShift(nn.Module):
    """`active_shift` with its displacements as a parameter, "displacements".

    Attributes:
        displacement_init: initial values of [channels, 2], in pixels; uniform in [-1, 1] as in the paper.
        param_dtype: of the parameter; the displacements are never rounded to the dtype of x.
    """

    displacement_init: Initializer = _uniform_init
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to the same shape and dtype.

        Raises:
            ValueError: whatever `active_shift` refuses.
        """
        shape = (x.shape[-1], 2)
        return active_shift(x, self.param("displacements", self.displacement_init, shape, self.param_dtype))


def _shift(x: jax.Array, moves: Iterable[tuple[int, int]]) -> jax.Array:
    """Moves each channel by its (rows, columns)."""
    rows, columns = zip(*moves, strict=True)
    return maps.apply(Shift(rows, columns), x)


def _check_map(owner: str, x: jax.Array) -> None:
    if x.ndim != 4:
        raise ValueError(f"{owner}: x{list(x.shape)} must be NHWC; reshape it")
