"""Optimisers and learning-rate schedules as optax transformations; `create` makes both from a run's config."""

import functools
import itertools
import math
from typing import Any

import optax

from arch.errors import unknown_name
from arch.optim import batches, decay, lars, masks, momentum, noise_scale, rmsprop_warmup, schedules
from arch.optim.batches import BatchPlan
from arch.optim.noise_scale import Phase

__all__ = [
    "batches",
    "create",
    "create_schedule",
    "decay",
    "describe",
    "lars",
    "masks",
    "momentum",
    "noise_scale",
    "plan_batches",
    "rmsprop_warmup",
    "schedules",
]

OPTIMIZERS = ("momentum", "lars", "rmsprop_warmup")
SCHEDULES = ("linear", "cosine", "polynomial", "step", "slow_start", "constant")
WARMUPS = ("gradual", "constant")
DECAYS = ("coupled", "decoupled")


def create(config: Any, schedule_config: Any, plan: BatchPlan) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser and the learning-rate schedule of a run.

    Gradients are clipped first, by the norm over the whole tree and before weight decay is added to them. Weight decay
    is coupled (part of the gradient, and so multiplied by the rate), or decoupled: at the rate for `base_batch_size` an
    update takes the share `weight_decay` of a weight, at k times the rate k times the share. Either way a batch and a
    rate k times as large shrink weights as fast, epoch by epoch. The learning rate belongs to the optimiser: its
    updates are ready to be added.

    Args:
      config: has the fields of `optimizer` in configs/default.py. Of all: name (momentum, lars, rmsprop_warmup),
        momentum in [0, 1), weight_decay >= 0, decay_form (coupled, decoupled; lars: coupled), decay_min_ndim >= 0,
        grad_clip_norm >= 0 (0 does not clip); of momentum and lars: nesterov; of momentum: momentum_form,
        momentum_correction; of lars: lars_variant, lars_trust_coefficient > 0; of rmsprop_warmup: rmsprop_rate > 0,
        rmsprop_decay in [0, 1), transition_center_epochs, transition_period_epochs > 0, transition_form. The variants
        slide and optax of lars are readings to the letter: they treat all leaves alike, so `decay_min_ndim` is not
        theirs, and the slide has no trust coefficient.
      schedule_config: has the fields of `schedule`, see `create_schedule`.
      plan: of the batches, from `plan_batches`.

    Returns:
      The transformation and the schedule `step -> float32`, step 0 being the first update.

    Raises:
      ValueError: one line, for an unknown name or a value out of range.
    """
    schedule = create_schedule(schedule_config, plan)
    _check_optimizer(config)
    if plan.grows and config.name == "rmsprop_warmup":
        raise ValueError(
            f"schedule: max_batch_size={schedule_config.max_batch_size} must be 0 for optimizer.name=rmsprop_warmup, "
            "whose transition is in steps of one length; take momentum or lars"
        )
    optimizer = _optimizer(config, schedule, plan.num_examples / plan.stages[0].global_batch_size)
    if config.decay_form == "decoupled" and config.weight_decay > 0:
        optimizer = optax.chain(optimizer, _decoupled(config, schedule, schedule_config.base_learning_rate))
    if config.grad_clip_norm > 0:
        optimizer = optax.chain(optax.clip_by_global_norm(config.grad_clip_norm), optimizer)
    return optimizer, schedule


def _decoupled(config: Any, schedule: optax.Schedule, base_learning_rate: float) -> optax.GradientTransformation:
    own = "schedule: base_learning_rate"
    _require(base_learning_rate > 0, own, base_learning_rate, "above 0 with decay_form=decoupled", "give a rate")
    scale = config.weight_decay / base_learning_rate
    return decay.decoupled_weight_decay(lambda step: scale * schedule(step), _masks(config)["decay"])


def _optimizer(config: Any, schedule: optax.Schedule, steps_per_epoch: float) -> optax.GradientTransformation:
    rules = _masks(config)
    coupled = config.weight_decay if config.decay_form == "coupled" else 0.0
    if config.name == "momentum":
        return momentum.momentum_sgd(
            schedule,
            config.momentum,
            nesterov=config.nesterov,
            weight_decay=coupled,
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
            weight_decay=coupled,
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


def plan_batches(
    config: Any, *, num_examples: int, global_batch_size: int, num_epochs: float = 0.0, num_steps: int = 0
) -> BatchPlan:
    """The batch size of every update; it grows where `config.max_batch_size` says so.

    Args:
      config: has the fields of `schedule`, see `create_schedule`.
      num_examples: of the training split.
      global_batch_size: of the first update, over all devices, hosts and micro-batches.
      num_epochs: passes over the training split; `num_steps`, where given, wins.
      num_steps: updates in all.

    Raises:
      ValueError: one line, for a value out of range.
    """
    _require(num_examples >= 1, "schedule: num_examples", num_examples, "at least 1", "check the training split")
    _require(global_batch_size >= 1, "global_batch_size", global_batch_size, "at least 1", "256 is usual")
    phases = _phases(config, global_batch_size)
    return batches.from_phases(phases, num_examples=num_examples, num_epochs=num_epochs, num_steps=num_steps)


def _phases(config: Any, global_batch_size: int) -> list[Phase]:
    """Those of growing batches; otherwise one, whose rate is the highest of the schedule."""
    base, limit = config.base_learning_rate, config.max_batch_size
    peak = schedules.linear_scaling(base, global_batch_size, config.base_batch_size) if config.base_batch_size else base
    first = Phase(0.0, peak, global_batch_size)
    if not limit:
        return [first]
    own = "schedule: max_batch_size"
    _require(config.name == "step", own, limit, f"0 with schedule.name={config.name}", "take step, whose rate falls")
    _require(limit >= global_batch_size, own, limit, f"at least {global_batch_size}, the first batch", "0 never grows")
    _require_rising_steps(config)
    _require(0 < config.step_factor <= 1, "schedule: step_factor", config.step_factor, "in (0, 1]", "0.1 is usual")
    falls = (
        Phase(epoch, peak * config.step_factor**count, global_batch_size)
        for count, epoch in enumerate(config.step_epochs, start=1)
    )
    return noise_scale.increase_batch([first, *falls], limit)


def create_schedule(config: Any, plan: BatchPlan) -> optax.Schedule:
    """Linear scaling, gradual warm-up and decay as `config` says; see arch/optim/schedules.py for the shapes.

    Epochs become the nearest whole step.

    Args:
      config: name (linear, cosine, polynomial, step, slow_start, constant), base_learning_rate, base_batch_size (0 does
        not scale), warmup_name (gradual, constant), warmup_epochs, warmup_learning_rate (negative: base_learning_rate),
        end_learning_rate and power (linear, cosine, polynomial), step_epochs and step_factor (step; counted from the
        start of training), max_batch_size (step: the batch grows where the rate would fall, until this; 0: it stays).
      plan: from `plan_batches` of this config. Rates are scaled to its first batch.

    Returns:
      Schedule `step -> float32`.

    Raises:
      ValueError: one line, for an unknown name or a value out of range.
    """
    total_steps = plan.num_steps
    _check_schedule(config, plan)
    phases = _phases(config, plan.stages[0].global_batch_size)
    peak = phases[0].learning_rate
    warmup_steps = plan.steps_in(config.warmup_epochs)
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
    elif config.name == "step" and len(phases) > 1:
        boundaries = [plan.steps_in(phase.start_epoch) for phase in phases[1:]]
        main = schedules.piecewise_constant([phase.learning_rate for phase in phases], boundaries)
    elif config.name == "step":
        boundaries = [plan.steps_in(epochs) for epochs in config.step_epochs]
        main = schedules.step_decay(peak, boundaries=boundaries, factor=config.step_factor)
    elif config.name == "slow_start":
        main = schedules.slow_start(peak, total_steps=total_steps)
    else:
        main = schedules.constant(peak)
    start = config.base_learning_rate if config.warmup_learning_rate < 0 else config.warmup_learning_rate
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
    if config.decay_form not in DECAYS:
        raise unknown_name("optimizer.decay_form", config.decay_form, DECAYS)
    if config.name == "lars":
        form = config.decay_form
        _require(form == "coupled", own + "decay_form", form, "coupled for lars", "its ratio contains the decay")
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


def _check_schedule(config: Any, plan: BatchPlan) -> None:
    if config.name not in SCHEDULES:
        raise unknown_name("schedule.name", config.name, SCHEDULES)
    if config.warmup_name not in WARMUPS:
        raise unknown_name("schedule.warmup_name", config.warmup_name, WARMUPS)
    own = "schedule: "
    base, end = config.base_learning_rate, config.end_learning_rate
    scale, warmup = config.base_batch_size, config.warmup_epochs
    _require(plan.num_steps >= 1, own + "num_steps", plan.num_steps, "at least 1", "train for longer")
    _require(0 <= base < math.inf, own + "base_learning_rate", base, "at least 0", "give a rate")
    _require(scale >= 0, own + "base_batch_size", scale, "at least 0", "0 does not scale")
    _require(0 <= warmup < math.inf, own + "warmup_epochs", warmup, "at least 0", "0 is no warm-up")
    _require(0 <= end < math.inf, own + "end_learning_rate", end, "at least 0", "0 is usual")
    _require(config.power > 0, own + "power", config.power, "above 0", "1 is linear, 2 is usual")
    _require(config.step_factor > 0, own + "step_factor", config.step_factor, "above 0", "0.1 is usual")
    if config.name == "slow_start":
        _require(warmup == 0, own + "warmup_epochs", warmup, "0 with slow_start", "it starts slowly by itself")
    if config.name == "step":
        _require_rising_steps(config)


def _require_rising_steps(config: Any) -> None:
    epochs, warmup = tuple(config.step_epochs), config.warmup_epochs
    rising = all(before < after for before, after in itertools.pairwise((warmup, *epochs)))
    own = "schedule: step_epochs"
    _require(rising, own, epochs, f"rising and after warmup_epochs={warmup}", "sort or move them")
