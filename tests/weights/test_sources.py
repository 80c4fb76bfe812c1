"""Every tensor of every network that another library shares with us, by its name and shape, recorded from there."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from arch import models
from arch.weights.convert import from_torch, to_torch
from arch.weights.sources import SOURCES, find

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "goldens" / "weight_names.npz")
TENSORS = json.loads(str(GOLDEN["tensors"]))
PAIRS = [(name, source) for name, sources in SOURCES.items() for source in sources]
FEW = ("torchvision/resnet18", "timm/seresnet50", "torchvision/googlenet", "timm/resnetv2_18", "torchvision/vgg11_bn")


def recorded(source):
    """Tensors of the recorded names and shapes, without memory: all are one zero."""
    lines = (line.split() for line in TENSORS[f"{source.library}/{source.name}"].splitlines())
    return {name: np.broadcast_to(np.zeros((), np.float32), tuple(map(int, axes))) for name, *axes in lines}


def shapes_of(model, image_size):
    x = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)


def _marks(source):
    return () if f"{source.library}/{source.name}" in FEW else pytest.mark.slow


@pytest.mark.parametrize(
    "name,source",
    [pytest.param(*pair, marks=_marks(pair[1]), id=f"{pair[1].library}/{pair[1].name}") for pair in PAIRS],
)
def test_all_tensors_have_their_place(name, source):
    """And none more; back again they have the names and the shapes of the library."""
    model, tensors = source.create(name), recorded(source)
    shapes = shapes_of(model, source.image_size)
    loaded = from_torch("file", model, shapes, tensors, source.names, unneeded=source.unneeded)
    assert loaded.new == ()
    assert jax.tree.map(np.shape, loaded.variables) == jax.tree.map(np.shape, dict(shapes))
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    back = to_torch(model, zeros, source.names, source.pointwise)
    left_out = {tensor for tensor in tensors if source.unneeded and re.match(source.unneeded, tensor)}
    assert {tensor: value.shape for tensor, value in back.items()} == {
        tensor: value.shape for tensor, value in tensors.items() if tensor not in left_out
    }
    if left_out:
        # With its auxiliary heads nothing is left out.
        model = source.create(name, auxiliary_heads=True)
        loaded = from_torch("file", model, shapes_of(model, source.image_size), tensors, source.names)
        assert len(traverse_util.flatten_dict(loaded.variables)) == len(tensors)


def test_the_table_is_of_networks_that_are_there():
    assert set(SOURCES) <= set(models.MODELS)
    assert {f"{source.library}/{source.name}" for _, source in PAIRS} == set(TENSORS)


def test_find():
    assert find("se_resnet50").name == "legacy_seresnet50"
    assert find("se_resnet50", "timm/seresnet50").fields["stride_at"] == "second"
    for arguments, error in (
        (("se_resnet50", "timm/seresnet5"), "arch.weights: sources of se_resnet50: unknown name 'timm/seresnet5'; did"),
        (("resnet51",), "arch.weights: unknown name 'resnet51'; did you mean 'resnet"),
        (("fractalnet_20",), "arch.weights: neither torchvision nor timm has fractalnet_20; those that one of them "),
    ):
        with pytest.raises(ValueError) as caught:
            find(*arguments)
        assert str(caught.value).startswith(error) and "\n" not in str(caught.value)
