"""Many architectures of one network by one compiled training step, to which the architecture is data.

Compiling takes longer than training where candidates are small; here it is paid once. The network has a field, such as
`cell` of `arch.models.classification.nas_bench_201.NASBench201`, that may be traced; step, order and randomness are
those of the project's own training, so that a candidate comes to what train.py comes to with the same seed.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from arch import AXIS_NAME
from arch.errors import unknown_name
from arch.training import metrics as metrics_lib
from arch.training.state import TrainState, create_state
from arch.training.step import Batch, Preprocess, make_eval_step, make_train_step

GROUPINGS = ("one", "vmap")
# Steps of one call, at most: a third of the time of a small network's step goes into calling it.
STEPS_A_CALL = 50


class OneProgram:
    """Trains and evaluates several candidates at a time, each with a seed and batches of its own.

    "one" takes them one after the other, and computes of each what it has chosen alone; "vmap" makes one operation a
    layer of all, for which every one of them computes all that could have been chosen. The first is faster on few
    cores, and its program takes no longer to compile the more there are; the second is for accelerators that one small
    candidate leaves idle. There one that diverges may take others along: XLA computes groups of a convolution together,
    with zeros in between.

    Args:
      model_of: makes the network from an architecture, an array that is traced. For "vmap" it selects from all that it
        computes: gradients of a `lax.switch` that vmap has made a selection are not finite.
      tx: gets averaged gradients, and the parameters.
      preprocess: (of training, of evaluation), see `make_train_step`.
      image_shape: (height, width, channels) of the network's input.
      num_classes: of the data.
      num_steps: of a training.
      grouping: "one" or "vmap".
      dtype: of the computation.
      label_smoothing: in [0, 1).

    Raises:
      ValueError: an unknown grouping.
    """

    def __init__(
        self,
        model_of: Callable[[jax.Array], nn.Module],
        tx: optax.GradientTransformation,
        *,
        preprocess: tuple[Preprocess, Preprocess],
        image_shape: tuple[int, int, int],
        num_classes: int,
        num_steps: int,
        grouping: str = "one",
        dtype: jnp.dtype = jnp.float32,
        label_smoothing: float = 0.0,
    ):
        if grouping not in GROUPINGS:
            raise unknown_name("OneProgram: grouping", grouping, GROUPINGS)
        for_training, for_evaluation = preprocess
        self._num_steps = num_steps
        # A divisor, so that all calls are of one program.
        self.steps_a_call = next(k for k in range(min(num_steps, STEPS_A_CALL), 0, -1) if num_steps % k == 0)

        def init(architecture: jax.Array, seed: jax.Array) -> TrainState:
            options = {"image_shape": image_shape, "num_classes": num_classes, "dtype": dtype}
            return create_state(model_of(architecture), tx, seed=seed, **options)

        def step(architecture: jax.Array, seed: jax.Array, state: TrainState, batch: Batch) -> TrainState:
            options = {"label_smoothing": label_smoothing, "num_steps": num_steps}
            train_step = make_train_step(model_of(architecture), tx, seed=seed, preprocess=for_training, **options)
            # A non-finite loss freezes the state of its own candidate, and no other.
            return _on_one_device(train_step, state, batch)

        def steps(architecture: jax.Array, seed: jax.Array, state: TrainState, batches: Batch) -> TrainState:
            return jax.lax.scan(lambda state, batch: (step(architecture, seed, state, batch), None), state, batches)[0]

        def count(architecture: jax.Array, variables: Any, batch: Batch, metrics: Any) -> Any:
            return _on_one_device(
                make_eval_step(model_of(architecture), preprocess=for_evaluation), variables, batch, metrics
            )

        self._together = grouping == "vmap"
        if self._together:
            init, steps = jax.vmap(init), jax.vmap(steps, in_axes=(0, 0, 0, 1))
            count = jax.vmap(count, in_axes=(0, 0, None, 0))  # one batch for all
        self._init = jax.jit(init)
        self._steps = jax.jit(steps, donate_argnums=2)
        self._count = jax.jit(count, donate_argnums=3)

    def train(
        self, architectures: np.ndarray, seeds: Sequence[int], streams: Sequence[Iterable[Batch]]
    ) -> list[TrainState]:
        """The state of each candidate after all steps; its `bad_step` is not -1 where a loss was not finite.

        Args:
          architectures: [candidates, ...], what `model_of` takes.
          seeds: [candidates].
          streams: of each candidate the batches, {"image": uint8 [batch, height, width, channels], "label", "weight"},
            those of a run with its seed.
        """
        seeds = np.asarray(seeds, np.int32)
        if self._together:
            batches = map(_on_host, zip(*streams, strict=False))
            return _unstack(self._train(architectures, seeds, batches), len(seeds))
        return [self._train(*candidate) for candidate in zip(architectures, seeds, streams, strict=True)]

    def _train(self, architecture: np.ndarray, seed: np.ndarray, batches: Iterable[Batch]) -> TrainState:
        state = self._init(architecture, seed)
        batches = itertools.islice(batches, self._num_steps)
        while part := list(itertools.islice(batches, self.steps_a_call)):
            state = self._steps(architecture, seed, state, _on_host(part))
        return state

    def evaluate(
        self, architectures: np.ndarray, states: Sequence[TrainState], batches: Callable[[], Iterable[Batch]]
    ) -> list[dict[str, float]]:
        """Metrics of each candidate.

        Args:
          architectures: as above.
          states: of `train`.
          batches: makes the batches of a split, [batch, ...].
        """
        if self._together:
            sums = _unstack(self._evaluate(architectures, _stack(states), batches()), len(states))
        else:
            sums = [self._evaluate(*candidate, batches()) for candidate in zip(architectures, states, strict=True)]
        return [metrics_lib.compute(jax.device_get(each)) for each in sums]

    def _evaluate(self, architecture: np.ndarray, state: TrainState, batches: Iterable[Batch]) -> metrics_lib.Metrics:
        variables = {"params": state.params, "batch_stats": state.batch_stats, **state.other}
        sums = jax.tree.map(jnp.zeros_like, state.metrics)
        for batch in batches:
            sums = self._count(architecture, variables, batch, sums)
        return sums


def _on_one_device(function: Callable, *trees: Any) -> Any:
    """Calls a function over the axis of devices as if there were one."""
    result = jax.vmap(function, axis_name=AXIS_NAME)(*jax.tree.map(lambda x: x[None], trees))
    return jax.tree.map(lambda x: x[0], result)


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _on_host(batches: Sequence[Batch]) -> Batch:
    """Stacked, for one transfer."""
    return jax.tree.map(lambda *each: np.stack(each), *batches)


def _unstack(tree: Any, count: int) -> list[Any]:
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]
