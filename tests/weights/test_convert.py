"""Weights from torch's layout to ours and back, from files and into them: whole, or refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from arch import models
from arch.efficiency.complexity import abstract_variables
from arch.weights import files
from arch.weights.convert import HEAD, from_ours, from_torch, is_ours, to_ours, to_torch
from arch.weights.load import load, place
from arch.weights.names import resnet
from tests.compiling import quick_jit
from tests.models.checks import image
from tests.models.families import FAMILIES

SMALL = {"stage_sizes": (1,), "stage_features": (16,), "stem_features": 8, "stem": "small", "num_classes": 5}


def variables_of(model, seed=0):
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(leaf.dtype), shapes)


@pytest.fixture(scope="module")
def network():
    """A small ResNet, its variables and its state in torch."""
    model = models.create("resnet50", **SMALL)
    variables = variables_of(model)
    return model, variables, to_torch(model, variables, resnet.torchvision)


class _Layers(nn.Module):
    """A convolution that is grouped, one that is a linear layer elsewhere, and the other way around."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Conv(8, (3, 2), feature_group_count=2, name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.Dense(6, name="dense")(x)
        return nn.Dense(5, name="classifier")(nn.Conv(7, (1, 1), name="pointwise")(x).mean((1, 2)))


def _same_name(model, layers):
    return ".".join(layers)


def test_each_layout_by_hand():
    """Element by element."""
    model, random = _Layers(), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 4, 4, 4)))
    torch = {
        "conv.weight": random.standard_normal((8, 2, 3, 2)),
        "conv.bias": random.standard_normal(8),
        "norm.weight": random.standard_normal(8),
        "norm.bias": random.standard_normal(8),
        "norm.running_mean": random.standard_normal(8),
        "norm.running_var": random.standard_normal(8),
        "norm.num_batches_tracked": np.int64(3),
        "dense.weight": random.standard_normal((6, 8, 1, 1)),
        "dense.bias": random.standard_normal(6),
        "pointwise.weight": random.standard_normal((7, 6)),
        "pointwise.bias": random.standard_normal(7),
        "classifier.weight": random.standard_normal((5, 7)),
        "classifier.bias": random.standard_normal(5),
    }
    loaded = from_torch("file", model, shapes, torch, _same_name).variables
    params = loaded["params"]
    for o, i, y, x in np.ndindex(8, 2, 3, 2):
        assert params["conv"]["kernel"][y, x, i, o] == np.float32(torch["conv.weight"][o, i, y, x])
    for o, i in np.ndindex(6, 8):
        assert params["dense"]["kernel"][i, o] == np.float32(torch["dense.weight"][o, i, 0, 0])
    for o, i in np.ndindex(7, 6):
        assert params["pointwise"]["kernel"][0, 0, i, o] == np.float32(torch["pointwise.weight"][o, i])
    np.testing.assert_array_equal(params["classifier"]["kernel"], np.float32(torch["classifier.weight"]).T)
    np.testing.assert_array_equal(params["norm"]["scale"], np.float32(torch["norm.weight"]))
    np.testing.assert_array_equal(params["norm"]["bias"], np.float32(torch["norm.bias"]))
    np.testing.assert_array_equal(loaded["batch_stats"]["norm"]["mean"], np.float32(torch["norm.running_mean"]))
    np.testing.assert_array_equal(loaded["batch_stats"]["norm"]["var"], np.float32(torch["norm.running_var"]))
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype("float32")}
    back = to_torch(model, loaded, _same_name, pointwise=r"^dense\.weight$")
    assert set(back) == set(torch) - {"norm.num_batches_tracked"}
    assert back["dense.weight"].shape == (6, 8, 1, 1) and back["pointwise.weight"].shape == (7, 6, 1, 1)
    for name, value in back.items():
        np.testing.assert_array_equal(value.ravel(), np.float32(torch[name]).ravel())


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_dtypes_are_those_of_our_variables(network, dtype):
    model, variables, state = network
    narrow = {name: value.astype(jnp.dtype(dtype)) for name, value in state.items()}
    loaded = from_torch("file", model, variables, narrow, resnet.torchvision).variables
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype("float32")}
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.dtype(dtype)).astype(np.float32)), loaded, variables
    )


def test_all_that_does_not_fit_is_named_at_once(network):
    model, variables, state = network
    spoiled = dict(state)
    del spoiled["layer1.0.conv2.weight"], spoiled["bn1.running_var"]
    spoiled["layer2.0.conv1.weight"] = np.zeros((1, 1, 1, 1))
    spoiled["conv1.weight"] = np.zeros((8, 4, 3, 3))
    for new_head in (False, True):
        with pytest.raises(ValueError) as caught:
            from_torch("x.pth", model, variables, spoiled, resnet.torchvision, new_head=new_head)
        assert str(caught.value) == (
            "x.pth: not the weights of this network; missing: bn1.running_var, layer1.0.conv2.weight; "
            "left over: layer2.0.conv1.weight; of another shape: conv1.weight [3, 3, 4, 8], not [3, 3, 3, 8]"
        )
    with pytest.raises(ValueError, match=r"missing: (\S+, ){7}\S+ and \d+ more$"):
        from_torch("x.pth", model, variables, {}, resnet.torchvision)
    with pytest.raises(ValueError, match=r"^x: not the weights of this network; left over: params/b$"):
        from_ours("x", variables, {**to_ours(variables), "params/b": np.zeros(1)})


