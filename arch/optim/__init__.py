"""Optimisers and learning-rate schedules as optax transformations; `create` makes both from a run's config."""

import functools
import itertools
import math
from typing import Any

import optax

from arch.errors import unknown_name
from arch.optim import lars, masks, momentum, noise_scale, rmsprop_warmup, schedules

__all__ = [
    "create",
    "create_schedule",
    "describe",
    "lars",
    "masks",
    "momentum",
    "noise_scale",
    "rmsprop_warmup",
    "schedules",
]

OPTIMIZERS = ("momentum", "lars", "rmsprop_warmup")
SCHEDULES = ("linear", "cosine", "polynomial", "step", "slow_start", "constant")
WARMUPS = ("gradual", "constant")


def create(
    config: Any, schedule_config: Any, *, total_steps: int, steps_per_epoch: float, global_batch_size: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser and the learning-rate schedule of a run.

    Gradients are clipped first, by the norm over the whole tree and before weight decay is added to them. Weight decay
    is coupled (part of the gradient). The learning rate belongs to the optimiser: its updates are ready to be added.

    Args:
      config: has the fields of `optimizer` in configs/default.py. Of all: name (momentum, lars, rmsprop_warmup),
        momentum in [0, 1), weight_decay >= 0, decay_min_ndim >= 0, grad_clip_norm >= 0 (0 does not clip); of momentum
        and lars: nesterov; of momentum: momentum_form, momentum_correction; of lars: lars_variant,
        lars_trust_coefficient > 0; of rmsprop_warmup: rmsprop_rate > 0, rmsprop_decay in [0, 1),
        transition_center_epochs, transition_period_epochs > 0, transition_form. The variants slide and optax of lars
        are readings to the letter: they treat all leaves alike, so `decay_min_ndim` is not theirs, and the slide has no
        trust coefficient.
      schedule_config: has the fields of `schedule`, see `create_schedule`.
      total_steps: updates of the whole run, at least 1.
      steps_per_epoch: training examples / global batch; need not be whole.
      global_batch_size: examples an update, over all devices, hosts and micro-batches.

    Returns:
      The transformation and the schedule `step -> float32`, step 0 being the first update.

    Raises:
      ValueError: one line, for an unknown name or a value out of range.
    """
    schedule = create_schedule(
        schedule_config, total_steps=total_steps, steps_per_epoch=steps_per_epoch, global_batch_size=global_batch_size
    )
    _check_optimizer(config)
    optimizer = _optimizer(config, schedule, steps_per_epoch)
    if config.grad_clip_norm > 0:
        optimizer = optax.chain(optax.clip_by_global_norm(config.grad_clip_norm), optimizer)
    return optimizer, schedule


def _optimizer(config: Any, schedule: optax.Schedule, steps_per_epoch: float) -> optax.GradientTransformation:
    rules = _masks(config)
    if config.name == "momentum":
        return momentum.momentum_sgd(
            schedule,
            config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            decay_mask=rules["decay"],
            form=config.momentum_form,
            correct_momentum=config.momentum_correction,
        )
    if config.name == "rmsprop_warmup":
        return rmsprop_warmup.rmsprop_warmup(
            schedule,
            config.momentum,
            steps_per_epoch=steps_per_epoch,
            rmsprop_rate=config.rmsprop_rate,
            decay=config.rmsprop_decay,
            center=config.transition_center_epochs,
            period=config.transition_period_epochs,
            form=config.transition_form,
            weight_decay=config.weight_decay,
            decay_mask=rules["decay"],
        )
    return lars.lars(
        schedule,
        config.momentum,
        config.weight_decay,
        None if config.lars_variant == "slide" else config.lars_trust_coefficient,
        config.lars_variant,
        nesterov=config.nesterov,
        decay_mask=rules["decay"],
        trust_mask=rules["trust"],
    )


def create_schedule(config: Any, *, total_steps: int, steps_per_epoch: float, global_batch_size: int) -> optax.Schedule:
    """Linear scaling, gradual warm-up and decay as `config` says; see arch/optim/schedules.py for the shapes.

    Epochs become the nearest whole step (`schedules.epochs_to_steps`).

    Args:
      config: name (linear, cosine, polynomial, step, slow_start, constant), base_learning_rate, base_batch_size (0 does
        not scale), warmup_name (gradual, constant), warmup_epochs, warmup_learning_rate (negative: base_learning_rate),
        end_learning_rate and power (linear, cosine, polynomial), step_epochs and step_factor (step; counted from the
        start of training).
      total_steps, steps_per_epoch, global_batch_size: as for `create`.

    Returns:
      Schedule `step -> float32`.

    Raises:
      ValueError: one line, for an unknown name or a value out of range.
    """
    _check_schedule(config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    base = config.base_learning_rate
    peak = schedules.linear_scaling(base, global_batch_size, config.base_batch_size) if config.base_batch_size else base
    warmup_steps = schedules.epochs_to_steps(config.warmup_epochs, steps_per_epoch)
    if warmup_steps > total_steps:
        raise ValueError(
            f"schedule: warmup_epochs={config.warmup_epochs} ({warmup_steps} steps) must fit into the run of "
            f"{total_steps} steps; shorten it or train longer"
        )
    span = {"total_steps": total_steps, "warmup_steps": warmup_steps}
    if config.name == "linear":
        main = schedules.linear_decay(peak, config.end_learning_rate, **span)
    elif config.name == "cosine":
        main = schedules.cosine_decay(peak, config.end_learning_rate, **span)
    elif config.name == "polynomial":
        main = schedules.polynomial_decay(peak, config.end_learning_rate, power=config.power, **span)
    elif config.name == "step":
        boundaries = [schedules.epochs_to_steps(epochs, steps_per_epoch) for epochs in config.step_epochs]
        main = schedules.step_decay(peak, boundaries=boundaries, factor=config.step_factor)
    elif config.name == "slow_start":
        main = schedules.slow_start(peak, total_steps=total_steps)
    else:
        main = schedules.constant(peak)
    start = base if config.warmup_learning_rate < 0 else config.warmup_learning_rate
    if config.warmup_name == "constant":
        return schedules.constant_warmup(main, start=start, warmup_steps=warmup_steps)
    return schedules.gradual_warmup(main, start=start, peak=peak, warmup_steps=warmup_steps)


def describe(config: Any, params: Any) -> list[str]:
    """Lines for the log: the rules of the optimiser and the leaves that each of them matches.

    Args:
      config: as for `create`.
      params: tree of arrays, or of their shapes.

    Raises:
      ValueError: where a rule matches nothing.
    """
    lines = []
    for name, mask in _masks(config).items():
        if name == "decay" and config.weight_decay == 0:
            lines.append("optimizer: no weight decay")
        else:
            lines.append(f"optimizer: {name}: {masks.describe(params, masks.resolve(mask, params))}")
    return lines


def _masks(config: Any) -> dict[str, masks.Mask]:
    """Which leaves decay and, for LARS, which have a trust ratio: functions of the parameters."""

    def at_least(min_ndim: int, rule: str) -> masks.Mask:
        return functools.partial(masks.select, min_ndim=min_ndim, owner=f"optimizer: {rule}")

    if config.name != "lars":
        return {"decay": at_least(config.decay_min_ndim, "decay_min_ndim")}
    variant = lars.VARIANTS[config.lars_variant]
    to_the_letter = config.lars_variant in ("slide", "optax")
    decay_min_ndim = variant.decay_min_ndim if to_the_letter else config.decay_min_ndim
    return {
        "decay": at_least(decay_min_ndim, "decay_min_ndim"),
        "trust": at_least(variant.trust_min_ndim, f"trust_min_ndim of lars_variant={config.lars_variant}"),
    }


def _require(holds: bool, field: str, value: Any, rule: str, remedy: str) -> None:
    """`holds` is a comparison that is false for NaN, so that NaN is refused too."""
    if not holds:
        raise ValueError(f"{field}={value} must be {rule}; {remedy}")


def _check_optimizer(config: Any) -> None:
    if config.name not in OPTIMIZERS:
        raise unknown_name("optimizer.name", config.name, OPTIMIZERS)
    own = "optimizer: "
    _require(0 <= config.momentum < 1, own + "momentum", config.momentum, "in [0, 1)", "0.9 is usual")
    _require(config.weight_decay >= 0, own + "weight_decay", config.weight_decay, "at least 0", "0 decays nothing")
    _require(config.decay_min_ndim >= 0, own + "decay_min_ndim", config.decay_min_ndim, "at least 0", "0 decays all")
    _require(config.grad_clip_norm >= 0, own + "grad_clip_norm", config.grad_clip_norm, "at least 0", "0 does not clip")
    if config.name == "lars":
        if config.lars_variant not in lars.VARIANTS:
            raise unknown_name("optimizer.lars_variant", config.lars_variant, lars.VARIANTS)
        eta = config.lars_trust_coefficient
        _require(eta > 0, own + "lars_trust_coefficient", eta, "above 0", "0.001 is the paper's")
    if config.name == "momentum":
        form = config.momentum_form
        _require(form in momentum.FORMS, own + "momentum_form", form, "9 or 10", "9 needs no correction")
    elif config.nesterov:
        _require(config.name == "lars", own + "nesterov", True, f"False for {config.name}", "it has no such form")
    if config.name == "rmsprop_warmup":
        rate, decay, period = config.rmsprop_rate, config.rmsprop_decay, config.transition_period_epochs
        _require(rate > 0, own + "rmsprop_rate", rate, "above 0", "0.0003 is the paper's")
        _require(0 <= decay < 1, own + "rmsprop_decay", decay, "in [0, 1)", "0.99 is the paper's")
        _require(period > 0, own + "transition_period_epochs", period, "above 0", "5 is the paper's")
        if config.transition_form not in rmsprop_warmup.FORMS:
            raise unknown_name("optimizer.transition_form", config.transition_form, rmsprop_warmup.FORMS)


def _check_schedule(config: Any, *, total_steps: int, steps_per_epoch: float) -> None:
    if config.name not in SCHEDULES:
        raise unknown_name("schedule.name", config.name, SCHEDULES)
    if config.warmup_name not in WARMUPS:
        raise unknown_name("schedule.warmup_name", config.warmup_name, WARMUPS)
    own = "schedule: "
    base, end = config.base_learning_rate, config.end_learning_rate
    scale, warmup = config.base_batch_size, config.warmup_epochs
    _require(total_steps >= 1, own + "total_steps", total_steps, "at least 1", "train for longer")
    _require(0 < steps_per_epoch < math.inf, own + "steps_per_epoch", steps_per_epoch, "above 0", "check the split")
    _require(0 <= base < math.inf, own + "base_learning_rate", base, "at least 0", "give a rate")
    _require(scale >= 0, own + "base_batch_size", scale, "at least 0", "0 does not scale")
    _require(0 <= warmup < math.inf, own + "warmup_epochs", warmup, "at least 0", "0 is no warm-up")
    _require(0 <= end < math.inf, own + "end_learning_rate", end, "at least 0", "0 is usual")
    _require(config.power > 0, own + "power", config.power, "above 0", "1 is linear, 2 is usual")
    _require(config.step_factor > 0, own + "step_factor", config.step_factor, "above 0", "0.1 is usual")
    if config.name == "slow_start":
        _require(warmup == 0, own + "warmup_epochs", warmup, "0 with slow_start", "it starts slowly by itself")
    if config.name == "step":
        epochs = tuple(config.step_epochs)
        rising = all(before < after for before, after in itertools.pairwise((warmup, *epochs)))
        _require(rising, own + "step_epochs", epochs, f"rising and after warmup_epochs={warmup}", "sort or move them")
