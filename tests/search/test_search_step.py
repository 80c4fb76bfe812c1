"""A step of DARTS against its equations in NumPy, on a network of a few numbers; and its gradient on a supernet."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from arch.search.oneshot.bilevel import architecture_gradient
from arch.search.oneshot.step import Settings, create_state, initial_alphas, make_eval_step, make_search_step
from arch.search.oneshot.supernet import Supernet, mixture_of
from arch.training import metrics as metrics_lib
from arch.training.checkpoint import digest, flatten, unflatten
from tests.compiling import quick_jit

NUM_STEPS = 5
SETTINGS = Settings(
    radius=0.3, learning_rate=0.5, end_learning_rate=0.2, momentum=0.8, weight_decay=0.03, grad_clip_norm=0.2,
    alpha_learning_rate=0.05, alpha_betas=(0.6, 0.95), alpha_weight_decay=0.1,
)  # fmt: skip


class Toy(nn.Module):
    """Means of the channels, a linear layer, activations mixed on two edges of both kinds, a norm, a classifier."""

    num_classes: int = 3
    mixture_shape: tuple[int, int] = (2, 3)

    @nn.compact
    def __call__(self, x, mixture, *, train, examples=None):
        layer = {"use_bias": False, "param_dtype": x.dtype}
        h = nn.Dense(4, **layer, name="first")(x.mean((1, 2)))
        rows = jnp.concatenate([mixture["normal"], mixture["reduction"]])  # each edge sees one of the channels most
        share = rows.T @ (1 + jnp.eye(4, dtype=x.dtype))
        total = share[0] * jnp.tanh(h) + share[1] * jax.nn.sigmoid(h) + share[2] * h
        running = self.variable("batch_stats", "mean", jnp.zeros, (4,), x.dtype)
        mean = running.value
        if train:
            weight = (jnp.ones(len(x)) if examples is None else examples.weight).astype(x.dtype)
            mean = (weight @ total) / weight.sum()
            running.value = 0.9 * running.value + 0.1 * mean
        return nn.Dense(self.num_classes, **layer, name="classifier")(total - mean)


def batch(seed, size=8):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(size, 2, 2, 5))
    return {"image": images, "label": rng.integers(0, 3, size), "weight": np.ones(size)}


def same(images, keys):
    return images


def noisy(images, keys):
    return images + 0.1 * jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(keys)


def start(settings=SETTINGS, seed=0):
    """What of the settings the first state does not depend on is left out, so that it is not made again."""
    return _start(dataclasses.replace(SETTINGS, grad_clip_norm=settings.grad_clip_norm), seed, jnp.zeros(()).dtype)


@functools.cache
def _start(settings, seed, dtype):
    options = {"image_shape": (2, 2, 5), "num_steps": NUM_STEPS, "dtype": dtype}
    return create_state(Toy(), settings, seed=seed, **options)


@functools.cache
def step_of(settings, seed, preprocess):
    return quick_jit(make_search_step(Toy(), settings, seed=seed, preprocess=preprocess, num_steps=NUM_STEPS))


def run(settings=SETTINGS, *, seed=0, preprocess=same, steps=2, state=None, batches=batch):
    """The states after each step; the halves are others at each."""
    states = [start(settings) if state is None else state]
    for _ in range(steps):
        number = int(states[-1].step)
        halves = (jax.tree.map(jnp.asarray, batches(2 * number + half)) for half in (0, 1))
        states.append(step_of(settings, seed, preprocess)(states[-1], *halves))
    return states


def loss_of(model, batch_stats, batch):
    def loss(params, alphas):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updates = model.apply(
            variables, batch["image"], mixture_of(alphas), train=True, mutable=["batch_stats"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), updates["batch_stats"]

    return loss


def paper_gradient(settings, train_loss, val_loss, params, alphas, buffer, rate):
    """Of the architecture: by reverse mode through the step of the weights, or by the paper's equations (7) and (8)."""
    momentum = settings.momentum if settings.unrolled_momentum else 0.0

    def stepped(alphas):
        grads = jax.grad(train_loss)(params, alphas)
        return jax.tree.map(
            lambda w, g, b: w - rate * (momentum * b + g + settings.weight_decay * w), params, grads, buffer
        )

    if settings.order == "first":
        return jax.grad(val_loss, argnums=1)(params, alphas)
    if settings.order == "second":
        return jax.grad(lambda alphas: val_loss(stepped(alphas), alphas))(alphas)
    towards, direct = jax.grad(val_loss, argnums=(0, 1))(stepped(alphas), alphas)
    epsilon = settings.radius / jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(towards)))
    above, below = (
        jax.grad(train_loss, argnums=1)(jax.tree.map(lambda w, v, s=s: w + s * epsilon * v, params, towards), alphas)
        for s in (1, -1)
    )
    return jax.tree.map(lambda g, a, b: g - rate * (a - b) / (2 * epsilon), direct, above, below)


