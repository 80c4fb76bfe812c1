"""Pieces of work that are measured one by one and kept, and what they share."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Dtype

from arch.efficiency.complexity import Traced, trace_function
from arch.efficiency.latency import Call, Program, Timing, build, reference_call
from arch.models import create
from arch.norm.fold import fold

_SAYS_WHERE = re.compile("offset|transformer")  # names of layers of deformable convolutions, spatial transformers


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


def network(
    model: str | nn.Module, *, batch: int, image_size: int, folded: bool, dtype: Dtype = jnp.float32, **fields: Any
) -> Network:
    """A network of arch.models, or a module of the same kind, with values to be timed with; its norms folded or not.

    Args:
        model: a name, or the module.
        batch: images.
        image_size: their height and width, pixels.
        folded: whether norms are part of the convolutions before them.
        dtype: that it computes in, of one that is given by name.
        **fields: likewise.
    """
    model = create(model, dtype=dtype, **fields) if isinstance(model, str) else model
    images = jnp.full((batch, image_size, image_size, 3), 0.5, dtype)
    variables = timing_variables(functools.partial(model.init, train=False), images[:1])
    if folded:
        return Network(*fold(model, variables, images, train=False), images)
    return Network(functools.partial(model.apply, train=False), variables, images)


def timing_variables(init: Callable[..., Any], x: jax.Array) -> Any:
    """Variables of the shapes of `init(rngs, x)`, as fast to compute with as the initial ones.

    They do not come from `init` where they need not: compiling it takes longer than all else of a measurement.

    Args:
        init: of a module.
        x: its input.
    """
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    shapes = jax.eval_shape(init, keys, x)
    paths = [[key.key for key in path] for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    # Other collections are made for a purpose, and what says where to look would with other values look elsewhere.
    if any(path[0] not in ("params", "batch_stats") or _SAYS_WHERE.search("/".join(path)) for path in paths):
        return jax.jit(init)(keys, x)
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        if name == "kernel":
            fan_in = max(1, math.prod(leaf.shape[:-1]))
            return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) / math.sqrt(fan_in), leaf.dtype)
        return jnp.full(leaf.shape, 1.0 if name in ("scale", "var") else 0.0, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)
