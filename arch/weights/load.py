"""Weights of a file, whatever it is, for a network that is there."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import linen as nn

from arch.weights import sources
from arch.weights.convert import Loaded, from_ours, from_torch, is_ours
from arch.weights.files import read


def load(
    path: str, model_name: str, model: nn.Module, shapes: Mapping[str, Any], *, source: str = "", new_head: bool = False
) -> Loaded:
    """The variables of a network from a file of ours, or of the same network of torchvision or timm.

    Args:
        path: .safetensors of ours or theirs, or a checkpoint of torch.
        model_name: of the network in arch.models.MODELS.
        model: the network.
        shapes: of its variables, or the variables.
        source: whose network a file of theirs has, as in `sources.find`.
        new_head: a classifier of another number of classes is left out.

    Returns:
        All leaves of `shapes`, of shapes and dtypes as there, but those of new heads.

    Raises:
        ValueError: one line: a file that is not what it should be, or holds the weights of another network.
        OSError: of a file that cannot be read.
    """
    return place(path, read(path), model_name, model, shapes, source=source, new_head=new_head)


def place(
    owner: str,
    tensors: Mapping[str, np.ndarray],
    model_name: str,
    model: nn.Module,
    shapes: Mapping[str, Any],
    *,
    source: str = "",
    new_head: bool = False,
) -> Loaded:
    """`load` of tensors that were read; `owner` is what errors begin with."""
    if is_ours(tensors):
        return from_ours(owner, shapes, tensors, new_head=new_head)
    theirs = sources.find(model_name, source)
    options = {"unneeded": theirs.unneeded, "new_head": new_head}
    try:
        return from_torch(owner, model, shapes, tensors, theirs.names, **options)
    except KeyError as error:  # a layer that the published network has no name for
        raise ValueError(
            f"{owner}: {model_name} with these fields has a layer, {error}, that {theirs.library}'s {theirs.name} lacks"
        ) from error