class Transcription:
    """Torch's Adam with coupled decay and SGD with momentum, decay and clipping, of lists of arrays."""

    def __init__(self, settings, params, alphas):
        self.settings, self.count = settings, 0
        self.buffer = [np.zeros(leaf.shape) for leaf in params]
        self.mean, self.square = ([np.zeros(leaf.shape) for leaf in alphas] for _ in range(2))

    def adam(self, alphas, grads):
        self.count += 1
        (beta1, beta2), new = self.settings.alpha_betas, []
        for i, (alpha, grad) in enumerate(zip(alphas, grads, strict=True)):
            grad = grad + self.settings.alpha_weight_decay * alpha
            self.mean[i] = beta1 * self.mean[i] + (1 - beta1) * grad
            self.square[i] = beta2 * self.square[i] + (1 - beta2) * grad**2
            mean, square = self.mean[i] / (1 - beta1**self.count), self.square[i] / (1 - beta2**self.count)
            new.append(alpha - self.settings.alpha_learning_rate * mean / (np.sqrt(square) + 1e-8))
        return new

    def sgd(self, params, grads, rate):
        norm, limit = np.sqrt(sum((grad**2).sum() for grad in grads)), self.settings.grad_clip_norm
        assert norm > limit  # it acts
        grads = [grad * limit / norm for grad in grads] if limit else grads
        for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
            self.buffer[i] = self.settings.momentum * self.buffer[i] + grad + self.settings.weight_decay * param
        return [param - rate * buffer for param, buffer in zip(params, self.buffer, strict=True)]


def check_against_the_transcription(settings, steps=3):
    @quick_jit
    def alpha_gradient(stats, halves, *args):
        losses = [lambda *a, half=half: loss_of(Toy(), stats, half)(*a)[0] for half in halves]
        return paper_gradient(settings, *losses, *args)

    @quick_jit
    def weight_gradient(stats, half, params, alphas):
        return jax.grad(loss_of(Toy(), stats, half), has_aux=True)(params, alphas)

    states = jax.device_get(run(settings, steps=steps))
    leaves, structure = jax.tree.flatten(states[0].params)
    by_hand = Transcription(settings, leaves, jax.tree.leaves(states[0].alphas))
    for number, (before, after) in enumerate(itertools.pairwise(states)):
        rate = np.float64(np.float32(0.2 + 0.3 * (1 + np.cos(np.pi * number / NUM_STEPS)) / 2))  # schedules are float32
        halves = [batch(2 * number + half) for half in (0, 1)]
        buffer = jax.tree.unflatten(structure, by_hand.buffer)
        gradient = alpha_gradient(before.batch_stats, halves, before.params, before.alphas, buffer, rate)
        alphas = by_hand.adam(*map(jax.tree.leaves, (before.alphas, jax.device_get(gradient))))
        same_leaves(after.alphas, alphas, 1e-7)
        new_alphas = jax.tree.unflatten(jax.tree.structure(before.alphas), alphas)
        grads, stats = jax.device_get(weight_gradient(before.batch_stats, halves[0], before.params, new_alphas))
        params = by_hand.sgd(*map(jax.tree.leaves, (before.params, grads)), rate)
        same_leaves(after.params, params, 1e-6)
        # Moved once, by the training half at the new architecture: no other pass has left a trace.
        same_leaves(after.batch_stats, jax.tree.leaves(stats), 1e-7)
    assert int(states[-1].step) == steps and int(states[-1].bad_step) == -1


