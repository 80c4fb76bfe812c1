"""Trains a network: `python train.py --config=configs/shufflenet_v2.py [--config.FIELD=VALUE ...] [--workdir=DIR]`.

The same command resumes a run that was stopped in any way, bit for bit. Exit status: 0 when finished, 1 when the loss
became non-finite, 2 for a command or config that cannot be run, 75 after SIGTERM (130 after Ctrl-C): run it again. 75
too when another process of a cluster was lost: run it again on all hosts.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from arch.training.cluster import INTERRUPTED, JOIN_SECONDS, NON_FINITE, RESUME_ME, supervise
from arch.training.host import prepare_host

if __name__ == "__main__":
    supervise()  # one process of several goes on in a child
    prepare_host()  # now, before JAX has threads

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags
from absl import logging as absl_logging
from clu import parameter_overview
from flax import jax_utils, traverse_util

import input_pipeline
from arch import AXIS_NAME, models, optim
from arch.errors import unknown_name
from arch.norm.weight import initialize_from_batch
from arch.ops.stochastic import example_keys
from arch.optim.noise_scale import noise_scale
from arch.training import metrics, workdir
from arch.training.checkpoint import Checkpointer, is_news, to_devices, to_host
from arch.training.logbook import Logbook
from arch.training.preemption import StopRequest
from arch.training.processes import from_main_host, join, leave_others
from arch.training.progress import Progress
from arch.training.state import TrainState, create_state, with_variables
from arch.training.statistics import EVAL_STATISTICS, Remeasure
from arch.training.step import make_eval_step, make_train_step, pmap_eval_step, pmap_train_step, positions
from arch.weights.convert import Loaded
from arch.weights.load import load
from configs import cli, default

CONFIG = cli.define_config_flag()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<config>[-<args>].")
EVAL_ONLY = flags.DEFINE_boolean("eval_only", False, "Evaluate the best checkpoint, else the newest, and stop.")
DISTRIBUTED = flags.DEFINE_boolean("distributed", False, "Join the other hosts of a cluster that JAX recognises.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0; default $JAX_COORDINATOR_ADDRESS.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes in all; default $JAX_NUM_PROCESSES.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is; default $JAX_PROCESS_ID.")
JOIN = flags.DEFINE_integer("join_seconds", JOIN_SECONDS, "Within which all processes must come.", lower_bound=1)

PROFILE_AFTER = 10  # steps, so that compilation is not in the profile

logger = logging.getLogger("train")


def main() -> int:
    """Reads the flags, sets up JAX and the log, and runs."""
    config = CONFIG.value
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    absl_logging.set_verbosity(absl_logging.WARNING)  # of Orbax and TFDS, which say much
    absl_logging.get_absl_logger().addFilter(is_news)
    logging.getLogger().setLevel(logging.WARNING)
    join_cluster()
    with StopRequest() as stop:  # from here on a signal waits for the first place where the run can be left
        try:
            return execute(config, stop)
        except (ValueError, OSError) as error:
            if jax.process_count() == 1:
                raise
            cli.fail(error)
            os._exit(cli.USAGE_ERROR)  # at once: the other hosts wait in a collective, and end when this one is gone
        except Exception as error:
            if jax.process_count() == 1:
                raise
            leave_others(error)


def execute(config: ml_collections.ConfigDict, stop: StopRequest) -> int:
    """Trains or evaluates, as the flags say."""
    for name in ("train", "arch", "input_pipeline"):
        logging.getLogger(name).setLevel(logging.INFO if jax.process_index() == 0 else logging.WARNING)
    if config.compilation_cache_dir and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(config.compilation_cache_dir))
    jax.config.update("jax_enable_x64", config.model.dtype == "float64")
    folder = WORKDIR.value or os.path.join("runs", cli.config_name())
    return (evaluate_only if EVAL_ONLY.value else train_and_evaluate)(config, folder, stop)


def join_cluster() -> None:
    """`jax.distributed`, only where a flag or the environment asks for it: it raises where there is no cluster."""
    environment = os.environ.get
    address = COORDINATOR.value or environment("JAX_COORDINATOR_ADDRESS")
    count, index = (
        flag.value if flag.value is not None or environment(name) is None else int(environment(name))
        for flag, name in ((NUM_PROCESSES, "JAX_NUM_PROCESSES"), (PROCESS_ID, "JAX_PROCESS_ID"))
    )
    given = {"coordinator": address, "num_processes": count, "process_id": index}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if not DISTRIBUTED.value and len(missing) == 3:
        return
    if not DISTRIBUTED.value and missing:
        raise ValueError(f"{' and '.join(missing)} must be given too, to join processes; or --distributed on a cluster")
    join(address, count, index, JOIN.value)


class Run:
    """All that a config stands for: data, network, optimiser and compiled steps. Making it checks the config."""

    def __init__(self, config: ml_collections.ConfigDict):
        check_config(config)
        self.config = config
        self.pipeline = input_pipeline.create(
            config.data,
            seed=config.seed,
            global_batch_size=config.global_batch_size,
            eval_batch_size=config.eval_batch_size or config.global_batch_size // config.num_micro_batches,
            local_device_count=jax.local_device_count(),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        info = self.pipeline.info
        self.plan = optim.plan_batches(
            config.schedule,
            num_examples=info.num_train,
            global_batch_size=config.global_batch_size,
            num_epochs=config.num_epochs,
            num_steps=config.num_steps,
        )
        self.model = models.from_config(config.model, info.num_classes)
        self.tx, self.schedule = optim.create(config.optimizer, config.schedule, self.plan)
        self.train_step = functools.cache(self._train_step)
        self.weights: Loaded | None = None
        self.remeasure: Remeasure | None = None
        if config.eval_statistics != "running":
            self.remeasure = self._remeasure()
        self.eval_step = pmap_eval_step(make_eval_step(self.model, preprocess=self.pipeline.preprocess(train=False)))

    def _train_step(self, global_batch_size: int) -> Callable[[TrainState, dict[str, jax.Array]], TrainState]:
        """The step for batches of this size: larger ones have more micro-batches, of the same size."""
        config = self.config
        step = make_train_step(
            self.model,
            self.tx,
            seed=config.seed,
            preprocess=self.pipeline.preprocess(train=True),
            label_smoothing=config.label_smoothing,
            num_micro_batches=config.num_micro_batches * (global_batch_size // config.global_batch_size),
            ema_decay=config.ema_decay,
            raise_on_nan=config.raise_on_nan,
            reset_metrics_every_steps=config.log_every_steps,
            num_steps=self.plan.num_steps,
        )
        return pmap_train_step(step)

    def _remeasure(self) -> Remeasure:
        """Of config.eval_statistics."""
        name = self.config.eval_statistics
        if not jax.eval_shape(self.create_state).batch_stats:
            raise ValueError(
                f"config.eval_statistics={name} needs running statistics, and config.model.norm.name="
                f"{self.config.model.norm.name} has none; set config.eval_statistics=running"
            )
        part_size = self.config.global_batch_size // (jax.device_count() * self.config.num_micro_batches)
        preprocess = self.pipeline.preprocess(train=True)
        return Remeasure(self.model, name, part_size=part_size, seed=self.config.seed, preprocess=preprocess)

    def create_state(self) -> TrainState:
        """The state before the first step, on one device."""
        return create_state(
            self.model,
            self.tx,
            seed=self.config.seed,
            image_shape=(self.config.data.image_size, self.config.data.image_size, self.config.data.num_channels),
            num_classes=self.pipeline.info.num_classes,
            dtype=jnp.dtype(self.config.model.dtype),
            keep_ema=self.config.ema_decay > 0,
            measure_noise=self.config.measure_noise,
        )

    def first_state(self) -> TrainState:
        """The state that training starts from, on one device."""
        state = self.create_state()
        if self.config.model.conv.data_dependent_init:
            params = self._initialize_from_batch(state)
            state = state.replace(params=params, ema_params=params if self.config.ema_decay > 0 else None)
        self.read_weights()
        if self.weights is None:
            return state
        found = traverse_util.flatten_dict(jax.tree.map(jnp.asarray, self.weights.variables))
        variables = {"params": state.params, "batch_stats": state.batch_stats, **state.other}
        return with_variables(state, traverse_util.unflatten_dict(traverse_util.flatten_dict(variables) | found))

    def _initialize_from_batch(self, state: TrainState) -> Any:
        """The parameters as the first batch of all devices sets them, augmented as training is."""
        key = jax.random.key(self.config.seed)

        def initialize(batch: dict[str, jax.Array]) -> Any:
            ids = positions(batch["label"].shape[0])
            images = self.pipeline.preprocess(train=True)(batch["image"], example_keys(key, ids))
            variables = {"params": state.params, "batch_stats": state.batch_stats, **state.other}
            options = {"axis_name": AXIS_NAME, "rngs": {"dropout": key}, "train": True}
            return initialize_from_batch(self.model, variables, images, **options)["params"]

        batch = next(self.pipeline.train(0))
        return jax.tree.map(jnp.asarray, to_host(jax.pmap(initialize, axis_name=AXIS_NAME)(batch)))

    def read_weights(self) -> None:
        """Those of config.init_from, once; a classifier of another number of classes is left as it is."""
        path = self.config.init_from
        if not path or self.weights is not None:
            return
        state = jax.eval_shape(self.create_state)
        shapes = {"params": state.params, "batch_stats": state.batch_stats, **state.other}
        self.weights = load(path, self.config.model.name, self.model, shapes, new_head=True)
        logger.info("weights of %s; new: %s", path, ", ".join(self.weights.new) or "none")

    def train_batches(self, start_step: int) -> Iterator[dict[str, jax.Array]]:
        return jax_utils.prefetch_to_device(self.pipeline.train(start_step, self.plan.stages), 2, axis_name=AXIS_NAME)

    def noise_scale(self, step: int) -> float:
        """Of the schedule at the update with this index, see arch/optim/noise_scale.py."""
        batch_size, rate = self.plan.stage(step).global_batch_size, float(self.schedule(step))
        return noise_scale(rate, self.config.optimizer.momentum, self.plan.num_examples, batch_size)

    def check_finite(self, state: TrainState) -> None:
        """Waits for the devices; raises FloatingPointError where they have frozen the state."""
        bad_step = int(to_host(state.bad_step))
        if bad_step >= 0 and self.config.raise_on_nan:
            raise FloatingPointError(f"the loss or its gradient was not finite at step {bad_step}")

    def evaluated(self, step: int, state: TrainState) -> dict[str, dict[str, Any]]:
        """The variables that are evaluated after `step` updates, by the prefix of their metrics."""
        versions = {"": state.params} | ({} if state.ema_params is None else {"ema_": state.ema_params})
        rest = {"batch_stats": state.batch_stats, **state.other}
        found = {prefix: {"params": params, **rest} for prefix, params in versions.items()}
        if self.remeasure is None:
            return found
        count = self.config.precise_batches if self.config.eval_statistics == "precise" else 1
        first, last = max(step - count, 0), max(step, 1)
        batches = zip(range(first, last), self.pipeline.train(first, self.plan.stages), strict=False)
        return self.remeasure(found, batches)

    def evaluate(self, step: int, state: TrainState, stop: StopRequest) -> dict[str, float] | None:
        """Metrics of both splits after `step` updates, of the parameters and of their average.

        None where a stop was asked for.
        """
        values, versions = {}, self.evaluated(step, state)
        for split in ("val", "test"):
            if not self.config.data[f"{split}_split"]:
                continue
            sums = {prefix: to_devices(jax.tree.map(np.zeros_like, to_host(state.metrics))) for prefix in versions}
            batches = self.pipeline.evaluation(split)
            for batch in jax_utils.prefetch_to_device(batches, 2, axis_name=AXIS_NAME):
                if stop.signal is not None:
                    return None
                for prefix, variables in versions.items():
                    sums[prefix] = self.eval_step(variables, batch, sums[prefix])
            for prefix in versions:
                numbers = metrics.compute(to_host(sums[prefix]))
                values |= {f"{split}/{prefix}{name}": value for name, value in numbers.items()}
        return values


def check_config(config: ml_collections.ConfigDict) -> None:
    """What can be said before any data is read."""
    dtypes = ("bfloat16", "float32", "float64")
    if config.model.dtype not in dtypes:
        raise unknown_name("config.model.dtype", config.model.dtype, dtypes)
    devices, batch, parts = jax.device_count(), config.global_batch_size, config.num_micro_batches
    if parts < 1 or batch < 1 or batch % (devices * parts):
        step = devices * max(parts, 1)
        raise ValueError(
            f"config.global_batch_size={batch} must be a positive multiple of {devices} devices x "
            f"num_micro_batches={parts}; use {max(1, round(batch / step)) * step}"
        )
    if config.model.conv.data_dependent_init and config.model.conv.name != "weight_norm":
        raise ValueError(
            f"config.model.conv.data_dependent_init=True sets weight norms; config.model.conv.name="
            f"{config.model.conv.name} must be weight_norm"
        )
    if config.measure_noise and devices * parts < 2:
        raise ValueError("config.measure_noise=True needs two parts of a batch; set config.num_micro_batches=2")
    if config.eval_statistics not in EVAL_STATISTICS:
        raise unknown_name("config.eval_statistics", config.eval_statistics, EVAL_STATISTICS)
    if config.eval_batch_size % devices:
        raise ValueError(
            f"config.eval_batch_size={config.eval_batch_size} must be a multiple of {devices} devices; "
            f"use {-(-config.eval_batch_size // devices) * devices}"
        )
    for name, low, high in (("label_smoothing", 0, 1), ("ema_decay", 0, 1)):
        if not low <= config[name] < high:
            raise ValueError(f"config.{name}={config[name]} must be at least {low} and below {high}")
    smallest = {"log_every_steps": 1, "eval_every_epochs": 0, "checkpoint_every_steps": 0, "profile_steps": 0}
    for name, low in (smallest | {"num_steps": 0, "eval_batch_size": 0, "precise_batches": 1, "seed": 0}).items():
        if config[name] < low:
            raise ValueError(f"config.{name}={config[name]} must be at least {low}")
    if config.num_steps < 1 and not config.num_epochs > 0:
        raise ValueError(f"config.num_epochs={config.num_epochs} must be above 0, or set config.num_steps")


def train_and_evaluate(config: ml_collections.ConfigDict, folder: str, stop: StopRequest) -> int:
    """Trains to the end, from the newest checkpoint in the folder if there is one; returns the exit status."""
    run = Run(config)
    main_host = jax.process_index() == 0
    if not os.path.isdir(os.path.join(folder, "checkpoints")):
        run.read_weights()  # now: what does not fit is to leave no folder behind
    with contextlib.ExitStack() as stack:
        stack.callback(run.pipeline.close)
        if main_host:
            try:
                workdir.check(folder, config.to_dict(), default.get_config().to_dict())
                stack.enter_context(workdir.claim(folder, config.to_dict()))
            except (ValueError, OSError) as error:
                if jax.process_count() == 1:
                    raise
                return from_main_host(cli.fail(error))
        if status := from_main_host(0):  # of the main host: the others go on only when the folder is ours
            return status
        checkpoints = Checkpointer(os.path.join(folder, "checkpoints"), track_best=bool(config.data.val_split))
        stack.callback(checkpoints.close)
        start, state = checkpoints.restore(jax.eval_shape(run.create_state)) or (0, run.first_state())
        logbook = Logbook(folder, restored_step=start, enabled=main_host)
        stack.callback(logbook.close)
        announce(run, folder, start, state)
        reported = start if from_main_host(logbook.has(start)) else start - 1
        if start == reported == run.plan.num_steps:
            logbook.plot()
            return 0
        progress = Progress(run.plan, start, every_seconds=config.progress_every_seconds)
        stack.callback(progress.close)
        session = Session(run, folder, checkpoints, logbook, progress, stop)
        stack.callback(session.end_profile)
        try:
            return session.train(to_devices(state), start, reported)
        except FloatingPointError as error:
            kept, found = checkpoints.latest_step(), str(error)
            kept = "no checkpoint was saved before it" if kept is None else f"the checkpoint of step {kept} is kept"
            remedy = "lower config.schedule.base_learning_rate, warm up, or set config.optimizer.grad_clip_norm"
            cli.fail(f"{found}, and training stopped there; {kept}; {remedy}, in a fresh --workdir")
            return NON_FINITE


@dataclasses.dataclass
class Session:
    """A run under way in its folder."""

    run: Run
    folder: str
    checkpoints: Checkpointer
    logbook: Logbook
    progress: Progress
    stop: StopRequest
    profiling: bool = False

    def train(self, state: TrainState, start: int, reported: int) -> int:
        """The loop; returns the exit status.

        A stop during an evaluation leaves a checkpoint without its row: then `reported` is start - 1, and the first
        thing is to write it.
        """
        last = self.run.plan.num_steps
        batches, compiled = self.run.train_batches(start), None  # the batch size of the step before
        for step in range(start, last + 1):
            if step > reported and self.report(step, state) and step == last:
                return 0
            if self.stop.at(step):
                return self.save_and_leave(step, state)
            if self.run.config.profile_steps:
                self.profile(step - start, state)
            batch_size = self.run.plan.stage(step).global_batch_size
            state = self.run.train_step(batch_size)(state, next(batches))
            if batch_size != compiled:
                jax.block_until_ready(state)  # compiled: from here on steps are timed
                compiled = batch_size
                self.progress.begin_window(step + 1)
            elif self.progress.due():
                self.progress.show(step + 1)
        raise AssertionError("the loop returns at its last step")

    def report(self, step: int, state: TrainState) -> bool:
        """Writes the row, then the checkpoint, where they are due; False where a stop cut the evaluation short."""
        config, run, last = self.run.config, self.run, step == self.run.plan.num_steps
        logs, saves = (
            last or (every > 0 and step > 0 and step % every == 0)
            for every in (config.log_every_steps, config.checkpoint_every_steps)
        )
        evaluates = last or (config.eval_every_epochs > 0 and run.plan.is_multiple(step, config.eval_every_epochs))
        saves |= evaluates and not config.checkpoint_every_steps
        saves |= evaluates and bool(config.data.val_split)  # or the best would not be kept
        if not (logs or evaluates or saves):
            return True
        run.check_finite(state)
        row = {}
        if logs:
            row = {f"train/{name}": value for name, value in metrics.compute(to_host(state.metrics)).items()}
            row["train/learning_rate"] = float(run.schedule(step - 1))
            if run.plan.grows:
                row["train/global_batch_size"] = run.plan.stage(step - 1).global_batch_size
            if run.config.optimizer.name == "momentum":
                row["train/noise_scale"] = run.noise_scale(step - 1)
            if state.noise is not None:
                row["train/gradient_noise_scale"] = float(to_host(state.noise).scale())
            if (speed := self.progress.end_window(step, row["train/loss"])) is not None:
                row["train/images_per_sec"] = speed
        if evaluates:
            numbers = run.evaluate(step, state, self.stop)
            if numbers is None:
                return False
            row |= numbers
        if row := {name: value for name, value in row.items() if math.isfinite(value)}:
            self.logbook.write(step, row)
        if saves:
            self.checkpoints.save(step, to_host(state), row)
        if evaluates:
            self.logbook.plot()
        if evaluates or self.progress.due():
            self.progress.show(step)
        self.progress.begin_window(step)
        if last:
            logger.info("finished: %s", ", ".join(f"{k} {v:.4f}" for k, v in row.items() if not k.startswith("train/")))
        return True

    def save_and_leave(self, step: int, state: TrainState) -> int:
        """Saves, unless the state is no good, and gives the exit status that says so."""
        self.run.check_finite(state)
        self.checkpoints.save(step, to_host(state))
        logger.warning("stopped by %s at step %d and saved; the same command goes on", self.stop.signal.name, step)
        return INTERRUPTED if self.stop.signal == signal.SIGINT else RESUME_ME

    def profile(self, step: int, state: TrainState) -> None:
        """Traces `profile_steps` steps of this session, from PROFILE_AFTER on; called before each."""
        if step in (PROFILE_AFTER, PROFILE_AFTER + self.run.config.profile_steps):
            jax.block_until_ready(state)
            if step == PROFILE_AFTER:
                jax.profiler.start_trace(os.path.join(self.folder, "profile"))
                self.profiling = True
            else:
                self.end_profile()

    def end_profile(self) -> None:
        """Writes the trace, if one is being taken."""
        if self.profiling:
            jax.profiler.stop_trace()
            self.profiling = False


def announce(run: Run, folder: str, start: int, state: TrainState) -> None:
    """What is about to happen, in a few lines of the log."""
    info, config = run.pipeline.info, run.config
    count = parameter_overview.count_parameters(state.params)
    logger.info("%s: %s parameters, %s classes", config.model.name, f"{count:,}", info.num_classes)
    logger.info("%s: %d training, %d validation, %d test", info.name, info.num_train, info.num_val, info.num_test)
    for line in optim.describe(config.optimizer, state.params):
        logger.info("%s", line)
    place = f"{jax.device_count()} x {jax.devices()[0].device_kind}, {jax.process_count()} process(es)"
    batches = " to ".join(map(str, dict.fromkeys(stage.global_batch_size for stage in run.plan.stages)))
    logger.info("%d steps of %s images on %s, in %s", run.plan.num_steps, batches, place, folder)
    if start:
        state_of_it = "finished already" if start == run.plan.num_steps else "resuming"
        logger.info("%s: checkpoint of step %d", state_of_it, start)


def evaluate_only(config: ml_collections.ConfigDict, folder: str, stop: StopRequest) -> int:
    """Prints the metrics of the best checkpoint on validation, else of the newest, as one JSON line."""
    workdir.check(folder, config.to_dict(), default.get_config().to_dict(), only=("model.", "optimizer.", "ema_decay"))
    run = Run(config)
    with contextlib.closing(
        Checkpointer(os.path.join(folder, "checkpoints"), track_best=True, read_only=True)
    ) as checkpoints:
        step, state = checkpoints.restore(jax.eval_shape(run.create_state), best=True) or (None, None)
        if step is None:
            raise FileNotFoundError(f"--eval_only: no checkpoint in {folder}; train first, without --eval_only")
        values = run.evaluate(step, to_devices(state), stop)
    run.pipeline.close()
    if values is None:
        return INTERRUPTED
    if jax.process_index() == 0:
        print(json.dumps({"step": step, **values}))
    return 0


if __name__ == "__main__":
    cli.run(main)
