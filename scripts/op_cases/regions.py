"""Regions of interest: torchvision's pooling and align, and their position-sensitive forms."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from arch.ops.roi import ps_roi_align, ps_roi_pool, roi_align, roi_pool
from scripts.op_cases.case import OpCase, image

BATCH, SIZE, SCALE, BINS = 8, 56, 1 / 16, 7


def _make(random: np.random.Generator, channels: int, num_rois: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps, and boxes with corners anywhere on an image."""
    corners = np.sort(random.uniform(0, SIZE / SCALE, (num_rois, 2, 2)).astype(np.float32), axis=1)
    index = random.integers(0, BATCH, (num_rois, 1)).astype(np.float32)
    rois = np.concatenate([index, corners[:, 0], corners[:, 1]], axis=1)
    return image(random, BATCH, SIZE, SIZE, channels), rois


def _peer(name: str, *options: Any) -> Callable[..., Any]:
    def call(x: Any, rois: Any) -> Any:
        from torchvision import ops

        return getattr(ops, name)(x, rois, BINS, SCALE, *options)

    return call


def _case(name: str, ours: Callable[..., Any], channels: int, num_rois: int, words: str = "", *options: Any) -> OpCase:
    """One comparison; `options` follow the scale in both."""
    return OpCase(
        name=name,
        size=f"{BATCH}x{SIZE}x{SIZE}x{channels}, {num_rois} RoIs, {BINS}x{BINS} bins{words}",
        make=functools.partial(_make, channels=channels, num_rois=num_rois),
        ours=lambda x, rois: ours(x, rois, BINS, SCALE, *options),
        peer=_peer(name, *options),
    )


CASES = (
    _case("roi_pool", roi_pool, 256, 128),
    _case("roi_align", roi_align, 256, 128, ", 2x2 points", 2, True),
    _case("roi_align", roi_align, 256, 128, ", adaptive", -1, True),
    _case("ps_roi_pool", ps_roi_pool, 490, 256),
    _case("ps_roi_align", ps_roi_align, 490, 256, ", 2x2 points", 2),
)
