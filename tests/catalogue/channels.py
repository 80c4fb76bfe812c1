"""Operators on channels: shuffles, shifts, grouped convolutions, gradual updates, large kernels, activations."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from arch.ops import activation
from arch.ops.activation import Swish, swish
from arch.ops.channel import channel_shift, channel_shuffle, channel_unshuffle
from arch.ops.conv import Conv
from arch.ops.gradually_updated import GraduallyUpdated, gradually_update
from arch.ops.interleaved_group_conv import IGC, ChannelLocalConv
from arch.ops.large_kernel import LargeKernelConv
from tests.catalogue.row import Case, Inputs, Operator, filled, image

NO_BIAS = functools.partial(Conv, use_bias=False)


def _map(channels: int, random: np.random.Generator, height: int, width: int) -> Inputs:
    return (image(random, 2, height, width, channels),)


def _layer(module: nn.Module, channels: int, **laws: object) -> Case:
    """A case of a module: inputs are a map and the module's variables."""

    def make(random: np.random.Generator, height: int, width: int) -> Inputs:
        x = image(random, 2, height, width, channels)
        return x, filled(module, random, x)

    return Case(make, lambda x, variables: module.apply(variables, x), **laws)


def _moves(channels: int, call: Callable, back: Callable) -> Case:
    return Case(
        functools.partial(_map, channels),
        call,
        out_shape=lambda height, width: (height, width, channels),
        linear=True,
        inverse=back,
        translates=True,
        margin=0,
    )


def _halved(features: int) -> Callable[[int, int], tuple[int, ...]]:
    return lambda height, width: (-(-height // 2), -(-width // 2), features)


def _same(features: int) -> Callable[[int, int], tuple[int, ...]]:
    return lambda height, width: (height, width, features)


def _neighbour_sums(x: jax.Array) -> jax.Array:
    """A small update for the pure function: one segment from all channels."""
    return jnp.tanh(jnp.sum(x, axis=-1, keepdims=True)) * jnp.ones((2,), x.dtype)


def _init(module: nn.Module, channels: int) -> Callable[[], object]:
    return lambda: jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 4, 4, channels)))


_SHUFFLES = (
    Operator(
        topic="Channel shuffle",
        functions=(channel_shuffle, channel_unshuffle),
        modules=(),
        oracle="torch.nn.functional.channel_shuffle, recorded; the views of the authors' code",
        cases={
            "3_groups": _moves(12, lambda x: channel_shuffle(x, 3), lambda x: channel_unshuffle(x, 3)),
            "unshuffle": _moves(12, lambda x: channel_unshuffle(x, 3), lambda x: channel_shuffle(x, 3)),
        },
        refusals=(
            (lambda: channel_shuffle(jnp.zeros((1, 1, 1, 8)), 3), "^channel_shuffle: num_groups=3 .* channels=8; "),
            (lambda: channel_unshuffle(jnp.zeros((1, 1, 1, 8)), 0), "^channel_unshuffle: num_groups=0 .* channels=8; "),
        ),
    ),
    Operator(
        topic="Channel shift",
        functions=(channel_shift,),
        modules=(),
        oracle="torch.roll, recorded",
        cases={
            "half_a_group": _moves(8, lambda x: channel_shift(x, 2), lambda x: channel_shift(x, -2)),
            "beyond": _moves(5, lambda x: channel_shift(x, -13), lambda x: channel_shift(x, 13)),
        },
        refusals=((lambda: channel_shift(jnp.zeros((1, 1, 1, 8)), 1.5), "^channel_shift: shift=1.5 must be an int"),),
    ),
)

