"""Operators that make maps larger, and dense prediction."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from arch.ops.conv import ConvTranspose
from arch.ops.dense_prediction import densely_adjacent_prediction
from arch.ops.resize import bilinear_init, icnr_init, pixel_shuffle, pixel_unshuffle, resize
from arch.ops.unpooling import max_pool_with_argmax, max_unpool
from tests.catalogue.row import Case, Inputs, Operator, image


def _mapped(channels: int, call: Callable, out_shape: Callable[[int, int], tuple[int, ...]], **laws: object) -> Case:
    """A case of an operator of a map alone."""
    return Case(
        lambda random, height, width: (image(random, 2, height, width, channels),), call, out_shape=out_shape, **laws
    )


def _resized(**options: object) -> Case:
    return _mapped(3, lambda x: resize(x, (7, 3), **options), lambda height, width: (7, 3, 3), linear=True)


def _shuffled(order: str) -> Case:
    return _mapped(
        12,
        lambda x: pixel_shuffle(x, 2, order),
        lambda height, width: (2 * height, 2 * width, 3),
        linear=True,
        inverse=lambda out: pixel_unshuffle(out, 2, order),
    )


def _unshuffled(order: str) -> Case:
    return Case(
        lambda random, height, width: (image(random, 2, 2 * height, 3 * 2 * width, 3),),
        lambda x: pixel_unshuffle(x, 2, order),
        out_shape=lambda height, width: (height, 3 * width, 12),
        linear=True,
        inverse=lambda out: pixel_shuffle(out, 2, order),
    )


def _upsample(x: jax.Array) -> jax.Array:
    """Each channel at twice the size by a transposed convolution as it starts."""
    layer = ConvTranspose(x.shape[3], 4, 2, use_bias=False, kernel_init=bilinear_init(), dtype=x.dtype)
    return layer.init_with_output(jax.random.key(0), x)[0]


def _values_and_indices(random: np.random.Generator, height: int, width: int) -> Inputs:
    """Of a pooling by 2x2 windows of a map of twice the size."""
    rows, columns = (
        2 * np.arange(size).reshape(shape) + random.integers(0, 2, (2, height, width, 3))
        for size, shape in ((height, (-1, 1, 1)), (width, (-1, 1)))
    )
    return image(random, 2, height, width, 3), (rows * 2 * width + columns).astype(np.int32)


def _unpooled(**options: object) -> Case:
    return Case(
        _values_and_indices,
        lambda x, indices: max_unpool(x, indices, (2 * x.shape[1], 2 * x.shape[2]), **options),
        out_shape=lambda height, width: (2 * height, 2 * width, 3),
        linear=True,
    )


_MAP = jnp.zeros((1, 4, 4, 8))
_INDICES = jnp.zeros((1, 4, 4, 8), jnp.int32)

ROWS: tuple[Operator, ...] = (
    Operator(
        topic="Upsampling",
        functions=(resize,),
        modules=(),
        oracle="torch.nn.functional.interpolate, recorded; pixels and weights in exact arithmetic",
        cases={
            "nearest": _resized(method="nearest"),
            "nearest_exact": _resized(method="nearest-exact"),
            "bilinear": _resized(),
            "align_corners": _resized(align_corners=True),
            "antialias": _resized(antialias=True),
        },
        refusals=(
            (lambda: resize(_MAP, 0), "^resize: size=0 must be one or two positive integers; "),
            (lambda: resize(_MAP, 4, "linear"), "^resize: method: unknown name 'linear'; "),
            (lambda: resize(_MAP[:, :0], 4), r"^resize: x\[1, 0, 4, 8\] must be NHWC with at least one pixel; "),
        ),
    ),
    Operator(
        topic="Upsampling",
        functions=(pixel_shuffle, pixel_unshuffle, icnr_init),
        modules=(),
        oracle="torch.nn.functional.pixel_shuffle, recorded; a loop over the formula; with icnr_init a nearest resize",
        cases={
            "torch": _shuffled("torch"),
            "tf": _shuffled("tf"),
            "unshuffle_torch": _unshuffled("torch"),
            "unshuffle_tf": _unshuffled("tf"),
        },
        refusals=(
            (lambda: pixel_shuffle(_MAP, 3), r"^pixel_shuffle: scale\^2=9 must divide channels=8; "),
            (lambda: pixel_unshuffle(_MAP, 3), "^pixel_unshuffle: scale=3 must divide height=4 and width=4; "),
            (lambda: pixel_shuffle(_MAP, 2, "tensorflow"), "^pixel_shuffle: order: unknown name 'tensorflow'; "),
        ),
    ),
    Operator(
        topic="Upsampling",
        functions=(bilinear_init,),
        modules=(),
        oracle="torch.nn.functional.conv_transpose2d with FCN's own kernel, recorded",
        cases={
            "upsample": _mapped(2, _upsample, lambda height, width: (2 * height, 2 * width, 2), linear=True),
        },
        refusals=(
            (
                lambda: bilinear_init()(jax.random.key(0), (4, 4, 2, 3)),
                r"^bilinear_init: shape=\(4, 4, 2, 3\) must be ",
            ),
        ),
    ),
    Operator(
        topic="Upsampling",
        functions=(max_pool_with_argmax,),
        modules=(),
        oracle="torch.nn.functional.max_pool2d with indices, recorded",
        cases={
            "overlapping": _mapped(
                3,
                lambda x: max_pool_with_argmax(x, 3, 2, 1),
                lambda height, width: (-(-height // 2), -(-width // 2), 3),
            ),
        },
        refusals=(
            (
                lambda: max_pool_with_argmax(_MAP, 2, 2, 2),
                r"^max_pool_with_argmax: padding=2 .* window_shape=\(2, 2\), ",
            ),
        ),
    ),
    Operator(
        topic="Upsampling",
        functions=(max_unpool,),
        modules=(),
        oracle="torch.nn.functional.max_unpool2d, recorded; a loop where values meet",
        cases={"any_indices": _unpooled(), "windows": _unpooled(window_shape=2)},
        refusals=(
            (
                lambda: max_unpool(_MAP, _INDICES, (9, 10), window_shape=2),
                r"^max_unpool: size=\(9, 10\) must pool to the size \(4, 4\) of x, not to \(4, 5\); ",
            ),
            (
                lambda: max_unpool(_MAP, _INDICES[:, 1:], 8),
                r"^max_unpool: indices=int32\[1, 3, 4, 8\] .*\[1, 4, 4, 8\] ",
            ),
        ),
    ),
    Operator(
        topic="Dense prediction",
        functions=(densely_adjacent_prediction,),
        modules=(),
        oracle="a NumPy loop over the formula; equal slices: a box blur",
        cases={
            "3x3": _mapped(
                18, densely_adjacent_prediction, lambda height, width: (height, width, 2), linear=True, translates=True
            ),
            "1x5": _mapped(
                10,
                lambda x: densely_adjacent_prediction(x, (1, 5)),
                lambda height, width: (height, width, 2),
                linear=True,
                translates=True,
                margin=2,
            ),
        },
        refusals=(
            (
                lambda: densely_adjacent_prediction(_MAP),
                r"^densely_adjacent_prediction: kernel_size=\(3, 3\), 9 taps, must divide channels=8; ",
            ),
        ),
    ),
)
