"""One step of DARTS (arXiv:1806.09055, algorithm 1): of the architecture, then of the weights of the supernet."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from arch.errors import unknown_name
from arch.ops.stochastic import Examples, example_keys
from arch.optim import masks
from arch.optim.momentum import momentum_sgd
from arch.optim.schedules import cosine_decay
from arch.search.oneshot.bilevel import ORDERS, architecture_gradient
from arch.search.oneshot.supernet import KINDS, Mixture, Supernet, mixture_of
from arch.training import losses
from arch.training import metrics as metrics_lib

Batch = dict[str, jax.Array]  # image [batch, H, W, C], label int [batch], weight [batch]: 0 leaves an example out
Preprocess = Callable[[jax.Array, jax.Array | None], jax.Array]  # (images, one key an example or None) -> float images


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is searched with; the defaults are the paper's, appendix A.1.1, where the rate falls once an epoch.

    Attributes:
        order: of the architecture's gradient: "first", "second" or "finite_difference"; see `bilevel`.
        unrolled_momentum: whether the step of the weights that the gradient looks through has the momentum, as the
            authors' program has it, and not the paper's equations.
        radius: of "finite_difference".
        learning_rate: of the weights, at the first step; it falls along a cosine.
        end_learning_rate: behind the last step.
        momentum: of the weights, in [0, 1).
        weight_decay: of all weights, coupled.
        grad_clip_norm: largest global norm of their gradient, before decay; 0 does not clip.
        alpha_learning_rate: of Adam, of the architecture.
        alpha_betas: of Adam, in [0, 1).
        alpha_weight_decay: coupled, part of the gradient that Adam sees.

    Raises:
        ValueError: another order; a value out of range.
    """

    order: str = "second"
    unrolled_momentum: bool = True
    radius: float = 0.01
    learning_rate: float = 0.025
    end_learning_rate: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 3e-4
    grad_clip_norm: float = 5.0
    alpha_learning_rate: float = 3e-4
    alpha_betas: tuple[float, float] = (0.5, 0.999)
    alpha_weight_decay: float = 1e-3

    def __post_init__(self):
        object.__setattr__(self, "alpha_betas", tuple(self.alpha_betas))
        if self.order not in ORDERS:
            raise unknown_name("Settings: order", self.order, ORDERS)
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, float) and not value >= 0:
                raise ValueError(f"Settings: {name}={value} must be at least 0; 0 switches it off")
        if not self.radius > 0:
            raise ValueError(f"Settings: radius={self.radius} must be above 0; 0.01 is the paper's")
        if len(self.alpha_betas) != 2 or not all(0 <= share < 1 for share in (self.momentum, *self.alpha_betas)):
            raise ValueError(
                f"Settings: momentum={self.momentum} and the two alpha_betas={self.alpha_betas} must be in [0, 1); 0.9 "
                "and (0.5, 0.999) are usual"
            )

    def optimizer(self, num_steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
        """Of the weights, and its rate."""
        schedule = cosine_decay(self.learning_rate, self.end_learning_rate, total_steps=num_steps)
        descent = momentum_sgd(schedule, self.momentum, weight_decay=self.weight_decay, decay_mask=masks.select)
        if not self.grad_clip_norm:
            return descent, schedule
        return optax.chain(optax.clip_by_global_norm(self.grad_clip_norm), descent), schedule

    def alpha_optimizer(self) -> optax.GradientTransformation:
        """Of the architecture."""
        beta1, beta2 = self.alpha_betas
        adam = optax.adam(self.alpha_learning_rate, b1=beta1, b2=beta2)
        return optax.chain(optax.add_decayed_weights(self.alpha_weight_decay), adam)


@struct.dataclass
class SearchState:
    """All that a search carries from step to step, and nothing else is needed to go on.

    Attributes:
        step: int32 scalar, the steps that were taken. Random numbers derive from it, so no key is kept.
        params: of the supernet.
        batch_stats: its running statistics; passes of the architecture's step leave them alone.
        opt_state: of the weights' optimizer.
        alphas: of each kind of cell [edges, operations], before the softmax.
        alpha_opt_state: of the architecture's optimizer.
        metrics: of the weights' passes, summed; it is for the caller to set them to zero.
        bad_step: int32 scalar, the first step that was not finite; -1 while there is none.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    alphas: Mixture
    alpha_opt_state: optax.OptState
    metrics: metrics_lib.Metrics
    bad_step: jax.Array


def initial_alphas(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> Mixture:
    """Drawn from 1e-3 * N(0, 1), as the authors' program has them: all operations are nearly alike.

    Args:
        shape: edges and operations, of either kind of cell.
    """
    keys = jax.random.split(key, len(KINDS))
    return {kind: 1e-3 * jax.random.normal(own, shape, dtype) for kind, own in zip(KINDS, keys, strict=True)}


def create_state(
    model: Supernet,
    settings: Settings,
    *,
    seed: int,
    image_shape: tuple[int, int, int],
    num_steps: int,
    dtype: jnp.dtype = jnp.float32,
) -> SearchState:
    """The state before the first step; the same for the same seed.

    Args:
        image_shape: (height, width, channels) of the supernet's input.
        num_steps: of the whole search.
        dtype: of the computation; what is kept is at least float32.
    """
    wide = jnp.promote_types(dtype, jnp.float32)

    def init(key: jax.Array):
        weights_key, alphas_key = jax.random.split(key)
        alphas = initial_alphas(alphas_key, model.mixture_shape, wide)
        images = jnp.zeros((1, *image_shape), dtype)
        variables = model.init({"params": weights_key}, images, mixture_of(alphas), train=False)
        params = variables["params"]
        states = settings.optimizer(num_steps)[0].init(params), settings.alpha_optimizer().init(alphas)
        return params, variables["batch_stats"], alphas, states

    params, batch_stats, alphas, (opt_state, alpha_opt_state) = jax.jit(init)(jax.random.key(seed))
    return SearchState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        alphas=alphas,
        alpha_opt_state=alpha_opt_state,
        metrics=metrics_lib.zeros(metrics_lib.metrics_class(model.num_classes), wide),
        bad_step=jnp.full((), -1, jnp.int32),
    )


def make_search_step(
    model: Supernet,
    settings: Settings,
    *,
    seed: int,
    preprocess: Preprocess,
    num_steps: int,
) -> Callable[[SearchState, Batch, Batch], SearchState]:
    """`search_step(state, train_batch, val_batch) -> state`, on one device.

    First the architecture follows its gradient on the validation batch, through a step of the weights on the training
    batch; then the weights follow theirs on the training batch, at the new architecture. All passes normalize by their
    batch; only the last one moves the running statistics. Where a loss or gradient is not finite, the state stays what
    it was for good, but for `step` and `bad_step`, for the caller to see.

    Args:
        seed: keys of augmentation derive from (seed, step, half, position in the batch).
        preprocess: augments and normalizes on the device.
        num_steps: of the whole search.
    """
    tx, schedule = settings.optimizer(num_steps)
    alpha_tx = settings.alpha_optimizer()

    def search_step(state: SearchState, train_batch: Batch, val_batch: Batch) -> SearchState:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        train_loss, val_loss = (
            _loss_of(model, state.batch_stats, _augmented(preprocess, batch, key))
            for batch, key in zip((train_batch, val_batch), keys, strict=True)
        )
        gradient = architecture_gradient(
            lambda params, alphas: train_loss(params, alphas)[0],
            lambda params, alphas: val_loss(params, alphas)[0],
            state.params,
            state.alphas,
            order=settings.order,
            learning_rate=schedule(state.step),
            momentum=settings.momentum if settings.unrolled_momentum else 0.0,
            buffer=optax.tree.get(state.opt_state, "trace"),
            weight_decay=settings.weight_decay,
            radius=settings.radius,
        )
        alpha_updates, alpha_opt_state = alpha_tx.update(gradient, state.alpha_opt_state, state.alphas)
        alphas = optax.apply_updates(state.alphas, alpha_updates)

        (loss, (outputs, batch_stats)), grads = jax.value_and_grad(train_loss, has_aux=True)(state.params, alphas)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        measured = metrics_lib.measure(type(state.metrics), *outputs, train_batch["label"], train_batch["weight"])
        new = state.replace(
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            alphas=alphas,
            alpha_opt_state=alpha_opt_state,
            metrics=state.metrics.merge(measured),
        )
        # The norm of the updates: it is not finite where a gradient is not, nor where a finite one grew too large.
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm((gradient, alpha_updates, grads, updates)))
        bad_step = jnp.where((state.bad_step < 0) & ~finite, state.step, state.bad_step)
        new = jax.tree.map(lambda n, o: jnp.where(bad_step < 0, n, o), new, state)
        return new.replace(step=state.step + 1, bad_step=bad_step)

    return search_step


def make_eval_step(
    model: Supernet, *, preprocess: Preprocess
) -> Callable[[SearchState, Batch, metrics_lib.Metrics], metrics_lib.Metrics]:
    """`eval_step(state, batch, metrics) -> metrics` of the supernet with its running statistics, added to those."""

    def eval_step(state: SearchState, batch: Batch, metrics: metrics_lib.Metrics) -> metrics_lib.Metrics:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        images = preprocess(batch["image"], None)
        logits = model.apply(variables, images, mixture_of(state.alphas), train=False)
        found = losses.cross_entropy(logits, batch["label"])
        return metrics.merge(metrics_lib.measure(type(metrics), found, logits, batch["label"], batch["weight"]))

    return eval_step


def _augmented(preprocess: Preprocess, batch: Batch, key: jax.Array) -> Batch:
    ids = jnp.arange(batch["label"].shape[0], dtype=jnp.int32)
    return {**batch, "image": preprocess(batch["image"], example_keys(key, ids))}


def _loss_of(model: Supernet, batch_stats: Any, batch: Batch) -> Callable[[Any, Mixture], tuple[jax.Array, Any]]:
    """(params, alphas) -> mean cross-entropy of a batch in training; and (losses, logits) and running statistics."""

    def mean_loss(params: Any, alphas: Mixture) -> tuple[jax.Array, Any]:
        logits, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch["image"],
            mixture_of(alphas),
            train=True,
            examples=Examples(weight=batch["weight"]),
            mutable=["batch_stats"],
        )
        found = losses.cross_entropy(logits, batch["label"])
        weight = batch["weight"].astype(found.dtype)
        total = jnp.sum(weight)
        loss = jnp.sum(found * weight) / jnp.where(total > 0, total, 1)
        return loss, ((found, logits), updates["batch_stats"])

    return mean_loss
