"""Convolution, plain pooling, dropout and drop path."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from flax import linen as nn

from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv, ConvTranspose, DepthwiseConv, FactorizedConv, SeparableConv
from arch.ops.conv2d import conv2d, conv_transpose2d, transposed_padding
from arch.ops.drop_path import (
    DropPath,
    FractalJoin,
    drop_path,
    global_drop_path,
    join,
    local_drop_path,
    sample_columns,
)
from arch.ops.local_response import local_response_norm
from arch.ops.pooling import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool
from arch.ops.stochastic import Dropout, dropout
from tests.catalogue.row import Case, Inputs, Operator, filled, image

CHANNELS = 6
NORM = bind(BatchNorm, train=False)


def _map(random: np.random.Generator, height: int, width: int) -> Inputs:
    return (image(random, 2, height, width, CHANNELS),)


def _same(height: int, width: int) -> tuple[int, ...]:
    return height, width, CHANNELS


def _with_kernel(
    function: Callable[..., jax.Array],
    kernel_shape: tuple[int, ...],
    out_shape: Callable[[int, int], tuple[int, ...]],
    translates: bool = False,
    margin: int = 1,
    **options,
) -> Case:
    """A convolution of a map with a kernel, both inputs."""

    def make(random: np.random.Generator, height: int, width: int) -> Inputs:
        return *_map(random, height, width), image(random, *kernel_shape)

    call = functools.partial(function, **options)
    return Case(make=make, call=call, out_shape=out_shape, linear=True, translates=translates, margin=margin)


def _module(module: nn.Module, out_shape: Callable[[int, int], tuple[int, ...]], linear: bool = False) -> Case:
    """A module; its variables are an input."""

    def make(random: np.random.Generator, height: int, width: int) -> Inputs:
        (x,) = _map(random, height, width)
        return x, filled(module, random, x)

    return Case(make=make, call=lambda x, variables: module.apply(variables, x), out_shape=out_shape, linear=linear)


def _of_map(call: Callable[[jax.Array], jax.Array], **laws) -> Case:
    """A function of a map alone."""
    return Case(**{"make": _map, "call": call, "out_shape": _same, **laws})


def _train(module: nn.Module, x: jax.Array, **options) -> jax.Array:
    return module.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}, **options)


def _paths(x: jax.Array) -> list[jax.Array]:
    return [x, 2 * x, -4 * x]


_ZEROS = np.zeros((2, 4, 4, 6), np.float32)
_KERNEL = np.zeros((3, 3, 3, 4), np.float32)

ROWS: tuple[Operator, ...] = (
    Operator(
        topic="Grouped and dilated convolution",
        functions=(conv2d,),
        modules=(Conv,),
        oracle="lax.conv_general_dilated and flax.linen.Conv in float64; a dense convolution with zeros in its kernel",
        cases={
            "dense": _with_kernel(conv2d, (3, 3, 6, 4), lambda h, w: (h, w, 4), translates=True, padding="SAME"),
            "strided": _with_kernel(
                conv2d, (2, 2, 6, 4), lambda h, w: (-(-h // 2), -(-w // 2), 4), strides=2, padding="SAME"
            ),
            "grouped": _with_kernel(
                conv2d, (3, 3, 2, 9), lambda h, w: (h, w, 9), translates=True, padding=1, feature_group_count=3
            ),
            "dilated": _with_kernel(
                conv2d,
                (3, 3, 6, 4),
                lambda h, w: (h, w, 4),
                translates=True,
                margin=2,
                kernel_dilation=2,
                padding="SAME",
            ),
            "module": _module(Conv(4, (3, 2), feature_group_count=2), lambda h, w: (h, w, 4)),
        },
        refusals=(
            (
                lambda: conv2d(_ZEROS, _KERNEL, padding="SAME", feature_group_count=3),
                "in_features=6 must be feature_group_count=3 times kernel.shape.2.=3",
            ),
            (
                lambda: Conv(4, 3, feature_group_count=4).init(jax.random.key(0), _ZEROS),
                "feature_group_count=4 must divide in_features=6 and features=4",
            ),
        ),
    ),
    Operator(
        topic="Depthwise convolution",
        functions=(),
        modules=(DepthwiseConv,),
        oracle="flax.linen.Conv with as many groups as channels; a NumPy loop",
        cases={
            "module": _module(DepthwiseConv(3, 2, use_bias=False), lambda h, w: (h, w, 12), linear=True),
            "strided": _module(DepthwiseConv(5, strides=2), lambda h, w: (-(-h // 2), -(-w // 2), 6)),
        },
        refusals=(
            (lambda: DepthwiseConv(3, 0).init(jax.random.key(0), _ZEROS), "depth_multiplier=0 must be at least"),
        ),
    ),
    Operator(
        topic="Depthwise separable convolution, with or without norm and activation between",
        functions=(),
        modules=(SeparableConv,),
        oracle="the dense convolution whose kernel is the product of both, in NumPy",
        cases={
            "bare": _module(
                SeparableConv(4, 3, conv=functools.partial(Conv, use_bias=False)), lambda h, w: (h, w, 4), linear=True
            ),
            "norm_and_act": _module(
                SeparableConv(4, 3, 2, norm=NORM, act=nn.relu), lambda h, w: (-(-h // 2), -(-w // 2), 4)
            ),
        },
    ),
    Operator(
        topic="Factorized convolution, 1xM + Mx1",
        functions=(),
        modules=(FactorizedConv,),
        oracle="the dense convolution whose kernel is the product of both, in NumPy",
        cases={
            "bare": _module(
                FactorizedConv(4, 5, 3, conv=functools.partial(Conv, use_bias=False)),
                lambda h, w: (h, w, 4),
                linear=True,
            ),
        },
    ),
    Operator(
        topic="Transposed convolution",
        functions=(conv_transpose2d,),
        modules=(ConvTranspose,),
        oracle="lax.conv_transpose and flax.linen.ConvTranspose in float64; a loop; the adjoint of conv2d",
        cases={
            "upsampled": _with_kernel(
                conv_transpose2d,
                (4, 4, 5, 6),
                lambda h, w: (2 * h, 2 * w, 5),
                strides=2,
                padding=transposed_padding(4, 1),
                transpose_kernel=True,
            ),
            "grouped": _with_kernel(
                conv_transpose2d,
                (3, 3, 3, 4),
                lambda h, w: (h, w, 4),
                translates=True,
                padding="SAME",
                feature_group_count=2,
            ),
            "module": _module(ConvTranspose(4, 3, 2), lambda h, w: (2 * h, 2 * w, 4)),
        },
        refusals=(
            (
                lambda: conv_transpose2d(_ZEROS, _KERNEL, padding="SAME", transpose_kernel=True),
                r"in_features=6 must be kernel.shape\[3\]=4 with transpose_kernel",
            ),
        ),
    ),
    Operator(
        topic="Max pooling",
        functions=(max_pool,),
        modules=(),
        oracle="a NumPy loop, ties and NaN included",
        cases={
            "overlapping": _of_map(
                lambda x: max_pool(x, 3, 2, 1), out_shape=lambda h, w: ((h + 1) // 2, (w + 1) // 2, CHANNELS)
            ),
            "dense": _of_map(lambda x: max_pool(x, 3, 1, "SAME"), translates=True),
        },
        refusals=((lambda: max_pool(_ZEROS, 2, 2, 2), r"padding=2 must be .* less than window_shape=\(2, 2\)"),),
    ),
    Operator(
        topic="Average pooling",
        functions=(avg_pool,),
        modules=(),
        oracle="a NumPy loop, with and without padding counted",
        cases={
            "counted": _of_map(
                lambda x: avg_pool(x, 3, 2, 1, count_padding=True),
                out_shape=lambda h, w: ((h + 1) // 2, (w + 1) // 2, CHANNELS),
                linear=True,
            ),
            "uncounted": _of_map(
                lambda x: avg_pool(x, 3, 1, "SAME", count_padding=False), linear=True, translates=True
            ),
        },
        refusals=((lambda: avg_pool(_ZEROS, 2, 2, 2, True), r"padding=2 must be .* less than window_shape=\(2, 2\)"),),
    ),
    Operator(
        topic="Average pooling to a grid of one size",
        functions=(adaptive_avg_pool,),
        modules=(),
        oracle="torch.nn.functional.adaptive_avg_pool2d, recorded with VGG; a NumPy loop",
        cases={
            "grid": _of_map(
                lambda x: adaptive_avg_pool(x, (3, 2)), out_shape=lambda h, w: (3, 2, CHANNELS), linear=True
            )
        },
        refusals=(
            (lambda: adaptive_avg_pool(_ZEROS[:, :0], 2), r"x=\[2, 0, 4, 6\] must have a pixel"),
            (lambda: adaptive_avg_pool(_ZEROS, (2, 0)), r"output_size=\(2, 0\) must be"),
        ),
    ),
    Operator(
        topic="Global average pooling",
        functions=(global_avg_pool,),
        modules=(),
        oracle="NumPy's mean in float64",
        # Of bfloat16 it makes float32.
        cases={"mean": _of_map(global_avg_pool, out_shape=lambda h, w: (CHANNELS,), linear=True, half=False)},
        refusals=(
            (lambda: global_avg_pool(np.zeros((5, 5, 2), np.float32)), r"x=float32\[5, 5, 2\] must be"),
            (lambda: global_avg_pool(np.zeros((1, 0, 5, 2), np.float32)), r"x=\[1, 0, 5, 2\] must have a pixel"),
        ),
    ),
    Operator(
        topic="Local response normalization",
        functions=(local_response_norm,),
        modules=(),
        oracle="a NumPy loop",
        cases={"default": _of_map(local_response_norm, translates=True)},
        refusals=((lambda: local_response_norm(_ZEROS, 4), "size=4 must be odd and positive"),),
    ),
    Operator(
        topic="Dropout",
        functions=(dropout,),
        modules=(Dropout,),
        oracle="shares and means of many draws",
        cases={
            "function": _of_map(lambda x: dropout(x, jax.random.key(0), 0.5), linear=True),
            "module": _of_map(functools.partial(_train, Dropout(0.5)), linear=True),
        },
        refusals=((lambda: dropout(_ZEROS, jax.random.key(0), 1.5), r"rate=1.5 must lie in \[0, 1\]"),),
    ),
    Operator(
        topic="Drop path (stochastic depth)",
        functions=(drop_path,),
        modules=(DropPath,),
        oracle="binomial shares of many draws; what survives, in NumPy",
        cases={
            "function": _of_map(lambda x: drop_path(x, jax.random.key(1), 0.5), linear=True),
            "module": _of_map(functools.partial(_train, DropPath(0.5)), linear=True),
        },
        refusals=((lambda: drop_path(_ZEROS, jax.random.key(0), -0.5), r"rate=-0.5 must lie in \[0, 1\]"),),
    ),
    Operator(
        topic="Join of FractalNet, with local and global drop path",
        functions=(join, local_drop_path, global_drop_path, sample_columns),
        modules=(FractalJoin,),
        oracle="a NumPy loop; the exact probability of every subset; a network whose output names its path",
        cases={
            "mean": _of_map(lambda x: join(_paths(x)), linear=True, translates=True),
            "local": _of_map(lambda x: local_drop_path(_paths(x), jax.random.key(0), 0.5), linear=True),
            "global": _of_map(lambda x: global_drop_path(_paths(x), (0, 2, 3), np.array([2, 1])), linear=True),
            "module": _of_map(
                lambda x: _train(FractalJoin(), _paths(x), columns=(0, 1, 2), column=np.array([-1, 2])), linear=True
            ),
        },
        refusals=(
            (lambda: join([_ZEROS, _ZEROS[:1]]), r"float32\[2, 4, 4, 6\], float32\[1, 4, 4, 6\]"),
            (lambda: global_drop_path([_ZEROS] * 2, (0,), np.zeros(2, int)), r"columns=\(0,\) must .* 2 inputs"),
        ),
    ),
)
