"""The gradient through a step of the weights against automatic differentiation of that step, and where it leads."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arch.search.oneshot.bilevel import architecture_gradient

RATE, DECAY = 0.025, 3e-4


@pytest.fixture
def problem(x64):
    """(train loss, validation loss, weights, alphas, buffer): two layers with three activations mixed between them."""
    rng = np.random.default_rng(0)

    def loss(x, y):
        def mean_loss(weights, alphas):
            h = x @ weights["first"]
            share = jax.nn.softmax(alphas["between"])
            mixed = share[0] * jnp.tanh(h) + share[1] * jax.nn.sigmoid(h) + share[2] * h
            logits = mixed @ weights["second"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        return mean_loss

    losses = [loss(jnp.asarray(rng.normal(size=(16, 5))), jnp.asarray(rng.integers(0, 3, 16))) for _ in range(2)]
    weights = {"first": jnp.asarray(rng.normal(size=(5, 6))), "second": jnp.asarray(rng.normal(size=(6, 3)))}
    buffer = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), weights)
    return *losses, weights, {"between": jnp.asarray(rng.normal(size=3))}, buffer


def unrolled(train_loss, val_loss, weights, alphas, buffer=None, momentum=0.0, rate=RATE):
    """The derivative of the loss behind the step, by reverse mode through it."""

    def behind(alphas):
        gradient = jax.grad(train_loss)(weights, alphas)
        steps = jax.tree.map(lambda g, w: g + DECAY * w, gradient, weights)
        if momentum:
            steps = jax.tree.map(lambda d, b: momentum * b + d, steps, buffer)
        return val_loss(jax.tree.map(lambda w, d: w - rate * d, weights, steps), alphas)

    return jax.grad(behind)(alphas)["between"]


def found(problem, **options):
    train_loss, val_loss, weights, alphas, buffer = problem
    if options.get("momentum"):
        options["buffer"] = buffer
    options = {"learning_rate": RATE, "weight_decay": DECAY} | options
    return architecture_gradient(train_loss, val_loss, weights, alphas, **options)["between"]


def relative(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_second_order_is_that_of_the_unrolled_step(problem, momentum):
    expected = unrolled(*problem, momentum=momentum)
    assert relative(found(problem, order="second", momentum=momentum), expected) < 1e-13
    assert relative(found(problem, order="first"), expected) > 1e-3


def test_the_finite_difference_is_of_second_order_in_its_radius(problem):
    expected = unrolled(*problem)
    errors = [relative(found(problem, order="finite_difference", radius=radius), expected) for radius in (0.1, 0.01)]
    assert errors[1] < 1e-5 and errors[0] / errors[1] == pytest.approx(100, rel=0.1)


def test_in_float32_it_is_as_near_as_rounding_allows(problem):
    """Of the whole gradient, whose larger part is of the first order: 3e-6 exactly, 1e-5 with the paper's radius."""
    expected = unrolled(*problem)
    train_loss, val_loss, *trees = problem
    narrow = (train_loss, val_loss, *jax.tree.map(jnp.float32, trees))
    errors = {
        (order, radius): relative(found(narrow, order=order, radius=radius), expected)
        for order, radius in (("second", 0.01), ("finite_difference", 0.01), ("finite_difference", 1e-5))
    }
    assert found(narrow, order="second").dtype == jnp.float32
    assert errors["second", 0.01] < 3e-6 and errors["finite_difference", 0.01] < 1e-5
    assert errors["finite_difference", 1e-5] > 10 * errors["finite_difference", 0.01], "differences of rounded losses"


def test_a_rate_of_zero_is_the_first_order(problem):
    for order in ("second", "finite_difference"):
        np.testing.assert_allclose(
            found(problem, order=order, learning_rate=0.0), found(problem, order="first"), atol=1e-15
        )


@pytest.mark.parametrize("field", [{"momentum": 0.9}, {"weight_decay": 1.0}, {"learning_rate": 0.5}])
def test_every_field_of_the_step_is_seen(problem, field):
    assert relative(found(problem, order="second", **field), found(problem, order="second")) > 1e-4


def test_on_a_quadratic_problem_the_second_order_finds_the_solution_and_the_first_another(x64):
    """L_train = (w - alpha)^2 / 2, so w* = alpha, and L_val = (w - 1)^2 / 2 + alpha^2 / 4: alpha* = 2/3. The direct
    gradient alone is alpha / 2, whose zero is at 0."""

    def train_loss(w, alpha):
        return jnp.square(w - alpha) / 2

    def val_loss(w, alpha):
        return jnp.square(w - 1) / 2 + jnp.square(alpha) / 4

    def solve(order):
        @jax.jit
        def step(carry, _):
            w, alpha = carry
            gradient = architecture_gradient(train_loss, val_loss, w, alpha, order=order, learning_rate=1.0)
            alpha = alpha - 0.1 * gradient
            return (w - 1.0 * jax.grad(train_loss)(w, alpha), alpha), None

        return float(jax.lax.scan(step, (jnp.float64(0.3), jnp.float64(-0.5)), length=500)[0][1])

    assert solve("second") == pytest.approx(2 / 3, abs=1e-9)
    assert solve("finite_difference") == pytest.approx(2 / 3, abs=1e-6)
    assert solve("first") == pytest.approx(0, abs=1e-9)


def test_what_is_missing_is_one_line(problem):
    with pytest.raises(ValueError, match="order: unknown name 'secnd'; did you mean 'second'"):
        found(problem, order="secnd")
    train_loss, val_loss, weights, alphas, _ = problem
    with pytest.raises(ValueError, match=r"momentum=0\.9 needs a buffer"):
        architecture_gradient(train_loss, val_loss, weights, alphas, order="second", momentum=0.9)
