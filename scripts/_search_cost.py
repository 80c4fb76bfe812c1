"""What the network of a trial costs, known before it is trained, and the reward that weighs accuracy against it."""

import dataclasses
import functools
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from arch import models, optim
from arch.efficiency import latency
from arch.efficiency.complexity import abstract_variables, count
from arch.efficiency.lookup import LatencyTable, measure_operators
from arch.efficiency.operators import Operator, operators
from arch.errors import unknown_name
from arch.search.reward import hard_limit, soft_limit
from configs import cli
from input_pipeline.sources import Source, open_source
from scripts._child import last_line

COSTS = ("params", "macs", "seconds", "predicted_seconds")
KINDS = ("hard", "soft")
ROUNDS = 20  # of a measurement


@dataclasses.dataclass(frozen=True)
class Reward:
    """Accuracy, or accuracy weighed against one cost; see arch/search/reward.py.

    Attributes:
      cost: "params", "macs" or "seconds", of one image in evaluation on the device of the trials; "predicted_seconds",
        likewise but from a table of operators, of which only new ones are measured; "" weighs nothing.
      limit: of the cost, in its units: the most that may be had, or what the soft one relates to.
      kind: "hard", beyond which there is no reward, or "soft".
      exponent: of "soft", below 0.
      latency_table: file of the operators, an `arch.efficiency.lookup.LatencyTable`; it is made, and grows.

    Raises:
      ValueError: an unknown name; a limit that is not above 0, or an exponent that is not below; no file of operators.
    """

    cost: str = ""
    limit: float = 0.0
    kind: str = "hard"
    exponent: float = -0.07
    latency_table: str = ""

    def __post_init__(self):
        if self.cost and self.cost not in COSTS:
            raise unknown_name("config.reward.cost", self.cost, COSTS)
        if self.kind not in KINDS:
            raise unknown_name("config.reward.kind", self.kind, KINDS)
        if self.cost and not self.limit > 0:
            raise ValueError(f"config.reward.limit={self.limit} must be above 0, in {self.cost}; set it")
        if self.cost == "predicted_seconds" and not self.latency_table:
            raise ValueError("config.reward.latency_table must be a file, which is made where there is none; name it")
        if not self.exponent < 0:
            raise ValueError(f"config.reward.exponent={self.exponent} must be below 0; MnasNet has -0.07")

    def weigh(self, accuracy: float, costs: Mapping[str, float]) -> float:
        """The reward."""
        if not self.cost:
            return accuracy
        if self.kind == "hard":
            return hard_limit(accuracy, costs[self.cost], self.limit)
        return soft_limit(accuracy, costs[self.cost], self.limit, self.exponent)

    def allows(self, costs: Mapping[str, float]) -> bool:
        """Whether there is a reward at all: if not, nothing has to be trained."""
        return math.isfinite(self.weigh(1.0, costs))


def configure(recipe: str, fields: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config that train.py makes of a recipe and the fields of a trial."""
    return cli.override(cli.load_recipe(recipe), fields, "search")


def known(
    recipe: str, fields: Mapping[str, Any], reward: Reward, here: bool = False
) -> tuple[ml_collections.ConfigDict, dict[str, float]]:
    """The config of a trial, and what its network costs, as far as the reward asks for it, before it is trained.

    Args:
      recipe: FILE.py[:ARGS].
      fields: of the trial.
      reward: as above.
      here: whether this process is the one that has the device, and measures on it.
    """
    config = configure(recipe, fields)
    costs: dict[str, float] = size(config)
    if reward.cost in ("seconds", "predicted_seconds"):
        if here:
            costs[reward.cost] = _measure(config, reward.latency_table)
        else:
            costs[reward.cost] = measure_seconds(recipe, fields, reward.latency_table)
    return config, costs


def size(config: ml_collections.ConfigDict) -> dict[str, int]:
    """Parameters, and multiply-adds of one image, by tracing."""
    with jax.enable_x64(config.model.dtype == "float64"):
        found = count(_model(config), _shape(config), train=False)
    return {"params": found.params, "macs": found.macs}


def examples(config: ml_collections.ConfigDict, step: int) -> int:
    """Training examples that the first `step` updates of a config use, whether its batch grows or not."""
    plan = optim.plan_batches(
        config.schedule,
        num_examples=len(_train_split(config)),
        global_batch_size=config.global_batch_size,
        num_epochs=config.num_epochs,
        num_steps=config.num_steps,
    )
    return plan.examples_before(step)


def measure_seconds(recipe: str, fields: Mapping[str, Any], latency_table: str = "") -> float:
    """Of the network on one image, on the device that train.py takes: in a process of its own, for ours is on the CPU.

    Args:
      recipe: FILE.py[:ARGS].
      fields: of the trial.
      latency_table: of the operators that it is predicted from; "" measures the network itself.

    Raises:
      RuntimeError: that process failed; with the last line that it wrote.
    """
    command = [sys.executable, "-m", "scripts._search_cost", recipe, json.dumps(dict(fields)), latency_table]
    return float(last_line(command, "measuring"))


def _measure(config: ml_collections.ConfigDict, latency_table: str) -> float:
    """The median, or the prediction, in seconds, here."""
    jax.config.update("jax_enable_x64", config.model.dtype == "float64")
    model, x = _model(config), jnp.zeros(_shape(config))
    apply = functools.partial(model.apply, train=False)
    shapes = abstract_variables(model, x, train=False)
    if latency_table:
        return _table_of(pathlib.Path(latency_table), operators(apply, shapes, x)).predict(apply, shapes, x)
    # Of the same shapes as those that are trained, and as fast; without compiling what makes them.
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), shapes)
    program = latency.build(apply, variables, x)
    return latency.measure({"network": program.waiting_call}, rounds=ROUNDS)["network"].median_s


def _table_of(path: pathlib.Path, found: Sequence[Operator]) -> LatencyTable:
    """The table of the file, with what it lacks of the operators measured and written to it."""
    table = LatencyTable.load(path) if path.exists() else measure_operators([], rounds=ROUNDS)
    seconds = measure_operators(found, rounds=ROUNDS, known=table.seconds).seconds
    if len(seconds) > len(table.seconds):
        table = dataclasses.replace(table, seconds=seconds)
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save(path)
    return table


def _model(config: ml_collections.ConfigDict) -> Any:
    return models.from_config(config.model, _train_split(config).num_classes)


def _shape(config: ml_collections.ConfigDict) -> tuple[int, int, int, int]:
    return (1, config.data.image_size, config.data.image_size, config.data.num_channels)


def _train_split(config: ml_collections.ConfigDict) -> Source:
    return _open(config.data.name, config.data.dir, config.data.train_split)


_open = functools.cache(open_source)  # all trials have the same


if __name__ == "__main__":
    print(_measure(configure(sys.argv[1], json.loads(sys.argv[2])), sys.argv[3]))
