"""A recurrent controller that writes an architecture choice by choice, trained by its reward: REINFORCE and PPO.

Zoph and Le, arXiv:1611.01578; Zoph, Vasudevan, Shlens, Le, arXiv:1707.07012, appendix A.
"""

import collections
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from arch.errors import unknown_name
from arch.search.space import Architecture, Space
from arch.search.strategy import Proposal
from arch.search.trials import Trial

METHODS = ("reinforce", "ppo")


class Written(NamedTuple):
    """Choices that a controller has made, or was made to make.

    Attributes:
      actions: int32 [positions].
      log_probs: float32 [positions], of each choice after those before it.
      entropies: float32 [positions], of what was there to choose from, in nats.
    """

    actions: jax.Array
    log_probs: jax.Array
    entropies: jax.Array


class Controller(nn.Module):
    """One LSTM; at each position a softmax of its own over the choices there, whose embedding is the next input.

    Attributes:
      choices: how many there are at each position.
      features: of the LSTM and of the embeddings; 100 in the paper.
      init_scale: all parameters start from U(-init_scale, init_scale).
    """

    choices: tuple[int, ...]
    features: int = 100
    init_scale: float = 0.1

    @nn.compact
    def __call__(self, actions: jax.Array) -> Written:
        """Writes one architecture.

        Args:
          actions: int32 [positions], what to choose; where negative, it is drawn with the rng "sample".
        """
        length, most = len(self.choices), max(self.choices)

        def uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -self.init_scale, self.init_scale)

        lstm = self.param("lstm", uniform, (2 * self.features, 4 * self.features))
        lstm_bias = self.param("lstm_bias", uniform, (4 * self.features,))
        kernel = self.param("kernel", uniform, (length, self.features, most))
        bias = self.param("bias", uniform, (length, most))
        embedding = self.param("embedding", uniform, (length, most, self.features))
        first = self.param("first", uniform, (self.features,))
        allowed = jnp.arange(most) < jnp.asarray(self.choices)[:, None]
        keys = jax.random.split(self.make_rng("sample"), length) if self.has_rng("sample") else None

        def step(carry: Any, inputs: Any) -> tuple[Any, Written]:
            (memory, h, x), (position, action, key) = carry, inputs
            gates = jnp.concatenate([x, h]) @ lstm + lstm_bias
            write, keep, new, show = jnp.split(gates, 4)
            memory = nn.sigmoid(keep) * memory + nn.sigmoid(write) * jnp.tanh(new)
            h = nn.sigmoid(show) * jnp.tanh(memory)
            logits = jnp.where(allowed[position], h @ kernel[position] + bias[position], -jnp.inf)
            log_probs = jax.nn.log_softmax(logits)
            if key is not None:
                action = jnp.where(action < 0, jax.random.categorical(key, logits), action)
            # Of a choice that is not allowed 0 log 0 = 0, also in the derivative.
            entropy = -jnp.sum(jnp.exp(log_probs) * jnp.where(allowed[position], log_probs, 0.0))
            return (memory, h, embedding[position, action]), Written(action, log_probs[action], entropy)

        positions = jnp.arange(length)
        zeros = jnp.zeros_like(first)
        return jax.lax.scan(step, (zeros, zeros, first), (positions, actions, keys))[1]


def loss(
    controller: Controller,
    params: Any,
    actions: jax.Array,
    old_log_probs: jax.Array,
    advantages: jax.Array,
    *,
    method: str,
    clip: float,
    entropy_weight: float,
) -> jax.Array:
    """What the controller lowers, a mean over the batch; its gradient is an estimate of minus that of the reward.

    reinforce: -log p(a) A - entropy_weight H. ppo: -min(r A, clip(r, 1 - clip, 1 + clip) A) - entropy_weight H, with
    r = p(a) / p_old(a). At p = p_old both have the same gradient.

    Args:
      actions: int32 [batch, positions].
      old_log_probs: [batch].
      advantages: [batch].
      entropy_weight: of the sum of the entropies of all choices.
    """
    written = jax.vmap(lambda one: controller.apply({"params": params}, one))(actions)
    log_probs, entropies = written.log_probs.sum(-1), written.entropies.sum(-1)
    if method == "reinforce":
        gain = log_probs * advantages
    else:
        ratio = jnp.exp(log_probs - old_log_probs)
        gain = jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - clip, 1 + clip) * advantages)
    return -jnp.mean(gain + entropy_weight * entropies)


# Compiled once a process for controllers of one kind, however many searches there are.
@functools.partial(jax.jit, static_argnums=0)
def _init(controller: Controller, key: jax.Array) -> Any:
    return controller.init({"params": key}, jnp.zeros(len(controller.choices), jnp.int32))["params"]


