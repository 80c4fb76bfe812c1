"""optim.create: every combination of names from the default config, values against closed forms, refusals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arch import optim
from configs import default

RUN = {"num_steps": 1000, "num_examples": 102_400, "global_batch_size": 1024}
PARAMS = {
    "conv": {"kernel": jnp.full((3, 3, 2, 4), 0.5)},
    "norm": {"scale": jnp.ones(4), "bias": jnp.zeros(4)},
    "head": {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)},
}


def make(run=RUN, **values):
    """create() on the default config with fields such as `optimizer__name` replaced."""
    config = default.get_config()
    for field, value in values.items():
        section, _, name = field.partition("__")
        setattr(config[section], name, value)
    return optim.create(config.optimizer, config.schedule, optim.plan_batches(config.schedule, **run))


@pytest.mark.parametrize("schedule", optim.SCHEDULES)
@pytest.mark.parametrize(
    ("name", "variant"),
    [("momentum", "lecture"), ("rmsprop_warmup", "lecture"), *(("lars", name) for name in optim.lars.VARIANTS)],
)
def test_every_optimizer_with_every_schedule_makes_a_finite_step(name, variant, schedule):
    optimizer, rate = make(
        optimizer__name=name, optimizer__lars_variant=variant, optimizer__grad_clip_norm=1.0, schedule__name=schedule
    )
    state = jax.eval_shape(optimizer.init, PARAMS)
    updates, after = jax.eval_shape(optimizer.update, PARAMS, state, PARAMS)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.map(lambda u: (u.shape, u.dtype), updates) == jax.tree.map(lambda w: (w.shape, w.dtype), PARAMS)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, PARAMS), optimizer.init(PARAMS), PARAMS)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(updates))
    assert bool(jnp.any(updates["conv"]["kernel"] < 0))
    assert rate(0) == np.float32(0.25 if schedule == "slow_start" else 0.5)


def test_default_schedule_is_shufflenet_v2s():
    _, rate = make({**RUN, "num_steps": 300_000})
    expected = [0.5, 0.5 * 299_999 / 300_000, 0.5 / 300_000]
    np.testing.assert_allclose([rate(step) for step in (0, 1, 299_999)], expected, rtol=2e-7)


@pytest.mark.parametrize(
    ("name", "at_last"),
    [
        ("linear", 3.2 / 950),
        ("cosine", 3.2 * (1 + math.cos(math.pi * 949 / 950)) / 2),
        ("polynomial", 3.2 / 950**3),
        ("step", 3.2 * 0.01),
        ("constant", 3.2),
    ],
)
def test_linear_scaling_and_gradual_warmup_from_the_base_rate(name, at_last):
    """Goyal et al.: base .1 per 256, batch 8192, here half an epoch of warm-up and steps at 3 and 6 epochs."""
    _, rate = make(
        {**RUN, "num_examples": 819_200, "global_batch_size": 8192},
        schedule__name=name,
        schedule__base_learning_rate=0.1,
        schedule__base_batch_size=256,
        schedule__warmup_epochs=0.5,
        schedule__power=3.0,
        schedule__step_epochs=(3.0, 6.0),
    )
    assert rate(0) == np.float32(0.1) and rate(50) == np.float32(3.2)
    np.testing.assert_allclose([rate(1), rate(49)], [0.1 + 3.1 / 50, 0.1 + 3.1 * 49 / 50], rtol=3e-7)
    np.testing.assert_allclose(rate(999), at_last, rtol=2e-6)


def test_warmup_learning_rate_and_fractional_epochs():
    _, rate = make(
        {**RUN, "num_examples": 7475}, schedule__warmup_epochs=1.0, schedule__warmup_learning_rate=0.0
    )  # 7.3 steps: the peak is at 7
    np.testing.assert_allclose([rate(0), rate(1), rate(7), rate(8)], [0, 0.5 / 7, 0.5, 0.5 * 992 / 993], rtol=3e-7)


def test_clipping_comes_before_decay():
    """Gradient of norm 10 clipped to 2; then decay is added and not clipped."""
    params, gradients = {"kernel": jnp.full((2, 2), 100.0)}, {"kernel": jnp.full((2, 2), 5.0)}

    def step(limit, g):
        optimizer, _ = make(
            optimizer__grad_clip_norm=limit, optimizer__weight_decay=0.1, schedule__base_learning_rate=1.0
        )
        return optimizer.update(g, optimizer.init(params), params)[0]["kernel"]

    np.testing.assert_allclose(step(2.0, gradients), -(1.0 + 10.0), rtol=1e-6)
    np.testing.assert_allclose(step(0.0, gradients), -(5.0 + 10.0), rtol=1e-6)
    np.testing.assert_allclose(step(20.0, gradients), -(5.0 + 10.0), rtol=1e-6)
    np.testing.assert_allclose(step(2.0, {"kernel": jnp.zeros((2, 2))}), -10.0, rtol=1e-6)


def test_decay_min_ndim_of_momentum():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    for min_ndim, scale_step in ((2, 0.0), (0, -0.05)):
        optimizer, _ = make(optimizer__weight_decay=0.1, optimizer__decay_min_ndim=min_ndim)
        updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
        np.testing.assert_allclose(updates["norm"]["scale"], scale_step, rtol=1e-6)
        np.testing.assert_allclose(updates["conv"]["kernel"], -0.5 * 0.1 * 0.5, rtol=1e-6)


def test_lars_fields_reach_the_optimizer():
    """One step by hand at rate .5, beta .1, eta .01: |g| = 6 sqrt(2), |w| = |g| / 2 on 72 elements of 1 and .5."""
    ones = jax.tree.map(jnp.ones_like, PARAMS)

    def kernel_and_bias(variant):
        optimizer, _ = make(
            optimizer__name="lars",
            optimizer__weight_decay=0.1,
            optimizer__lars_variant=variant,
            optimizer__lars_trust_coefficient=0.01,
        )
        updates, _ = optimizer.update(ones, optimizer.init(PARAMS), PARAMS)
        return float(updates["conv"]["kernel"][0, 0, 0, 0]), float(updates["norm"]["bias"][0])

    next_rate = 0.5 * 999 / 1000
    # ratio .5 / (1 + .1 * .5) of direction 1 + .1 * .5: both readings of the denominator agree for parallel vectors
    np.testing.assert_allclose(kernel_and_bias("lecture"), [-0.5 * 0.01 * 0.5, -0.5 * 0.01], rtol=1e-6)
    np.testing.assert_allclose(kernel_and_bias("tpu"), [-0.5 * 0.01 * 0.5, -0.5], rtol=1e-6)
    np.testing.assert_allclose(kernel_and_bias("optax"), [-0.5 * 0.01 * 0.5, -0.5], rtol=1e-6)
    np.testing.assert_allclose(kernel_and_bias("slide"), [-next_rate * 0.5, 0.0], rtol=1e-6)


def test_lars_decays_and_trusts_the_leaves_that_describe_names():
    config = default.get_config().optimizer
    kernels, everything = "2 of 5 leaves, 84 of 95 parameters (kernel 2; not: bias 2, scale 1)", "not: none)"
    assert optim.describe(config, PARAMS) == [f"optimizer: decay: {kernels}"]
    config.name = "lars"
    assert optim.describe(config, PARAMS) == [f"optimizer: decay: {kernels}", f"optimizer: trust: {kernels}"]
    config.decay_min_ndim = 0
    lecture = optim.describe(config, jax.eval_shape(lambda: PARAMS))
    assert lecture[0].endswith(everything) and lecture[1] == f"optimizer: trust: {kernels}"
    config.lars_variant, config.decay_min_ndim = "slide", 2
    assert all(line.endswith(everything) for line in optim.describe(config, PARAMS))
    config.weight_decay = 0.0
    assert optim.describe(config, PARAMS)[0] == "optimizer: no weight decay"


def test_whole_steps_run_inside_scan_and_resume_at_any_step(x64):
    """50 steps in one compiled loop equal 20 steps, the state carried over, and 30 more."""
    optimizer, _ = make({**RUN, "num_steps": 50}, optimizer__name="lars", schedule__name="polynomial")
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) + 0.1, PARAMS)
    gradients = jax.random.normal(jax.random.key(0), (50,))

    @jax.jit
    def train(carry, factors):
        def body(carry, factor):
            params, state = carry
            updates, state = optimizer.update(jax.tree.map(lambda w: factor * w * w, params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, carry, factors)[0]

    start = (params, optimizer.init(params))
    whole, parts = train(start, gradients), train(train(start, gradients[:20]), gradients[20:])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), whole, parts)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optimizer__name": "momentun"}, ("optimizer.name", "'momentun'", "'momentum'")),
        ({"optimizer__momentum": 1.0}, ("momentum=1.0", "[0, 1)")),
        ({"optimizer__momentum": -0.1}, ("momentum=-0.1",)),
        ({"optimizer__momentum": math.nan}, ("momentum=nan",)),
        ({"optimizer__weight_decay": -1e-4}, ("weight_decay=-0.0001",)),
        ({"optimizer__decay_min_ndim": -1}, ("decay_min_ndim=-1",)),
        ({"optimizer__grad_clip_norm": -1.0}, ("grad_clip_norm=-1.0",)),
        ({"optimizer__name": "lars", "optimizer__lars_variant": "lectures"}, ("lars_variant", "'lecture'")),
        ({"optimizer__name": "lars", "optimizer__lars_trust_coefficient": 0.0}, ("lars_trust_coefficient=0.0",)),
        ({"schedule__name": "cosin"}, ("schedule.name", "'cosin'", "'cosine'")),
        ({"schedule__base_learning_rate": -0.1}, ("base_learning_rate=-0.1",)),
        ({"schedule__base_learning_rate": math.inf}, ("base_learning_rate=inf",)),
        ({"schedule__base_batch_size": -256}, ("base_batch_size=-256",)),
        ({"schedule__warmup_epochs": -1.0}, ("warmup_epochs=-1.0",)),
        ({"schedule__warmup_epochs": 20.0}, ("warmup_epochs=20.0", "2000 steps", "1000 steps")),
        ({"schedule__end_learning_rate": -1.0}, ("end_learning_rate=-1.0",)),
        ({"schedule__power": 0.0}, ("power=0.0",)),
        ({"schedule__step_factor": 0.0}, ("step_factor=0.0",)),
        ({"schedule__name": "step", "schedule__step_epochs": (60.0, 30.0)}, ("step_epochs=(60.0, 30.0)", "rising")),
        (
            {"schedule__name": "step", "schedule__warmup_epochs": 4.0, "schedule__step_epochs": (3.0,)},
            ("step_epochs=(3.0,)", "after warmup_epochs=4.0"),
        ),
        ({"run": {**RUN, "num_steps": -1}}, ("num_steps=-1",)),
        ({"run": {**RUN, "num_examples": 0}}, ("num_examples=0",)),
        ({"run": {**RUN, "global_batch_size": 0}, "schedule__base_batch_size": 256}, ("global_batch_size=0",)),
    ],
)
def test_bad_values_are_one_line(values, words):
    with pytest.raises(ValueError) as error:
        make(**values)
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_a_decay_mask_that_matches_nothing_names_the_field():
    optimizer, _ = make(optimizer__decay_min_ndim=7)
    with pytest.raises(ValueError, match="optimizer: decay_min_ndim: min_ndim=7 must match at least one of 5"):
        optimizer.init(PARAMS)


def update_of(**values):
    """The second update of a kernel of 0.5 with gradient 1, rates 0.5 and then 2."""
    optimizer, _ = make(
        optimizer__weight_decay=0.0,
        schedule__name="constant",
        schedule__base_learning_rate=2.0,
        schedule__warmup_name="constant",
        schedule__warmup_epochs=0.01,
        schedule__warmup_learning_rate=0.5,
        **values,
    )
    grads, state = jax.tree.map(jnp.ones_like, PARAMS), optimizer.init(PARAMS)
    for _ in range(2):
        updates, state = optimizer.update(grads, state, PARAMS)
    return float(updates["conv"]["kernel"][0, 0, 0, 0])


def test_the_forms_of_momentum_and_the_constant_warmup():
    """Form 9 and the corrected form 10 take 2 (0.9 + 1), the other 0.9 * 0.5 + 2."""
    assert update_of() == update_of(optimizer__momentum_form=10) == pytest.approx(-3.8)
    assert update_of(optimizer__momentum_form=10, optimizer__momentum_correction=False) == pytest.approx(-2.45)


def test_the_fields_of_rmsprop_warmup_reach_it():
    """At the centre of the transition half is SGD; of RMSprop the rate, its average and its roots are known."""
    values = {"optimizer__name": "rmsprop_warmup", "optimizer__transition_center_epochs": 0.0}
    values |= {
        "optimizer__rmsprop_rate": 0.3,
        "optimizer__rmsprop_decay": 0.75,
        "optimizer__transition_period_epochs": 4e4,
    }
    roots = [np.sqrt(0.25), np.sqrt(0.25 + 0.75 * 0.25)]
    first, second = (0.5 + 0.5 * 0.3 / rate / root for rate, root in zip((0.5, 2.0), roots, strict=True))
    assert update_of(**values) == pytest.approx(-2.0 * (0.9 * first + second), rel=1e-5)
    printed = update_of(
        **(values | {"optimizer__transition_form": "as_printed", "optimizer__transition_period_epochs": 0.1})
    )
    assert printed != pytest.approx(update_of(**(values | {"optimizer__transition_period_epochs": 0.1})), rel=1e-3)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optimizer__momentum_form": 8}, "optimizer: momentum_form=8 must be 9 or 10"),
        (
            {"optimizer__name": "rmsprop_warmup", "optimizer__rmsprop_rate": 0.0},
            "optimizer: rmsprop_rate=0.0 must be abo",
        ),
        (
            {"optimizer__name": "rmsprop_warmup", "optimizer__nesterov": True},
            "optimizer: nesterov=True must be False for",
        ),
        (
            {"schedule__name": "slow_start", "schedule__warmup_epochs": 1.0},
            "schedule: warmup_epochs=1.0 must be 0 with slow_start; it starts slowly by itself",
        ),
        ({"schedule__warmup_name": "linear"}, "schedule.warmup_name: unknown name 'linear'; one of constant, gradual"),
    ],
)
def test_new_fields_out_of_range_are_refused(values, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        make(**values)


def shrunk(batch, num_updates, decay_form, **values):
    """A kernel after so many updates of no gradient, at the rate of a batch, linear from 0.5 for 1,024 images."""
    optimizer, _ = make(
        {**RUN, "global_batch_size": batch, "num_examples": 100 * batch},
        optimizer__weight_decay=1e-3,
        optimizer__decay_form=decay_form,
        optimizer__momentum=0.0,
        schedule__name="constant",
        schedule__base_batch_size=1024,
        **values,
    )
    params, state = PARAMS, optimizer.init(PARAMS)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    for _ in range(num_updates):
        updates, state = optimizer.update(zeros, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params["norm"]["scale"], PARAMS["norm"]["scale"])
    return float(params["conv"]["kernel"][0, 0, 0, 0])


@pytest.mark.parametrize(("decay_form", "share"), [("coupled", 0.5e-3), ("decoupled", 1e-3)])
def test_a_batch_eight_times_as_large_shrinks_weights_as_fast(decay_form, share):
    """Eight updates, or one at eight times the rate: (1 - share)^8 against 1 - 8 share."""
    small, large = shrunk(1024, 8, decay_form), shrunk(8192, 1, decay_form)
    np.testing.assert_allclose([small, large], [0.5 * (1 - share) ** 8, 0.5 * (1 - 8 * share)], rtol=1e-6)


def test_decoupled_decay_stays_out_of_the_buffer():
    """One update of gradient 1, then one of none, at momentum 0.9 and rate 0.5: the buffer holds the gradient alone."""
    optimizer, _ = make(
        optimizer__weight_decay=0.1, optimizer__decay_form="decoupled", optimizer__nesterov=False,
        schedule__name="constant",
    )  # fmt: skip
    state = optimizer.init(PARAMS)
    for gradient in (jnp.ones_like, jnp.zeros_like):
        updates, state = optimizer.update(jax.tree.map(gradient, PARAMS), state, PARAMS)
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.5 * 0.9 - 0.1 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(updates["norm"]["bias"], -0.5 * 0.9, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optimizer__decay_form": "coupeld"}, "optimizer.decay_form: unknown name 'coupeld'"),
        (
            {"optimizer__decay_form": "decoupled", "optimizer__name": "lars"},
            "decay_form=decoupled must be coupled for lars",
        ),
        (
            {"optimizer__decay_form": "decoupled", "schedule__base_learning_rate": 0.0},
            "base_learning_rate=0.0 must be above 0 with decay_form=decoupled",
        ),
    ],
)
def test_decays_that_do_not_exist_are_one_line(values, words):
    with pytest.raises(ValueError, match=words):
        make(**values)
