"""SENet against timm's networks, recorded in tests/goldens, and what a gate is."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from arch import models, norm
from arch.efficiency.complexity import abstract_variables, count
from arch.ops.conv import Conv
from arch.weights.names import senet as names
from tests.compiling import quick_jit
from tests.models.checks import (
    check_eval_parity,
    check_examples_reach_norms_and_dropout,
    check_parity,
    maps_of,
    random_variables,
)

_SECOND = {"stride_at": "second", "pool": "symmetric"}


def test_parity_with_timm_in_training(x64):
    """Two stages of SENet-154: logits, updated running statistics and the gradient of every parameter."""
    small = {"stage_sizes": (1, 1), "stage_features": (256, 512), "groups": 2, "dropout_rate": 0.0}
    batch_norm = norm.create("batch_norm", unbiased_running_variance=True)
    model = models.create("senet154", num_classes=10, norm=batch_norm, **small)
    check_parity(model, "senet.npz", "small", 16, names.timm)


@pytest.mark.slow
@pytest.mark.parametrize(
    "net,name,fields,layer_names",
    [
        ("legacy_seresnet50", "se_resnet50", {}, names.timm),
        ("legacy_seresnet18", "se_resnet18", {"act_before_gate": True}, names.timm),
        ("seresnet50", "se_resnet50", _SECOND, names.timm_seresnet),
        ("seresnet18", "se_resnet18", {"pool": "symmetric"}, names.timm_seresnet),
        ("senet", "senet154", {"stage_sizes": (3, 4, 6, 3)}, names.timm),
    ],
)
def test_parity_with_timm(x64, net, name, fields, layer_names):
    # By JAX's own convolutions: a program for each one in 64 groups takes long to compile.
    conv = functools.partial(Conv, implementation="reference")
    model = models.create(name, num_classes=10, conv=conv, **fields)
    check_eval_parity(model, "senet.npz", net, 64, layer_names)


def _with_gates(variables, change):
    """The variables, the second layer of each gate replaced by what `change` makes of it."""
    flat = traverse_util.flatten_dict(variables)
    changed = {path: change(path[-1], leaf) for path, leaf in flat.items() if "fc2" in path}
    return traverse_util.unflatten_dict({**flat, **changed})


@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
def test_gates_of_a_saturated_sigmoid_leave_the_plain_resnet(x64, unit):
    """And gates of a half do not; the plain network takes the same parameters, less those of the gates."""
    small = {"num_classes": 10, "unit": unit, "stage_sizes": (1, 1), "stage_features": (16, 32), "stem": "small"}
    gated = models.create("se_resnet50", stem_features=(16,), reduction=4, **small)
    plain = models.create("resnet50", stem_features=16, stride_at="first", **small)
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3))
    variables = random_variables(gated, x)
    own = traverse_util.flatten_dict(variables)
    shared = traverse_util.unflatten_dict({path: leaf for path, leaf in own.items() if "gate" not in path})
    assert jax.tree.map(np.shape, shared) == jax.tree.map(
        lambda leaf: leaf.shape, abstract_variables(plain, jnp.asarray(x), train=False)
    )

    @quick_jit
    def run():
        saturated = _with_gates(variables, lambda name, leaf: 0 * leaf + (40.0 if name == "bias" else 0.0))
        halves = _with_gates(variables, lambda name, leaf: 0 * leaf)
        logits = [gated.apply(each, x, train=False) for each in (saturated, halves, variables)]
        return plain.apply(shared, x, train=False), *logits

    expected, saturated, halves, open_ = jax.device_get(run())
    np.testing.assert_allclose(saturated, expected, rtol=1e-12)
    assert np.abs(halves - expected).max() > 1e-2
    assert np.abs(open_ - halves).max() > 1e-3


def test_the_gate_comes_before_the_addition():
    """Gates of zero leave the shortcut alone."""
    model = models.create(
        "se_resnet50", features_only=True, stage_sizes=(1,), stage_features=(4,), stem_features=(16,), stem="small"
    )
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3), np.float32)
    variables = _with_gates(
        jax.tree.map(np.float32, random_variables(model, x)),
        lambda name, leaf: 0 * leaf - (200.0 if name == "bias" else 0.0),
    )
    trunk = model.clone(stage_sizes=(), stage_features=())
    run = quick_jit(lambda: (model.apply(variables, x, train=False)[1], trunk.apply(variables, x, train=False)[1]))
    np.testing.assert_array_equal(*run())


def test_gates_add_what_the_paper_says():
    """Section 4 of the paper: 2 / r times the sum of squares of all units' channels, and here the biases."""
    gated, plain = (count(models.create(name), train=False).params for name in ("se_resnet50", "resnet50_v1"))
    stages = zip((3, 4, 6, 3), (256, 512, 1024, 2048), strict=True)
    assert gated - plain == sum(size * (2 * c * c // 16 + c // 16 + c) for size, c in stages) == 2_530_992


def test_the_hidden_layer_is_a_sixteenth():
    variables = abstract_variables(models.create("senet154"), jnp.zeros((1, 64, 64, 3)), train=False)
    for stage, features in enumerate((256, 512, 1024, 2048), start=1):
        gate = variables["params"][f"stage{stage}_unit1"]["gate"]
        assert gate["fc1"]["kernel"].shape == (1, 1, features, features // 16)
        assert gate["fc2"]["bias"].shape == (features,)


def test_senet154_is_the_authors_layer_by_layer():
    maps, _ = maps_of(models.create("senet154", stage_sizes=(1, 1, 1, 1)), 224)
    stem = [maps[name]["__call__"][0].shape[1:] for name in ("stem_conv", "stem_conv2", "stem_conv3")]
    assert stem == [(112, 112, 64), (112, 112, 64), (112, 112, 128)]
    unit = maps["stage2_unit1"]
    convs = [unit[f"conv{number}"]["__call__"][0].shape[1:] for number in (1, 2, 3)]
    assert convs == [(56, 56, 256), (28, 28, 512), (28, 28, 512)]
    variables = abstract_variables(
        models.create("senet154", stage_sizes=(1, 1, 1, 1)), jnp.zeros((1, 64, 64, 3)), train=False
    )
    shortcuts = [variables["params"][f"stage{stage}_unit1"]["shortcut_conv"]["kernel"].shape for stage in (1, 2, 3, 4)]
    assert [shape[0] for shape in shortcuts] == [1, 3, 3, 3]
    assert models.create("senet154").dropout_rate == 0.2


@pytest.mark.parametrize("pool,size", [("ceil", 57), ("symmetric", 58)])
def test_pooling_of_the_stem(pool, size):
    """115 pixels: a window of ceil mode does not begin before the map, and the last one fits."""
    model = models.create("se_resnet18", features_only=True, pool=pool, stage_sizes=(1,), stage_features=(64,))
    maps = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0], jnp.zeros((1, 230, 230, 3))
    )
    assert maps[4].shape == (1, size, size, 64)


def test_zero_init_residual_starts_the_last_norm_at_zero():
    model = models.create(
        "se_resnet50", zero_init_residual=True, stage_sizes=(1,), stage_features=(4,), stem_features=(16,), stem="small"
    )
    params = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])()
    unit = params["stage1_unit1"]
    assert not unit["norm3"]["scale"].any() and (unit["norm2"]["scale"] == 1).all()