@functools.partial(jax.jit, static_argnums=0)
def _draw(controller: Controller, params: Any, key: jax.Array, numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Actions [numbers, positions] and their log-probabilities [numbers]."""
    drawn = jnp.full(len(controller.choices), -1, jnp.int32)

    def one(number: jax.Array) -> Written:
        return controller.apply({"params": params}, drawn, rngs={"sample": jax.random.fold_in(key, number)})

    written = jax.vmap(one)(numbers)
    return written.actions, written.log_probs.sum(-1)


@functools.partial(jax.jit, static_argnums=0, static_argnames="method")
def _update(
    controller: Controller, params: Any, opt_state: Any, *batch: jax.Array, learning_rate: float, **options: Any
) -> tuple[Any, Any]:
    """One step of Adam on `loss`, whose batch and options these are."""
    gradient = jax.grad(lambda p: loss(controller, p, *batch, **options))(params)
    updates, opt_state = optax.adam(learning_rate).update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def _cpu() -> jax.Device | None:
    """None where JAX was told to have no CPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


class ReinforcementLearning:
    """Proposals of a controller, which learns from every batch of rewards.

    Args:
      space: whose encodings are written.
      seed: of the first parameters and of the draws.
      method: "ppo" (arXiv:1707.07012) or "reinforce" (arXiv:1611.01578).
      batch_size: trials an update; 20 in the paper.
      learning_rate: of Adam; 3.5e-4 in the paper.
      features: of the LSTM; 100 in the paper.
      baseline_decay: of the moving average of rewards that is the baseline; 0.95 in the paper. It moves after it was
        used, and starts as the mean of the first batch.
      entropy_weight: 1e-5 in the paper.
      clip: of ppo; 0.2.
      num_epochs: updates from one batch, of ppo.
      failed_reward: what a failed trial counts as.
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int,
        method: str = "ppo",
        batch_size: int = 20,
        learning_rate: float = 3.5e-4,
        features: int = 100,
        baseline_decay: float = 0.95,
        entropy_weight: float = 1e-5,
        clip: float = 0.2,
        num_epochs: int = 4,
        failed_reward: float = 0.0,
    ):
        if method not in METHODS:
            raise unknown_name("ReinforcementLearning: method", method, METHODS)
        if not space.choices:
            raise ValueError(
                f"ReinforcementLearning: {type(space).__name__} must have an encoding; take another strategy"
            )
        if batch_size < 1 or num_epochs < 1:
            raise ValueError(
                f"ReinforcementLearning: batch_size={batch_size} and num_epochs={num_epochs} must be at least 1; raise "
                "them"
            )
        if not 0 <= baseline_decay < 1:
            raise ValueError(f"ReinforcementLearning: baseline_decay={baseline_decay} must be in [0, 1); 0.95 is usual")
        self._space, self._batch_size, self._failed_reward = space, batch_size, failed_reward
        self._num_epochs, self._baseline_decay = num_epochs if method == "ppo" else 1, baseline_decay
        self.controller = Controller(tuple(space.choices), features)
        self._learn_by = functools.partial(
            _update,
            self.controller,
            method=method,
            learning_rate=learning_rate,
            clip=clip,
            entropy_weight=entropy_weight,
        )
        # On the CPU, with all that is made of it: a GPU may add in another order when the search is repeated.
        first_key, self._sample_key = jax.random.split(jax.device_put(jax.random.key(seed), _cpu()))
        self.params = _init(self.controller, first_key)
        self._opt_state = optax.adam(learning_rate).init(self.params)
        self.baseline: float | None = None
        self._num_asked = 0
        self._ahead: collections.deque[tuple[np.ndarray, float]] = collections.deque()  # drawn, and not asked for yet
        self._asked: dict[Architecture, list[tuple[np.ndarray, float]]] = {}
        self._told: list[tuple[np.ndarray, float, float]] = []

    def ask(self) -> Proposal:
        """Drawn from the controller as it is now."""
        if not self._ahead:  # many at once are faster than one at a time
            numbers = jnp.arange(self._num_asked, self._num_asked + self._batch_size)
            actions, log_probs = _draw(self.controller, self.params, self._sample_key, numbers)
            self._ahead.extend(zip(np.asarray(actions), np.asarray(log_probs).tolist(), strict=True))
        actions, log_prob = self._ahead.popleft()
        self._num_asked += 1
        architecture = self._space.decode(actions.tolist())
        self._asked.setdefault(architecture, []).append((actions, log_prob))
        return Proposal(architecture)

    def tell(self, architecture: Architecture, trial: Trial) -> None:
        """Learns when a batch is whole."""
        actions, log_prob = self._asked[architecture].pop(0)
        if not self._asked[architecture]:
            del self._asked[architecture]
        self._told.append((actions, log_prob, trial.reward if trial.succeeded else self._failed_reward))
        if len(self._told) == self._batch_size:
            self._learn()
            self._told.clear()

    def _learn(self) -> None:
        self._ahead.clear()  # of the controller as it was
        actions, log_probs, rewards = (np.asarray(values) for values in zip(*self._told, strict=True))
        mean = float(rewards.mean())
        baseline = mean if self.baseline is None else self.baseline
        batch = (actions, log_probs.astype(np.float32), (rewards - baseline).astype(np.float32))
        for _ in range(self._num_epochs):
            self.params, self._opt_state = self._learn_by(self.params, self._opt_state, *batch)
        self.baseline = self._baseline_decay * baseline + (1 - self._baseline_decay) * mean
