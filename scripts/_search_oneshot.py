"""How scripts/search.py searches in one network that holds all candidates, where the config has `oneshot`.

The training images of the recipe are split in two halves, by a permutation that the seed fixes: one trains the weights
of the supernet, the other its architecture. It runs on the first device.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import pathlib
import signal
import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from arch import models
from arch.optim import batches, schedules
from arch.search.oneshot.derive import derive, entropy, histogram
from arch.search.oneshot.step import SearchState, Settings, create_state, make_eval_step, make_search_step
from arch.search.oneshot.supernet import KINDS, Supernet
from arch.training import metrics, workdir
from arch.training.checkpoint import Checkpointer
from arch.training.cluster import INTERRUPTED, NON_FINITE, RESUME_ME
from arch.training.logbook import Logbook
from arch.training.preemption import StopRequest
from arch.training.progress import Progress
from configs import cli
from scripts import _cell_picture, _search_report
from scripts._search_halves import Halves

GENOTYPE = "model.fields.genotype"  # of the recipe: what is searched

logger = logging.getLogger("search")


class Run:
    """All that a config stands for: data, supernet and compiled steps. Making it checks the config.

    Args:
      config: of the search.
      recipe: of train.py, with the overrides of the search: its data is searched with.
    """

    def __init__(self, config: ml_collections.ConfigDict, recipe: ml_collections.ConfigDict):
        self.config, self.recipe = config, recipe
        dtype = jnp.dtype(recipe.model.dtype)
        self.settings = _make(Settings, "config.oneshot", config.oneshot)
        layers = models.parts(recipe.model)
        for name in ("conv", "norm", "act"):
            if name in config.supernet:
                raise ValueError(f"config.supernet.{name} is that of the network; set it by config.overrides.model")
        model = _make(Supernet, "config.supernet", config.supernet, dtype=dtype, **layers)
        self.data = Halves(recipe.data, seed=config.seed, batch_size=config.global_batch_size)
        info, size = self.data.info, config.global_batch_size
        self.model = model.clone(num_classes=info.num_classes)
        count = len(self.data.weights)
        num_steps = config.num_steps or schedules.epochs_to_steps(config.num_epochs, count / size)
        if num_steps < 1:
            raise ValueError(f"config.num_epochs={config.num_epochs} must be above 0, or set config.num_steps")
        self.plan = batches.constant(count, num_steps, size)
        _, self.schedule = self.settings.optimizer(num_steps)
        self.create_state = functools.partial(
            create_state, self.model, self.settings, seed=config.seed, image_shape=info.eval_image_shape,
            num_steps=num_steps, dtype=dtype,
        )  # fmt: skip
        shapes = jax.eval_shape(self.create_state).alphas
        genotype = derive({kind: np.zeros(shape.shape) for kind, shape in shapes.items()}, self.model.operations)
        models.from_config(self.with_genotype(genotype).model, info.num_classes)
        step = make_search_step(
            self.model, self.settings, seed=config.seed, preprocess=self.data.augment, num_steps=num_steps
        )
        self.step = jax.jit(step, donate_argnums=0)
        self.eval_step = jax.jit(make_eval_step(self.model, preprocess=self.data.plain), donate_argnums=2)

    def with_genotype(self, genotype: Any) -> ml_collections.ConfigDict:
        """The recipe of the network with these cells."""
        return cli.override(self.recipe, {GENOTYPE: json.dumps(genotype.to_json())}, "search: config.recipe")

    def evaluate(self, state: SearchState, stop: StopRequest) -> dict[str, float] | None:
        """Of the supernet, on the half that its weights have not seen; None where a stop was asked for."""
        sums = without_metrics(state).metrics
        for batch in self.data.alphas.evaluation():
            if stop.signal is not None:
                return None
            sums = self.eval_step(state, batch, sums)
        return {f"val/{name}": value for name, value in metrics.compute(sums).items()}


def _make(cls: type, owner: str, fields: ml_collections.ConfigDict, **more: Any) -> Any:
    """An instance, of fields of the config; one that it does not have is said in one line."""
    try:
        return cls(**fields, **more)
    except TypeError as error:
        raise ValueError(f"{owner}: {error}; see {cls.__name__}") from error


def without_metrics(state: SearchState) -> SearchState:
    """The state, with nothing counted yet."""
    return state.replace(metrics=jax.tree.map(jnp.zeros_like, state.metrics))


def to_host(state: SearchState) -> SearchState:
    """A copy, which later steps, to which the state is donated, do not touch."""
    return jax.tree.map(np.array, jax.device_get(state))


def search_oneshot(config: ml_collections.ConfigDict, folder: pathlib.Path) -> int:
    """Searches to the end, from the newest checkpoint in the folder if there is one; returns the exit status."""
    for name in ("arch", "input_pipeline"):
        logging.getLogger(name).setLevel(logging.INFO)
    recipe = cli.override(cli.load_recipe(config.recipe), config.overrides.to_dict(), "search: config.overrides")
    if recipe.compilation_cache_dir and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(recipe.compilation_cache_dir))
    jax.config.update("jax_enable_x64", recipe.model.dtype == "float64")
    run = Run(config, recipe)
    with StopRequest() as stop, contextlib.ExitStack() as stack:
        workdir.check(str(folder), config.to_dict(), {})
        stack.enter_context(workdir.claim(str(folder), config.to_dict()))
        checkpoints = Checkpointer(str(folder / "checkpoints"))
        stack.callback(checkpoints.close)
        start, state = checkpoints.restore(jax.eval_shape(run.create_state)) or (0, run.create_state())
        logbook = Logbook(str(folder), restored_step=start)
        stack.callback(logbook.close)
        progress = Progress(run.plan, start, every_seconds=recipe.progress_every_seconds)
        stack.callback(progress.close)
        session = Session(run, folder, checkpoints, logbook, progress, stop)
        session.announce(start)
        try:
            return session.search(jax.tree.map(jnp.array, state), start)
        except FloatingPointError as error:
            kept = checkpoints.latest_step()
            kept = "no checkpoint was saved before it" if kept is None else f"the checkpoint of step {kept} is kept"
            cli.fail(f"{error}, and the search stopped there; {kept}; lower config.oneshot.learning_rate or "
                     "config.oneshot.alpha_learning_rate, in a fresh --workdir")  # fmt: skip
            return NON_FINITE


@dataclasses.dataclass
class Session:
    """A search under way in its folder."""

    run: Run
    folder: pathlib.Path
    checkpoints: Checkpointer
    logbook: Logbook
    progress: Progress
    stop: StopRequest
    began: float = dataclasses.field(default_factory=time.monotonic)  # the epoch, or what of it this process does

    def announce(self, start: int) -> None:
        """What is about to happen."""
        data, plan, model = self.run.data, self.run.plan, self.run.model
        halves = f"{len(data.weights)} images for the weights, {len(data.alphas)} for the architecture"
        logger.info("%s: %s; %d edges of %d operations a cell", data.info.name, halves, *model.mixture_shape)
        size, order, device = self.run.config.global_batch_size, self.run.settings.order, jax.devices()[0].device_kind
        logger.info("%d steps of %d of each, order %s, on %s, in %s", plan.num_steps, size, order, device, self.folder)
        if start:
            found = "finished already" if start == plan.num_steps else "resuming"
            logger.info("%s: checkpoint of step %d", found, start)

    def search(self, state: SearchState, start: int) -> int:
        """The loop; returns the exit status.

        A stop during an evaluation leaves a checkpoint without its row, and the first thing then is to write it.
        """
        last = self.run.plan.num_steps
        halves = zip(self.run.data.weights.train(start), self.run.data.alphas.train(start), strict=True)
        for step in range(start, last + 1):
            ends = step == last or self.run.plan.is_multiple(step, 1.0)
            if ends and (self.logbook.has(step) or self.report(step, state)):
                if step == last:
                    return self.finish(state)
                state = without_metrics(state)
            if self.stop.at(step):
                self.check_finite(state)
                self.checkpoints.save(step, to_host(state))
                name = self.stop.signal.name
                logger.warning("stopped by %s at step %d and saved; the same command goes on", name, step)
                return INTERRUPTED if self.stop.signal == signal.SIGINT else RESUME_ME
            state = self.run.step(state, *next(halves))
            if step == start:
                jax.block_until_ready(state)  # compiled: from here on steps are timed
                self.progress.begin_window(step + 1)
            elif self.progress.due():
                self.check_finite(state)
                self.progress.end_window(step + 1, metrics.compute(state.metrics)["loss"])
                self.progress.show(step + 1)
        raise AssertionError("the loop returns at its last step")

    def check_finite(self, state: SearchState) -> None:
        """Waits for the device; raises FloatingPointError where it has frozen the state."""
        bad_step = int(state.bad_step)
        if bad_step >= 0:
            raise FloatingPointError(f"the loss or a gradient was not finite at step {bad_step}")

    def report(self, step: int, state: SearchState) -> bool:
        """Writes the row of an epoch, then the checkpoint; False where a stop cut the evaluation short."""
        self.check_finite(state)
        row = {f"train/{name}": value for name, value in metrics.compute(state.metrics).items()}
        self.progress.end_window(step, row["train/loss"])
        row["train/learning_rate"] = float(self.run.schedule(step - 1))
        found = self.run.evaluate(state, self.stop)
        if found is None:
            return False
        alphas = jax.device_get(state.alphas)
        genotype = derive(alphas, self.run.model.operations)
        counts = histogram(genotype, self.run.model.operations)
        row |= {"epoch": self.run.plan.epoch(step), **found}
        row |= {f"alphas/{kind}_entropy": entropy(alphas[kind]) for kind in KINDS}
        row |= {f"operations/{kind}/{name}": count for kind in KINDS for name, count in counts[kind].items()}
        row |= {"genotype": genotype.to_json(), "seconds": round(time.monotonic() - self.began, 3)}
        self.began = time.monotonic()
        row = {name: value for name, value in row.items() if not isinstance(value, float) or math.isfinite(value)}
        self.logbook.write(step, row)
        self.checkpoints.save(step, to_host(state))
        self.logbook.plot()
        self.progress.show(step)
        cells = "; ".join(f"{kind} " + ", ".join(f"{name} {count}" for name, count in counts[kind].items() if count)
                          for kind in KINDS)  # fmt: skip
        entropies = " and ".join(f"{row[f'alphas/{kind}_entropy']:.3f}" for kind in KINDS)
        logger.info("val accuracy %.4f; entropies %s; %s", row["val/accuracy"], entropies, cells)
        self.progress.begin_window(step)
        return True

    def finish(self, state: SearchState) -> int:
        """Writes the cells as a recipe of train.py and as a picture, and the alphas."""
        alphas, operations = jax.device_get(state.alphas), self.run.model.operations
        cells = derive(alphas, operations)
        genotype = cells.to_json()
        values = {"operations": list(operations), **{kind: alphas[kind].tolist() for kind in KINDS}}
        text = json.dumps({**values, "genotype": genotype}, indent=1) + "\n"
        workdir.write_atomically(self.folder / "alphas.json", text)
        config = self.run.config
        overrides = {**config.overrides.to_dict(), GENOTYPE: json.dumps(genotype)}
        row = self.logbook.rows[-1]
        accuracy = f"val/accuracy of the supernet {row['val/accuracy']:.4f}"
        found = f"Cells found by DARTS: order {self.run.settings.order}, {row['epoch']:.4g} epochs, {accuracy}."
        path = _search_report.write_recipe(self.folder, found, config.recipe, overrides)
        _cell_picture.draw(cells, self.folder / "best_cell.png", f"{self.folder.name}: {self.run.settings.order} order")
        logger.info("finished: python train.py --config=%s", os.path.relpath(path))
        return 0
