"""Operators that read between pixels: the sampler, spatial transformer, deformable and irregular convolution."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from arch.ops.deformable import DeformConv, deform_conv2d
from arch.ops.irregular import IrregularConv, irregular_conv2d
from arch.ops.sampled_conv import sampled_conv2d
from arch.ops.sampling import affine_grid, bilinear_sample, bilinear_shift, bilinear_sum, grid_sample, is_inside
from arch.ops.spatial_transformer import LocalizationNet, SpatialTransformer
from tests.catalogue.row import Case, Inputs, Operator, filled, image

Change = Callable[[Inputs], Inputs]


def _changed(at: int, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Inputs with another array at one position."""
    return lambda inputs: (*inputs[:at], change(inputs[at]), *inputs[at + 1 :])


def _far(coordinates: np.ndarray) -> np.ndarray:
    """With some that are not finite, or larger than any integer."""
    coordinates = coordinates.copy()
    for number, value in enumerate((np.inf, -np.inf, 1e30)[: coordinates.size]):
        coordinates.flat[number] = value
    return coordinates


def _whole(at: int) -> Change:
    return _changed(at, np.rint)


def _outside(at: int) -> Change:
    return _changed(at, _far)


def _points(random: np.random.Generator, height: int, width: int) -> Inputs:
    x = image(random, 2, height, width, 3)
    ys, xs = (random.uniform(-1.5, size + 0.5, (2, 4, 3)).astype(np.float32) for size in (height, width))
    return x, ys, xs, image(random, 2, 4, 3)


def _grid(random: np.random.Generator, height: int, width: int) -> Inputs:
    return image(random, 2, height, width, 3), random.uniform(-1.4, 1.4, (2, 3, 4, 2)).astype(np.float32)


def _theta(random: np.random.Generator, height: int, width: int) -> Inputs:
    del height, width
    return (image(random, 2, 2, 3),)


def _shift(random: np.random.Generator, height: int, width: int) -> Inputs:
    x = image(random, 2, height, width, 3)
    return x, *random.uniform(-1.4, 1.4, (2, 3)).astype(np.float32)


def _one_shift(random: np.random.Generator, height: int, width: int) -> Inputs:
    x, ys, xs = _shift(random, height, width)
    return x, ys[0], xs[0]


_BOUNDARY_CASES = {
    boundary: Case(
        _points,
        lambda x, ys, xs, _, boundary=boundary: bilinear_sample(x, ys, xs, boundary=boundary),
        out_shape=lambda height, width: (4, 3, 3),
        linear=True,
        adverse=(_whole(1), _outside(1), _outside(2)),
    )
    for boundary in ("zeros", "deformable", "roi_align", "deformable_roi")
}


