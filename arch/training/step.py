"""One training step and one evaluation step, written per device over `AXIS_NAME`, and their `jax.pmap`.

Everything that crosses devices outside the network is one `psum` of one tuple: gradient sums, metric sums, running
statistics. Gradients are sums over examples divided by the weight of the whole global batch, so k devices with n
examples, one with k*n, and any split into micro-batches take the same step, also where examples have weight 0.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import traverse_util
from jax import lax

from arch import AUXILIARY, AXIS_NAME, PENALTIES
from arch.ops.stochastic import Examples, example_keys
from arch.optim.noise_scale import gradient_noise
from arch.training import losses as losses_lib
from arch.training import metrics as metrics_lib
from arch.training.state import TrainState

Batch = dict[str, jax.Array]  # image [batch, H, W, C], label int [batch], weight [batch]: 0 leaves an example out
Preprocess = Callable[[jax.Array, jax.Array | None], jax.Array]  # (images, one key an example or None) -> float images
Keys = tuple[jax.Array, jax.Array]  # of augmentation, of dropout


def keys_of_step(seed: int, step: jax.typing.ArrayLike) -> Keys:
    """From which, with the position of an example in the global batch, all randomness of a step derives."""
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
    return augment_key, dropout_key


def positions(size: int) -> jax.Array:
    """int32 [size]: where the examples of this device stand in the global batch."""
    return lax.axis_index(AXIS_NAME) * size + jnp.arange(size, dtype=jnp.int32)


def split_parts(tree: Any, num_parts: int) -> Any:
    """[batch, ...] to [num_parts, batch / num_parts, ...]: part j holds positions j modulo num_parts."""
    return jax.tree.map(lambda x: x.reshape(-1, num_parts, *x.shape[1:]).swapaxes(0, 1), tree)


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    seed: int,
    preprocess: Preprocess,
    label_smoothing: float = 0.0,
    num_micro_batches: int = 1,
    ema_decay: float = 0.0,
    raise_on_nan: bool = True,
    reset_metrics_every_steps: int = 1,
    num_steps: int | None = None,
) -> Callable[[TrainState, Batch], TrainState]:
    """`train_step(state, batch) -> state` for one device of the axis `AXIS_NAME`.

    Where the state keeps `noise`, the noise of the gradient is estimated from the gradients of the parts of the batch,
    those of devices and micro-batches, and from their mean: nothing is computed twice, but it needs two parts.

    The loss is the mean cross-entropy, plus that of each auxiliary head times its weight, plus the network's penalties
    (collections AUXILIARY and PENALTIES). The metrics are of the network's own logits.

    Args:
      model: called as `model(images, train=True, examples=Examples(weight, id))`. Where it has a method
        `after_step(variables, progress) -> variables`, that is called after each update, with the share of `num_steps`
        that is done, and may change what is neither a parameter nor a running statistic, as condensation does.
      tx: gets gradients averaged over the global batch, and the parameters.
      seed: keys of augmentation and dropout derive from (seed, step, position of the example in the global batch).
      preprocess: augments and normalises on the device.
      label_smoothing: in [0, 1).
      num_micro_batches: k equal parts of the batch, whose gradients add up under `lax.scan`; part j holds the examples
        whose position in the global batch is j modulo k, so that the parts are the same for any number of devices.
        Batch norm sees a part at a time and updates its running statistics once a part.
      ema_decay: in [0, 1); used where the state keeps an average of the parameters.
      raise_on_nan: a non-finite loss or gradient freezes the state for good, for the caller to see `bad_step` and
        stop. False leaves out the update of that step only.
      reset_metrics_every_steps: `state.metrics` starts anew at steps that are multiples of this.
      num_steps: of the whole run; needed by a model with `after_step`.
    """
    if num_steps is None and hasattr(model, "after_step"):
        raise ValueError(f"make_train_step: num_steps must be given, for {type(model).__name__}.after_step")
    if num_micro_batches < 1:
        raise ValueError(f"make_train_step: num_micro_batches={num_micro_batches} must be at least 1")

    def gradient_sums(params, batch_stats, other, batch: Batch, ids: jax.Array, keys: Keys, metrics_cls):
        """Sums over the examples of one micro-batch: (gradients, metrics), and the new running statistics."""
        augment_key, dropout_key = keys
        images = preprocess(batch["image"], example_keys(augment_key, ids))

        def loss_sum(params):
            logits, updates = model.apply(
                {"params": params, "batch_stats": batch_stats, **other},
                images,
                train=True,
                examples=Examples(weight=batch["weight"], id=ids),
                mutable=["batch_stats", AUXILIARY, PENALTIES],
                rngs={"dropout": dropout_key},
            )
            losses = cross_entropy(logits)
            total = losses
            for more_logits, loss_weight in traverse_util.flatten_dict(updates.get(AUXILIARY, {})).values():
                total += loss_weight * cross_entropy(more_logits)
            for penalty in jax.tree.leaves(updates.get(PENALTIES, {})):
                total += penalty.astype(total.dtype)
            weighted = total * batch["weight"].astype(losses.dtype)
            return jnp.sum(weighted), (losses, logits, updates.get("batch_stats", {}))

        def cross_entropy(logits):
            return losses_lib.cross_entropy(logits, batch["label"], label_smoothing=label_smoothing)

        grads, (losses, logits, new_stats) = jax.grad(loss_sum, has_aux=True)(params)
        return grads, metrics_lib.measure(metrics_cls, losses, logits, batch["label"], batch["weight"]), new_stats

    def local_sums(state: TrainState, batch: Batch, keys: Keys):
        """As `gradient_sums`, over the device's whole batch, and the sum of `_squared_norm` over its parts."""
        metrics_cls = type(state.metrics)
        size = batch["label"].shape[0]
        ids = positions(size)
        if num_micro_batches == 1:
            grads, metrics, stats = gradient_sums(
                state.params, state.batch_stats, state.other, batch, ids, keys, metrics_cls
            )
            return grads, metrics, stats, _squared_norm(state, grads, batch)
        if size % num_micro_batches:
            raise ValueError(
                f"make_train_step: num_micro_batches={num_micro_batches} must divide the device's batch of {size}"
            )

        def body(carry, part):
            grads, metrics, stats = carry
            more_grads, more_metrics, stats = gradient_sums(state.params, stats, state.other, *part, keys, metrics_cls)
            norm = _squared_norm(state, more_grads, part[0])
            return (jax.tree.map(jnp.add, grads, more_grads), metrics.merge(more_metrics), stats), norm

        parts = split_parts((batch, ids), num_micro_batches)
        start = jax.tree.map(jnp.zeros_like, (state.params, state.metrics))
        (grads, metrics, stats), norms = lax.scan(body, (*start, state.batch_stats), parts)
        return grads, metrics, stats, None if norms is None else jnp.sum(norms)

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        grads, metrics, stats, norms = local_sums(state, batch, keys_of_step(seed, state.step))
        weight = jnp.sum(batch["weight"])
        # Synchronised statistics are equal already; per-replica ones are averaged, so that the state is one state.
        grads, weight, metrics, stats, norms, num_devices = lax.psum(
            (grads, weight, metrics, stats, norms, 1), AXIS_NAME
        )
        grads = _mean(grads, weight)
        stats = jax.tree.map(lambda s: s / num_devices, stats)

        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        other = state.other
        if hasattr(model, "after_step"):
            variables = {"params": params, "batch_stats": stats, **other}
            changed = model.after_step(variables, (state.step + 1) / num_steps)
            other = {name: changed[name] for name in other}
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = jax.tree.map(lambda e, p: e * ema_decay + p * (1 - ema_decay), ema_params, params)
        fresh = state.step % reset_metrics_every_steps == 0
        kept, noise = jax.tree.map(lambda m: jnp.where(fresh, jnp.zeros_like(m), m), (state.metrics, state.noise))
        if noise is not None:
            num_parts = num_micro_batches * lax.axis_size(AXIS_NAME)
            size = lax.axis_size(AXIS_NAME) * batch["label"].shape[0]
            measured = gradient_noise(norms / num_parts, _sum_of_squares(grads), size / num_parts, size)
        new = state.replace(
            params=params,
            batch_stats=stats,
            other=other,
            opt_state=opt_state,
            ema_params=ema_params,
            metrics=kept.merge(metrics),
            noise=noise if noise is None else jax.tree.map(jnp.add, noise, measured),
        )

        # The norm of the updates: it is not finite where a gradient is not, nor where a finite one grew too large.
        finite = jnp.isfinite(metrics.loss.total) & jnp.isfinite(optax.tree.norm((grads, updates)))
        bad_step = jnp.where((state.bad_step < 0) & ~finite, state.step, state.bad_step)
        keep = finite & (bad_step < 0) if raise_on_nan else finite
        new = jax.tree.map(lambda n, o: jnp.where(keep, n, o), new, state.replace(metrics=kept, noise=noise))
        return new.replace(step=state.step + 1, bad_step=bad_step)

    return train_step


