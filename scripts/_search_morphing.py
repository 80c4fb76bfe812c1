"""How a search over network morphisms evaluates a trial: by train.py, from the weights that its parent came to."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util

from arch.models.classification.graph_net import GraphNet
from arch.models.graphs import Graph, resolve
from arch.norm.batch import BatchNorm
from arch.ops import activation
from arch.search import morphism
from arch.search.trials import Evaluation, Job
from arch.training.checkpoint import Checkpointer
from arch.weights.convert import to_ours
from arch.weights.files import write
from scripts._search_training import Training


@dataclasses.dataclass(frozen=True)
class Morphing(Training):
    """As `Training`; a trial with a parent starts from the parent's last weights, after the morphisms of its change.

    They are in NUMBER.safetensors beside the folders of the runs, for train.py's `init_from`. A trial whose change is
    no list of morphisms, as other strategies have it, begins anew.
    """

    def __call__(self, job: Job) -> Evaluation:
        """As `Training`; raises RuntimeError where the parent has no weights."""
        if job.parent is None or not isinstance(job.change, list):
            return super().__call__(job)
        start = pathlib.Path(self.folder, f"{job.id:04d}.safetensors")
        if not start.exists():  # not stopped in its training
            write_start(pathlib.Path(self.folder, f"{job.parent:04d}"), job.change, start)
        return super().__call__(dataclasses.replace(job, architecture={**job.architecture, "init_from": str(start)}))


def activation_of(fields: Mapping[str, Any]) -> morphism.Activation:
    """That of the network of a recipe, by its fields."""
    return activation.create(fields["act"]) if "act" in fields else GraphNet.act


def write_start(parent: pathlib.Path, changes: list[Mapping[str, Any]], path: pathlib.Path) -> Graph:
    """Writes the weights of a run's newest checkpoint after some morphisms; returns their graph.

    Args:
      parent: folder of the run.
      changes: morphisms, one after the other.
      path: to be written, .safetensors.

    Raises:
      RuntimeError: the run has no checkpoint.
    """
    jax.config.update("jax_platforms", "cpu")  # the devices are for the trials
    model = json.loads((parent / "config.json").read_text())["model"]
    graph = resolve(model["fields"]["graph"])
    variables = read_variables(parent)
    epsilon = model["norm"]["fields"].get("epsilon", BatchNorm.epsilon)
    act = activation_of(model["fields"])
    for change in changes:
        graph, variables = morphism.apply(graph, variables, change, epsilon=epsilon, act=act)
    write(os.fspath(path), to_ours(variables), {"model": model["name"], "format": "arch"})
    return graph


def read_variables(run: pathlib.Path) -> dict[str, Any]:
    """Parameters and running statistics of a run's newest checkpoint.

    Raises:
      RuntimeError: there is none.
    """
    with contextlib.closing(Checkpointer(os.fspath(run / "checkpoints"), read_only=True)) as checkpoints:
        found = checkpoints.read()
    if found is None:
        raise RuntimeError(f"{run} must hold a checkpoint, for a child to start from; its trial has failed")
    flat = {tuple(name.split("/")): leaf for name, leaf in found[1].items()}
    return traverse_util.unflatten_dict({p: x for p, x in flat.items() if p[0] in ("params", "batch_stats")})
