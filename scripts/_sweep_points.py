"""The points of a sweep: read from its file, applied to a recipe, and checked before any of them runs."""

import dataclasses
import functools
import importlib.util
import json
import logging
import operator
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import linen as nn

from arch import AXIS_NAME, models, optim
from arch.errors import unknown_name
from arch.training.state import TrainState, create_state
from arch.training.step import make_train_step
from configs import cli
from input_pipeline.pipeline import device_preprocess
from input_pipeline.settings import Augmentation
from input_pipeline.sources import open_source
from scripts._sweep_results import telling_fields

SWEEPS = pathlib.Path("configs", "sweeps")
LONGEST_NAME = 200  # of a folder; file systems have 255 bytes
RECIPE = "config"  # a point may have a recipe of its own, FILE.py[:ARGS], in the place of that of the command line

logger = logging.getLogger("sweep")


@dataclasses.dataclass(frozen=True)
class Point:
    """One training run of a sweep.

    Attributes:
      name: of its folder, from the fields that tell the points apart.
      overrides: dotted path of a field -> value, all of them; RECIPE -> the recipe, where the point has one.
      config: the recipe with the overrides.
    """

    name: str
    overrides: Mapping[str, Any]
    config: ml_collections.ConfigDict

    @property
    def flags(self) -> list[str]:
        """The overrides as flags of train.py."""
        names = {field: field if field == RECIPE else f"config.{field}" for field in self.overrides}
        return [f"--{names[field]}={value}" for field, value in self.overrides.items()]


def load(path: str) -> list[dict[str, Any]]:
    """The points of a sweep file.

    Raises:
      ValueError: there is no such file, it is no sweep, or it has no points.
    """
    if not os.path.isfile(path):
        there = [str(file) for file in SWEEPS.glob("*.py") if file.stem not in ("__init__", "grid")]
        raise unknown_name("--sweep", path, there)
    spec = importlib.util.spec_from_file_location("sweep_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_sweep"):
        raise ValueError(f"--sweep: {path} has no get_sweep(); it is not a sweep")
    points = module.get_sweep()
    if not points:
        raise ValueError(f"--sweep: {path} has no points; return at least one")
    return points


def expand(
    base: ml_collections.ConfigDict, sweep: Sequence[Mapping[str, Any]], given: Collection[str] = ()
) -> list[Point]:
    """The points of a sweep over a recipe; of points with the same config the first.

    Args:
      base: locked; it is not changed.
      sweep: overrides; RECIPE stands for another base.
      given: fields that the points shall leave as they are in `base`.

    Raises:
      ValueError: a field that does not exist, a value of a wrong type, two points of one name.
    """
    found: dict[str, tuple[dict[str, Any], ml_collections.ConfigDict]] = {}
    for all_overrides in sweep:
        overrides = {field: value for field, value in all_overrides.items() if field not in given}
        recipe = base
        if RECIPE in overrides:
            # train.py gets the fields of the command line beside the point's recipe.
            fields = {field: value_of(base, field) for field in given}
            recipe = cli.override(cli.load_recipe(overrides[RECIPE]), fields, "sweep")
        fields = {field: value for field, value in overrides.items() if field != RECIPE}
        config = cli.override(recipe, fields, "sweep")
        found.setdefault(json.dumps(config.to_dict(), sort_keys=True), (overrides, config))
    if len(found) < len(sweep):
        logger.info("%d of %d points have the config of another one and run once", len(sweep) - len(found), len(sweep))
    telling = telling_fields([overrides for overrides, _ in found.values()])
    points = [Point(folder_name(overrides, telling), overrides, config) for overrides, config in found.values()]
    names = [point.name for point in points]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"sweep: two points would share the folder {doubled[0]}; make their values differ as text")
    return points


def value_of(config: ml_collections.ConfigDict, field: str) -> Any:
    """The value at a dotted path."""
    return operator.attrgetter(field)(config)


def folder_name(overrides: Mapping[str, Any], telling: Iterable[str]) -> str:
    """`model.norm.name=group_norm,seed=0`, of the fields that tell points apart; safe on any file system.

    Raises:
      ValueError: the name is too long for a file system.
    """
    pairs = (f"{field}={overrides[field]}" for field in telling if field in overrides)
    name = ",".join(pairs) or "default"
    safe = "".join(c if c.isalnum() or c in "._-=,+" else "_" for c in name.replace(", ", "-"))
    if len(safe) > LONGEST_NAME:
        raise ValueError(f"sweep: the folder {safe} has {len(safe)} characters, over {LONGEST_NAME}; vary fewer fields")
    return safe


