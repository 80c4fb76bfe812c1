"""LARS: each reading against a float64 NumPy loop of its algorithm, the identities, and the leaves without a ratio."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arch.optim import lars, masks, schedules

STEPS, BETA, MOMENTUM, ETA = 50, 0.05, 0.9, 0.001
SHAPES = {"conv": (3, 3, 2, 4), "dense": (6, 5), "zero": (5, 3), "scale": (4,), "bias": (4,)}
MATRICES = {"conv", "dense", "zero"}
GAMMA = {"lecture": 40.0, "slide": 0.04, "optax": 40.0, "tpu": 40.0}  # the slide has no eta


def problem():
    """Initial weights and a gradient g(t, w) nearly antiparallel to w, so that |g + beta w| << |g| + beta |w|.

    "zero" and "bias" start at zero; the gradient of "scale" is 0 in the first ten steps.
    """
    rng = np.random.default_rng(7)
    weights = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    weights["zero"], weights["bias"] = np.zeros(SHAPES["zero"]), np.zeros(SHAPES["bias"])
    noise = {name: 0.005 * rng.normal(size=(STEPS, *shape)) for name, shape in SHAPES.items()}
    noise["scale"][:10] = 0.0
    slope = {name: np.full(STEPS, -0.04) for name in SHAPES}
    slope["scale"][:10] = 0.0
    return weights, slope, noise


def poly(gamma):
    return [gamma * ((STEPS - t) / STEPS) ** 2 for t in range(STEPS + 1)]


def norm(x):
    return float(np.sqrt((x**2).sum()))


# One function a reading, written from the papers: weight, gradient, is it a matrix -> (ratio, direction).
def lecture(w, g, matrix):
    if not matrix:
        return ETA, g
    if norm(w) == 0 or norm(g) == 0:
        return ETA, g + BETA * w
    return ETA * norm(w) / (norm(g) + BETA * norm(w)), g + BETA * w


def slide(w, g, matrix):
    below = norm(g) + BETA * norm(w)
    return (norm(w) / below if below else 0.0), g + BETA * w


def like_optax(w, g, matrix):
    d = g + BETA * w
    return (ETA * norm(w) / norm(d) if norm(w) and norm(d) else 1.0), d


def tpu(w, g, matrix):
    if not matrix:
        return 1.0, g
    return (ETA * norm(w) / (norm(g) + BETA * norm(w)) if norm(w) and norm(g) else 1.0), g + BETA * w


READINGS = {"lecture": lecture, "slide": slide, "optax": like_optax, "tpu": tpu}


def numpy_loop(reading, rates, *, nesterov=False, form=10):
    weights, slope, noise = problem()
    result = {}
    for name, w in weights.items():
        v = np.zeros_like(w)
        for t in range(STEPS):
            g = slope[name][t] * w + noise[name][t]
            ratio, d = reading(w, g, name in MATRICES)
            if form == 10:
                v = MOMENTUM * v + rates[t] * ratio * d
                w = w - (MOMENTUM * v + rates[t] * ratio * d if nesterov else v)
            else:
                v = MOMENTUM * v + d
                w = w - rates[t] * ratio * (MOMENTUM * v + d if nesterov else v)
        result[name] = w
    return result


def run(transform):
    """Weights after all steps of `problem`, in one compiled scan, and the last updates."""
    weights, slope, noise = jax.tree.map(jnp.asarray, problem())

    def body(carry, step):
        params, state = carry
        gradients = {name: step[0][name] * w + step[1][name] for name, w in params.items()}
        updates, state = transform.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), updates

    (params, _), updates = jax.jit(lambda: jax.lax.scan(body, (weights, transform.init(weights)), (slope, noise)))()
    return params, jax.tree.map(lambda leaf: leaf[-1], updates)


def schedule(gamma):
    return schedules.polynomial_decay(gamma, power=2.0, total_steps=STEPS)


def close(got, expected, tolerance=1e-6):
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("variant", READINGS)
def test_each_reading_equals_its_numpy_loop_over_fifty_steps(x64, variant, nesterov):
    gamma = GAMMA[variant]
    got, _ = run(lars.lars(schedule(gamma), MOMENTUM, BETA, variant=variant, nesterov=nesterov))
    rates = poly(gamma)[1:] if variant == "slide" else poly(gamma)
    expected = numpy_loop(READINGS[variant], rates, nesterov=nesterov)
    close(got, expected)
    assert all(norm(expected[name] - start) > 1e-3 for name, start in problem()[0].items() if norm(start))


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_form_nine_keeps_the_rate_outside_the_buffer(x64, nesterov):
    got, _ = run(lars.lars(schedule(40.0), MOMENTUM, BETA, momentum_form=9, nesterov=nesterov))
    expected = numpy_loop(lecture, poly(40.0), nesterov=nesterov, form=9)
    close(got, expected)
    assert norm(expected["dense"] - numpy_loop(lecture, poly(40.0), nesterov=nesterov)["dense"]) > 1e-2


def test_the_lecture_separates_from_optax_where_gradient_and_weight_are_antiparallel(x64):
    ours, _ = run(lars.lars(schedule(40.0), MOMENTUM, BETA))
    mask = masks.decay_mask
    peer, _ = run(optax.lars(schedule(40.0), BETA, weight_decay_mask=mask, trust_ratio_mask=mask, momentum=MOMENTUM))
    for name in ("conv", "dense"):
        assert norm(ours[name] - peer[name]) > 0.1 * norm(ours[name] - problem()[0][name])


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_variant_optax_is_optax_lars(x64, masked, nesterov):
    ours = {"decay_mask": masks.decay_mask, "trust_mask": masks.decay_mask} if masked else {}
    theirs = {"weight_decay_mask": masks.decay_mask, "trust_ratio_mask": masks.decay_mask} if masked else {}
    got, _ = run(lars.lars(schedule(40.0), MOMENTUM, BETA, variant="optax", nesterov=nesterov, eps=1e-3, **ours))
    peer, _ = run(optax.lars(schedule(40.0), BETA, momentum=MOMENTUM, nesterov=nesterov, eps=1e-3, **theirs))
    close(got, jax.tree.map(np.asarray, peer), 1e-12)


def test_the_slide_uses_the_rate_of_the_next_step(x64):
    gamma, params = schedule(2.0), jax.tree.map(jnp.asarray, problem()[0])
    gradients = jax.tree.map(jnp.ones_like, params)
    transform = lars.lars(gamma, 0.0, BETA, variant="slide")
    first, _ = transform.update(gradients, transform.init(params), params)
    w, g = np.asarray(params["dense"]), np.ones(SHAPES["dense"])
    expected = -2.0 * (49 / 50) ** 2 * norm(w) / (norm(g) + BETA * norm(w)) * (g + BETA * w)
    np.testing.assert_allclose(first["dense"], expected, rtol=1e-6)
    _, last = run(transform)  # gamma_T = 0, and no momentum carries on
    assert not any(np.any(value) for value in last.values())
    _, last = run(lars.lars(gamma, 0.0, BETA, variant="slide", index_shift=0))
    assert np.any(last["dense"])


@pytest.mark.parametrize("variant", ["lecture", "slide"])
def test_rate_and_trust_coefficient_are_one_number(x64, variant):
    """(gamma, eta) and (gamma eta, 1) coincide for every leaf, those without a ratio included."""
    fields = {"untrusted": "trust_coefficient", "variant": variant}
    fields |= {"zero_norm": "trust_coefficient"} if variant == "lecture" else {}
    one, _ = run(lars.lars(schedule(40.0), MOMENTUM, BETA, 0.001, **fields))
    other, _ = run(lars.lars(schedule(0.04), MOMENTUM, BETA, 1.0, **fields))
    close(one, jax.tree.map(np.asarray, other))


def test_scale_invariances_are_exact(x64):
    rng = np.random.default_rng(1)
    w, g = ({"kernel": jnp.asarray(rng.normal(size=(4, 3)))} for _ in range(2))

    def step(weight_factor, gradient_factor, beta, variant):
        transform = lars.lars(0.5, MOMENTUM, beta, variant=variant)
        params = {"kernel": weight_factor * w["kernel"]}
        return transform.update({"kernel": gradient_factor * g["kernel"]}, transform.init(params), params)[0]["kernel"]

    for variant in lars.VARIANTS:
        reference = step(1.0, 1.0, 0.0, variant)
        assert np.array_equal(step(4.0, 1.0, 0.0, variant), 4.0 * reference)
        assert np.array_equal(step(1.0, 4.0, 0.0, variant), reference)
        assert np.array_equal(step(4.0, 4.0, BETA, variant), 4.0 * step(1.0, 1.0, BETA, variant))


def test_ratio_is_at_most_trust_coefficient_over_decay(x64):
    w = jnp.asarray(np.random.default_rng(2).normal(size=(4, 3)))
    transform = lars.lars(1.0, 0.0, BETA)
    for size in (1e-30, 1e-12, 1e-3, 1.0):
        g = size * jnp.ones_like(w)
        update = transform.update(g, transform.init(w), w)[0]
        ratio = norm(np.asarray(update)) / norm(np.asarray(g + BETA * w))
        assert ratio <= ETA / BETA * (1 + 1e-12)
    np.testing.assert_allclose(transform.update(1e-30 * w, transform.init(w), w)[0], -ETA * w, rtol=1e-12)


# Rate 2, eta .001, beta .05. Leaf -> its step: what a leaf of zero norm or without trust does, by hand.
@pytest.mark.parametrize(
    ("variant", "zero_weight", "zero_gradient", "both", "bias"),
    [
        ("lecture", -0.002, -0.002 * 0.05, 0.0, -0.002),
        ("slide", 0.0, -2.0, 0.0, 0.0),
        ("optax", -2.0, -2.0 * 0.001, 0.0, -2.0),
        ("tpu", -2.0, -2.0 * 0.05, 0.0, -2.0),
    ],
)
@pytest.mark.parametrize("beta", [BETA, 0.0])
def test_leaves_of_zero_norm_are_finite_and_step_as_documented(
    x64, variant, zero_weight, zero_gradient, both, bias, beta
):
    zeros, ones = jnp.zeros((2, 2)), jnp.ones((2, 2))
    params = {"zero_weight": zeros, "zero_gradient": ones, "both": zeros, "bias": jnp.zeros(2)}
    gradients = {"zero_weight": ones, "zero_gradient": zeros, "both": zeros, "bias": jnp.ones(2)}
    transform = lars.lars(2.0, MOMENTUM, beta, variant=variant)
    updates, _ = transform.update(gradients, transform.init(params), params)
    expected = {"zero_weight": zero_weight, "zero_gradient": zero_gradient if beta else 0.0, "both": both, "bias": bias}
    for name, value in updates.items():
        np.testing.assert_allclose(value, np.full(value.shape, expected[name]), rtol=1e-12, err_msg=name)


def test_decay_mask_leaves_biases_alone_and_is_a_choice(x64):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf) + 1.0, problem()[0])
    zeros = jax.tree.map(jnp.zeros_like, params)

    def moved(**fields):
        transform = lars.lars(1.0, MOMENTUM, BETA, **fields)
        updates, _ = transform.update(zeros, transform.init(params), params)
        return {name for name, value in updates.items() if np.any(value)}

    assert moved() == MATRICES == moved(variant="tpu")
    assert moved(variant="optax") == moved(variant="slide") == set(SHAPES) == moved(decay_mask=True)
    assert moved(decay_mask=lambda tree: masks.select(tree, include="^dense$")) == {"dense"}


@pytest.mark.parametrize("variant", lars.VARIANTS)
def test_low_precision_parameters_keep_their_dtype_and_norms_are_float32(variant):
    w = jnp.full((64, 64), 1e-3, jnp.bfloat16)
    transform = lars.lars(1.0, MOMENTUM, 1e-4, variant=variant, trust_coefficient=1.0)
    updates, state = transform.update(jnp.full_like(w, 0.01), transform.init(w), w)
    assert updates.dtype == jnp.bfloat16 and state.momentum.dtype == jnp.float32
    # ratio .1, direction .01; a bfloat16 sum of 4,096 equal squares would stop at a fraction of the true norm
    np.testing.assert_allclose(np.asarray(updates, np.float32), -1e-3, rtol=0.01)


def test_non_finite_gradients_are_not_hidden():
    w = jnp.ones((2, 2))
    for variant in lars.VARIANTS:
        transform = lars.lars(1.0, MOMENTUM, 0.1, variant=variant)
        for bad in (jnp.nan, jnp.inf):
            updates, _ = transform.update(w.at[0, 0].set(bad), transform.init(w), w)
            assert not np.all(np.isfinite(updates))


def test_runs_under_pmap_as_on_one_device(x64):
    def stack(tree):
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * num_devices), tree)

    num_devices = jax.local_device_count()
    params = jax.tree.map(jnp.asarray, problem()[0])
    gradients = jax.tree.map(lambda leaf: 0.1 * jnp.ones_like(leaf), params)
    transform = lars.lars(schedule(40.0), MOMENTUM, BETA)
    alone, _ = transform.update(gradients, transform.init(params), params)
    mapped, state = jax.pmap(transform.update)(stack(gradients), stack(transform.init(params)), stack(params))
    assert np.array_equal(state.count, np.ones(num_devices))
    for name, value in alone.items():
        for device in range(num_devices):
            np.testing.assert_allclose(mapped[name][device], value, rtol=1e-9)


def test_state_is_the_step_and_one_buffer_and_update_takes_any_tree():
    params = ({"a": jnp.ones((2, 2))}, [jnp.ones(3), (jnp.ones((2, 1)),)])
    transform = lars.lars(0.1, weight_decay=0.1)
    state = transform.init(params)
    assert jax.tree.structure(state.momentum) == jax.tree.structure(params) and len(jax.tree.leaves(state)) == 4
    updates, state = transform.update(params, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params) == jax.tree.structure(state.momentum)
    assert int(state.count) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"variant": "optx"}, ("lars: variant", "'optx'", "did you mean 'optax'")),
        ({"denominator": "separated"}, ("denominator", "'separate'")),
        ({"zero_norm": "ones"}, ("zero_norm", "'one'")),
        ({"untrusted": "raw"}, ("untrusted", "trust_coefficient")),
        ({"index_shift": 2}, ("index_shift=2",)),
        ({"momentum_form": 8}, ("momentum_form=8",)),
    ],
)
def test_bad_choices_are_one_line(fields, words):
    with pytest.raises(ValueError) as error:
        lars.lars(0.1, **fields)
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_masks_without_a_match_and_missing_parameters_are_errors():
    bias = {"bias": jnp.ones(3)}
    transform = lars.lars(0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match="lars: trust_mask: min_ndim=2 must match"):
        transform.update(bias, transform.init(bias), bias)
    with pytest.raises(ValueError, match="lars: update needs the parameters"):
        transform.update(bias, transform.init(bias))
