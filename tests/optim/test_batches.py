"""Stages of a run: counted example by example, and the noise scale that growing batches keep."""

import itertools

import numpy as np
import pytest

from arch import optim
from arch.optim import batches
from arch.optim.noise_scale import Phase, noise_scale
from configs import default

# 1,000 examples; the batch doubles after 2 epochs and after 3.5.
PHASES = [Phase(0.0, 1.0, 30), Phase(2.0, 1.0, 60), Phase(3.5, 1.0, 120)]


@pytest.fixture
def plan():
    return batches.from_phases(PHASES, num_examples=1000, num_epochs=5.0)


def counted(phases, num_examples, num_epochs):
    """Batch sizes update by update: a stage begins, and the run ends, where the next update would go further away."""
    sizes, seen = [], 0
    ends = [phase.start_epoch for phase in phases[1:]] + [num_epochs]
    for phase, end in zip(phases, ends, strict=True):
        while abs(seen + phase.global_batch_size - end * num_examples) <= abs(seen - end * num_examples):
            seen += phase.global_batch_size
            sizes.append(phase.global_batch_size)
    return sizes


def test_a_plan_is_what_is_counted_update_by_update(plan):
    sizes = counted(PHASES, 1000, 5.0)
    assert plan.num_steps == len(sizes)
    assert [plan.stage(step).global_batch_size for step in range(plan.num_steps)] == sizes
    assert [plan.examples_before(step) for step in range(len(sizes) + 1)] == [0, *itertools.accumulate(sizes)]
    assert plan.stage(10**6).global_batch_size == 120
    assert plan.grows and not batches.constant(1000, 10, 30).grows


def test_steps_in_epochs_are_the_nearest(plan):
    seen = np.array([plan.examples_before(step) for step in range(plan.num_steps + 1)])
    for epochs in np.linspace(0, 4.9, 50):
        distance = np.abs(seen - epochs * 1000)
        assert distance[plan.steps_in(epochs)] == distance.min(), epochs


def test_multiples_of_an_epoch_come_once_each(plan):
    for epochs in (0.5, 1.0, 1.7):
        due = [step for step in range(plan.num_steps + 1) if plan.is_multiple(step, epochs)]
        nearest = [plan.steps_in(count * epochs) for count in range(1, 12)]
        assert due == [step for step in nearest if step <= plan.num_steps]
    assert all(plan.is_multiple(step, 0.001) for step in range(1, plan.num_steps))
    assert not plan.is_multiple(0, 0.001)


def test_steps_win_over_epochs_and_cut_stages_off():
    plan = batches.from_phases(PHASES, num_examples=1000, num_epochs=5.0, num_steps=40)
    assert plan.num_steps == 40 and plan.stages == (batches.Stage(0, 0, 30),)
    assert batches.from_phases(PHASES, num_examples=1000, num_epochs=1.0).stages == plan.stages


def test_phases_of_one_batch_size_are_one_stage():
    phases = [Phase(0.0, 1.0, 30), Phase(1.0, 0.5, 30), Phase(2.0, 0.25, 60)]
    found = batches.from_phases(phases, num_examples=300, num_epochs=3.0)
    assert found.stages == (batches.Stage(0, 0, 30), batches.Stage(20, 600, 60))


def test_a_run_has_one_update_at_least():
    assert batches.from_phases(PHASES[:1], num_examples=5, num_epochs=1.0).num_steps == 1
    short = batches.from_phases([Phase(0.0, 1.0, 30), Phase(0.001, 1.0, 60)], num_examples=60, num_epochs=1.0)
    assert short.stages == (batches.Stage(0, 0, 60),) and short.num_steps == 1


def config_of(max_batch_size, **fields):
    config = default.get_config().schedule
    config.name, config.base_learning_rate, config.base_batch_size = "step", 0.1, 128
    config.step_epochs, config.step_factor = (60.0, 120.0, 160.0), 0.2
    config.max_batch_size = max_batch_size
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def test_growing_and_falling_have_one_noise_scale_at_every_epoch():
    """Smith et al., section 5.1: falls by 5 at epochs 60, 120, 160 of 200; the batch may grow to 5,120."""
    sizes = {"num_examples": 50_000, "global_batch_size": 128, "num_epochs": 200.0}
    scales = {}
    for limit in (0, 5120):
        config = config_of(limit)
        plan = optim.plan_batches(config, **sizes)
        rate = optim.create_schedule(config, plan)
        for epoch in (0.0, 30.0, 59.0, 61.0, 119.0, 121.0, 159.0, 161.0, 199.0):
            step = plan.steps_in(epoch)
            batch = plan.stage(step).global_batch_size
            scales.setdefault(epoch, []).append(noise_scale(float(rate(step)), 0.9, 50_000, batch, exact=False))
    for epoch, (falling, growing) in scales.items():
        assert growing == pytest.approx(falling, rel=1e-6), epoch
    assert [stage.global_batch_size for stage in plan.stages] == [128, 640, 3200, 5120]
    # 60 epochs of each of the first two, 40 of the third, and 40 of the last.
    assert plan.num_steps == pytest.approx(50_000 * (60 / 128 + 60 / 640 + 40 / 3200 + 40 / 5120), abs=2)
    assert optim.plan_batches(config_of(0), **sizes).num_steps == 78_125


def test_warm_up_and_growth_go_together():
    config = config_of(640, warmup_epochs=5.0)
    plan = optim.plan_batches(config, num_examples=50_000, global_batch_size=256, num_epochs=200.0)
    rate = optim.create_schedule(config, plan)
    first = plan.steps_in(60.0)
    assert [plan.stage(step).global_batch_size for step in (0, first - 1, first)] == [256, 256, 512]
    expected = [0.1, 0.2, 0.2, 0.08]  # the batch grows by 2 of 5, and the rate falls by the rest
    got = [float(rate(step)) for step in (0, plan.steps_in(5.0), first - 1, first)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "cosine"}, "max_batch_size=512 must be 0 with schedule.name=cosine; take step"),
        ({"max_batch_size": 64}, "max_batch_size=64 must be at least 128, the first batch"),
        ({"step_factor": 2.0}, "step_factor=2.0 must be in"),
        ({"step_epochs": (60.0, 30.0)}, "must be rising"),
    ],
)
def test_what_cannot_grow_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        optim.plan_batches(
            config_of(**{"max_batch_size": 512, **fields}), num_examples=50_000, global_batch_size=128, num_epochs=200.0
        )


def test_the_rmsprop_warm_up_has_one_batch_size():
    config = default.get_config().optimizer
    config.name = "rmsprop_warmup"
    schedule = config_of(512)
    plan = optim.plan_batches(schedule, num_examples=50_000, global_batch_size=128, num_epochs=200.0)
    with pytest.raises(ValueError, match="max_batch_size=512 must be 0 for optimizer"):
        optim.create(config, schedule, plan)