def check(points: Sequence[Point], check_config: Callable[[ml_collections.ConfigDict], None]) -> list[int]:
    """Builds every point by tracing its training step; returns the number of steps of each.

    The number of devices is that of the CPU here; where it is not that of the runs, these check it again.

    Args:
      points: of the sweep.
      check_config: raises a ValueError for what can be said of a config before any data is read.

    Raises:
      ValueError: a point that cannot be run; the message ends with its name.
      FileNotFoundError: the data set is not there.
    """
    sources, traced, steps = {}, set(), []
    for point in points:
        data = point.config.data
        key = (data.name, data.dir, data.train_split)
        try:
            check_config(point.config)
            if key not in sources:
                sources[key] = open_source(*key)
            source = sources[key]
            steps.append(check_point(point.config, len(source), source.num_classes, jax.device_count(), traced))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{' '.join(str(error).split())} (in the point {point.name})") from error
    return steps


def check_point(
    config: ml_collections.ConfigDict, num_train: int, num_classes: int, num_devices: int, traced: set[str]
) -> int:
    """Builds what a config stands for; returns the number of its steps.

    Args:
      config: of a run.
      num_train: examples of its training split.
      num_classes: of its data.
      num_devices: over which the global batch is split.
      traced: what has been traced already, to which this is added.
    """
    plan = optim.plan_batches(
        config.schedule,
        num_examples=num_train,
        global_batch_size=config.global_batch_size,
        num_epochs=config.num_epochs,
        num_steps=config.num_steps,
    )
    tx, _ = optim.create(config.optimizer, config.schedule, plan)
    # What these change is a number in the program, or how long it runs.
    key = json.dumps(config.to_dict() | dict.fromkeys(("seed", "num_epochs", "num_steps", "schedule")), sort_keys=True)
    if key not in traced:
        trace(config, tx, num_classes, num_devices)
        traced.add(key)
    return plan.num_steps


def trace(
    config: ml_collections.ConfigDict, tx: optax.GradientTransformation, num_classes: int, num_devices: int
) -> None:
    """Traces the training step that train.py would compile: names, fields and shapes fit together."""
    _, make_state, step = program(config, tx, num_classes)

    def first_step(batch: dict[str, jax.Array]) -> Any:
        return jax.vmap(step, in_axes=(None, 0), axis_name=AXIS_NAME)(make_state(), batch)

    with jax.enable_x64(config.model.dtype == "float64"):
        jax.eval_shape(first_step, batch_shapes(config, num_devices))


def program(
    config: ml_collections.ConfigDict, tx: optax.GradientTransformation, num_classes: int
) -> tuple[nn.Module, Callable[[], TrainState], Callable[..., TrainState]]:
    """(the network, what makes the first state, the training step for a device), with images not augmented."""
    model = models.from_config(config.model, num_classes)
    step = make_train_step(
        model,
        tx,
        seed=config.seed,
        preprocess=device_preprocess(Augmentation.from_config(config.data), augment=False),
        label_smoothing=config.label_smoothing,
        num_micro_batches=config.num_micro_batches,
        ema_decay=config.ema_decay,
        num_steps=1,
    )
    make_state = functools.partial(
        create_state,
        model,
        tx,
        seed=config.seed,
        image_shape=image_shape(config),
        num_classes=num_classes,
        dtype=jnp.dtype(config.model.dtype),
        keep_ema=config.ema_decay > 0,
        measure_noise=config.measure_noise,
    )
    return model, make_state, step


def image_shape(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
    """Height, width and channels of the images of a recipe."""
    return (config.data.image_size, config.data.image_size, config.data.num_channels)


def batch_shapes(config: ml_collections.ConfigDict, num_devices: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Of a batch of a training step, on so many devices."""
    leading = (num_devices, config.global_batch_size // num_devices)
    return {
        "image": jax.ShapeDtypeStruct((*leading, *image_shape(config)), jnp.uint8),
        "label": jax.ShapeDtypeStruct(leading, jnp.int32),
        "weight": jax.ShapeDtypeStruct(leading, jnp.float32),
    }
