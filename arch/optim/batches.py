"""Which batch size each update of a run has: one throughout, or stages whose batch grows where the rate would fall.

A run is a stream of examples, epoch after epoch, cut into batches; steps, examples and epochs are converted here.
"""

import bisect
import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from arch.optim.noise_scale import Phase
from arch.optim.schedules import epochs_to_steps


class Stage(NamedTuple):
    """Updates of one batch size, up to the next stage.

    Attributes:
      first_step: index of its first update.
      first_example: examples that the updates before it have used, counted over epochs.
      global_batch_size: examples an update, over all devices, hosts and micro-batches.
    """

    first_step: int
    first_example: int
    global_batch_size: int


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """The updates of a run.

    Attributes:
      num_examples: of the training split.
      num_steps: updates in all.
      stages: in order; the first is at step 0.
    """

    num_examples: int
    num_steps: int
    stages: tuple[Stage, ...]

    @property
    def grows(self) -> bool:
        """Whether there is more than one batch size."""
        return len({stage.global_batch_size for stage in self.stages}) > 1

    def stage(self, step: int) -> Stage:
        """The stage of the update with this index; of the last one beyond the end."""
        return self.stages[bisect.bisect_right(self.stages, step, key=lambda stage: stage.first_step) - 1]

    def examples_before(self, step: int) -> int:
        """Examples that the first `step` updates use."""
        stage = self.stage(step)
        return stage.first_example + (step - stage.first_step) * stage.global_batch_size

    def epoch(self, step: int) -> float:
        """Passes over the training split that the first `step` updates make."""
        return self.examples_before(step) / self.num_examples

    def steps_in(self, epochs: float) -> int:
        """The number of updates nearest to so many epochs (a half rounds up)."""
        stages = [stage for stage in self.stages if stage.first_example <= epochs * self.num_examples]
        stage = stages[-1] if stages else self.stages[0]
        return _steps_after(stage, epochs, self.num_examples)

    def is_multiple(self, step: int, epochs: float) -> bool:
        """Whether `step` is nearest to a multiple, above 0, of so many epochs; of less than a step's, always."""
        near = round(self.epoch(step) / epochs)
        return step > 0 and any(self.steps_in(count * epochs) == step for count in (near - 1, near, near + 1))


def constant(num_examples: int, num_steps: int, global_batch_size: int) -> BatchPlan:
    """One batch size throughout."""
    return BatchPlan(num_examples, num_steps, (Stage(0, 0, global_batch_size),))


def from_phases(
    phases: Sequence[Phase], *, num_examples: int, num_epochs: float = 0.0, num_steps: int = 0
) -> BatchPlan:
    """The updates of phases that begin at an epoch each, the first at 0.

    A phase begins with the update nearest to its epoch. One that is too short for an update, or would begin after the
    end, is left out; neighbours of one batch size are one stage.

    Args:
      phases: rising, see `noise_scale.increase_batch`.
      num_examples: of the training split, at least 1.
      num_epochs: of the whole run; `num_steps`, where given, wins.
      num_steps: updates in all.

    Raises:
      ValueError: no examples, or phases that do not rise from epoch 0.
    """
    if num_examples < 1:
        raise ValueError(f"from_phases: num_examples={num_examples} must be at least 1; check the training split")
    if phases[0].start_epoch != 0 or any(after.start_epoch <= before.start_epoch for before, after in pairwise(phases)):
        starts = [phase.start_epoch for phase in phases]
        raise ValueError(f"from_phases: start_epoch={starts} must rise from 0; sort the phases")
    stages = [Stage(0, 0, phases[0].global_batch_size)]
    for phase in phases[1:]:
        last = stages[-1]
        if phase.global_batch_size == last.global_batch_size:
            continue
        step = _steps_after(last, phase.start_epoch, num_examples)
        seen = last.first_example + (step - last.first_step) * last.global_batch_size
        if step == last.first_step:
            stages.pop()  # it was too short for one update
        stages.append(Stage(step, seen, phase.global_batch_size))
    if not num_steps:
        begun = [stage for stage in stages if stage.first_example < num_epochs * num_examples] or stages[:1]
        num_steps = max(_steps_after(begun[-1], num_epochs, num_examples), begun[-1].first_step + 1)
    return BatchPlan(num_examples, num_steps, tuple(stage for stage in stages if stage.first_step < num_steps))


def _steps_after(stage: Stage, epochs: float, num_examples: int) -> int:
    """The steps nearest to so many epochs, if the stage lasted."""
    more = epochs - stage.first_example / num_examples
    return stage.first_step + epochs_to_steps(more, num_examples / stage.global_batch_size)
