"""The controller's gradient is that of the expected reward, by enumeration; PPO begins as REINFORCE; both learn."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.search import run, trials
from arch.search.space import CategoricalSpace
from arch.search.spaces.graphs import GraphSpace
from arch.search.spaces.synthetic import OneMax
from arch.search.strategies.controller import Controller, ReinforcementLearning, loss
from arch.search.strategies.random_search import RandomSearch
from arch.search.trials import Evaluation, Trial
from tests.ranks import mann_whitney

CHOICES = (4, 3, 4)
ALL = np.array(list(itertools.product(*map(range, CHOICES))), np.int32)
REWARDS = np.random.default_rng(1).normal(size=len(ALL))
OPTIONS = {"method": "reinforce", "clip": 0.2, "entropy_weight": 0.0}


@pytest.fixture
def policy(x64):
    """(controller, parameters) in float64, far from uniform."""
    controller = Controller(CHOICES, features=5)
    params = controller.init({"params": jax.random.key(0)}, jnp.zeros(3, jnp.int32))["params"]
    rng = np.random.default_rng(0)
    return controller, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)


def log_probs(controller, params):
    """[architectures], of all that there are."""
    return jax.vmap(lambda one: controller.apply({"params": params}, one).log_probs.sum())(ALL)


def estimates(controller, params, baseline):
    """The gradient of the loss for each architecture alone, stacked."""

    def one(actions, log_prob, reward):
        batch = (actions[None], log_prob[None], (reward - baseline)[None])
        return jax.grad(lambda p: loss(controller, p, *batch, **OPTIONS))(params)

    return jax.vmap(one)(jnp.asarray(ALL), log_probs(controller, params), jnp.asarray(REWARDS))


def flat(tree):
    return np.concatenate([np.asarray(leaf).reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(tree)], axis=1)


def test_the_probabilities_of_all_architectures_sum_to_one(policy):
    assert float(jnp.exp(log_probs(*policy)).sum()) == pytest.approx(1, abs=1e-12)


def test_the_estimate_is_unbiased_for_any_baseline_and_a_good_one_lowers_its_variance(policy):
    """Weighted by their probabilities, the estimates of all architectures are the gradient of the expected reward."""
    controller, params = policy
    weights = np.exp(np.asarray(log_probs(controller, params)))
    exact = jax.grad(lambda p: -jnp.sum(jnp.exp(log_probs(controller, p)) * REWARDS))(params)
    exact = flat(jax.tree.map(lambda leaf: leaf[None], exact))[0]
    variances = {}
    good = float(weights @ REWARDS)
    for baseline in (-7.0, 7.0, good):  # rewards that are 7 higher, or lower, and none
        found = flat(estimates(controller, params, baseline))
        np.testing.assert_allclose(weights @ found, exact, atol=1e-12)
        variances[baseline] = float(weights @ np.square(found - exact).sum(1))
    assert variances[good] < min(variances[7.0], variances[-7.0]) / 10


def test_ppo_begins_as_reinforce_and_stops_at_its_clip(policy):
    controller, params = policy
    batch = (jnp.asarray(ALL[:8]), log_probs(controller, params)[:8], jnp.asarray(REWARDS[:8]))
    first, second = (
        jax.grad(lambda p, m=method: loss(controller, p, *batch, **OPTIONS | {"method": m}))(params)
        for method in ("reinforce", "ppo")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), first, second)
    # Where the policy has moved far in the direction of the advantage, nothing is gained by going on.
    far = (batch[0], batch[1] - 1.0 * np.sign(batch[2]), batch[2])
    still = jax.grad(lambda p: loss(controller, p, *far, **OPTIONS | {"method": "ppo"}))(params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(still))


def test_entropy_is_rewarded(policy):
    controller, params = policy
    batch = (jnp.asarray(ALL[:1]), log_probs(controller, params)[:1], jnp.zeros(1))

    def entropy(p):
        return controller.apply({"params": p}, ALL[0]).entropies.sum()

    gradient = jax.grad(lambda p: loss(controller, p, *batch, **OPTIONS | {"entropy_weight": 2.0}))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, -2 * b, atol=1e-12), gradient, jax.grad(entropy)(params))
    uniform = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_allclose(entropy(uniform), sum(map(math.log, CHOICES)), atol=1e-12)


def test_what_is_drawn_has_the_probability_that_it_is_said_to_have(policy):
    """Drawn and then forced the same; frequencies of 4,000 draws; never a choice that a position does not have."""
    controller, params = policy
    drawn = jnp.full(3, -1, jnp.int32)
    keys = jax.random.split(jax.random.key(3), 4000)
    written = jax.vmap(lambda key: controller.apply({"params": params}, drawn, rngs={"sample": key}))(keys)
    forced = jax.vmap(lambda one: controller.apply({"params": params}, one))(written.actions)
    np.testing.assert_allclose(written.log_probs, forced.log_probs, atol=1e-12)
    actions = np.asarray(written.actions)
    assert (actions.max(0) < CHOICES).all() and actions.min() == 0
    numbers = np.ravel_multi_index(actions.T, CHOICES)
    probs = np.exp(np.asarray(log_probs(controller, params)))
    frequencies = np.bincount(numbers, minlength=len(ALL)) / 4000
    assert (np.abs(frequencies - probs) < 4.5 * np.sqrt(probs * (1 - probs) / 4000) + 1e-3).all()


def separable(job):
    """The best choice is the last at every position."""
    return Evaluation(sum(a == n - 1 for a, n in zip(job.architecture, CHOICES, strict=True)) / 3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reinforce", "ppo"])
def test_it_comes_to_the_best_of_a_separable_reward(method):
    """At least 95% of its mass after 200 updates, for each of 20 seeds."""
    space = CategoricalSpace(CHOICES)
    best = jnp.asarray([n - 1 for n in CHOICES], jnp.int32)
    for seed in range(20):
        strategy = ReinforcementLearning(space, seed=seed, method=method, learning_rate=0.02, features=16)
        run.search(strategy, space, separable, num_trials=20 * 200, path=None, seed=seed)
        mass = strategy.controller.apply({"params": strategy.params}, best).log_probs.sum()
        assert math.exp(float(mass)) > 0.95, seed


@pytest.mark.slow
def test_it_beats_random_search_on_one_max():
    """5,000 evaluations, 20 seeds."""
    task = OneMax()
    values = {}
    for name, make in {
        "rl": lambda s: ReinforcementLearning(task.space, seed=s, learning_rate=5e-3, features=32),
        "random": lambda s: RandomSearch(task.space, seed=s),
    }.items():
        found = [run.search(make(s), task.space, task, num_trials=5000, path=None, seed=s) for s in range(20)]
        values[name] = [trials.best(one).metrics["value"] for one in found]
    assert mann_whitney(values["rl"], values["random"]) < 1e-3


def test_the_baseline_moves_after_it_was_used():
    strategy = ReinforcementLearning(CategoricalSpace((2,)), seed=0, batch_size=2, baseline_decay=0.75, features=4)
    seen = []
    for number, reward in enumerate((1.0, 3.0, 6.0, 6.0, -math.inf, 0.0)):
        proposal = strategy.ask()
        strategy.tell(proposal.architecture, Trial(number, None, 0, reward, 1.0, 0.0))
        seen.append(strategy.baseline)
    assert seen == [None, 2.0, 2.0, 3.0, 3.0, 2.25]  # 0.75 x 2 + 0.25 x 6; a failed trial counts as 0


def test_it_resumes_from_its_trials(tmp_path):
    space = CategoricalSpace(CHOICES)

    def search(path, num_trials):
        strategy = ReinforcementLearning(space, seed=0, batch_size=5, learning_rate=0.05, features=8)
        return run.search(strategy, space, separable, num_trials=num_trials, path=path, seed=0)

    search(tmp_path / "cut.jsonl", 12)
    found, expected = search(tmp_path / "cut.jsonl", 20), search(None, 20)
    assert [one.architecture for one in found] == [one.architecture for one in expected]


@functools.cache
def learned(num_told=12, seed=0, **fields):
    """The parameters after some trials, of which every fourth fails."""
    options = {"batch_size": 4, "learning_rate": 0.05, "features": 4, **fields}
    strategy = ReinforcementLearning(CategoricalSpace((2, 3)), seed=seed, **options)
    for number in range(num_told):
        reward = -math.inf if number % 4 == 3 else math.sin(number)
        strategy.tell(strategy.ask().architecture, Trial(number, None, 0, reward, 1.0, 0.0))
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(strategy.params)])


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1},
        {"method": "reinforce"},
        {"batch_size": 2},
        {"learning_rate": 0.01},
        {"baseline_decay": 0.5},
        {"entropy_weight": 1.0},
        {"clip": 0.01},
        {"num_epochs": 1},
        {"failed_reward": -1.0},
    ],
    ids=str,
)
def test_every_option_changes_what_is_learned(fields):
    assert np.max(np.abs(learned(**fields) - learned())) > 1e-4


def test_of_one_batch_reinforce_learns_what_one_epoch_of_ppo_learns():
    found = learned(4, method="reinforce")
    np.testing.assert_allclose(found, learned(4, method="ppo", num_epochs=1), atol=1e-6)
    assert np.max(np.abs(found - learned(4, method="ppo"))) > 1e-4
    np.testing.assert_array_equal(found, learned(4, method="reinforce", num_epochs=3))
    np.testing.assert_array_equal(found, learned.__wrapped__(4, method="reinforce"), "it repeats itself")


def test_parameters_begin_uniformly_between_the_bounds():
    """So many that their extremes and their deviation tell: 82,108, at the paper's size."""
    for scale in (0.1, 0.5):
        params = Controller((4, 3), init_scale=scale).init({"params": jax.random.key(0)}, jnp.zeros(2, jnp.int32))
        values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
        assert 0.99 * scale < np.abs(values).max() <= scale
        assert values.std() == pytest.approx(scale / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "ppoo"}, "unknown name 'ppoo'; did you mean 'ppo'"),
        ({"batch_size": 0}, "batch_size=0 and num_epochs=4 must be at least 1"),
        ({"baseline_decay": 1.0}, "baseline_decay=1.0 must be in"),
    ],
)
def test_fields_out_of_range_are_one_line(fields, words):
    with pytest.raises(ValueError, match=words):
        ReinforcementLearning(CategoricalSpace((2,)), seed=0, **fields)


def test_a_space_without_a_code_is_refused():
    with pytest.raises(ValueError, match=r"GraphSpace must have an encoding; "):
        ReinforcementLearning(GraphSpace("2,3"), seed=0)
