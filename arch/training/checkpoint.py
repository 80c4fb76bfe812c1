"""Checkpoints that survive anything: atomic, verified by a digest, with a fallback to the one before.

Orbax writes them, in the background, into a temporary folder that it renames when whole. What it holds is the state
flattened, {path: array}, beside the SHA-256 of it all.
"""

import hashlib
import logging
import operator
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import jax_utils
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from arch import AXIS_NAME

logger = logging.getLogger(__name__)

BEST_METRIC = "val/accuracy"
NOT_VALIDATED = -1.0  # stands in for BEST_METRIC at steps without an evaluation, behind all that have one


def is_news(record: logging.LogRecord) -> bool:
    """A filter of absl's log: false for what Orbax logs, with a traceback, of an error that `Checkpointer` raises."""
    return not (record.exc_info and pathlib.Path(ocp.__file__).parent in pathlib.Path(record.pathname).parents)


def to_host(state: Any) -> Any:
    """The first device's copy of a replicated pytree, as NumPy arrays; every process gets its own."""
    return jax.device_get(jax_utils.unreplicate(state))


def to_devices(state: Any) -> Any:
    """A pytree on every local device, as `jax.pmap` wants it: leaves `[local_devices, ...]`."""
    return jax_utils.replicate(state, axis_name=AXIS_NAME)


def digest(flat: dict[str, np.ndarray]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes; equal digests mean bit-equal states."""
    sha = hashlib.sha256()
    for name in sorted(flat):
        array = np.asarray(flat[name])
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def flatten(state: Any) -> dict[str, np.ndarray]:
    """{path with '/': leaf} of a pytree."""
    leaves, _ = jax.tree.flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten(flat: dict[str, np.ndarray], template: Any) -> Any:
    """The inverse of `flatten`, with the structure of `template`."""
    return jax.tree.unflatten(jax.tree.structure(template), [flat[name] for name in flatten(template)])


def _all_processes(holds: bool) -> bool:
    """Whether it holds on every process; all of them call it, and wait for each other."""
    return holds if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(holds)).all())


class Checkpointer:
    """Saves and restores the state of one run in `directory`; keeps the two newest and the best on validation.

    Args:
      directory: of the checkpoints; made when missing. Leftovers of saves that were cut off are removed.
      track_best: keeps the checkpoint whose metrics have the highest BEST_METRIC, beside the two newest.
      read_only: for evaluation: removes and writes nothing.
    """

    def __init__(self, directory: str, *, track_best: bool = False, read_only: bool = False):
        self._directory = pathlib.Path(directory).absolute()
        self._track_best = track_best
        self._read_only = read_only
        if not read_only and jax.process_index() == 0:
            for leftover in self._directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover, ignore_errors=True)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        policies = [checkpoint_managers.LatestN(2)]
        best_fn = None
        if self._track_best:
            best_fn = operator.itemgetter(BEST_METRIC)
            policies.append(checkpoint_managers.BestN(get_metric_fn=best_fn, n=1))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            best_fn=best_fn,  # chooses nothing beside a policy, but without it the metrics are not written to disk
            read_only=self._read_only,
        )
        return ocp.CheckpointManager(self._directory, options=options)

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Starts writing the host copy of a state; returns before it is on disk (see `close`).

        Every process calls this. A step that is saved already is left alone, unless it was not validated then and is
        now. `metrics` choose the best checkpoint, by `BEST_METRIC` where it is among them.
        """
        value = (metrics or {}).get(BEST_METRIC, NOT_VALIDATED)
        if self._manager.latest_step() == step:
            if not self._track_best or value <= self._value(step):
                return
            self._manager.wait_until_finished()
            self._manager.delete(step)
        flat = flatten(state)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(flat), meta=ocp.args.JsonSave({"step": step, "sha256": digest(flat)})
        )
        if not self._manager.save(
            step, args=items, metrics={BEST_METRIC: value} if self._track_best else None, force=True
        ):
            raise RuntimeError(f"Checkpointer: step {step} was not saved; {self._directory} already holds a later one")

    def restore(self, template: Any, *, best: bool = False) -> tuple[int, Any] | None:
        """(step, state) of the newest checkpoint that is whole, or None. Broken newer ones are named and set aside.

        Args:
          template: a state of the same structure, shapes and dtypes, or `jax.ShapeDtypeStruct`s of it.
          best: the best on validation comes before the newest, where anything was validated.

        Raises:
          ValueError: all that is there is broken, or of another network or optimiser.
        """
        found, broken = self._newest(best)
        state = None if found is None else (found[0], self._fit(*found, template))
        self._set_aside(broken)
        return state

    def read(self, *, best: bool = False) -> tuple[int, dict[str, np.ndarray]] | None:
        """As `restore`, of whatever network and optimiser: the state is {path: array}, as `flatten` has it."""
        found, broken = self._newest(best)
        self._set_aside(broken)
        return found

    def _newest(self, best: bool) -> tuple[tuple[int, dict[str, np.ndarray]] | None, list[int]]:
        """The checkpoint to restore, as it was saved, and the broken ones that come before it."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        if best:
            steps.sort(key=self._value, reverse=True)  # stable: the newest of equals comes first
        broken = []
        for step in steps:
            try:
                flat, reason = self._read(step), ""
            except Exception as error:  # whatever a damaged file may bring about in Orbax and TensorStore
                flat, reason = None, str(error).strip().split("\n")[0][:200] or type(error).__name__
            if _all_processes(flat is not None):
                return (step, flat), broken
            path = self._directory / str(step)
            logger.warning("checkpoint %s is broken (%s); trying the one before it", path, reason or "on another host")
            broken.append(step)
        if steps:
            raise ValueError(
                f"Checkpointer: none of the {len(steps)} checkpoints in {self._directory} can be read; "
                "move that folder away to start again"
            )
        return None, broken

    def latest_step(self) -> int | None:
        """The newest step that is saved, or on its way to the disk."""
        return self._manager.latest_step()

    def _value(self, step: int) -> float:
        return (self._manager.metrics(step) or {}).get(BEST_METRIC, NOT_VALIDATED)

    def _read(self, step: int) -> dict[str, np.ndarray]:
        """What was saved, and verified to be that."""
        items = ocp.args.Composite(state=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=items)
        flat = {name: np.asarray(leaf) for name, leaf in restored["state"].items()}
        if digest(flat) != restored["meta"]["sha256"]:
            raise ValueError("its content is not what was saved")
        return flat

    def _fit(self, step: int, flat: dict[str, np.ndarray], template: Any) -> Any:
        """As a state; the checkpoint is whole, but it may be of another network or optimiser."""
        wanted = {name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in flatten(template).items()}
        found = {name: (leaf.shape, leaf.dtype) for name, leaf in flat.items()}
        if wanted != found:
            names = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
            raise ValueError(
                f"Checkpointer: {self._directory / str(step)} must hold the state of this network and optimiser, but "
                f"{len(names)} leaves differ ({', '.join(names[:3])}, ...); use the config that it was saved with"
            )
        return unflatten(flat, template)

    def _set_aside(self, steps: list[int]) -> None:
        """Renames broken checkpoints, so that their steps can be saved again."""
        if self._read_only or not steps:
            return
        self._manager.close()
        if jax.process_index() == 0:
            for step in steps:
                shutil.rmtree(self._directory / f"broken-{step}", ignore_errors=True)
                (self._directory / str(step)).rename(self._directory / f"broken-{step}")
        _all_processes(True)  # nobody looks at the folder before
        self._manager = self._open()

    def close(self) -> None:
        """Waits until what was saved is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
