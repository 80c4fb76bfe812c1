"""RMSprop warm-up against a float64 NumPy loop of the paper's equations, and its transition."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.optim import momentum, schedules
from arch.optim.rmsprop_warmup import rmsprop_warmup, sgd_share
from tests.optim.test_momentum import STEPS, problem, run

PER_EPOCH = 2.5


def share_of(epoch, form="continuous"):
    if epoch < 10:
        return 0.5 * math.exp(2 * (epoch - 10) / 5)
    return 1.0 if epoch >= 12.5 else 0.5 + {"continuous": 1, "as_printed": 2}[form] * (epoch - 10) / 5


@pytest.mark.parametrize("form", ["continuous", "as_printed"])
def test_equals_a_numpy_loop(x64, form):
    """The run crosses the whole transition, and decays its kernel."""
    weights, gradients = problem()
    rates = [0.3 * (STEPS - t) / STEPS for t in range(STEPS)]
    transform = rmsprop_warmup(
        schedules.linear_decay(0.3, total_steps=STEPS), 0.9, steps_per_epoch=PER_EPOCH, form=form, weight_decay=0.05
    )
    got = run(transform, weights, gradients)
    for name, initial in weights.items():
        w, s, d = initial.copy(), np.zeros_like(initial), np.zeros_like(initial)
        for t, rate in enumerate(rates):
            g = gradients[name][t] + (0.05 * w if name == "kernel" else 0.0)
            s = 0.99 * s + 0.01 * g**2
            share = share_of(t / PER_EPOCH, form)
            d = 0.9 * d - (share + (1 - share) * 3e-4 / rate / (np.sqrt(s) + 1e-8)) * g
            w = w + rate * d
        np.testing.assert_allclose(got[name], w, rtol=1e-5, atol=1e-5)


def test_after_the_transition_it_is_momentum_sgd(x64):
    weights, gradients = problem()
    rates = schedules.cosine_decay(0.2, total_steps=STEPS)
    late = rmsprop_warmup(rates, 0.9, steps_per_epoch=PER_EPOCH, center=-10.0)
    for name, expected in run(momentum.momentum_sgd(rates, 0.9), weights, gradients).items():
        np.testing.assert_allclose(run(late, weights, gradients)[name], expected, rtol=1e-12)


def test_the_transition_is_smooth_and_stays_in_range(x64):
    """Value and slope at the centre, value at its end; the printed line leaves [0, 1]."""
    epochs = np.linspace(0, 20, 20_001)
    shares = np.asarray(sgd_share(epochs))
    assert (np.diff(shares) >= 0).all() and shares.min() > 0 and shares.max() == 1
    assert np.abs(np.diff(shares)).max() < 3e-4  # a thousandth of an epoch
    slope = jax.vmap(jax.grad(sgd_share))(jnp.array([10 - 1e-4, 10 + 1e-4]))
    np.testing.assert_allclose(slope, 0.2, rtol=1e-3)
    assert [float(sgd_share(epoch)) for epoch in (10.0, 12.5)] == [0.5, 1.0]
    assert np.asarray(sgd_share(epochs, form="as_printed")).max() > 1.49


def test_a_rate_of_zero_moves_nothing(x64):
    weights, gradients = problem()
    got = run(rmsprop_warmup(0.0, steps_per_epoch=PER_EPOCH), weights, gradients)
    for name, value in got.items():
        np.testing.assert_array_equal(value, weights[name])


def test_another_form_is_refused():
    with pytest.raises(ValueError, match=r"^rmsprop_warmup: form: unknown name 'printed'; did you mean 'as_pr"):
        rmsprop_warmup(0.1, steps_per_epoch=1.0, form="printed")
