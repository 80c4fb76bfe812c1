"""Learned group convolution (CondenseNet), as it is trained and as it is used."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.learned_group_conv import (
    IndexedGroupConv,
    LearnedGroupConv,
    condensation_stage,
    condense,
    condensed_variables,
    group_lasso,
    importance,
    to_index_and_grouped_conv,
)
from tests.catalogue.row import Case, Inputs, Operator, filled, image

IN_FEATURES, FEATURES, NUM_GROUPS = 8, 6, 2
BARE = {"features": FEATURES, "num_groups": NUM_GROUPS, "condense_factor": 4}
FULL = {**BARE, "norm": bind(BatchNorm, train=False), "act": nn.relu}


def _mask(random: np.random.Generator) -> np.ndarray:
    """Two inputs left for each group."""
    return np.stack([random.permutation(IN_FEATURES) < IN_FEATURES // 4 for _ in range(NUM_GROUPS)], axis=1)


def _layer(fields: dict, is_converted: bool) -> Case:
    """A condensed layer, or what becomes of it; its variables are an input."""
    learned, indexed = LearnedGroupConv(**fields), IndexedGroupConv(**fields)

    def make(random: np.random.Generator, height: int, width: int) -> Inputs:
        x = image(random, 2, height, width, IN_FEATURES)
        variables = {**filled(learned, random, x), "condensation": {"mask": _mask(random)}}
        return x, jax.device_get(condensed_variables(variables, 4)) if is_converted else variables

    return Case(
        make=make,
        call=lambda x, variables: (indexed if is_converted else learned).apply(variables, x),
        out_shape=lambda height, width: (height, width, FEATURES),
        linear=fields is BARE,
        translates=True,
    )


def _kernel(random: np.random.Generator, height: int, width: int) -> Inputs:
    return image(random, 1, 1, IN_FEATURES, FEATURES), _mask(random)


def _condensed(kernel: jax.Array, stage: np.ndarray) -> jax.Array:
    """The kernel that is left, so that there is something to differentiate."""
    mask = condense(kernel, jnp.ones((IN_FEATURES, NUM_GROUPS), bool), stage, 4)
    return jnp.where(jnp.tile(mask, FEATURES // NUM_GROUPS), kernel, 0)


_ZEROS = np.zeros((1, 2, 2, 8), np.float32)
_ONES = np.ones((8, 2), bool)

ROWS: tuple[Operator, ...] = (
    Operator(
        topic="Learned group convolution (CondenseNet)",
        functions=(),
        modules=(LearnedGroupConv, IndexedGroupConv),
        oracle="a NumPy loop over weights; masked and converted layer against each other, with statistics of a norm",
        cases={
            "masked_with_norm": _layer(FULL, False),
            "converted": _layer(BARE, True),
        },
        refusals=(
            (
                lambda: LearnedGroupConv(6, 3).init(jax.random.key(0), _ZEROS),
                "num_groups=3 must divide in_features=8 and features=6",
            ),
            (
                lambda: IndexedGroupConv(6, 2, 3).init(jax.random.key(0), _ZEROS),
                "condense_factor=3 must divide in_features=8",
            ),
        ),
    ),
    Operator(
        topic="Learned group convolution: condensation and conversion",
        functions=(condense, condensation_stage, importance, to_index_and_grouped_conv, condensed_variables),
        modules=(),
        oracle="a NumPy loop that drops input after input, while the kernel changes",
        cases={
            "condense": Case(
                make=lambda random, height, width: (_kernel(random, height, width)[0], random.integers(0, 4, ())),
                call=_condensed,
            )
        },
        refusals=(
            (lambda: condense(np.zeros((1, 1, 8, 6)), _ONES[:4], 1, 4), r"\(1, 1, 8, 6\) and mask of shape \(4, 2\)"),
            (lambda: importance(np.zeros((1, 1, 8, 6)), 4), "num_groups=4 must divide features=6"),
            (lambda: to_index_and_grouped_conv(np.zeros((1, 1, 8, 6)), _ONES, 4), r"have \[8, 8\] .* must have 2"),
        ),
    ),
    Operator(
        topic="Learned group convolution: group lasso",
        functions=(group_lasso,),
        modules=(),
        oracle="a NumPy loop, value and gradient",
        # Of bfloat16 it makes float32: it is part of the loss.
        cases={
            "lasso": Case(make=_kernel, call=lambda kernel, mask: group_lasso(kernel, mask, 8), half=False),
            "stopped": Case(make=_kernel, call=lambda kernel, mask: group_lasso(kernel, mask, 4), half=False),
        },
        refusals=((lambda: group_lasso(np.zeros((1, 1, 8, 5)), _ONES, 4), "num_groups=2 must divide .* features=5"),),
    ),
)
