"""Running statistics measured again: over one batch, or over a pass through the data ("precise" batch normalization).

A running average lags behind the weights. Two replacements, both from `batch_statistics`:

    statistics = batch_statistics(model, variables, x, axis_name=AXIS_NAME, train=False)     # in a pmap, or without one
    variables = with_statistics(variables, statistics)                                       # of the last batch

    step = jax.jit(functools.partial(batch_statistics, model, train=False))
    variables = with_statistics(variables, merge(step(variables, x) for x in batches))       # of a pass

What is exact: with one batch, evaluation then gives on it what normalization by the batch gives. Over several batches
each norm gets the statistics of the concatenation of all its inputs. Where these do not depend on the norms before, as
for the first norm, that is the statistics of the pass as one batch; the inputs of deeper norms were normalized a batch
at a time. With normalize="running" they are normalized as in evaluation: after k passes the first k norms of a chain
have exactly the statistics of what they see in evaluation.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from arch.errors import unknown_name
from arch.norm.batch import Moments, batch_moments
from arch.norm.frozen import FrozenBatchNorm
from arch.ops.stochastic import Examples

NORMALIZE = ("batch", "running")

_COLLECTION = "norm_moments"


class InputStatistics(NamedTuple):
    """What is measured of the input of a norm.

    Attributes:
        moments: of each channel.
        epsilon: of the norm, a scalar; it is part of a running standard deviation.
    """

    moments: Moments
    epsilon: jax.Array


Statistics = Mapping[tuple[str, ...], InputStatistics]  # by the path of the norm


def has_running_statistics(module: nn.Module) -> bool:
    """Whether a bound module is a norm that evaluates by a running mean: "mean" in its own batch_stats."""
    return module.has_variable("batch_stats", "mean")


def batch_statistics(
    model: nn.Module,
    variables: Mapping[str, Any],
    x: jax.Array,
    *,
    normalize: str = "batch",
    axis_name: str | None = None,
    examples: Examples | None = None,
    **call_kwargs: Any,
) -> Statistics:
    """The moments of the input of every norm with running statistics, on one batch.

    Paper: Wu and Johnson, Rethinking "Batch" in BatchNorm (arXiv:2105.07576), section 3.
    Parameters: none.
    MACs: those of the model.
    Differs from the paper: the model runs in evaluation, with only its norms in training, so that nothing is dropped.

    Args:
        model: called as `model(x, examples=examples, **call_kwargs)`; `examples` is left out where it is None.
        variables: of the model.
        x: [batch, ...].
        normalize: "batch", the norms normalize by this batch, as in training; "running", by the running statistics.
        axis_name: the mapped axis over whose devices the moments are taken; None keeps to this device.
        examples: weights of the batch's examples, where the norms get them.
        **call_kwargs: further arguments of the model; they must ask for evaluation: `train=False`.

    Returns:
        By the path of the norm, the same on all devices of `axis_name`; for a norm that is called several times, of all
        its inputs. Frozen norms are not among them.

    Raises:
        ValueError: an unknown `normalize`; a model without running statistics.
    """
    if normalize not in NORMALIZE:
        raise unknown_name("batch_statistics: normalize", normalize, NORMALIZE)

    def measure(call: Callable, args: tuple, kwargs: Mapping[str, Any], context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__" or "train" not in kwargs or not _moves(module):
            return call(*args, **kwargs)
        (inputs,) = args
        weight = None if kwargs.get("examples") is None else kwargs["examples"].weight
        values = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
        moments = batch_moments(values, weight, axis_name)
        epsilon = jnp.asarray(getattr(module, "epsilon", 0.0), values.dtype)
        one, before = InputStatistics(moments, epsilon), module.get_variable(_COLLECTION, _COLLECTION)
        module.put_variable(_COLLECTION, _COLLECTION, one if before is None else _merge(before, one))
        return call(inputs, **{**kwargs, "train": normalize == "batch"})

    if examples is not None:
        call_kwargs["examples"] = examples
    with nn.intercept_methods(measure):
        _, state = model.apply(variables, x, **call_kwargs, mutable=["batch_stats", _COLLECTION])
    found = traverse_util.flatten_dict(state.get(_COLLECTION, {}))
    if not found:
        raise ValueError("batch_statistics: the model must have norms with running statistics, 0 found; take another")
    return {path[:-1]: one for path, one in found.items()}


def merge(statistics: Iterable[Statistics]) -> Statistics:
    """The statistics of several batches as one, each counted by its values, by the formula of Chan et al. (1979).

    Args:
        statistics: of each batch, from `batch_statistics`, also with a leading axis of devices; read one at a time.

    Raises:
        ValueError: no batch.
    """
    total = None
    for one in statistics:
        total = one if total is None else _merge_all(total, one)
    if total is None:
        raise ValueError("merge: statistics must be of at least 1 batch, 0 given; pass a fresh iterator")
    return total


def combine(statistics: Statistics) -> Statistics:
    """As `merge`, of the statistics of several batches on a first axis, as `jax.lax.map` gives them."""
    return {path: _combine(parts) for path, parts in statistics.items()}


def average_over_devices(statistics: Statistics, axis_name: str) -> Statistics:
    """Means and variances of the devices' own batches, averaged, as Akiba et al. evaluate.

    The variance of all batches as one is larger by that of the devices' means; for it, give `batch_statistics` the
    axis name instead.

    Paper: Akiba, Suzuki, Fukuda, Extremely Large Minibatch SGD (arXiv:1711.04325), section 2.3.

    Args:
        statistics: of this device's batch; a device that counted nothing weighs nothing.
        axis_name: the mapped axis.
    """

    def average(one: InputStatistics) -> InputStatistics:
        shift, offset, var, count = one.moments
        total = jax.lax.psum(count, axis_name)
        share = (count / jnp.where(total > 0, total, 1))[..., None]
        return InputStatistics(
            Moments(*jax.lax.psum((share * shift, share * offset, share * var), axis_name), total), one.epsilon
        )

    return {path: average(one) for path, one in statistics.items()}


def with_statistics(variables: Mapping[str, Any], statistics: Statistics) -> dict[str, Any]:
    """The variables with these running statistics, also where all have a leading axis of devices.

    Variances are stored biased, whatever the norm's `unbiased_running_variance`, so that evaluation normalizes by those
    of the pass. A norm that counted nothing keeps its own.

    Args:
        variables: of the model.
        statistics: from `batch_statistics` or `merge`.
    """
    flat = traverse_util.flatten_dict(variables)
    for path, (moments, epsilon) in statistics.items():
        values = {"mean": moments.shift + moments.offset, "var": moments.var}
        values["std"] = jnp.sqrt(moments.var + epsilon[..., None])
        for name, value in values.items():
            key = ("batch_stats", *path, name)
            if key in flat:
                flat[key] = jnp.where(moments.count[..., None] > 0, value, flat[key]).astype(flat[key].dtype)
    return traverse_util.unflatten_dict(flat)


def _moves(module: nn.Module) -> bool:
    """Whether the norm's running statistics are to be replaced."""
    return has_running_statistics(module) and not isinstance(module, FrozenBatchNorm)


def _merge(first: InputStatistics, second: InputStatistics) -> InputStatistics:
    """Of the values of both; moments [..., channels], counts [...]."""
    return _combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second))


def _combine(parts: InputStatistics) -> InputStatistics:
    """Of the values of all parts; moments [parts, ..., channels], counts [parts, ...]."""
    shift, offset, var, count = parts.moments
    total = jnp.sum(count, 0)
    share = (count / jnp.where(total > 0, total, 1))[..., None]
    # The shifts differ little, so that their differences are exact.
    apart = (shift - shift[0]) + offset
    mean = jnp.sum(share * apart, 0)
    var = jnp.sum(share * (var + jnp.square(apart - mean)), 0)
    return InputStatistics(Moments(shift[0], mean, var, total), parts.epsilon[0])


@jax.jit
def _merge_all(first: Statistics, second: Statistics) -> Statistics:
    return jax.tree.map(_merge, first, second, is_leaf=lambda node: isinstance(node, InputStatistics))