def test_gate_act_makes_the_gates():
    """Gates of ones, whatever the parameters, are no gates."""
    small = {"stage_sizes": (1,), "stage_features": (4,), "stem": "small", "num_classes": 10}
    model = models.create("se_resnet50", stem_features=(16,), gate_act=jnp.ones_like, **small)
    plain = models.create("resnet50", stem_features=16, **small)
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3), np.float32)
    variables = jax.tree.map(np.float32, random_variables(model, x))
    run = quick_jit(lambda: [net.apply(variables, x, train=False) for net in (model, plain)])
    np.testing.assert_allclose(*run(), rtol=1e-5)


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    no_stages = {"stage_sizes": (), "stage_features": ()}
    check_examples_reach_norms_and_dropout(
        models.create("se_resnet50", num_classes=10, stem="small", dropout_rate=0.5, **no_stages)
    )


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "SENet: stem: unknown name 'tiny'; one of imagenet, small"),
        ({"pool": "ceiling"}, "SENet: pool: unknown name 'ceiling'; did you mean 'ceil'?"),
        ({"unit": "bottlenek"}, "SENet: unit: unknown name 'bottlenek'; did you mean 'bottleneck'?"),
        ({"stride_at": "third"}, "SENet: stride_at: unknown name 'third'; one of first, second"),
        (
            {"unit": "basic", "groups": 32},
            "SENet: groups=32 must be left out with unit='basic', which has one group; take unit='bottleneck'",
        ),
        ({"reduction": 0}, "SqueezeExcite: reduction=0 must be at least 1"),
        (
            {"stage_sizes": (3, 4)},
            "SENet: stage_features=(64, 128, 256, 512) must be one for each of stage_sizes=(3, 4)",
        ),
        ({"reduced_ratio": 0.0}, "SENet: reduced_ratio=0.0 must leave a channel of stage_features=64; raise either"),
        ({"stem_features": ()}, "SENet: stem_features=() must have one or more"),
        ({"dropout_rate": 2.0}, "Dropout: rate=2.0 must lie in [0, 1]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("se_resnet50", **fields)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)


def test_initial_values():
    """Those of ResNet; the gates' biases start at zero, so that gates start near a half."""
    one_stage = {"stage_sizes": (1,), "stage_features": (64,), "stem_features": (16,), "stem": "small"}
    model = models.create("se_resnet50", num_classes=100, reduction=4, **one_stage)
    params = jax.device_get(
        quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])()
    )
    unit = params["stage1_unit1"]
    for kernel, fan_out in ((unit["conv2"]["kernel"], 9 * 64), (unit["gate"]["fc1"]["kernel"], 64)):
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=4 / np.sqrt(2 * kernel.size))
    assert not any(unit["gate"][name]["bias"].any() for name in ("fc1", "fc2"))
    limit = 1 / np.sqrt(256)
    for values in params["classifier"].values():
        assert -limit <= values.min() < -0.9 * limit and 0.9 * limit < values.max() <= limit