def same_leaves(tree, expected, tolerance):
    for found, value in zip(jax.tree.leaves(tree), expected, strict=True):
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("order", ["first", "second", "finite_difference"])
def test_steps_are_those_of_the_paper_in_numpy(x64, order):
    """Three of them: Adam, SGD, the schedule, what the gradient looks through, the statistics."""
    check_against_the_transcription(dataclasses.replace(SETTINGS, order=order))


def test_without_the_momentum_in_the_unrolled_step_and_without_clipping_too(x64):
    check_against_the_transcription(dataclasses.replace(SETTINGS, unrolled_momentum=False, grad_clip_norm=0.0))


def test_no_setting_is_left_at_its_default():
    """So one that the step did not read would have been seen above."""
    usual = dataclasses.asdict(Settings())
    kept = {name for name, value in dataclasses.asdict(SETTINGS).items() if value == usual[name]}
    assert kept == {"order", "unrolled_momentum"}


@pytest.mark.slow
def test_the_gradient_of_a_supernet_is_that_of_its_unrolled_step(x64):
    """An operation of each kind: the exact form, finite differences near it, the first order far from it.

    So near that hardly an activation changes its sign in between.
    """
    operations = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")
    model = Supernet(num_cells=3, features=2, num_nodes=1, num_classes=3, operations=operations)
    halves = [{**batch(seed), "image": np.random.default_rng(seed).normal(size=(8, 6, 6, 1))} for seed in (0, 1)]
    state = create_state(model, SETTINGS, seed=1, image_shape=(6, 6, 1), num_steps=NUM_STEPS, dtype=jnp.float64)
    train, val = (loss_of(model, state.batch_stats, half) for half in halves)
    losses = [lambda *a, f=f: f(*a)[0] for f in (train, val)]
    rng = np.random.default_rng(0)
    buffer, alphas = (
        jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), tree)
        for tree in (state.params, state.alphas)
    )

    @quick_jit
    def gradients(params, alphas):
        step = {"learning_rate": 0.02, "momentum": 0.8, "buffer": buffer, "weight_decay": 0.03, "radius": 1e-6}
        found = [
            architecture_gradient(*losses, params, alphas, order=order, **step)
            for order in ("second", "finite_difference", "first")
        ]
        return paper_gradient(SETTINGS, *losses, params, alphas, buffer, 0.02), *found

    expected, second, difference, first = map(jnp.concatenate, (
        [tree["normal"], tree["reduction"]] for tree in gradients(state.params, alphas)
    ))  # fmt: skip

    def error(found):
        return float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected))

    assert error(second) < 1e-11
    assert error(difference) < 1e-2 < error(first)


def largest_difference(first, second):
    return max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True))


def test_noise_is_another_for_each_seed_step_and_half():
    """Equal images in both halves, at every step."""
    settings, seen = dataclasses.replace(SETTINGS, order="first"), []

    def spy(images, keys):
        jax.debug.callback(lambda values: seen.append(np.array(values)), noisy(images, keys) - images)
        return noisy(images, keys)

    for seed in (0, 1):
        run(settings, seed=seed, preprocess=spy, batches=lambda seed: batch(0))
    jax.effects_barrier()
    assert len(seen) == 2 * 2 * 2
    assert all(np.abs(a - b).max() > 0.01 for i, a in enumerate(seen) for b in seen[:i])
    assert all(np.abs(noise[0] - noise[1]).max() > 0.01 for noise in seen)


