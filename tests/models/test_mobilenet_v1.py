"""MobileNet v1 against timm's network, recorded in tests/goldens, and what may lie inside its convolutions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import models
from arch.efficiency.complexity import count
from arch.weights.names import mobilenet_v1 as names
from tests.compiling import quick_jit
from tests.models.checks import check_eval_parity, check_examples_reach_norms_and_dropout, filled_variables, maps_of

_SMALL = {"stage_sizes": (1, 2), "stage_features": (64, 128), "stage_strides": (1, 2)}
_BETWEEN = list(itertools.product((True, False), repeat=2))


@pytest.mark.parametrize("net", ["small", pytest.param("whole", marks=pytest.mark.slow)])
def test_parity_with_timm(x64, net):
    """timm's activation is ReLU6."""
    model = models.create("mobilenet_v1", num_classes=10, act=nn.relu6, **(_SMALL if net == "small" else {}))
    check_eval_parity(model, "mobilenet_v1.npz", net, 32 if net == "small" else 64, names.timm)


def test_the_layers_are_those_of_the_papers_table():
    """Table 1: the map that each depthwise convolution puts out, and the channels of each unit."""
    maps, out = maps_of(models.create("mobilenet_v1"), 224)
    rows = [(112, 64), (56, 128), (56, 128), (28, 256), (28, 256), *[(14, 512)] * 6, (7, 1024), (7, 1024)]
    units = [(stage, unit) for stage, size in enumerate((1, 2, 2, 6, 2), start=1) for unit in range(1, size + 1)]
    for (stage, unit), (size, features) in zip(units, rows, strict=True):
        layer = maps[f"stage{stage}_unit{unit}"]
        assert layer["separable"]["depthwise"]["__call__"][0].shape[1] == size
        assert layer["__call__"][0].shape == (1, size, size, features)
    assert maps["stem_conv"]["__call__"][0].shape == (1, 112, 112, 32)
    assert out.shape == (1, 1000)


@pytest.mark.parametrize("norm_between,act_between", _BETWEEN)
def test_sizes_of_the_four_cases(norm_between, act_between):
    """With both the published count; a norm less is two scalars a channel of the depthwise convolutions."""
    depthwise = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024]
    removed = 0 if norm_between else 2 * sum(depthwise)
    cost = count(models.create("mobilenet_v1", norm_between=norm_between, act_between=act_between), train=False)
    assert (cost.params, cost.batch_stats) == (4_231_976 - removed, 21_888 - removed)
    assert cost.macs == 568_740_352


def test_the_four_cases_are_four_functions(x64):
    """From the same weights, in evaluation; and the activation is called where it should be."""
    random, outputs = np.random.default_rng(0), {}
    x = random.standard_normal((2, 8, 8, 3))
    fields = {"stem_features": 8, "stage_sizes": (1, 1), "stage_features": (8, 16), "stage_strides": (1, 2)}
    for norm_between, act_between in _BETWEEN:
        calls = []
        model = models.create(
            "mobilenet_v1",
            num_classes=10,
            stem="small",
            norm_between=norm_between,
            act_between=act_between,
            act=lambda x: calls.append(x.shape[-1]) or nn.relu(x),  # noqa: B023
            **fields,
        )
        variables = filled_variables(model, names.timm, image_size=8)
        outputs[norm_between, act_between] = quick_jit(lambda v: model.apply(v, x, train=False))(variables)  # noqa: B023
        init_and_apply = 2
        assert calls == ([8, 8, 8, 8, 16] if act_between else [8, 8, 16]) * init_and_apply
    for one, other in itertools.combinations(outputs.values(), 2):
        assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()


def test_the_small_stem_keeps_the_image_size():
    maps, out = maps_of(models.create("mobilenet_v1", stem="small", num_classes=10, **_SMALL), 28)
    assert maps["stem_conv"]["__call__"][0].shape == (1, 28, 28, 32)
    assert maps["stage2_unit2"]["__call__"][0].shape == (1, 14, 14, 128)
    assert out.shape == (1, 10)


def test_initial_values():
    model = models.create(
        "mobilenet_v1", num_classes=100, stem="small", stage_sizes=(1,), stage_features=(64,), stage_strides=(1,)
    )
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for kernel, variance in [
        (params["stem_conv"]["kernel"], 2 / (9 * 32)),
        (params["stage1_unit1"]["separable"]["depthwise"]["kernel"], 2 / (9 * 32)),
        (params["stage1_unit1"]["separable"]["pointwise"]["kernel"], 2 / 64),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(variance), rtol=4 / np.sqrt(2 * kernel.size))
    classifier = params["classifier"]
    np.testing.assert_allclose(classifier["kernel"].std(), 0.01, rtol=4 / np.sqrt(2 * classifier["kernel"].size))
    assert not classifier["bias"].any()


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    no_stages = dict.fromkeys(_SMALL, ())
    check_examples_reach_norms_and_dropout(
        models.create("mobilenet_v1", num_classes=10, stem="small", dropout_rate=0.5, **no_stages)
    )


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "MobileNetV1: stem: unknown name 'tiny'; one of imagenet, small"),
        ({"width_multiplier": 0.0}, r"make_divisible: value=0.0 and divisor=8 must be positive"),
        ({"stage_sizes": (1, 2)}, r"MobileNetV1: stage_features=.* must be one for each of stage_sizes=\(1, 2\)"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("mobilenet_v1", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)
