"""The means over the bins of regions of interest that several operators share; compiled also when called eagerly."""

import functools

import jax
import jax.numpy as jnp

from arch.ops._lowerings.geometry import Pair
from arch.ops._regions.bins import PixelBins, SampleGrids
from arch.ops._regions.boxes import as_slots, safe_boxes
from arch.ops._regions.region_sum import Regions, region_sum
from arch.ops.sampling import bilinear_sum


@functools.partial(jax.jit, static_argnames=("rule", "num_slots"))
def mean_of_pixels(x: jax.Array, rois: jax.Array, *, rule: PixelBins, num_slots: int) -> jax.Array:
    """The mean of each bin, 0 of an empty one.

    Args:
        x: [batch, height, width, channels * num_slots].
        rois: [num_rois, 5].
        rule: the bins.
        num_slots: bins that read channels of their own: all, or 1 where they read the same.

    Returns:
        [num_rois, out_height, out_width, channels], dtype of x.
    """
    boxes = safe_boxes(x, rois)
    slots = as_slots(x, num_slots)
    rows, columns = rule.axes(boxes.rois, x.shape[1:3])
    area = rows.num_taps[:, :, None] * columns.num_taps[:, None, :]
    total = region_sum(_wide(slots), boxes.rois, Regions(slots.shape, rule))
    return boxes.settle(total / jnp.maximum(area, 1)[..., None]).astype(x.dtype)


@functools.partial(jax.jit, static_argnames=("rule", "num_slots", "differentiate_boxes"))
def mean_of_samples(
    x: jax.Array, rois: jax.Array, *, rule: SampleGrids, num_slots: int, differentiate_boxes: bool
) -> jax.Array:
    """The mean of bilinear samples in each bin; those outside the map count as 0.

    Args:
        x: [batch, height, width, channels * num_slots].
        rois: [num_rois, 5].
        rule: the bins.
        num_slots: bins that read channels of their own: all, or 1 where they read the same.
        differentiate_boxes: whether derivatives pass to the boxes; needs a sampling_ratio of 1 or more.

    Returns:
        [num_rois, out_height, out_width, channels], dtype of x.
    """
    boxes = safe_boxes(x, rois, differentiable=differentiate_boxes)
    slots = as_slots(x, num_slots)
    # The sampler would need a map for each slot: to write those takes longer than to read the points.
    if rule.sampling_ratio < 1 or (num_slots > 1 and not differentiate_boxes):
        num_rows, num_columns = (rule.num_points(boxes.rois, axis) for axis in (0, 1))
        num = jnp.maximum(num_rows * num_columns, 1)[:, :, None, None]
        total = region_sum(_wide(slots), boxes.rois, Regions(slots.shape, rule))
        return boxes.settle(total / num).astype(x.dtype)
    ys, xs = (rule.points(boxes.rois, axis) for axis in (0, 1))
    shape = (rois.shape[0], *rule.output_size, rule.sampling_ratio, rule.sampling_ratio)
    points = (*shape[:3], rule.sampling_ratio**2)
    ys = jnp.broadcast_to(ys[:, :, None, :, None], shape).reshape(points)
    xs = jnp.broadcast_to(xs[:, None, :, None, :], shape).reshape(points)
    image = _image_of_slots(boxes.rois, num_slots, rule.output_size)[..., None]
    share = jnp.asarray(1 / rule.sampling_ratio**2, ys.dtype)
    return boxes.settle(bilinear_sum(_slots_as_images(slots), ys, xs, share, boundary="roi_align", image=image))


def check_sampling(owner: str, sampling_ratio: int, differentiate_boxes: bool) -> None:
    """Refuses gradients of boxes where the number of points depends on the boxes.

    Raises:
        ValueError: as it says.
    """
    if differentiate_boxes and sampling_ratio < 1:
        raise ValueError(
            f"{owner}: sampling_ratio={sampling_ratio} must be 1 or more with differentiate_boxes=True, as the number "
            "of points must not depend on the boxes; give the points of a bin along each axis, such as 2"
        )


def _slots_as_images(x: jax.Array) -> jax.Array:
    """[batch, height, width, channels, slots] as [batch * slots, height, width, channels]."""
    batch, height, width, channels, slots = x.shape
    return x.transpose(0, 4, 1, 2, 3).reshape(batch * slots, height, width, channels)


def _image_of_slots(rois: jax.Array, num_slots: int, bins: Pair) -> jax.Array:
    """The image of `_slots_as_images` that each bin reads: [num_rois, 1 or out_height, 1 or out_width]."""
    slot = jnp.arange(num_slots).reshape(bins if num_slots > 1 else (1, 1))
    return rois[:, 0].astype(jnp.int32)[:, None, None] * num_slots + slot


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
