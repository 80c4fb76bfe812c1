"""Derivatives of both modes against central differences of an oracle in NumPy."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from tests.compiling import quick_jit

STEP = 1e-6


def check_derivatives(call: Callable, oracle: Callable, *inputs: Any, rtol: float = 1e-6) -> None:
    """Compares value, push-forward and pull-back of `call` with `oracle`, along one random direction.

    Args:
        call: to be differentiated in all of its inputs, which are trees of float64 arrays.
        oracle: the same in NumPy.
        inputs: of both.
        rtol: of the derivatives, in units of the largest.
    """
    random = np.random.default_rng(7)
    direction = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape), inputs)
    up, down = (oracle(*jax.tree.map(lambda a, t: a + h * t, inputs, direction)) for h in (STEP, -STEP))  # noqa: B023
    expected = (up - down) / (2 * STEP)
    probe = random.standard_normal(expected.shape)

    @quick_jit
    def run(inputs: Any, direction: Any, probe: jax.Array) -> tuple[Any, ...]:
        out, pushed = jax.jvp(call, inputs, direction)
        return out, pushed, jax.vjp(call, *inputs)[1](probe)

    out, pushed, pulled = run(inputs, direction, probe)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(out, oracle(*inputs), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(pushed, expected, rtol=0, atol=rtol * scale)
    along = sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(pulled), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(along, np.vdot(probe, expected), rtol=0, atol=rtol * scale * np.sqrt(probe.size))
