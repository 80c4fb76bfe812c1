"""Regions of interest: what lies in a box of a feature map, at a fixed size. All four operators and the deformable one.

A region of interest (RoI) is a row [batch_index, x1, y1, x2, y2], in pixels of the image. In every operator here: a RoI
whose batch index is not in [0, batch) stands for none, gives 0 and passes no gradient on, so that lists of RoIs can be
filled up to a fixed length with rows of -1; one with a number that is NaN gives NaN and passes no gradient on; a
coordinate beyond 2**20 pixels counts as 2**20.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops._regions.bins import PixelBins, SampleGrids
from arch.ops._regions.boxes import check_arrays, check_bins, safe_boxes
from arch.ops._regions.means import check_sampling, mean_of_samples
from arch.ops._regions.region_sum import Taps, pixels, steps
from arch.ops.deformable_roi import DeformRoIPool as DeformRoIPool
from arch.ops.deformable_roi import deform_roi_pool as deform_roi_pool
from arch.ops.position_sensitive_roi import ps_roi_align as ps_roi_align
from arch.ops.position_sensitive_roi import ps_roi_pool as ps_roi_pool


def roi_pool(x: jax.Array, rois: jax.Array, output_size: int | Sequence[int], spatial_scale: float) -> jax.Array:
    """The largest pixel in each bin of each RoI, whose corners are rounded to whole pixels.

    With start = round(x1 * spatial_scale), halves away from zero, and size = max(round(x2 * spatial_scale) - start + 1,
    1), bin i has the columns from start + floor(i * size / bins) to before start + ceil((i + 1) * size / bins) that lie
    on the map; rows likewise. Bins overlap where `output_size` does not divide the size. A bin without a pixel is 0.

    The gradient goes to the largest pixel, of equal ones to the first, row by row; none to the boxes. It can be
    differentiated in both modes. It is a loop over the pixels of the largest bin (on a CPU, of each RoI's own); memory
    is that of the output.

    Paper: Girshick, Fast R-CNN (arXiv:1504.08083), section 2.1.
    Parameters: none.
    MACs: 0, data movement.
    Differs from the paper: bins are computed exactly; torchvision multiplies rounded numbers, and so reads one more row
        or column in about one bin of a thousand. A NaN in a bin is its maximum; torchvision passes over it.

    Args:
        x: [batch, height, width, channels], floating point.
        rois: [num_rois, 5] rows of batch index, x1, y1, x2, y2, in pixels of the image; floating point.
        output_size: bins along height and width.
        spatial_scale: pixels of x to a pixel of the image, above 0.

    Returns:
        [num_rois, out_height, out_width, channels], dtype of x.

    Raises:
        ValueError: shapes or dtypes that do not fit; an output size or a scale that is not positive.
    """
    bins = check_bins("roi_pool", output_size, spatial_scale)
    check_arrays("roi_pool", x, rois)
    return _pool(x, rois, PixelBins(bins, spatial_scale, "roi_pool"))


def roi_align(
    x: jax.Array,
    rois: jax.Array,
    output_size: int | Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    *,
    differentiate_boxes: bool = False,
) -> jax.Array:
    """The mean of bilinear samples in each bin of each RoI, without rounding anything.

    With start = x1 * spatial_scale - (0.5 if aligned else 0) and size = (x2 - x1) * spatial_scale, without `aligned` at
    least 1, a bin is size / bins wide, and the points of bin i are start + (i + (j + 0.5) / sampling_ratio) * size /
    bins for j = 0, ..., sampling_ratio - 1; rows likewise. A point outside [-1, height] or [-1, width] counts as 0, the
    others are moved onto the map (`bilinear_sample` with boundary "roi_align").

    A sampling_ratio below 1 takes ceil(size / bins) points along an axis, a number for each RoI: a RoI without extent
    or turned inside out has none and gives 0. Such a call is a loop, and takes as long as the largest RoI says (on a
    CPU, each RoI says it for itself), at most 2 * (height + 5) by 2 * (width + 5) steps; memory is that of the output.
    A RoI turned inside out with `aligned` and a fixed sampling_ratio reads the map mirrored.

    Paper: He et al., Mask R-CNN (arXiv:1703.06870), section 3.
    Parameters: none.
    MACs: 4 * num_rois * out_height * out_width * sampling_ratio**2 * channels.
    Differs from the paper: `aligned` is later than it, from Detectron2.

    Args:
        x: [batch, height, width, channels], floating point.
        rois: [num_rois, 5] rows of batch index, x1, y1, x2, y2, in pixels of the image; floating point.
        output_size: bins along height and width.
        spatial_scale: pixels of x to a pixel of the image, above 0.
        sampling_ratio: points in a bin along each axis; below 1: about one a pixel.
        aligned: whether pixel centres lie at halves, so that boxes move by half a pixel; the paper's is False.
        differentiate_boxes: whether gradients pass to the boxes; needs a sampling_ratio of 1 or more.

    Returns:
        [num_rois, out_height, out_width, channels], dtype of x; coordinates and sums are kept in at least float32.

    Raises:
        ValueError: shapes or dtypes that do not fit; an output size or a scale that is not positive; gradients of boxes
            whose number of points depends on them.
    """
    bins = check_bins("roi_align", output_size, spatial_scale)
    check_arrays("roi_align", x, rois)
    check_sampling("roi_align", sampling_ratio, differentiate_boxes)
    return mean_of_samples(
        x,
        rois,
        rule=SampleGrids(bins, spatial_scale, aligned, sampling_ratio),
        num_slots=1,
        differentiate_boxes=differentiate_boxes,
    )


@functools.partial(jax.jit, static_argnames="rule")
def _pool(x: jax.Array, rois: jax.Array, rule: PixelBins) -> jax.Array:
    boxes = safe_boxes(x, rois)
    return boxes.settle(_largest(x, boxes.rois, rule))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _largest(x: jax.Array, rois: jax.Array, rule: PixelBins) -> jax.Array:
    """The largest pixel of each bin, 0 of an empty one."""

    def largest(x: jax.Array, rois: jax.Array) -> jax.Array:
        axes, read = _reader(x, rois, rule)

        def step(i: jax.Array, j: jax.Array, largest: jax.Array) -> jax.Array:
            _, inside, pixel = read(i, j)
            return jnp.where(inside, jnp.maximum(largest, pixel), largest)

        # Made by a step, the start varies over the devices of shard_map as the steps do.
        out = steps(*axes, step, step(0, 0, jnp.asarray(-jnp.inf, x.dtype)))
        rows, columns = (axis.num_taps > 0 for axis in axes)
        return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], out, 0)

    return _for_all(largest, x, rois)


@_largest.defjvp
def _largest_jvp(rule: PixelBins, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple:
    (x, rois), (tangent, _) = primals, tangents
    largest = _largest(x, rois, rule)
    batch, height, width, channels = x.shape
    image = rois[:, 0].astype(jnp.int32)[:, None, None, None]
    at = (image, _first_of_largest(x, rois, largest, rule), jnp.arange(channels))
    # In float32, so that its transpose sums the gradients of overlapping regions there.
    wide = tangent.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(batch, height * width, channels)
    return largest, wide.at[at].get(mode="fill", fill_value=0).astype(x.dtype)


def _first_of_largest(x: jax.Array, rois: jax.Array, largest: jax.Array, rule: PixelBins) -> jax.Array:
    """row * width + column of the first pixel that is the largest of each bin; height * width where there is none."""
    none = x.shape[1] * x.shape[2]

    def first(x: jax.Array, rois: jax.Array, largest: jax.Array) -> jax.Array:
        axes, read = _reader(x, rois, rule)

        def step(i: jax.Array, j: jax.Array, first: jax.Array) -> jax.Array:
            (_, row, column), inside, pixel = read(i, j)
            hit = inside & ((pixel == largest) | jnp.isnan(pixel))
            return jnp.minimum(first, jnp.where(hit, (row * x.shape[2] + column)[..., None], none))

        return steps(*axes, step, step(0, 0, jnp.asarray(none, jnp.int32)))

    return _for_all(first, x, rois, largest)


def _for_all(compute: Callable[..., jax.Array], x: jax.Array, *regions: jax.Array) -> jax.Array:
    """`compute(x, *regions)` of arrays [num_rois, ...]: on a CPU one by one, so that a large RoI delays no other."""

    def one_by_one(x: jax.Array, *regions: jax.Array) -> jax.Array:
        return lax.map(lambda one: compute(x, *(array[None] for array in one))[0], regions)

    return lax.platform_dependent(x, *regions, cpu=one_by_one, default=compute)


def _reader(x: jax.Array, rois: jax.Array, rule: PixelBins) -> tuple[tuple[Taps, Taps], Callable[..., tuple]]:
    """The bins, and a function of a tap: the indices of its pixel in every bin, whether it is one, its channels."""
    axes = rule.axes(rois, x.shape[1:3])

    def read(i: jax.Array, j: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array, jax.Array]:
        at, inside = pixels(rois, *axes, i, j)
        return at, inside[..., None], x[at]

    return axes, read
