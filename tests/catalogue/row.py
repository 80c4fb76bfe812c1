"""One row of the operator catalogue, and what rows share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

# The inputs of a case: NumPy arrays and trees of them, float32 where real. The first is what the operator acts on.
Inputs = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """A small example of an operator, with the laws that it keeps; `tests/test_catalogue.py` proves them.

    Attributes:
        make: (random numbers, height, width) -> inputs; the first is [batch, height, width, channels] where the
            operator acts on maps. Other sizes come from nowhere else. Integers and keys are not differentiated.
        call: the operator, inputs -> an array or a tree of arrays. Options are bound in it.
        out_shape: (height, width) -> shape of the (first) output without the batch; None where no map is involved.
        linear: in its first input.
        inverse: undoes `call` bit for bit.
        translates: moving the first input by a pixel moves the output by a pixel, away from the borders.
        margin: pixels at each border where it does not, or where padding shows.
        adverse: further inputs, made from those of `make`, at which gradients must be finite.
        mapped: may be mapped over a leading axis of all its inputs; False only where a key or a rule forbids it.
        half: takes bfloat16.
        half_tolerance: of bfloat16 against float32, as a share of the largest value.
    """

    make: Callable[[np.random.Generator, int, int], Inputs]
    call: Callable[..., Any]
    out_shape: Callable[[int, int], tuple[int, ...]] | None = None
    linear: bool = False
    inverse: Callable[[Any], Any] | None = None
    translates: bool = False
    margin: int = 1
    adverse: tuple[Callable[[Inputs], Inputs], ...] = ()
    mapped: bool = True
    half: bool = True
    half_tolerance: float = 2e-2


@dataclasses.dataclass(frozen=True)
class Operator:
    """One row of docs/operators.md.

    Attributes:
        topic: of the lecture.
        functions: pure functions that are this operator; the docstring of the first of all describes it.
        modules: linen modules that are this operator.
        oracle: what its own tests compare it with.
        cases: small examples by name.
        refusals: calls that must raise, with the pattern of their one line, which names the numbers concerned.
    """

    topic: str
    functions: tuple[Callable[..., Any], ...]
    modules: tuple[type[nn.Module], ...]
    oracle: str
    cases: dict[str, Case]
    refusals: tuple[tuple[Callable[[], Any], str], ...] = ()

    @property
    def name(self) -> str:
        return (*self.functions, *self.modules)[0].__name__


def image(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Standard normal float32 numbers."""
    return random.standard_normal(shape, np.float32)


def filled(module: nn.Module, random: np.random.Generator, *inputs: Any, **options: Any) -> Any:
    """Variables of a module without compiling its init: normal numbers, variances positive, scales about 1.

    Args:
        module: to be called with `inputs` and `options`.
        random: where the numbers come from.
    """
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *map(jnp.asarray, inputs), **options))

    def value(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        numbers = random.standard_normal(leaf.shape, np.float32) * 0.3
        last = path[-1].key
        if last in ("scale", "var"):
            return np.exp(numbers)
        return numbers

    return jax.tree.map_with_path(value, shapes)