def _squared_norm(state: TrainState, grads: Any, batch: Batch) -> jax.Array | None:
    """|g|^2 of the mean gradient of one part of the batch, from its sum; None where no noise is measured."""
    return None if state.noise is None else _sum_of_squares(_mean(grads, jnp.sum(batch["weight"])))


def _mean(grads: Any, weight: jax.Array) -> Any:
    return jax.tree.map(lambda g: g / jnp.where(weight > 0, weight, 1).astype(g.dtype), grads)


def _sum_of_squares(tree: Any) -> jax.Array:
    return sum(jnp.sum(lax.square(leaf)) for leaf in jax.tree.leaves(tree))


def make_eval_step(model: nn.Module, *, preprocess: Preprocess) -> Callable[..., Any]:
    """`eval_step(variables, batch, metrics) -> metrics`, which adds the batch's sums over all devices.

    The loss is the plain cross-entropy, without label smoothing, so that runs compare.
    """

    def eval_step(variables, batch: Batch, metrics):
        images = preprocess(batch["image"], None)
        examples = Examples(weight=batch["weight"], id=None)
        logits = model.apply(variables, images, train=False, examples=examples)
        losses = losses_lib.cross_entropy(logits, batch["label"])
        update = metrics_lib.measure(type(metrics), losses, logits, batch["label"], batch["weight"])
        return metrics.merge(lax.psum(update, AXIS_NAME))

    return eval_step


def pmap_train_step(train_step: Callable) -> Callable:
    """Over `[devices, ...]` leaves; the state's buffers are donated."""
    return jax.pmap(train_step, axis_name=AXIS_NAME, donate_argnums=0)


def pmap_eval_step(eval_step: Callable) -> Callable:
    """Over `[devices, ...]` leaves; the metrics' buffers are donated."""
    return jax.pmap(eval_step, axis_name=AXIS_NAME, donate_argnums=2)
