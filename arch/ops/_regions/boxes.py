"""The arguments of operators on regions of interest, checked and made safe.

A region of interest is a row [batch_index, x1, y1, x2, y2], in pixels of the image that the maps were computed from.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops._lowerings.geometry import Pair
from arch.ops.conv2d import as_pair

# No image has so many pixels along an axis; further out lie mistakes, and integers that overflow.
_FARTHEST = 2.0**20


class Boxes(NamedTuple):
    """Regions of interest made safe.

    Attributes:
        rois: [num_rois, 5], float32 or wider, all finite, of images that exist.
        valid: [num_rois], whether a region belongs to an image of the batch.
        defined: [num_rois], whether all of its numbers are numbers.
    """

    rois: jax.Array
    valid: jax.Array
    defined: jax.Array

    def settle(self, out: jax.Array) -> jax.Array:
        """`out` [num_rois, ...] of `rois`, with 0 for regions of no image, and NaN where a number was not one."""
        valid, defined = (flag.reshape(-1, *(1,) * (out.ndim - 1)) for flag in (self.valid, self.defined))
        return jnp.where(defined, jnp.where(valid, out, 0), jnp.nan).astype(out.dtype)


def check_arrays(owner: str, x: jax.Array, rois: jax.Array, num_slots: int = 1) -> None:
    """Refuses what is no batch of maps, or no list of regions.

    Args:
        owner: for errors.
        x: [batch, height, width, channels * num_slots], floating point.
        rois: [num_rois, 5], floating point.
        num_slots: groups of bins that read channels of their own.

    Raises:
        ValueError: arrays of other shapes or dtypes.
    """
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating) or 0 in x.shape:
        raise ValueError(f"{owner}: x={x.dtype}{list(x.shape)} must be floating point NHWC and not empty; convert it")
    if rois.ndim != 2 or rois.shape[1] != 5 or not jnp.issubdtype(rois.dtype, jnp.floating):
        raise ValueError(
            f"{owner}: rois={rois.dtype}{list(rois.shape)} must be floating point [num_rois, 5], a row "
            "[batch_index, x1, y1, x2, y2]; convert them"
        )
    if x.shape[3] % num_slots:
        raise ValueError(
            f"{owner}: channels={x.shape[3]} must be a multiple of num_groups={num_slots}, the groups of bins that "
            f"read channels of their own; give {num_slots} channels for each output channel"
        )


def check_bins(owner: str, output_size: int | Sequence[int], spatial_scale: float) -> Pair:
    """The bins along height and width.

    Raises:
        ValueError: sizes below 1; a scale that is not above 0.
    """
    if not spatial_scale > 0:
        raise ValueError(f"{owner}: spatial_scale={spatial_scale} must be above 0; it is map pixels per image pixel")
    return as_pair(f"{owner}: output_size", output_size)


def safe_boxes(x: jax.Array, rois: jax.Array, *, differentiable: bool = False) -> Boxes:
    """Regions that can be computed with whatever `rois` holds; derivatives pass to them only if `differentiable`."""
    rois = rois.astype(jnp.promote_types(jnp.promote_types(rois.dtype, x.dtype), jnp.float32))
    rois = rois if differentiable else lax.stop_gradient(rois)
    defined = ~jnp.any(jnp.isnan(rois), axis=1)
    rois = jnp.where(defined[:, None], rois, 0)
    image = jnp.trunc(rois[:, 0])
    valid = (image >= 0) & (image < x.shape[0])
    return Boxes(jnp.clip(rois, -_FARTHEST, _FARTHEST).at[:, 0].set(jnp.where(valid, image, 0)), valid, defined)


def as_slots(x: jax.Array, num_slots: int) -> jax.Array:
    """Channel c * num_slots + s as channel c of slot s: [batch, height, width, channels / num_slots, num_slots]."""
    return x.reshape(*x.shape[:3], x.shape[3] // num_slots, num_slots)
