"""ResNet with pre-activation against timm's networks, recorded in tests/goldens, and the figures of its paper."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from arch import models, norm
from arch.blocks.preactivation import PreactivationUnit
from arch.efficiency.complexity import abstract_variables
from arch.ops.conv import Conv
from arch.weights.names import resnet_v2 as names
from tests.compiling import quick_jit
from tests.models.checks import (
    check_eval_parity,
    check_examples_reach_norms_and_dropout,
    check_parity,
    maps_of,
    random_variables,
)

_SMALL = {"stage_sizes": (1, 2), "stage_features": (16, 32), "stem_features": 16}


def test_parity_with_timm_in_training(x64):
    """Two stages: logits, updated running statistics and the gradient of every parameter."""
    batch_norm = norm.create("batch_norm", unbiased_running_variance=True)
    model = models.create("resnetv2_50", num_classes=10, norm=batch_norm, **_SMALL)
    check_parity(model, "resnet_v2.npz", "small", 32, names.timm)


@pytest.mark.slow
@pytest.mark.parametrize("net", ["resnetv2_18", "resnetv2_50"])
def test_parity_with_timm(x64, net):
    check_eval_parity(models.create(net, num_classes=10), "resnet_v2.npz", net, 64, names.timm)


@pytest.mark.parametrize("depth,units", [(110, 2), (164, 3), (1001, 3)])
def test_the_networks_for_cifar_are_as_deep_as_they_are_called(depth, units):
    """6n + 2 and 9n + 2 layers, counted in a network of three units; shortcuts do not count."""
    name = f"cifar_resnetv2_{depth}"
    (size,) = set(models.create(name).stage_sizes)
    assert 3 * size * units + 2 == depth
    shapes = abstract_variables(
        models.create(name, stage_sizes=(2, 1), stage_features=(16, 32)), jnp.zeros((1, 32, 32, 3)), train=False
    )
    kernels = [path for path in traverse_util.flatten_dict(shapes["params"], sep="/") if path.endswith("kernel")]
    assert len([path for path in kernels if "shortcut" not in path]) == 3 * units + 2


def test_the_stride_lies_on_the_first_convolution_of_the_networks_for_cifar():
    """As in the authors' code; in timm's networks it lies on the second."""
    small = {"stage_sizes": (1, 1), "stage_features": (16, 32), "stem": "small"}
    for name, expected in (("cifar_resnetv2_164", 16), ("resnetv2_50", 32)):
        maps, _ = maps_of(models.create(name, **small), 32)
        assert maps["stage2_unit1"]["conv1"]["__call__"][0].shape[1] == expected, name
        assert maps["stage2_unit1"]["__call__"][0].shape[1] == 16


def _unit(**fields):
    parts = {"conv": lambda **more: Conv(use_bias=False, **more), "act": nn.relu}
    bound = norm.bind(norm.create("batch_norm"), train=False)
    fields = {"bottleneck_features": 4, "strides": 1, "stride_at": "second", "shortcut": "projection", **fields}
    return PreactivationUnit(norm=bound, **parts, **fields)


def _silent(unit, x):
    """What a unit puts out whose last convolution is zero, and its parameters."""
    variables = jax.device_get(quick_jit(lambda: unit.init(jax.random.key(0), x))())
    last = max(name for name in variables["params"] if name.startswith("conv"))
    variables["params"][last]["kernel"] = np.zeros_like(variables["params"][last]["kernel"])
    return unit.apply(variables, x), variables["params"]


def test_nothing_follows_the_addition_and_the_shortcut_takes_the_first_activation():
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 8), np.float32)
    np.testing.assert_array_equal(_silent(_unit(features=8), x)[0], x)
    np.testing.assert_array_equal(_silent(_unit(features=8, bottleneck_features=None), x)[0], x)

    # Running statistics start at mean 0, variance 1.
    first = np.maximum(x[:, ::2, ::2], 0) / np.sqrt(1 + 1e-5)
    out, params = _silent(_unit(features=12, strides=2), x)
    np.testing.assert_allclose(out, first @ params["shortcut_conv"]["kernel"][0, 0], atol=1e-5)
    assert "shortcut_norm" not in params
    out, params = _silent(_unit(features=12, strides=2, shortcut="zero_pad"), x)
    np.testing.assert_allclose(out, np.pad(first, [(0, 0)] * 3 + [(0, 4)]), atol=1e-5)
    assert "shortcut_conv" not in params


def test_an_activation_stands_before_every_convolution_but_the_first_and_before_the_head():
    calls = []
    model = models.create("resnetv2_50", act=lambda x: calls.append(x.shape[-1]) or x, num_classes=10, **_SMALL)
    maps, _ = maps_of(model, 32)
    assert "stem_norm" not in maps
    stages, head = [16, 16, 16, 64, 32, 32, 128, 32, 32], [128]
    init_and_apply = 2
    assert calls == (stages + head) * init_and_apply


def test_the_last_map_is_what_the_head_takes(x64):
    """The last normalization and activation belong to the trunk."""
    model = models.create("resnetv2_18", num_classes=10, stage_sizes=(1, 1), stage_features=(16, 16), stem="small")
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3))
    variables = random_variables(model, x)

    @quick_jit
    def run(variables):
        maps = model.clone(features_only=True).apply(variables, x, train=False)
        return model.apply(variables, x, train=False), maps[2]

    logits, last = jax.device_get(run(variables))
    classifier = variables["params"]["classifier"]
    np.testing.assert_allclose(logits, last.mean((1, 2)) @ classifier["kernel"] + classifier["bias"], rtol=1e-10)
    assert last.min() == 0.0


def test_stage_strides_are_taken():
    model = models.create("resnetv2_18", features_only=True, stage_strides=(1, 2, 1, 1))
    x = jnp.zeros((1, 64, 64, 3))
    maps = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x, train=False)[0])
    assert {stride: leaf.shape for stride, leaf in maps.items()} == {4: (1, 16, 16, 64), 8: (1, 8, 8, 512)}


def test_examples_reach_norms_and_dropout():
    """On the stem, one norm and the head alone."""
    model = models.create(
        "resnetv2_18", num_classes=10, stem="small", dropout_rate=0.5, stage_sizes=(), stage_features=()
    )
    check_examples_reach_norms_and_dropout(model)


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "ResNetV2: stem: unknown name 'tiny'; one of imagenet, small"),
        ({"unit": "bottlenek"}, "ResNetV2: unit: unknown name 'bottlenek'; did you mean 'bottleneck'?"),
        ({"stride_at": "third"}, "PreactivationUnit: stride_at: unknown name 'third'; one of first, second"),
        ({"shortcut": "none"}, "PreactivationUnit: shortcut: unknown name 'none'; one of projection, zero_pad"),
        ({"stage_features": (8, 8, 8, 8), "unit": "basic", "shortcut": "zero_pad"}, "zero_pad_shortcut: features=8 mu"),
        ({"stage_sizes": (3, 4)}, "ResNetV2: stage_features=(64, 128, 256, 512) must be one for each of stage_sizes="),
        ({"stage_strides": (1, 2)}, "ResNetV2: stage_strides=(1, 2) must be one for each of stage_sizes=(3, 4, 6, 3)"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("resnetv2_50", **fields)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)


def test_initial_values_are_those_of_the_first_resnet():
    one_stage = {"stage_sizes": (1,), "stage_features": (32,), "stem_features": 16, "stem": "small"}
    model = models.create("resnetv2_50", num_classes=100, **one_stage)
    params = jax.device_get(
        quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])()
    )
    unit = params["stage1_unit1"]
    for kernel, fan_out in ((unit["conv2"]["kernel"], 9 * 32), (unit["shortcut_conv"]["kernel"], 128)):
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=4 / np.sqrt(2 * kernel.size))
    limit = 1 / np.sqrt(128)
    for values in params["classifier"].values():
        assert -limit <= values.min() < -0.9 * limit and 0.9 * limit < values.max() <= limit
