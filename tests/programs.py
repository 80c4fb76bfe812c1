"""What tests ask of a traced program."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def largest_array(function: Callable[..., Any], *inputs: Any) -> int:
    """Elements of the largest array that a program makes at any of its steps, those of inner programs included.

    Args:
        function: traced, not run.
        *inputs: arrays, or their shapes and dtypes.
    """

    def sizes(jaxpr: core.Jaxpr):
        for equation in jaxpr.eqns:
            yield from (variable.aval.size for variable in equation.outvars)
            for inner in core.jaxprs_in_params(equation.params):
                yield from sizes(inner)

    return max(sizes(jax.make_jaxpr(function)(*inputs).jaxpr))
