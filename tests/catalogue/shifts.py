"""Operators that move channels over the map."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from arch.ops.shift import ActiveShift, active_shift, address_shift, shortcut_shift, spatial_shift
from tests.catalogue.row import Case, Inputs, Operator, filled, image


def _moved(channels: int, call: Callable, margin: int) -> Case:
    """A case of an operator of a map alone that moves its channels by up to `margin` pixels."""
    return Case(
        lambda random, height, width: (image(random, 2, height, width, channels),),
        call,
        out_shape=lambda height, width: (height, width, channels),
        linear=True,
        translates=True,
        margin=margin,
    )


def _map_and_displacements(random: np.random.Generator, height: int, width: int) -> Inputs:
    return image(random, 2, height, width, 5), random.uniform(-1.4, 1.4, (5, 2)).astype(np.float32)


def _map_and_variables(random: np.random.Generator, height: int, width: int) -> Inputs:
    x = image(random, 2, height, width, 5)
    return x, filled(ActiveShift(), random, x)


def _displaced(value: float) -> Callable[[Inputs], Inputs]:
    return lambda inputs: (inputs[0], np.full_like(inputs[1], value))


_ACTIVE = functools.partial(
    Case, out_shape=lambda height, width: (height, width, 5), linear=True, translates=True, margin=2
)

ROWS: tuple[Operator, ...] = (
    Operator(
        topic="Spatial shift",
        functions=(spatial_shift,),
        modules=(),
        oracle="a NumPy loop over the formula; a depthwise convolution with one-hot kernels",
        cases={
            "contiguous": _moved(20, lambda x: spatial_shift(x, 3), 1),
            "modulo": _moved(11, lambda x: spatial_shift(x, 3, assignment="modulo"), 1),
            "dilated": _moved(17, lambda x: spatial_shift(x, (3, 5), kernel_dilation=2), 4),
        },
        refusals=(
            (
                lambda: spatial_shift(jnp.zeros((1, 4, 4, 8)), 3),
                r"^spatial_shift: channels=8 .* 9 taps of .*\(3, 3\)",
            ),
            (lambda: spatial_shift(jnp.zeros((1, 4, 4, 8)), 2), r"^spatial_shift: kernel_size=\(2, 2\) must be odd"),
            (
                lambda: spatial_shift(jnp.zeros((1, 4, 4, 9)), 3, assignment="continuous"),
                "^spatial_shift: assignment: unknown name 'continuous'; did you mean 'contiguous'",
            ),
        ),
    ),
    Operator(
        topic="Spatial shift",
        functions=(address_shift,),
        modules=(),
        oracle="a NumPy loop over the formula",
        cases={"one": _moved(10, address_shift, 1), "two": _moved(8, lambda x: address_shift(x, 2), 2)},
        refusals=(
            (lambda: address_shift(jnp.zeros((1, 4, 4, 3))), "^address_shift: channels=3 must be at least 4, "),
            (lambda: address_shift(jnp.zeros((1, 4, 4, 4)), 0), "^address_shift: distance=0 must be at least 1; "),
        ),
    ),
    Operator(
        topic="Spatial shift",
        functions=(shortcut_shift,),
        modules=(),
        oracle="NumPy's concatenate",
        cases={
            "beside": Case(
                lambda random, height, width: (image(random, 2, height, width, 3), image(random, 2, height, width, 2)),
                shortcut_shift,
                out_shape=lambda height, width: (height, width, 5),
                inverse=lambda out: out[..., :3],
            )
        },
        refusals=(
            (
                lambda: shortcut_shift(jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 2, 2, 3))),
                r"^shortcut_shift: x\[1, 4, 4, 3\] and new\[1, 2, 2, 3\] must be equal ",
            ),
        ),
    ),
    Operator(
        topic="Spatial shift",
        functions=(active_shift,),
        modules=(ActiveShift,),
        oracle="a NumPy loop over the formula, finite differences; whole displacements: a loop by pixels",
        cases={
            "displacements": _ACTIVE(
                _map_and_displacements,
                active_shift,
                adverse=tuple(map(_displaced, (0.0, 1.0, -1e4, 1e30))),
            ),
            "module": _ACTIVE(_map_and_variables, lambda x, variables: ActiveShift().apply(variables, x)),
        },
        refusals=(
            (
                lambda: active_shift(jnp.zeros((1, 4, 4, 3)), jnp.zeros((4, 2))),
                r"^active_shift: displacements=float32\[4, 2\] .*\[channels=3, 2\]; ",
            ),
        ),
    ),
)