def _deformed(
    random: np.random.Generator, height: int, width: int, groups: int = 1, moving: bool = True, strides: int = 1
) -> Inputs:
    """A map of four channels, offsets of up to 1.4 pixels, a 3x3 kernel and a mask; moving: offsets of each pixel."""
    taps, out_size = 9 * groups, (-(-height // strides), -(-width // strides))
    offsets = random.uniform(-1.4, 1.4, (2 * taps,) if not moving else (2, *out_size, 2 * taps))
    offsets = np.broadcast_to(offsets.astype(np.float32), (2, *out_size, 2 * taps))
    mask = np.broadcast_to(random.uniform(0, 1, (taps,)).astype(np.float32), (2, *out_size, taps))
    return image(random, 2, height, width, 4), offsets.copy(), image(random, 3, 3, 4 // groups, 6), mask.copy()


def _sampled(x: jnp.ndarray, ys: jnp.ndarray, xs: jnp.ndarray, weights: jnp.ndarray) -> jnp.ndarray:
    """A convolution of one output row of four pixels and three taps, from the inputs of `_points`."""
    points = (array[:, None, :, :, None] for array in (ys, xs, weights))
    ys, xs, weights = points
    kernel = jnp.cos(jnp.arange(18, dtype=jnp.float32)).reshape(3, 3, 2).astype(x.dtype)
    return sampled_conv2d(x, ys, xs, kernel, weights=weights)


def _irregular(random: np.random.Generator, height: int, width: int, per_filter: bool = False) -> Inputs:
    positions = random.uniform(-1.9, 1.9, (5, 4, 2) if per_filter else (4, 2)).astype(np.float32)
    return image(random, 2, height, width, 3), image(random, 4, 3, 5), positions


def _module(layer) -> Callable[[np.random.Generator, int, int], Inputs]:
    def make(random: np.random.Generator, height: int, width: int) -> Inputs:
        x = image(random, 2, height, width, 4)
        return x, filled(layer, random, x)

    return make


def _applied(layer) -> Callable:
    return lambda x, variables: layer.apply(variables, x)


def _same(height: int, width: int, features: int) -> tuple[int, ...]:
    return height, width, features


def _half(height: int, width: int, features: int) -> tuple[int, ...]:
    return -(-height // 2), -(-width // 2), features


_ZERO_THETA = {"kernel": np.zeros((20, 6), np.float32), "bias": np.zeros(6, np.float32)}
_DEFORM = DeformConv(6, (3, 3), num_offset_groups=2, feature_group_count=2, modulated=True)
_IRREGULAR = IrregularConv(5, (3, 2), strides=2, per_filter=True)
_TRANSFORMER = SpatialTransformer(size=(3, 4), localization=functools.partial(LocalizationNet, features=(3,)))
_LOCALIZATION = LocalizationNet(features=(3, 2), hidden_features=5)

_MAP, _OFFSETS, _KERNEL = jnp.zeros((1, 4, 5, 4)), jnp.zeros((1, 4, 5, 18)), jnp.zeros((3, 3, 4, 2))

ROWS: tuple[Operator, ...] = (
    Operator(
        topic="Spatial transformer: bilinear sampler",
        functions=(bilinear_sample, bilinear_sum, is_inside),
        modules=(),
        oracle="the sum over all pixels, a NumPy loop; torch.nn.functional.grid_sample, recorded",
        cases=_BOUNDARY_CASES
        | {
            "sum": Case(
                _points,
                lambda x, ys, xs, weights: bilinear_sum(x, ys, xs, weights),
                out_shape=lambda height, width: (4, 3),
                linear=True,
                adverse=(_whole(1), _outside(1), _outside(2)),
            ),
        },
        refusals=(
            (
                lambda: bilinear_sample(jnp.zeros((2, 3, 3, 1)), jnp.zeros((3, 4)), jnp.zeros((3, 4))),
                r"^bilinear_sample: ys.shape\[0\] of \[3, 4\] must be the 2 images of x; ",
            ),
            (
                lambda: bilinear_sample(jnp.zeros((2, 3, 3, 1)), jnp.zeros((2, 4)), jnp.zeros((2, 5))),
                r"^bilinear_sample: ys\[2, 4\] and xs\[2, 5\] must have one shape; ",
            ),
            (
                lambda: bilinear_sample(jnp.zeros((2, 3, 3, 1)), *jnp.zeros((2, 2, 4)), boundary="zero"),
                "^bilinear_sample: boundary: unknown name 'zero'; did you mean 'zeros'",
            ),
            (
                lambda: bilinear_sample(jnp.zeros((2, 0, 3, 1)), *jnp.zeros((2, 2, 4))),
                r"^bilinear_sample: x\[2, 0, 3, 1\] must have pixels, not 0 x 3; ",
            ),
            (
                lambda: bilinear_sample(jnp.zeros((2, 3, 3, 1), jnp.uint8), *jnp.zeros((2, 2, 4))),
                r"^bilinear_sample: x=uint8\[2, 3, 3, 1\] must be floating point NHWC; ",
            ),
            (
                lambda: bilinear_sample(jnp.zeros((2, 3, 3, 1)), *jnp.zeros((2, 2, 4), jnp.int32)),
                "^bilinear_sample: ys=int32 and xs=int32 must be floating point; ",
            ),
            (
                lambda: bilinear_sum(jnp.zeros((2, 3, 3, 1)), jnp.zeros(2), jnp.zeros(2), jnp.ones(2)),
                r"^bilinear_sum: ys\[2\] must have an axis of points beside the images; ",
            ),
        ),
    ),
    Operator(
        topic="Active shift: shift by real displacements",
        functions=(bilinear_shift,),
        modules=(),
        oracle="the sum over all pixels, a NumPy loop",
        cases={
            name: Case(
                make,
                bilinear_shift,
                out_shape=functools.partial(_same, features=3),
                linear=True,
                translates=True,
                margin=3,
                adverse=(_whole(1), _outside(1), _outside(2)),
            )
            for name, make in (("channels", _shift), ("all", _one_shift))
        },
        refusals=(
            (
                lambda: bilinear_shift(jnp.zeros((1, 3, 3, 4)), jnp.zeros(3), 0.0),
                r"^bilinear_shift: a displacement of shape \[3\] must be one number or one for each of channels=4; ",
            ),
        ),
    ),
    Operator(
        topic="Spatial transformer: affine grid",
        functions=(affine_grid,),
        modules=(),
        oracle="torch.nn.functional.affine_grid, recorded",
        cases={
            name: Case(
                _theta,
                functools.partial(affine_grid, size=(3, 4), align_corners=align_corners),
                out_shape=lambda height, width: (3, 4, 2),
                linear=True,
                half=False,  # coordinates stay float32
            )
            for name, align_corners in (("corners", True), ("edges", False))
        },
        refusals=(
            (
                lambda: affine_grid(jnp.zeros((2, 3, 2)), (4, 4), True),
                r"^affine_grid: theta=float32\[2, 3, 2\] must be ",
            ),
            (
                lambda: affine_grid(jnp.zeros((2, 2, 3)), (-4, 3), True),
                r"^affine_grid: size=\(-4, 3\) must be ",
            ),
        ),
    ),
    Operator(
        topic="Spatial transformer: grid sample",
        functions=(grid_sample,),
        modules=(),
        oracle="torch.nn.functional.grid_sample, recorded",
        cases={
            name: Case(
                _grid,
                functools.partial(grid_sample, align_corners=align_corners),
                out_shape=lambda height, width: (3, 4, 3),
                linear=True,
                adverse=(_changed(1, np.zeros_like), _whole(1), _outside(1)),
            )
            for name, align_corners in (("corners", True), ("edges", False))
        },
        refusals=(
            (
                lambda: grid_sample(jnp.zeros((2, 3, 3, 1)), jnp.zeros((1, 3, 3, 2)), True),
                r"^grid_sample: grid\[1, 3, 3, 2\] must be \[2, out_height, out_width, 2\], ",
            ),
        ),
    ),
    Operator(
        topic="Spatial transformer networks (STN)",
        functions=(),
        modules=(SpatialTransformer, LocalizationNet),
        oracle="identity and whole-pixel maps, central differences of theta; its two functions against torch",
        cases={
            "module": Case(
                _module(_TRANSFORMER),
                _applied(_TRANSFORMER),
                out_shape=lambda height, width: (3, 4, 4),
                half_tolerance=6e-2,  # the network that tells the map computes in bfloat16
                adverse=(_changed(1, lambda tree: {"params": tree["params"] | {"theta": _ZERO_THETA}}),),
            ),
            "localization": Case(_module(_LOCALIZATION), _applied(_LOCALIZATION), out_shape=lambda height, width: (5,)),
        },
        refusals=(
            (
                lambda: SpatialTransformer().apply({}, jnp.zeros((1, 0, 3, 1))),
                r"^SpatialTransformer: x\[1, 0, 3, 1\] must have pixels",
            ),
        ),
    ),
    Operator(
        topic="Deformable convolution v1, v2",
        functions=(deform_conv2d, sampled_conv2d),
        modules=(DeformConv,),
        oracle="torchvision.ops.deform_conv2d, recorded; jax.lax's convolution at whole pixels",
        cases={
            "v1": Case(
                _deformed,
                lambda x, offsets, kernel, _: deform_conv2d(x, offsets, kernel, padding=1),
                out_shape=functools.partial(_same, features=6),
                linear=True,
                adverse=(_changed(1, np.zeros_like), _whole(1), _outside(1)),
            ),
            "v2": Case(
                functools.partial(_deformed, groups=2, strides=2),
                lambda x, offsets, kernel, mask: deform_conv2d(
                    x, offsets, kernel, mask=mask, padding=1, strides=2, feature_group_count=2
                ),
                out_shape=functools.partial(_half, features=6),
                linear=True,
                adverse=(_outside(1), _changed(3, np.zeros_like)),
            ),
            "constant": Case(
                functools.partial(_deformed, moving=False),
                lambda x, offsets, kernel, mask: deform_conv2d(x, offsets, kernel, mask=mask, padding="SAME"),
                out_shape=functools.partial(_same, features=6),
                linear=True,
                translates=True,
                margin=4,
            ),
            "samples": Case(_points, _sampled, out_shape=lambda height, width: (1, 4, 2), linear=True),
            "module": Case(_module(_DEFORM), _applied(_DEFORM), out_shape=functools.partial(_same, features=6)),
        },
        refusals=(
            (
                lambda: deform_conv2d(_MAP, jnp.zeros((1, 4, 5, 20)), _KERNEL, padding=1),
                r"^deform_conv2d: offsets.shape\[3\]=20 must be a multiple of 2 for each of taps=9; ",
            ),
            (
                lambda: deform_conv2d(_MAP, jnp.zeros((1, 4, 5, 54)), _KERNEL, padding=1),
                r"^deform_conv2d: 3 offset groups, of offsets.shape\[3\]=54, must divide in_features=4; ",
            ),
            (
                lambda: deform_conv2d(_MAP, _OFFSETS, _KERNEL, padding="VALID"),
                r"^deform_conv2d: offsets\[1, 4, 5, 18\] must be \[1, 2, 3, 18\], as the output of x\[1, 4, 5, 4\] ",
            ),
            (
                lambda: deform_conv2d(_MAP, _OFFSETS, _KERNEL, mask=jnp.zeros((1, 4, 5, 18)), padding=1),
                r"^deform_conv2d: mask\[1, 4, 5, 18\] must be \[1, 4, 5, 9\], ",
            ),
            (
                lambda: deform_conv2d(_MAP, _OFFSETS, _KERNEL, padding=1, feature_group_count=2),
                r"^deform_conv2d: feature_group_count=2 must divide in_features=4, to give kernel.shape\[2\]=4, ",
            ),
            (
                lambda: deform_conv2d(_MAP.astype(jnp.bfloat16), _OFFSETS, _KERNEL, padding=1),
                "^deform_conv2d: x and kernel must be of one dtype, not bfloat16 and float32; ",
            ),
            (
                lambda: deform_conv2d(_MAP, _OFFSETS.astype(jnp.int32), _KERNEL, padding=1),
                r"^deform_conv2d: offsets=int32\[1, 4, 5, 18\] must be floating point with 4 axes; ",
            ),
            (
                lambda: DeformConv(6, 3, num_offset_groups=3).init({}, _MAP),
                "^DeformConv: num_offset_groups=3 must divide in_features=4; ",
            ),
            (
                lambda: DeformConv(6, 3, feature_group_count=4).init({}, _MAP),
                r"^DeformConv: feature_group_count=4 must divide in_features=4, .* features=6; ",
            ),
        ),
    ),
    Operator(
        topic="Irregular convolution",
        functions=(irregular_conv2d,),
        modules=(IrregularConv,),
        oracle="a NumPy loop over the formula; jax.lax's convolution on a lattice",
        cases={
            "shared": Case(
                _irregular,
                irregular_conv2d,
                out_shape=functools.partial(_same, features=5),
                linear=True,
                translates=True,
                margin=3,
                adverse=(_whole(2), _outside(2)),
            ),
            "per_filter": Case(
                functools.partial(_irregular, per_filter=True),
                irregular_conv2d,
                out_shape=functools.partial(_same, features=5),
                linear=True,
                translates=True,
                margin=3,
                adverse=(_whole(2), _outside(2)),
            ),
            "module": Case(_module(_IRREGULAR), _applied(_IRREGULAR), out_shape=functools.partial(_half, features=5)),
        },
        refusals=(
            (
                lambda: irregular_conv2d(_MAP, jnp.zeros((9, 3, 2)), jnp.zeros((9, 2))),
                r"^irregular_conv2d: kernel.shape\[1\]=3 must be in_features=4; ",
            ),
            (
                lambda: irregular_conv2d(_MAP, jnp.zeros((9, 4, 2)), jnp.zeros((8, 2))),
                r"^irregular_conv2d: positions\[8, 2\] must be \[9, 2\] or \[2, 9, 2\], ",
            ),
            (
                lambda: irregular_conv2d(_MAP, jnp.zeros((9, 4, 2)), jnp.zeros((9, 2), jnp.int32)),
                r"^irregular_conv2d: positions=int32\[9, 2\] must be floating point with 2 or 3 axes; ",
            ),
        ),
    ),
)
