"""Pieces of work that are measured one by one and kept, and what they share."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from arch.efficiency.complexity import Traced, trace_function
from arch.efficiency.latency import Call, Program, Timing, build, reference_call
from arch.models import create
from arch.norm.fold import fold


@dataclasses.dataclass(frozen=True)
class Settings:
    """How it is measured.

    Attributes:
        rounds: in which the members of a comparison take turns.
        once_s: a call that takes longer is timed once, in seconds.
        is_full: everything, not the choice that ends within 45 minutes.
    """

    rounds: int
    once_s: float = 10.0
    is_full: bool = False

    @functools.cached_property
    def reference(self) -> Call:
        """A kernel that takes its turn in every comparison, by which two runs can be compared."""
        return reference_call()


@dataclasses.dataclass(frozen=True)
class Work:
    """One record of the results.

    Attributes:
        study: its name.
        cell: what it measures, by a name that is its own within the study.
        measure: its fields.
    """

    study: str
    cell: str
    measure: Callable[[], Mapping[str, Any]]


def record(timing: Timing, program: Program | None = None) -> dict[str, Any]:
    """A timing for the results: milliseconds with quartiles, whether it can be quoted, compilation and memory."""
    fields = {
        "ms": 1e3 * timing.median_s,
        "low_ms": None if timing.low_s is None else 1e3 * timing.low_s,
        "high_ms": None if timing.high_s is None else 1e3 * timing.high_s,
        "relative": timing.relative,
        "is_noisy": timing.is_noisy,
    }
    if program is not None:
        fields |= {"compile_s": program.compile_s, "peak_bytes": program.peak_bytes}
    return fields


@dataclasses.dataclass(frozen=True)
class Network:
    """A network for inference, on an input.

    Attributes:
        fn: a function of variables and images.
        variables: of it.
        images: [batch, height, width, 3].
    """

    fn: Callable[..., Any]
    variables: Mapping[str, Any]
    images: jax.Array

    def build(self) -> Program:
        """Compiled."""
        return build(self.fn, self.variables, self.images)

    def trace(self) -> Traced:
        """What it computes."""
        return trace_function(self.fn, self.variables, self.images)


def network(model: str | nn.Module, *, batch: int, image_size: int, folded: bool, **fields: Any) -> Network:
    """A network of arch.models, or a module of the same kind, with initial values; its norms folded or not."""
    model = create(model, **fields) if isinstance(model, str) else model
    images = jnp.full((batch, image_size, image_size, 3), 0.5)
    # The values do not depend on the number of images, and most do not on their size.
    variables = jax.jit(functools.partial(model.init, train=False))(
        {"params": jax.random.key(0), "dropout": jax.random.key(0)}, images[:1]
    )
    if folded:
        return Network(*fold(model, variables, images, train=False), images)
    return Network(functools.partial(model.apply, train=False), variables, images)