def test_a_head_of_other_classes_is_new_and_nothing_else(network):
    model, variables, state = network
    other = variables_of(model.clone(num_classes=3))
    heads = ("params/classifier/bias", "params/classifier/kernel")
    for tensors in (state, to_ours(variables)):
        loaded = place("x", tensors, "resnet50", model, other, new_head=True)
        assert loaded.new == heads
        found = to_ours(loaded.variables)
        assert set(found) == set(to_ours(other)) - set(heads)
        for name, value in found.items():
            np.testing.assert_array_equal(value, to_ours(variables)[name])
        with pytest.raises(ValueError, match=r"of another shape: .*classifier|of another shape: fc"):
            place("x", tensors, "resnet50", model, other)
        # As many classes: the head is the file's.
        assert place("x", tensors, "resnet50", model, variables, new_head=True).new == ()
    # Another network is no other head.
    narrow = {**state, "fc.weight": state["fc.weight"][:3, :9], "fc.bias": state["fc.bias"][:3]}
    with pytest.raises(ValueError, match=r"shape: fc.bias \[3\], not \[5\], fc.weight \[9, 3\], not \[64, 5\]$"):
        place("x", narrow, "resnet50", model, variables, new_head=True)


def test_files_of_our_own(network, tmp_path):
    """Names are paths; what was written is what is read, to the bit, and gives the same logits."""
    model, variables, state = network
    path = str(tmp_path / "ours.safetensors")
    files.write(path, to_ours(variables), {"model": "resnet50"})
    tensors = files.read(path)
    assert is_ours(tensors) and not is_ours(state)
    assert "params/stage1_unit1/conv1/kernel" in tensors and "batch_stats/stem_norm/mean" in tensors
    loaded = load(path, "resnet50", model, variables)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    assert [entry.name for entry in tmp_path.iterdir()] == ["ours.safetensors"]
    theirs = str(tmp_path / "theirs.safetensors")
    files.write(theirs, state, {})
    again = load(theirs, "resnet50", model, variables).variables
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3), np.float32)
    apply = quick_jit(lambda variables: model.apply(variables, x, train=False))
    np.testing.assert_array_equal(apply(again), apply(variables))


def test_scalars_keep_their_shape(tmp_path):
    """Batch renormalization counts its updates."""
    path = str(tmp_path / "a.safetensors")
    files.write(path, {"a": np.int32(3), "b": np.arange(6.0).reshape(2, 3).T}, {})
    found = files.read(path)
    assert found["a"].shape == () and found["a"] == 3
    np.testing.assert_array_equal(found["b"], np.arange(6.0).reshape(2, 3).T)


def test_what_depends_on_the_classes_lies_in_the_classifier():
    """In every family, so that a new head is new in all of it."""
    for family in FAMILIES:
        case = family.CASES[0]
        models_of = [models.create(case.name, **{**case.fields, "num_classes": classes}) for classes in (10, 12)]
        variables = [abstract_variables(model, image(case.image_size), train=False) for model in models_of]
        shapes = [traverse_util.flatten_dict(tree) for tree in variables]
        assert shapes[0].keys() == shapes[1].keys()
        differ = [path for path in shapes[0] if shapes[0][path].shape != shapes[1][path].shape]
        assert differ and all(HEAD in path[1:-1] for path in differ), differ


def test_a_new_head_of_a_condensed_network():
    """Its classifier has a module inside."""
    fields = {"stage_sizes": (1, 1), "growth_rates": (4, 8), "num_groups": 2, "stem": "small"}
    old, new = (
        abstract_variables(models.create("condensenet_74", num_classes=classes, **fields), image(8), train=False)
        for classes in (10, 12)
    )
    tensors = {"/".join(path): np.zeros(leaf.shape) for path, leaf in traverse_util.flatten_dict(old).items()}
    loaded = from_ours("x", new, tensors, new_head=True)
    heads = ("params/classifier/bias", "params/classifier/linear/kernel")
    assert loaded.new == ("condensation/classifier/linear/mask", *heads)


def test_bfloat16_files(tmp_path):
    path = str(tmp_path / "a.safetensors")
    value = np.arange(6, dtype=np.float32).reshape(2, 3).T.astype(jnp.bfloat16)  # and not contiguous
    files.write(path, {"a": value}, {})
    found = files.read(path)["a"]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, value)


def test_broken_files_are_one_line(tmp_path):
    path = tmp_path / "a.safetensors"
    files.write(str(path), {"a": np.arange(9.0)}, {})
    content = path.read_bytes()
    for size in (0, 5, 20, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError) as caught:
            files.read(str(path))
        assert str(caught.value).startswith(f"{path}: no safetensors file, or cut short: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        files.read(str(tmp_path / "none.safetensors"))
    with pytest.raises(ValueError, match=r"a.pth: weights are written as .safetensors; name the file so$"):
        files.write(str(tmp_path / "a.pth"), {}, {})


def test_networks_and_layers_that_no_library_has(network):
    model, variables, state = network
    with pytest.raises(ValueError, match="neither torchvision nor timm has fractalnet_20"):
        place("x", state, "fractalnet_20", model, variables)
    odd = {**variables, "params": {**variables["params"], "gate": {"kernel": np.zeros((1, 1))}}}
    with pytest.raises(ValueError, match=r"^x: resnet50 with these fields has a layer, 'gate', that torchvision"):
        place("x", state, "resnet50", model, odd)


def test_names_follow_the_depth():
    model = models.create("resnet50", **{**SMALL, "stage_sizes": (2, 1), "stage_features": (16, 32)})
    state = to_torch(model, variables_of(model), resnet.torchvision)
    assert {"layer1.1.conv1.weight", "layer2.0.downsample.0.weight", "fc.bias"} <= set(state)
    assert len(state) == len(traverse_util.flatten_dict(variables_of(model)))
