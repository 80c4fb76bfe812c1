"""Schedules against their closed forms in Python floats, at steps 0, 1 and last and over whole runs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.optim import schedules

TOTAL, WARMUP, PEAK, END, START = 300_000, 7_000, 3.2, 1e-3, 0.1
SHAPES = {
    "linear": (schedules.linear_decay, lambda left: left),
    "cosine": (schedules.cosine_decay, lambda left: 0.5 * (1 + math.cos(math.pi * (1 - left)))),
    "polynomial": (schedules.polynomial_decay, lambda left: left**2),
}


def same_float32(got, expected, ulp=4):
    assert got.dtype == jnp.float32
    np.testing.assert_array_max_ulp(np.asarray(got), np.asarray(expected, np.float32), maxulp=ulp)


def evaluate(schedule, steps, jitted):
    function = jax.jit(schedule) if jitted else schedule
    return np.stack([np.asarray(function(jnp.int32(step))) for step in steps])


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("end", [0.0, END])
@pytest.mark.parametrize("warmup", [0, WARMUP])
@pytest.mark.parametrize("name", SHAPES)
def test_decay_equals_its_closed_form_over_what_remains_after_warmup(name, warmup, end, jitted):
    make, shape = SHAPES[name]
    schedule = make(PEAK, end, total_steps=TOTAL, warmup_steps=warmup)
    last = TOTAL - 1
    steps = [warmup, warmup + 1, (warmup + TOTAL) // 2, 2 * TOTAL // 3, last - 1000, last - 1, last]
    expected = [end + (PEAK - end) * shape((TOTAL - step) / (TOTAL - warmup)) for step in steps]
    if name == "cosine" and end == 0.0:  # the closed form itself loses digits near the end: cos(pi - x) by its series
        expected[-2:] = [PEAK * (math.pi * (TOTAL - step) / (TOTAL - warmup)) ** 2 / 4 for step in steps[-2:]]
    same_float32(evaluate(schedule, steps, jitted), expected, ulp=8)
    exact = evaluate(schedule, [0, warmup, TOTAL, TOTAL + 5], jitted)
    assert exact.tolist() == np.asarray([PEAK, PEAK, end, end], np.float32).tolist()


def test_shufflenet_v2_recipe_is_half_times_the_remaining_share_at_every_probe():
    schedule = jax.jit(schedules.linear_decay(0.5, total_steps=TOTAL))
    steps = np.concatenate([[0, 1, 2, TOTAL - 2, TOTAL - 1], np.random.default_rng(0).integers(0, TOTAL, 200)])
    got = np.asarray(jax.vmap(schedule)(jnp.asarray(steps, jnp.int32)))
    same_float32(got, 0.5 * (TOTAL - steps) / TOTAL, ulp=2)
    assert got[0] == np.float32(0.5) and got[4] == np.float32(0.5 / TOTAL)


@pytest.mark.parametrize("total", [1, 3, 7, 49, 1_000, 123_457])
def test_both_ends_are_exact_for_any_length_of_run(total):
    for make, _ in SHAPES.values():
        schedule = jax.jit(make(0.3, 0.07, total_steps=total))
        assert schedule(0) == np.float32(0.3) and schedule(total) == np.float32(0.07)


def test_polynomial_takes_fractional_powers():
    schedule = schedules.polynomial_decay(2.0, power=1.5, total_steps=100)
    same_float32(schedule(64), 2.0 * 0.36**1.5, ulp=8)
    assert schedule(0) == 2.0 and schedule(100) == 0.0


@pytest.mark.parametrize("jitted", [False, True])
def test_step_decay_counts_boundaries_from_the_start_of_training(jitted):
    schedule = schedules.step_decay(0.1, boundaries=(30, 60, 80), factor=0.1)
    steps = [0, 1, 29, 30, 59, 60, 79, 80, 89, 10_000]
    expected = [0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 1e-4, 1e-4, 1e-4]
    same_float32(evaluate(schedule, steps, jitted), expected, ulp=1)


def test_step_decay_without_boundaries_is_constant():
    assert schedules.step_decay(0.25, boundaries=())(17) == np.float32(0.25)


def test_piecewise_constant_holds_the_new_value_at_a_boundary():
    slow_start = schedules.piecewise_constant((0.5, 0.075, 0.01, 0.001), (40, 70, 85))  # Akiba et al., in epochs
    got = [float(slow_start(epoch)) for epoch in (0, 39, 40, 69, 70, 84, 85, 89)]
    same_float32(jnp.asarray(got), [0.5, 0.5, 0.075, 0.075, 0.01, 0.01, 0.001, 0.001], ulp=0)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("start", [0.0, START])
@pytest.mark.parametrize("warmup", [1, 2, 3, 49, WARMUP])
def test_warmup_is_a_line_per_step_from_start_to_exactly_the_peak(warmup, start, jitted):
    main = schedules.linear_decay(PEAK, total_steps=TOTAL, warmup_steps=warmup)
    schedule = schedules.gradual_warmup(main, start=start, peak=PEAK, warmup_steps=warmup)
    steps = sorted({0, min(1, warmup), warmup // 2, warmup - 1, warmup})
    same_float32(evaluate(schedule, steps, jitted), [start + (PEAK - start) * step / warmup for step in steps])
    assert evaluate(schedule, [0, warmup], jitted).tolist() == np.asarray([start, PEAK], np.float32).tolist()
    same_float32(schedule(warmup + 1), PEAK * (TOTAL - warmup - 1) / (TOTAL - warmup))


def test_goyal_recipe_warmup_then_steps_from_the_start():
    main = schedules.step_decay(3.2, boundaries=(300, 600, 800), factor=0.1)
    schedule = schedules.gradual_warmup(main, start=0.1, peak=3.2, warmup_steps=50)
    steps = [0, 1, 49, 50, 51, 299, 300, 599, 600, 800, 899]
    expected = [0.1, 0.1 + 3.1 / 50, 0.1 + 3.1 * 49 / 50, 3.2, 3.2, 3.2, 0.32, 0.32, 0.032, 0.0032, 0.0032]
    same_float32(evaluate(schedule, steps, True), expected)


def test_no_warmup_is_the_main_schedule():
    main = schedules.constant(0.1)
    assert schedules.gradual_warmup(main, start=0.0, peak=0.1, warmup_steps=0) is main


@pytest.mark.parametrize(("base", "batch", "base_batch", "expected"), [(0.1, 8192, 256, 3.2), (0.1, 64, 256, 0.025)])
def test_linear_scaling_is_proportional_to_the_batch(base, batch, base_batch, expected):
    assert schedules.linear_scaling(base, batch, base_batch) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "expected"),
    [(5, 1_281_167 / 1024, 6256), (0, 10.5, 0), (1, 2.5, 3), (0.1, 4, 0), (30, 1437 / 64, 674), (3, 0.1 + 0.2, 1)],
)
def test_epochs_become_the_nearest_step(epochs, steps_per_epoch, expected):
    assert schedules.epochs_to_steps(epochs, steps_per_epoch) == expected


def test_a_schedule_is_a_pure_function_of_the_step_whatever_its_type():
    main = schedules.cosine_decay(PEAK, total_steps=1000, warmup_steps=100)
    schedule = schedules.gradual_warmup(main, start=START, peak=PEAK, warmup_steps=100)
    for step in (0, 50, 100, 640, 999):
        values = {float(schedule(kind(step))) for kind in (int, np.int32, np.int64, jnp.int32)}
        assert len(values) == 1


def test_schedules_stay_float32_under_x64(x64):
    main = schedules.step_decay(PEAK, boundaries=(5,))
    for schedule in (
        schedules.gradual_warmup(main, start=START, peak=PEAK, warmup_steps=3),
        schedules.cosine_decay(PEAK, total_steps=10),
        schedules.polynomial_decay(PEAK, power=1.5, total_steps=10),
        schedules.constant(PEAK),
    ):
        assert schedule(jnp.int32(2)).dtype == jnp.float32
        assert jax.eval_shape(schedule, jnp.int32(2)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: schedules.linear_scaling(0.1, 0, 256), ("global_batch_size=0",)),
        (lambda: schedules.linear_scaling(0.1, 256, 0), ("base_batch_size=0",)),
        (lambda: schedules.piecewise_constant((1.0,), (5,)), ("1 values", "1 boundaries")),
        (lambda: schedules.step_decay(1.0, boundaries=(60, 30)), ("(60, 30)", "rise")),
        (
            lambda: schedules.gradual_warmup(schedules.constant(1.0), start=0.0, peak=1.0, warmup_steps=-1),
            ("warmup_steps=-1",),
        ),
    ],
)
def test_bad_values_are_one_line(call, words):
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_constant_warmup_jumps():
    schedule = schedules.constant_warmup(schedules.constant(3.2), start=0.1, warmup_steps=5)
    same_float32(evaluate(schedule, [0, 4, 5, 100], jitted=True), [0.1, 0.1, 3.2, 3.2], ulp=0)
    with pytest.raises(ValueError, match="constant_warmup: warmup_steps=-1 must not be negative"):
        schedules.constant_warmup(schedules.constant(1.0), start=0.1, warmup_steps=-1)


def test_slow_start_is_the_papers():
    """0.1 * B / 256 times .5, .075, .01, .001 for 40, 30, 15, 5 of 90 epochs (Akiba et al., section 2)."""
    per_epoch, peak = 39, 12.8  # 1,281,167 images in batches of 32,768
    schedule = schedules.slow_start(peak, total_steps=90 * per_epoch)
    rates = evaluate(schedule, [int(epoch * per_epoch) for epoch in range(90)], jitted=True)
    same_float32(rates, [6.4] * 40 + [0.96] * 30 + [0.128] * 15 + [0.0128] * 5, ulp=1)
    at_bounds = evaluate(schedule, [40 * per_epoch - 1, 40 * per_epoch], jitted=True)
    same_float32(at_bounds, [6.4, 0.96], ulp=1)
