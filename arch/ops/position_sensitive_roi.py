"""Position-sensitive regions of interest: each bin reads channels of its own."""

from collections.abc import Sequence

import jax

from arch.ops._regions.bins import PixelBins, SampleGrids
from arch.ops._regions.boxes import check_arrays, check_bins
from arch.ops._regions.means import check_sampling, mean_of_pixels, mean_of_samples


def ps_roi_pool(
    x: jax.Array,
    rois: jax.Array,
    output_size: int | Sequence[int],
    spatial_scale: float,
    *,
    inclusive_end: bool = False,
) -> jax.Array:
    """The mean pixel in each bin of each RoI; bin (i, j) of output channel c reads channel (c * bins + i) * bins + j.

    With start = round(x1 * spatial_scale), halves away from zero, and size = max(round(x2 * spatial_scale) - start, 1),
    bin i has the columns from start + floor(i * size / bins) to before start + ceil((i + 1) * size / bins), without the
    last of the map; rows likewise. A bin without a pixel is 0. That is torchvision's. With `inclusive_end`, start =
    round(x1) * spatial_scale, size = max((round(x2) + 1) * spatial_scale - start, 0.1), and bin i has the columns from
    floor(start + i * size / bins) to before ceil(start + (i + 1) * size / bins), the last of the map too.

    The gradient goes to the pixels alone, in both modes. The call is a loop that reads each pixel of the largest bin
    (on a CPU, of each RoI's own); memory is that of x and of the output.

    Paper: Dai et al., R-FCN (arXiv:1605.06409), section 2, equation 1.
    Parameters: none.
    MACs: 0, data movement.
    Differs from the paper: as its authors' program only with `inclusive_end`; without it, as torchvision's.

    Args:
        x: [batch, height, width, channels * out_height * out_width], floating point.
        rois: [num_rois, 5] rows of batch index, x1, y1, x2, y2, in pixels of the image; floating point. Those that
            belong to no image or are not numbers: see `arch.ops.roi`.
        output_size: bins along height and width.
        spatial_scale: pixels of x to a pixel of the image, above 0.
        inclusive_end: whether x2 and y2 are the last pixels of a RoI, not those after them.

    Returns:
        [num_rois, out_height, out_width, channels], dtype of x; sums are kept in at least float32.

    Raises:
        ValueError: shapes or dtypes that do not fit; an output size or a scale that is not positive; channels that are
            no multiple of the bins.
    """
    owner = "ps_roi_pool"
    bins = check_bins(owner, output_size, spatial_scale)
    num_slots = bins[0] * bins[1]
    check_arrays(owner, x, rois, num_slots)
    rule = PixelBins(bins, spatial_scale, "r_fcn" if inclusive_end else "ps_roi_pool")
    return mean_of_pixels(x, rois, rule=rule, num_slots=num_slots)


def ps_roi_align(
    x: jax.Array,
    rois: jax.Array,
    output_size: int | Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    *,
    differentiate_boxes: bool = False,
) -> jax.Array:
    """`roi_align` with aligned=True; bin (i, j) of output channel c reads channel (c * bins + i) * bins + j.

    Without differentiate_boxes it is a loop over the points of a bin, whatever the sampling_ratio.

    Paper: Li et al., Light-Head R-CNN (arXiv:1711.07264), section 3.
    Parameters: none.
    MACs: 4 * num_rois * out_height * out_width * sampling_ratio**2 * channels.
    Differs from the paper: a RoI without extent gives 0 with a sampling_ratio below 1; torchvision gives NaN.

    Args:
        x: [batch, height, width, channels * out_height * out_width], floating point.
        rois: as in `roi_align`.
        output_size: bins along height and width.
        spatial_scale: pixels of x to a pixel of the image, above 0.
        sampling_ratio: as in `roi_align`.
        differentiate_boxes: as in `roi_align`.

    Returns:
        [num_rois, out_height, out_width, channels], dtype of x.

    Raises:
        ValueError: as `roi_align`; channels that are no multiple of the bins.
    """
    owner = "ps_roi_align"
    bins = check_bins(owner, output_size, spatial_scale)
    num_slots = bins[0] * bins[1]
    check_arrays(owner, x, rois, num_slots)
    check_sampling(owner, sampling_ratio, differentiate_boxes)
    return mean_of_samples(
        x,
        rois,
        rule=SampleGrids(bins, spatial_scale, True, sampling_ratio),
        num_slots=num_slots,
        differentiate_boxes=differentiate_boxes,
    )