def test_killed_and_resumed_it_is_the_search_that_was_not():
    """Bit for bit, by way of what a checkpoint holds."""
    expected = run(steps=4, preprocess=noisy)[-1]
    half = jax.device_get(run(steps=2, preprocess=noisy)[-1])
    kept = {name: np.array(leaf) for name, leaf in flatten(half).items()}
    restored = jax.tree.map(jnp.array, unflatten(kept, jax.eval_shape(start)))
    found = run(steps=2, preprocess=noisy, state=restored)[-1]
    assert digest(flatten(jax.device_get(found))) == digest(flatten(jax.device_get(expected)))
    assert int(found.step) == 4


@pytest.mark.parametrize("half", [0, 1])
def test_what_is_not_finite_stops_the_state_for_good(half):
    def broken(seed):
        found = batch(seed)
        if seed == 2 + half:  # of the second step
            found["image"][0] = np.nan
        return found

    states = jax.device_get(run(steps=3, batches=broken, preprocess=noisy))
    assert [int(state.bad_step) for state in states] == [-1, -1, 1, 1]
    kept = [digest(flatten(state.replace(step=0, bad_step=0))) for state in states]
    assert kept[0] != kept[1] == kept[2] == kept[3]
    assert [int(state.step) for state in states] == [0, 1, 2, 3]


def test_examples_of_no_weight_do_not_count(x64):
    def padded(seed, fill):
        found = batch(seed)
        found["weight"][5:], found["image"][5:], found["label"][5:] = 0, fill, 2
        return found

    first, second = (run(batches=lambda seed, fill=fill: padded(seed, fill))[-1] for fill in (0.0, 9.0))
    assert largest_difference((first.params, first.alphas), (second.params, second.alphas)) < 1e-12
    assert int(first.metrics.accuracy.count) == 2 * 5


def test_the_start():
    """1e-3 N(0, 1), of each kind of cell; the same for the same seed."""
    alphas = initial_alphas(jax.random.key(0), (14, 8))
    values = np.concatenate([alphas["normal"], alphas["reduction"]])
    assert values.shape == (28, 8) and values.std() == pytest.approx(1e-3, rel=0.2)
    assert abs(values.mean()) < 3e-4 and np.abs(alphas["normal"] - alphas["reduction"]).max() > 1e-4
    states = [start(seed=seed) for seed in (0, 0, 1)]
    digests = [digest(flatten(jax.device_get(state))) for state in states]
    assert digests[0] == digests[1] != digests[2]
    assert largest_difference(states[0].alphas, states[2].alphas) > 1e-4


def test_the_supernet_is_evaluated_with_its_running_statistics(x64):
    state = run(steps=1)[-1]
    found, variables = batch(7), {"params": state.params, "batch_stats": state.batch_stats}
    found["weight"][6:] = 0
    evaluate = quick_jit(make_eval_step(Toy(), preprocess=same))
    sums = metrics_lib.zeros(type(state.metrics), jnp.float64)
    measured = metrics_lib.compute(evaluate(state, found, evaluate(state, found, sums)))
    logits = np.asarray(Toy().apply(variables, found["image"], mixture_of(state.alphas), train=False))[:6]
    powers = np.exp(logits)
    losses = -np.log(powers[np.arange(6), found["label"][:6]] / powers.sum(1))
    assert measured["loss"] == pytest.approx(losses.mean(), rel=1e-10)
    assert measured["accuracy"] == (logits.argmax(1) == found["label"][:6]).mean()


@pytest.mark.parametrize(
    "fields,words",
    [
        ({"order": "secnd"}, "Settings: order: unknown name 'secnd'; did you mean 'second'"),
        ({"learning_rate": -0.1}, r"Settings: learning_rate=-0\.1 must be at least 0"),
        ({"alpha_weight_decay": float("nan")}, "Settings: alpha_weight_decay=nan must be at least 0"),
        ({"radius": 0.0}, r"Settings: radius=0\.0 must be above 0"),
        ({"momentum": 1.0}, r"Settings: momentum=1\.0 and the two alpha_betas=\(0\.5, 0\.999\) must be in \[0, 1\)"),
        ({"alpha_betas": (0.5,)}, r"the two alpha_betas=\(0\.5,\) must be"),
    ],
)
def test_settings_out_of_range_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Settings(**fields)
