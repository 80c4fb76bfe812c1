"""What batch norms evaluate by where not by running averages: statistics of the last training batches, measured anew.

They are measured with the parameters that are evaluated, on batches augmented as they were in training, so that a run
that was resumed, or is only evaluated, finds the same ones without having kept anything.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from flax import linen as nn

from arch import AXIS_NAME
from arch.norm import precise
from arch.ops.stochastic import Examples, example_keys
from arch.training.step import Batch, Preprocess, keys_of_step, positions, split_parts

# running: averages kept in training. last_batch: of the last global batch. last_batch_averaged: likewise, but means and
# variances of the devices are averaged, as by Akiba et al. (arXiv:1711.04325). precise: of several batches.
EVAL_STATISTICS = ("running", "last_batch", "last_batch_averaged", "precise")


class Remeasure:
    """`remeasure(versions, batches)` gives the variables of each version with the statistics of these batches.

    Args:
      model: with running statistics.
      name: one of EVAL_STATISTICS, other than running.
      part_size: examples of a device that are in memory at a time, as in training.
      seed: of the run, from which the keys of augmentation derive.
      preprocess: augments and normalises on the device.
    """

    def __init__(self, model: nn.Module, name: str, *, part_size: int, seed: int, preprocess: Preprocess):
        averaged = name == "last_batch_averaged"

        def measure(variables: Mapping[str, Any], batch: Batch, step: jax.Array) -> precise.Statistics:
            ids = positions(batch["label"].shape[0])
            augment_key, _ = keys_of_step(seed, step)

            def measure_part(part: tuple[Batch, jax.Array]) -> precise.Statistics:
                batch, ids = part
                images = preprocess(batch["image"], example_keys(augment_key, ids))
                options = {"examples": Examples(weight=batch["weight"], id=ids), "train": False}
                axis_name = None if averaged else AXIS_NAME
                return precise.batch_statistics(model, variables, images, axis_name=axis_name, **options)

            parts = split_parts((batch, ids), max(ids.size // part_size, 1))
            found = precise.combine(jax.lax.map(measure_part, parts))
            return precise.average_over_devices(found, AXIS_NAME) if averaged else found

        self._measure: Callable = jax.pmap(measure, axis_name=AXIS_NAME, in_axes=(0, 0, None))
        self._merge: Callable = jax.pmap(lambda first, second: precise.merge((first, second)))
        self._replace: Callable = jax.pmap(precise.with_statistics)

    def __call__(
        self, versions: Mapping[str, Mapping[str, Any]], batches: Iterable[tuple[int, Batch]]
    ) -> dict[str, dict[str, Any]]:
        """Over `[devices, ...]` leaves; each batch is read once.

        Args:
          versions: name -> variables of the model, such as its parameters and their average.
          batches: of training, each after the index of its step; at least one.
        """
        totals: dict[str, precise.Statistics] = {}
        for step, batch in batches:
            for name, variables in versions.items():
                one = self._measure(variables, batch, step)
                totals[name] = self._merge(totals[name], one) if name in totals else one
        return {name: self._replace(variables, totals[name]) for name, variables in versions.items()}
