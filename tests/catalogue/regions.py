"""Regions of interest: pooling, align, their position-sensitive forms, deformable pooling."""

import functools

import jax.numpy as jnp
import numpy as np

from arch.ops.roi import DeformRoIPool, deform_roi_pool, ps_roi_align, ps_roi_pool, roi_align, roi_pool
from tests.catalogue.row import Case, Inputs, Operator, filled, image

BINS, SCALE, NUM_ROIS = (2, 3), 0.5, 5


def _rois(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Boxes of two images of twice the size of the map, inside them and over their edges."""
    size = 2 * np.asarray([width, height], np.float32)
    corners = np.sort(random.uniform(-0.3, 1.3, (NUM_ROIS, 2, 2)).astype(np.float32) * size, axis=1)
    index = random.integers(0, 2, (NUM_ROIS, 1)).astype(np.float32)
    return np.concatenate([index, corners[:, 0], corners[:, 1]], axis=1)


def _inputs(random: np.random.Generator, height: int, width: int, channels: int = 6) -> Inputs:
    return image(random, 2, height, width, channels), _rois(random, height, width)


def _without_area(inputs: Inputs) -> Inputs:
    x, rois, *rest = inputs
    rois = rois.copy()
    rois[:, 3:] = rois[:, 1:3]
    return x, rois, *rest


def _turned_inside_out(inputs: Inputs) -> Inputs:
    x, rois, *rest = inputs
    return x, rois[:, [0, 3, 4, 1, 2]], *rest


def _far_outside(inputs: Inputs) -> Inputs:
    x, rois, *rest = inputs
    return x, rois * np.asarray([1, 1e30, -1e30, 1e30, 1e30], np.float32), *rest


_ADVERSE = (_without_area, _turned_inside_out, _far_outside)


def _case(op, channels: int, linear: bool = True, **options) -> Case:
    return Case(
        make=functools.partial(_inputs, channels=6),
        call=functools.partial(op, output_size=BINS, spatial_scale=SCALE, **options),
        out_shape=lambda height, width: (*BINS, channels),
        linear=linear,
        adverse=_ADVERSE,
    )


def _with_offsets(random: np.random.Generator, height: int, width: int) -> Inputs:
    return *_inputs(random, height, width), image(random, NUM_ROIS, 2, 2, 4)


def _huge_offsets(inputs: Inputs) -> Inputs:
    x, rois, offsets = inputs
    return x, rois, offsets * np.float32(1e30)


_MODULE = DeformRoIPool(output_size=BINS, spatial_scale=SCALE, modulated=True)


def _module_inputs(random: np.random.Generator, height: int, width: int) -> Inputs:
    x, rois = _inputs(random, height, width)
    return x, rois, filled(_MODULE, random, x, rois)


def _x_and_rois() -> tuple:
    return jnp.zeros((1, 4, 4, 6)), jnp.zeros((3, 5))


ROWS = (
    Operator(
        topic="RoI pooling",
        functions=(roi_pool,),
        modules=(),
        oracle="torchvision.ops.roi_pool, recorded",
        cases={"roi_pool": _case(roi_pool, 6, linear=False)},
        refusals=((lambda: roi_pool(jnp.zeros((4, 4, 6)), jnp.zeros((3, 5)), 2, 1.0), r"roi_pool: x=.*\[4, 4, 6\].*"),),
    ),
    Operator(
        topic="RoI align",
        functions=(roi_align,),
        modules=(),
        oracle="torchvision.ops.roi_align, recorded",
        cases={
            "sampled": _case(roi_align, 6, sampling_ratio=2, aligned=True),
            "adaptive": _case(roi_align, 6, sampling_ratio=0, aligned=False),
            "of learned boxes": _case(roi_align, 6, sampling_ratio=2, aligned=True, differentiate_boxes=True),
        },
        refusals=(
            (
                lambda: roi_align(jnp.zeros((1, 4, 4, 6)), jnp.zeros((3, 4)), 2, 1.0, 2, True),
                r"roi_align: rois=.*\[3, 4\].* 5\].*",
            ),
        ),
    ),
    Operator(
        topic="Position-sensitive RoI pooling",
        functions=(ps_roi_pool,),
        modules=(),
        oracle="torchvision.ops.ps_roi_pool, recorded; a NumPy loop of the R-FCN program",
        cases={
            "torchvision": _case(ps_roi_pool, 1),
            "R-FCN": _case(ps_roi_pool, 1, inclusive_end=True),
        },
        refusals=(
            (lambda: ps_roi_pool(*_x_and_rois(), 2, 1.0), "ps_roi_pool: channels=6 .* num_groups=4.*"),
            (lambda: ps_roi_pool(*_x_and_rois(), (2, 0), 1.0), r"ps_roi_pool: output_size=\(2, 0\).*"),
        ),
    ),
    Operator(
        topic="Position-sensitive RoI align",
        functions=(ps_roi_align,),
        modules=(),
        oracle="torchvision.ops.ps_roi_align, recorded",
        cases={
            "sampled": _case(ps_roi_align, 1, sampling_ratio=2),
            "adaptive": _case(ps_roi_align, 1, sampling_ratio=0),
        },
        refusals=((lambda: ps_roi_align(*_x_and_rois(), 2, 1.0, 2), "ps_roi_align: channels=6 .* num_groups=4.*"),),
    ),
    Operator(
        topic="Deformable RoI pooling",
        functions=(deform_roi_pool,),
        modules=(DeformRoIPool,),
        oracle="a NumPy loop of the authors' program",
        cases={
            "function": Case(
                make=_with_offsets,
                call=functools.partial(deform_roi_pool, output_size=BINS, spatial_scale=SCALE),
                out_shape=lambda height, width: (*BINS, 6),
                linear=True,
                adverse=(*_ADVERSE, _huge_offsets),
            ),
            "module": Case(
                make=_module_inputs,
                call=lambda x, rois, variables: _MODULE.apply(variables, x, rois),
                out_shape=lambda height, width: (*BINS, 6),
                adverse=_ADVERSE,
            ),
        },
        refusals=(
            (
                lambda: deform_roi_pool(*_x_and_rois(), jnp.zeros((2, 2, 2, 2)), 2, 1.0),
                r"deform_roi_pool: offsets\[2, 2, 2, 2\].*3 rois.*",
            ),
        ),
    ),
)
