"""Metrics of a classifier as sums and counts, so that they add up over examples, micro-batches, steps and devices."""

import jax
import jax.numpy as jnp
from clu import metrics as clu_metrics
from flax import struct


@struct.dataclass
class Top1Metrics(clu_metrics.Collection):
    """`loss` in nats and `accuracy` in [0, 1], averaged over the examples whose weight is not 0."""

    loss: clu_metrics.Average.from_output("loss")
    accuracy: clu_metrics.Average.from_output("top1")


@struct.dataclass
class Top5Metrics(clu_metrics.Collection):
    """Also `top5_accuracy`: the label is among the five highest logits. (clu reads a class's own annotations only.)"""

    loss: clu_metrics.Average.from_output("loss")
    accuracy: clu_metrics.Average.from_output("top1")
    top5_accuracy: clu_metrics.Average.from_output("top5")


Metrics = Top1Metrics | Top5Metrics


def metrics_class(num_classes: int) -> type[Metrics]:
    """Top-5 says something from ten classes up."""
    return Top5Metrics if num_classes >= 10 else Top1Metrics


def measure(cls: type[Metrics], losses: jax.Array, logits: jax.Array, labels: jax.Array, weight: jax.Array) -> Metrics:
    """The metrics of one batch on one device; examples of weight 0 do not count.

    Args:
      losses, labels, weight: [batch].
      logits: [batch, num_classes]. The rank of the label is the number of classes with a higher logit, ties being
        resolved towards the lower class, as argmax and a stable sort do. A label whose logit is nan ranks last.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    lower_class = jnp.arange(logits.shape[-1]) < labels[:, None]
    rank = jnp.sum(~(logits <= own) | ((logits == own) & lower_class), axis=-1)
    return cls.single_from_model_output(loss=losses, top1=rank < 1, top5=rank < 5, mask=weight > 0)


def zeros(cls: type[Metrics], dtype: jnp.dtype) -> Metrics:
    """Nothing counted yet; `dtype` is that of the losses, so that adding to it changes no dtype."""
    empty = jax.ShapeDtypeStruct((1,), dtype)
    whole = jax.ShapeDtypeStruct((1,), jnp.int32)
    logits = jax.ShapeDtypeStruct((1, 10), dtype)
    shapes = jax.eval_shape(lambda *args: measure(cls, *args), empty, logits, whole, empty)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def compute(metrics: Metrics) -> dict[str, float]:
    """Plain floats by name."""
    return {name: float(value) for name, value in metrics.compute().items()}
