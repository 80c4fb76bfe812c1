"""Momentum SGD against a float64 NumPy loop of equation (9), and its weight decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arch.optim import masks, momentum, schedules

STEPS = 50


def problem():
    """Initial weights and the gradients of all steps, float64; "kernel" has two dimensions, the others one."""
    rng = np.random.default_rng(3)
    shapes = {"kernel": (6, 5), "bias": (5,), "scale": (4,)}
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return weights, {name: rng.normal(size=(STEPS, *shape)) for name, shape in shapes.items()}


def numpy_loop(weights, gradients, rates, *, m, decay, decayed, nesterov):
    result = {}
    for name, initial in weights.items():
        w, u = initial.copy(), np.zeros_like(initial)
        for t, rate in enumerate(rates):
            d = gradients[name][t] + (decay * w if name in decayed else 0.0)
            u = m * u + d
            w = w - rate * (d + m * u if nesterov else u)
        result[name] = w
    return result


def run(transform, weights, gradients):
    def body(carry, gradient):
        params, state = carry
        updates, state = transform.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jax.tree.map(jnp.asarray, weights)
    return jax.jit(lambda: jax.lax.scan(body, (params, transform.init(params)), gradients)[0][0])()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("m", "decay"), [(0.9, 0.05), (0.9, 0.0), (0.0, 0.05)])
def test_equals_a_numpy_loop(x64, m, decay, nesterov):
    weights, gradients = problem()
    rates = [0.3 * (STEPS - t) / STEPS for t in range(STEPS)]
    transform = momentum.momentum_sgd(
        schedules.linear_decay(0.3, total_steps=STEPS), m, nesterov=nesterov, weight_decay=decay
    )
    got = run(transform, weights, gradients)
    expected = numpy_loop(weights, gradients, rates, m=m, decay=decay, decayed={"kernel"}, nesterov=nesterov)
    for name, value in got.items():
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-6)


def test_a_rate_that_jumps_acts_at_once(x64):
    # Goyal et al. section 3: form (9) needs no momentum correction. Rates .1, 1 with g = 1: -.1, then -(.9 + 1) 1.
    transform = momentum.momentum_sgd(schedules.piecewise_constant((0.1, 1.0), (1,)), 0.9)
    params = jnp.zeros((1, 1))
    state = transform.init(params)
    first, state = transform.update(jnp.ones((1, 1)), state, params)
    second, _ = transform.update(jnp.ones((1, 1)), state, params)
    np.testing.assert_allclose([first[0, 0], second[0, 0]], [-0.1, -1.9], rtol=1e-7)


def test_with_zero_gradient_kernels_shrink_by_rate_times_decay_and_others_stand_still(x64):
    params = jax.tree.map(jnp.asarray, problem()[0])
    transform = momentum.momentum_sgd(0.25, 0.9, weight_decay=0.125)
    updates, _ = transform.update(jax.tree.map(jnp.zeros_like, params), transform.init(params), params)
    assert np.array_equal(updates["kernel"], -0.25 * 0.125 * params["kernel"])
    assert not np.any(updates["bias"]) and not np.any(updates["scale"])


def test_decay_mask_is_a_choice():
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), problem()[0])
    zeros = jax.tree.map(jnp.zeros_like, params)

    def moved(mask):
        transform = momentum.momentum_sgd(1.0, 0.0, weight_decay=0.5, decay_mask=mask)
        updates, _ = transform.update(zeros, transform.init(params), params)
        return {name for name, value in updates.items() if np.any(value)}

    assert moved(None) == {"kernel"}
    assert moved(True) == {"kernel", "bias", "scale"}
    assert moved(lambda tree: masks.select(tree, include="scale")) == {"scale"}


def test_linear_scaling_keeps_coupled_decay(x64):
    """k small steps of decay equal one of k times the rate up to O((k eta lambda)^2); Goyal et al. remark 1."""
    w, k, rate, decay = jnp.ones((2, 2)), 8, 0.1, 1e-4
    zeros = jnp.zeros_like(w)
    small, large = (momentum.momentum_sgd(r, 0.0, weight_decay=decay) for r in (rate, k * rate))
    stepped = w
    for _ in range(k):
        stepped = stepped + small.update(zeros, small.init(w), stepped)[0]
    np.testing.assert_allclose(stepped, w + large.update(zeros, large.init(w), w)[0], atol=(k * rate * decay) ** 2)


def test_no_decay_needs_no_match():
    params = {"bias": jnp.ones(3)}
    transform = momentum.momentum_sgd(0.1, weight_decay=0.0)
    updates, _ = transform.update(params, transform.init(params), params)
    np.testing.assert_allclose(updates["bias"], -0.1 * np.ones(3), rtol=1e-6)
    with pytest.raises(ValueError, match="decay_mask: min_ndim=2 must match"):
        momentum.momentum_sgd(0.1, weight_decay=0.1).init(params)


def ramp(step):
    """A warm-up from 0.01 to 0.8 over 20 steps, then falling."""
    step = jnp.asarray(step, jnp.float64)
    return jnp.where(step < 20, 0.01 + 0.0395 * step, 0.8 * (STEPS - step) / (STEPS - 20))


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_corrected_form_10_is_form_9(x64, nesterov):
    """Goyal et al., remark 2: over a run whose rate changes at every step; without the correction they part."""
    weights, gradients = problem()
    options = {"nesterov": nesterov, "weight_decay": 0.05}
    nine = run(momentum.momentum_sgd(ramp, 0.9, **options), weights, gradients)
    ten = run(momentum.momentum_sgd(ramp, 0.9, form=10, **options), weights, gradients)
    uncorrected = run(momentum.momentum_sgd(ramp, 0.9, form=10, correct_momentum=False, **options), weights, gradients)
    for name, value in nine.items():
        np.testing.assert_allclose(ten[name], value, rtol=1e-12, atol=1e-12)
        assert np.abs(uncorrected[name] - value).max() > 1e-3


def test_form_10_lags_behind_a_jump_unless_it_is_corrected(x64):
    """Rates 0.1, 1 with g = 1: the second update is -(0.9 * 0.1 + 1) as it stands, and -(0.9 + 1) corrected."""
    rates = schedules.piecewise_constant([0.1, 1.0], [1])
    for correct, second in ((False, -1.09), (True, -1.9)):
        transform = momentum.momentum_sgd(rates, 0.9, form=10, correct_momentum=correct)
        params = {"w": jnp.zeros(())}
        state = transform.init(params)
        for expected in (-0.1, second):
            updates, state = transform.update({"w": jnp.ones(())}, state, params)
            assert float(updates["w"]) == pytest.approx(expected, rel=1e-6)


def test_form_10_from_a_rate_of_zero_begins_anew(x64):
    """Rates 0, 0, 0.5, 0.5 with g = 1: nothing, nothing, -0.5, -(0.9 * 0.5 + 0.5)."""
    transform = momentum.momentum_sgd(schedules.piecewise_constant([0.0, 0.5], [2]), 0.9, form=10)
    params = {"w": jnp.zeros(())}
    state = transform.init(params)
    for expected in (0.0, 0.0, -0.5, -0.95):
        updates, state = transform.update({"w": jnp.ones(())}, state, params)
        assert float(updates["w"]) == pytest.approx(expected)


def test_another_form_is_refused():
    with pytest.raises(ValueError, match=r"^momentum_sgd: form=8 must be 9 \(rate outside the buffer\) or 10"):
        momentum.momentum_sgd(0.1, form=8)
