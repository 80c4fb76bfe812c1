"""Deformable ResNet against torchvision's operators, recorded in tests/goldens, and what it is without offsets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from arch import models, norm
from arch.efficiency.complexity import abstract_variables
from arch.norm.weight import WeightNormConv
from arch.weights.names import resnet as names
from tests.compiling import quick_jit
from tests.models.checks import check_parity, random_variables

_V1 = {"stage_sizes": (1, 2), "stage_features": (64, 128), "stage_strides": (1, 1), "stage_dilations": (1, 2)}
_V1 |= {"deform_stages": (2,), "num_offset_groups": 2}
_V2 = {"stage_sizes": (1, 2), "stage_features": (64, 128), "deform_stages": (2,)}


def _names(model, layers):
    """The layers that tell offsets and factors lie in the convolution that they tell them to."""
    name = names.torchvision(model, layers[:2])
    return ".".join([name, *layers[2:]])


@pytest.mark.slow
@pytest.mark.parametrize("net,fields", [("v1", _V1), ("v2", _V2)])
def test_parity_with_torchvision(x64, net, fields):
    """Logits, updated running statistics and the gradient of every parameter, from the same weights, in float64."""
    name = "deform_resnet50" if net == "v1" else "deform_resnet50_v2"
    model = models.create(
        name, num_classes=10, norm=norm.create("batch_norm", unbiased_running_variance=True), **fields
    )
    check_parity(model, "deform_resnet.npz", net, 32, _names)


def _without(variables, scale):
    """Those of the plain ResNet; the kernels of the convolutions that were deformable are multiplied."""
    plain = {}
    for path, leaf in traverse_util.flatten_dict(variables).items():
        if path[-2] not in ("offset", "mask"):
            plain[path] = leaf * scale if path[1:3] == ("stage2_unit1", "conv2") else leaf
    return traverse_util.unflatten_dict(plain)


@pytest.mark.parametrize("name,scale", [("deform_resnet50", 1.0), ("deform_resnet50_v2", 0.5)])
def test_without_offsets_it_is_the_dilated_resnet(x64, name, scale):
    """Exactly so in version 1; factors of version 2 start at one half. With offsets it is not."""
    fields = {"num_classes": 10, "stage_sizes": (1, 1), "stage_features": (4, 8), "stem_features": 4, "stem": "small"}
    fields |= {"stage_strides": (1, 1), "stage_dilations": (1, 2)}
    model, resnet = models.create(name, **fields, deform_stages=(2,)), models.create("resnet50", **fields)
    x = np.random.default_rng(1).standard_normal((2, 8, 8, 3))
    variables = random_variables(model, x)
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.asarray(x), train=False)["params"])()
    told = {"offset", "mask"} if scale == 0.5 else {"offset"}
    moved = traverse_util.flatten_dict(variables)
    still = dict(moved)
    for layer in told:
        for part, leaf in init["stage2_unit1"]["conv2"][layer].items():
            assert not leaf.any()
            still["params", "stage2_unit1", "conv2", layer, part] = np.zeros_like(leaf)
    assert len(init["stage2_unit1"]["conv2"]) == 1 + len(told)
    plain = _without(variables, scale)
    run = quick_jit(lambda *trees: [model.apply(tree, x, train=False) for tree in trees])
    without, with_offsets = run(traverse_util.unflatten_dict(still), variables)
    expected = quick_jit(lambda tree: resnet.apply(tree, x, train=False))(plain)
    np.testing.assert_allclose(without, expected, rtol=1e-12)
    assert np.abs(with_offsets - expected).max() > 1e-3


def test_the_deformable_convolutions_are_the_papers():
    """Version 1: the three of conv5, with four groups of offsets; version 2: the 13 of conv3 to conv5."""

    def offsets(name):
        x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        params = abstract_variables(models.create(name), x, train=False)["params"]
        found = {}
        for (unit, *layers), leaf in traverse_util.flatten_dict(params).items():
            if layers[:1] == ["conv2"] and layers[-1] == "bias":
                found.setdefault(unit, {})[layers[1]] = leaf.size
        return found

    assert offsets("deform_resnet50") == {f"stage4_unit{unit}": {"offset": 72} for unit in (1, 2, 3)}
    assert offsets("deform_resnet50_v2") == {
        f"stage{stage}_unit{unit}": {"offset": 18, "mask": 9}
        for stage, size in ((2, 4), (3, 6), (4, 3))
        for unit in range(1, size + 1)
    }


def test_offsets_can_leave_zero_under_weight_normalization():
    """Their kernels start at zero, where a direction and its length would stay."""
    model = models.create("deform_resnet50_v2", conv=WeightNormConv)
    params = abstract_variables(model, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32), train=False)["params"]
    unit = params["stage4_unit1"]
    assert "kernel" not in unit["conv1"]
    assert set(unit["conv2"]["offset"]) == set(unit["conv2"]["mask"]) == {"kernel", "bias"}


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"deform_stages": (5,)}, r"DeformResNet: deform_stages=\(5,\) must lie in 1 to 4; leave 5 out"),
        ({"num_offset_groups": 3}, "DeformConv: num_offset_groups=3 must divide in_features=512; choose a divisor"),
        ({"stage_strides": (1, 2)}, r"ResNet: stage_strides=\(1, 2\) must be one for each of stage_sizes="),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("deform_resnet50", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)
