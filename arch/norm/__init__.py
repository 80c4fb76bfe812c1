"""Normalizations by name. Every one is called as `norm(x, *, train, examples=None)`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from arch import AXIS_NAME
from arch.errors import named_factory
from arch.norm.batch import BatchNorm
from arch.norm.frozen import FrozenBatchNorm
from arch.norm.ghost import GhostBatchNorm
from arch.norm.group import GroupNorm, InstanceNorm
from arch.norm.layer import LayerNorm
from arch.norm.renorm import BatchRenorm
from arch.norm.weight import Affine, MeanOnlyBatchNorm
from arch.ops.stochastic import Examples

NORMS = {
    "batch_norm": functools.partial(BatchNorm),
    "sync_batch_norm": functools.partial(BatchNorm, axis_name=AXIS_NAME),  # device_group_size: over groups of devices
    "ghost_batch_norm": functools.partial(GhostBatchNorm),
    "frozen_batch_norm": functools.partial(FrozenBatchNorm),
    "batch_renorm": functools.partial(BatchRenorm),
    "group_norm": functools.partial(GroupNorm),
    "instance_norm": functools.partial(InstanceNorm),
    "layer_norm_hwc": functools.partial(LayerNorm, reading="hwc"),
    "layer_norm_hwc_elementwise": functools.partial(LayerNorm, reading="hwc_elementwise"),
    "layer_norm_c": functools.partial(LayerNorm, reading="c"),
    "mean_only_batch_norm": functools.partial(MeanOnlyBatchNorm),
    "none": functools.partial(Affine),
}


def create(name: str, **fields: Any) -> functools.partial:
    """The factory of a normalization, to be the `norm` of a network.

    Args:
        name: a key of NORMS.
        **fields: fields of that normalization.

    Returns:
        A partial that makes the module; it takes further fields, such as `name` and `dtype`.

    Raises:
        ValueError: a name, or a field, that does not exist.
    """
    return functools.partial(named_factory("arch.norm.create", NORMS, name, fields), **fields)


def bind(
    norm: Callable[..., nn.Module], *, train: bool, examples: Examples | None = None, **fields: Any
) -> Callable[..., Callable[[jax.Array], jax.Array]]:
    """Fixes what a network knows of its norms, so that its blocks only say `norm(name="norm1")(x)`.

    Args:
        norm: makes a normalization module from its fields.
        train: whether statistics are those of the batch.
        examples: weights and ids of the batch's examples.
        **fields: fields common to all norms of the network, such as dtype.
    """

    def bound(**more: Any) -> Callable[[jax.Array], jax.Array]:
        return functools.partial(norm(**fields, **more), train=train, examples=examples)

    return bound