_CONVOLUTIONS = (
    Operator(
        topic="Channel shuffle: interleaved group convolution",
        functions=(),
        modules=(IGC,),
        oracle="the one dense kernel that it equals, in float64 NumPy; published parameters",
        cases={
            "3x2": _layer(IGC(6, 3, conv=NO_BIAS), 6, out_shape=_same(6), linear=True, translates=True, margin=2),
            "wider_at_stride_2": _layer(IGC(8, 2, strides=2), 4, out_shape=_halved(8)),
        },
        refusals=(
            (_init(IGC(9, 3), 8), "^IGC: num_primary_groups=3 must divide in_features=8 and features=9; "),
            (_init(IGC(8, 0), 8), "^IGC: num_primary_groups=0 must divide in_features=8 and features=8; "),
        ),
    ),
    Operator(
        topic="Channel shuffle: channel-local convolution",
        functions=(),
        modules=(ChannelLocalConv,),
        oracle="two dense kernels with zeros, in float64 NumPy; published parameters and multiply-adds",
        cases={
            "clcnet": _layer(
                ChannelLocalConv(4, 4, 2, conv=NO_BIAS), 8, out_shape=_same(4), linear=True, translates=True, margin=2
            ),
            "interlaced_at_stride_2": _layer(
                ChannelLocalConv(6, 2, 3, strides=2, interlaced_inputs=True), 6, out_shape=_halved(6)
            ),
        },
        refusals=(
            (_init(ChannelLocalConv(8, 3, 2), 8), "^ChannelLocalConv: num_spatial_groups=3 must .* in_features=8; "),
            (_init(ChannelLocalConv(9, 2, 2), 8), "^ChannelLocalConv: num_pointwise_groups=2 .* features=9; "),
            (
                _init(ChannelLocalConv(8, 4, 4), 8),
                "^ChannelLocalConv: num_spatial_groups=4 must .* num_pointwise_groups=2, or ",
            ),
        ),
    ),
    Operator(
        topic="Channel shift: gradually updated layer",
        functions=(gradually_update,),
        modules=(GraduallyUpdated,),
        oracle="a float64 NumPy loop; published parameters; negative: updates side by side",
        cases={
            "function": Case(
                functools.partial(_map, 6),
                lambda x: gradually_update(x, [_neighbour_sums] * 3),
                out_shape=_same(6),
                translates=True,
                margin=0,
            ),
            "layer": _layer(GraduallyUpdated(2, projection=True, act=nn.tanh), 4, out_shape=_same(4)),
        },
        refusals=(
            (lambda: gradually_update(jnp.zeros((1, 6)), [_neighbour_sums] * 4), r"len\(updates\)=4 .* channels=6; "),
            (_init(GraduallyUpdated(4), 6), "^GraduallyUpdated: num_segments=4 must divide channels=6; "),
        ),
    ),
    Operator(
        topic="1xM + Mx1: large kernels",
        functions=(),
        modules=(LargeKernelConv,),
        oracle="the one dense kernel that it equals, in float64 NumPy; published parameters",
        cases={
            "5x3": _layer(
                LargeKernelConv(3, (5, 3), conv=NO_BIAS), 2, out_shape=_same(3), linear=True, translates=True, margin=2
            ),
            "separable": _layer(LargeKernelConv(3, 7, middle_features=2), 2, out_shape=_same(3)),
        },
        refusals=((_init(LargeKernelConv(3, (4, 3)), 2), r"^LargeKernelConv: kernel_size=\(4, 3\) must be odd"),),
    ),
)


def _far(inputs: Inputs) -> Inputs:
    return (np.where(inputs[0] > 0, np.float32(1e20), np.float32(-1e20)), *inputs[1:])


def _tiny(inputs: Inputs) -> Inputs:
    return (np.where(inputs[0] > 0, np.float32(1e-30), np.float32(-1e-8)), *inputs[1:])


def _elementwise(function: Callable[[jax.Array], jax.Array]) -> Case:
    return Case(
        functools.partial(_map, 3),
        function,
        out_shape=_same(3),
        translates=True,
        margin=0,
        adverse=(_far, _tiny),
    )


def _searched(function: Callable[[jax.Array], jax.Array]) -> Operator:
    return Operator(
        topic="Search for activation functions",
        functions=(function,),
        modules=(),
        oracle="the formula in torch with its autograd, recorded",
        cases={"map": _elementwise(function)},
        refusals=((lambda: function(jnp.arange(3)), f"^{function.__name__}: x must be floating point, not int32; "),),
    )


def _with_beta(random: np.random.Generator, height: int, width: int) -> Inputs:
    return image(random, 2, height, width, 3), image(random, 3)


_ACTIVATIONS = (
    Operator(
        topic="Search for activation functions: swish",
        functions=(swish,),
        modules=(Swish,),
        oracle="torch.nn.functional.silu, and the formula with its autograd for other betas, recorded",
        cases={
            "fixed": _elementwise(swish),
            "beta": Case(_with_beta, swish, out_shape=_same(3), translates=True, margin=0, adverse=(_far, _tiny)),
            "trained": _layer(Swish(), 3, out_shape=_same(3)),
        },
        refusals=(
            (lambda: swish(jnp.arange(3)), "^swish: x must be floating point, not int32; "),
            (lambda: swish(jnp.ones((2, 4)), jnp.ones(3)), r"^swish: beta of shape \(3,\) .* shape \(2, 4\); "),
        ),
    ),
    *(
        _searched(function)
        for function in (
            activation.max_sigmoid,
            activation.cos_minus,
            activation.min_sin,
            activation.atan_squared_minus,
            activation.max_tanh,
            activation.sinc_plus,
            activation.asinh_squared,
        )
    ),
)

ROWS: tuple[Operator, ...] = (*_SHUFFLES, *_CONVOLUTIONS, *_ACTIVATIONS)
