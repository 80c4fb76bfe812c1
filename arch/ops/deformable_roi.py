"""Deformable pooling of regions of interest: each bin is moved by an offset that the region itself gives."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Dtype

from arch.ops._lowerings.geometry import Pair
from arch.ops._regions.bins import settled, whole_pixels
from arch.ops._regions.boxes import as_slots, check_arrays, check_bins, safe_boxes
from arch.ops.conv2d import as_pair
from arch.ops.sampling import bilinear_sum, is_inside


def deform_roi_pool(
    x: jax.Array,
    rois: jax.Array,
    offsets: jax.Array | None,
    output_size: int | Sequence[int],
    spatial_scale: float,
    *,
    group_size: int | Sequence[int] = 1,
    samples_per_part: int = 4,
    offset_scale: float = 0.1,
) -> jax.Array:
    """The mean of bilinear samples in each bin of each RoI, with bins moved by offsets normalized by the RoI's size.

    With start = round(x1) * spatial_scale - 0.5, halves away from zero, and size = max((round(x2) + 1) * spatial_scale
    - 0.5 - start, 0.1), the points of bin i are start + offset_scale * offset * size + (i + j / samples_per_part) *
    size / bins for j = 0, ..., samples_per_part - 1; rows likewise. Points outside [-0.5, size of the map - 0.5] do not
    count; a bin without points is 0.

    Offsets may be coarser than bins: bin i is moved by part floor(i * parts / bins). With a group_size above 1, bin (i,
    j) reads maps of its own, as in `ps_roi_pool`: of output channel c, channel (c * groups + i') * groups + j' with i'
    = floor(i * groups / bins). Several offset groups move as many equal blocks of output channels, such as classes.

    Gradients go to x and to the offsets, none to the boxes.

    Paper: Dai et al., Deformable Convolutional Networks (arXiv:1703.06211), section 2.2, equations 5 and 6.
    Parameters: none.
    MACs: 4 * num_rois * out_height * out_width * samples_per_part**2 * channels.
    Differs from the paper: it follows the authors' program: a few points a bin, from its very edge on, not all pixels.

    Args:
        x: [batch, height, width, channels * groups], floating point; groups is group_height * group_width.
        rois: [num_rois, 5] rows of batch index, x1, y1, x2, y2, in pixels of the image; floating point. Those that
            belong to no image or are not numbers: see `arch.ops.roi`.
        offsets: [num_rois, part_height, part_width, 2 * num_offset_groups], channel 2 * g to the right and 2 * g + 1
            down, as shares of the RoI's size times offset_scale. None: no bin is moved.
        output_size: bins along height and width.
        spatial_scale: pixels of x to a pixel of the image, above 0.
        group_size: of position-sensitive maps, along height and width; 1: all bins read the same maps.
        samples_per_part: points in a bin along each axis.
        offset_scale: gamma of the paper, what an offset of 1 stands for, in sizes of the RoI.

    Returns:
        [num_rois, out_height, out_width, channels], dtype of x; coordinates and sums are kept in at least float32.

    Raises:
        ValueError: shapes or dtypes that do not fit; sizes that are not positive.
    """
    owner = "deform_roi_pool"
    if samples_per_part < 1:
        raise ValueError(f"{owner}: samples_per_part={samples_per_part} must be 1 or more; 4 is the authors'")
    bins = check_bins(owner, output_size, spatial_scale)
    groups = as_pair(f"{owner}: group_size", group_size)
    num_groups = groups[0] * groups[1]
    check_arrays(owner, x, rois, num_groups)
    if offsets is not None:
        _check_offsets(owner, offsets.shape, rois.shape[0], x.shape[3] // num_groups)
    return _pool(
        x,
        rois,
        offsets,
        bins=bins,
        spatial_scale=spatial_scale,
        groups=groups,
        num_points=samples_per_part,
        offset_scale=offset_scale,
    )


class DeformRoIPool(nn.Module):
    """`deform_roi_pool` with offsets from a dense layer on what the unmoved bins hold; at first nothing is moved.

    Paper: Dai et al., Deformable Convolutional Networks (arXiv:1703.06211), section 2.2; `modulated`: Zhu et al.,
        Deformable ConvNets v2 (arXiv:1811.11168), section 3.2.
    Parameters: offset/kernel [bins * channels, 2 * bins], offset/bias [2 * bins] with bins = out_height * out_width; 3
        in place of 2 if modulated. All start at 0.
    MACs: 8 * num_rois * bins * samples_per_part**2 * channels + num_rois * bins * channels * 2 * bins.
    Differs from the paper: v2 puts two layers of 1024 features before the offsets.

    The papers train `offset` with a learning rate of 0.01 (v1) and 0.1 (v2) times the others': select it by its path.

    Attributes:
        output_size: bins along height and width.
        spatial_scale: pixels of x to a pixel of the image, above 0.
        group_size: of position-sensitive maps, along height and width.
        samples_per_part: points in a bin along each axis.
        offset_scale: what an offset of 1 stands for, in sizes of the RoI.
        modulated: v2: each bin is also multiplied by a number in (0, 1) from the dense layer, at first 0.5.
        dtype: of the computation, but for offsets, which are at least float32; None takes that of x.
        param_dtype: of the parameters.
    """

    output_size: int | Sequence[int]
    spatial_scale: float
    group_size: int | Sequence[int] = 1
    samples_per_part: int = 4
    offset_scale: float = 0.1
    modulated: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, rois: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels * groups] to [num_rois, out_height, out_width, channels].

        Args:
            x: the maps, floating point.
            rois: [num_rois, 5], as in `deform_roi_pool`.

        Raises:
            ValueError: whatever `deform_roi_pool` refuses.
        """
        pool = functools.partial(
            deform_roi_pool,
            output_size=self.output_size,
            spatial_scale=self.spatial_scale,
            group_size=self.group_size,
            samples_per_part=self.samples_per_part,
            offset_scale=self.offset_scale,
        )
        x = x if self.dtype is None else x.astype(self.dtype)
        still = pool(x, rois, None)
        num_rois, height, width, channels = still.shape
        branch = nn.Dense(
            (3 if self.modulated else 2) * height * width,
            kernel_init=nn.initializers.zeros_init(),
            dtype=jnp.promote_types(x.dtype, jnp.float32),
            param_dtype=self.param_dtype,
            precision=jax.lax.Precision.HIGHEST,  # coordinates need all digits
            name="offset",
        )(still.reshape(num_rois, height * width * channels))
        branch = branch.reshape(num_rois, height, width, -1)
        pooled = pool(x, rois, branch[..., :2])
        if self.modulated:
            pooled = pooled * nn.sigmoid(branch[..., 2:]).astype(pooled.dtype)
        return pooled


@functools.partial(jax.jit, static_argnames=("bins", "spatial_scale", "groups", "num_points"))
def _pool(
    x: jax.Array,
    rois: jax.Array,
    offsets: jax.Array | None,
    *,
    bins: Pair,
    spatial_scale: float,
    groups: Pair,
    num_points: int,
    offset_scale: float,
) -> jax.Array:
    """`deform_roi_pool`, compiled also when called eagerly."""
    boxes = safe_boxes(x, rois)
    maps = as_slots(x, groups[0] * groups[1])
    moved = _offsets_of_bins(offsets, boxes.rois, bins) * offset_scale
    num_blocks = moved.shape[3]
    maps, image = _blocks(maps, num_blocks), _image_of_blocks(boxes.rois, bins, groups, num_blocks)
    ys, xs = (_points(boxes.rois, axis, bins[axis], spatial_scale, num_points, moved[..., 1 - axis]) for axis in (0, 1))
    shape = (*moved.shape[:4], num_points, num_points)
    points = (*shape[:4], num_points**2)
    ys = jnp.broadcast_to(ys[..., :, None], shape).reshape(points)
    xs = jnp.broadcast_to(xs[..., None, :], shape).reshape(points)
    inside = is_inside(ys, xs, *x.shape[1:3], "deformable_roi")
    share = 1 / jnp.maximum(jnp.sum(inside, axis=-1, keepdims=True, dtype=ys.dtype), 1)
    pooled = bilinear_sum(maps, ys, xs, share, boundary="deformable_roi", image=image[..., None])
    return boxes.settle(pooled.reshape(*pooled.shape[:3], num_blocks * pooled.shape[4]))


def _check_offsets(owner: str, shape: tuple[int, ...], num_rois: int, channels: int) -> None:
    if len(shape) != 4 or shape[0] != num_rois or shape[3] % 2 or 0 in shape[1:]:
        raise ValueError(
            f"{owner}: offsets{list(shape)} must be [{num_rois}, part_height, part_width, 2 * num_offset_groups], as "
            f"there are {num_rois} rois; reshape them"
        )
    if channels % (shape[3] // 2):
        raise ValueError(
            f"{owner}: num_offset_groups={shape[3] // 2} must divide channels={channels}; give 2 offsets a group"
        )


def _offsets_of_bins(offsets: jax.Array | None, rois: jax.Array, bins: Pair) -> jax.Array:
    """[num_rois, out_height, out_width, num_blocks, 2]: how far each bin moves each block of channels, (x, y)."""
    num_rois = rois.shape[0]
    if offsets is None:
        return jnp.zeros((num_rois, *bins, 1, 2), rois.dtype)
    rows, columns = (np.arange(num) * parts // num for num, parts in zip(bins, offsets.shape[1:3], strict=True))
    wide = offsets.astype(jnp.promote_types(offsets.dtype, rois.dtype))
    return wide[:, rows[:, None], columns].reshape(num_rois, *bins, offsets.shape[3] // 2, 2)


def _blocks(maps: jax.Array, num_blocks: int) -> jax.Array:
    """[batch, height, width, channels, slots] as [batch * slots * num_blocks, height, width, channels / num_blocks]."""
    batch, height, width, channels, slots = maps.shape
    split = maps.reshape(batch, height, width, num_blocks, channels // num_blocks, slots)
    return split.transpose(0, 5, 3, 1, 2, 4).reshape(-1, height, width, channels // num_blocks)


def _image_of_blocks(rois: jax.Array, bins: Pair, groups: Pair, num_blocks: int) -> jax.Array:
    """The map of `_blocks` that each bin and block reads: [num_rois, out_height, out_width, num_blocks]."""
    row, column = (np.arange(num) * parts // num for num, parts in zip(bins, groups, strict=True))
    slot = row[:, None] * groups[1] + column
    image = rois[:, 0].astype(jnp.int32)[:, None, None] * (groups[0] * groups[1]) + slot
    return image[..., None] * num_blocks + jnp.arange(num_blocks)


def _points(
    rois: jax.Array, axis: int, num_bins: int, spatial_scale: float, num_points: int, offsets: jax.Array
) -> jax.Array:
    """Coordinates along an axis, in pixels of the map: [*offsets.shape, num_points].

    Args:
        rois: [num_rois, 5].
        axis: 0 for rows, 1 for columns.
        num_bins, spatial_scale, num_points: as above.
        offsets: [num_rois, out_height, out_width, num_blocks], in sizes of the RoI.
    """
    start, size = (value.reshape(-1, 1, 1, 1, 1) for value in whole_pixels(rois, axis, spatial_scale))
    number = jnp.arange(num_bins, dtype=rois.dtype).reshape((-1, 1, 1, 1) if axis == 0 else (-1, 1, 1))
    part = jnp.arange(num_points, dtype=rois.dtype) / num_points
    return settled((start - 0.5) + offsets[..., None] * size + (number + part) * (size / num_bins))
