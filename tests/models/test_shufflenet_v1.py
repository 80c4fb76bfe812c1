"""ShuffleNet v1 against the authors' network, recorded in tests/goldens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models, norm
from arch.efficiency.complexity import count
from arch.ops.conv import Conv
from arch.weights.names import shufflenet_v1 as names
from tests.compiling import quick_jit
from tests.models.checks import (
    check_eval_parity,
    check_examples_reach_norms_and_dropout,
    check_parity,
    maps_of,
)

_AUTHORS = {"num_classes": 10, "variant": "megvii", "classifier_bias": False}


def test_parity_with_the_authors_code_in_training(x64):
    """Logits, updated running statistics and the gradient of every parameter, from the same weights, in float64."""
    model = models.create(
        "shufflenet_v1_g3",
        stage_sizes=(2, 2),
        norm=norm.create("batch_norm", unbiased_running_variance=True),
        **_AUTHORS,
    )
    check_parity(model, "shufflenet_v1.npz", "small", 32, names.megvii)


@pytest.mark.slow
@pytest.mark.parametrize("groups,width", [(3, 1.0), (8, 0.5)])
def test_parity_with_the_authors_code(x64, groups, width):
    # By JAX's own convolutions: as many programs as widths take long to compile.
    conv = functools.partial(Conv, implementation="reference")
    model = models.create(f"shufflenet_v1_g{groups}", width_multiplier=width, conv=conv, **_AUTHORS)
    check_eval_parity(model, "shufflenet_v1.npz", f"g{groups}", 64, names.megvii, jit=jax.jit)


def test_the_other_reading_of_the_unit_is_another_network(x64):
    """The paper's shuffle, at the same cost, from the authors' weights."""
    fields = {"stage_sizes": (2, 2), "num_classes": 10, "classifier_bias": False}
    paper, authors = (models.create("shufflenet_v1_g3", variant=variant, **fields) for variant in ("paper", "megvii"))
    costs = [count(model, train=False) for model in (paper, authors)]
    assert costs[0].params == costs[1].params and costs[0].macs == costs[1].macs
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_parity(paper, "shufflenet_v1.npz", "small", 32, names.megvii)


@pytest.mark.parametrize("groups,first", [(1, 144), (2, 200), (3, 240), (4, 272), (8, 384)])
def test_the_stages_are_those_of_the_papers_table(groups, first):
    """Table 1; the depthwise convolution has a quarter of the channels, and the very first is not in groups."""
    maps, out = maps_of(models.create(f"shufflenet_v1_g{groups}"), 224)
    assert maps["stem_conv"]["__call__"][0].shape == (1, 112, 112, 24)
    for stage, repeats in ((2, 4), (3, 8), (4, 4)):
        size, features = 112 >> stage, first << stage - 2
        for unit in range(1, repeats + 1):
            layer = maps[f"stage{stage}_unit{unit}"]
            assert layer["__call__"][0].shape == (1, size, size, features)
            assert layer["depthwise"]["__call__"][0].shape == (1, size, size, features // 4)
        assert f"stage{stage}_unit{repeats + 1}" not in maps
    assert out.shape == (1, 1000)


def test_shufflenet_v1_50_costs_what_is_published():
    """2.3 GMACs (arXiv:1807.11164, section 4); bottlenecks of a quarter would cost half."""
    cost, quarter = (
        count(models.create("shufflenet_v1_50", **fields), train=False)
        for fields in ({}, {"bottleneck_ratio": 0.25, "first_unit_groups": (1, 1)})
    )
    assert round(cost.conv_macs / 1e9, 1) == 2.3
    assert round(quarter.conv_macs / 1e9, 1) == 1.2


def test_the_classifiers_bias_is_its_own():
    with_bias, without = (
        count(models.create("shufflenet_v1_g3", classifier_bias=bias), train=False) for bias in (True, False)
    )
    assert with_bias.params - without.params == 1000
    assert with_bias.macs == without.macs


def test_initial_values():
    model = models.create("shufflenet_v1_g3", num_classes=100, stem="small", stage_sizes=(1,), stage_features=(96,))
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for kernel, variance in [
        (params["stem_conv"]["kernel"], 1 / (3 * 27)),
        (params["stage2_unit1"]["depthwise"]["kernel"], 1 / (3 * 9)),
        (params["stage2_unit1"]["expand"]["kernel"], 1 / (3 * 8)),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(variance), rtol=4 / np.sqrt(2 * kernel.size))
    classifier = params["classifier"]
    np.testing.assert_allclose(classifier["kernel"].std(), 0.01, rtol=4 / np.sqrt(2 * classifier["kernel"].size))
    assert not classifier["bias"].any()


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    check_examples_reach_norms_and_dropout(
        models.create(
            "shufflenet_v1_g3", num_classes=10, stem="small", dropout_rate=0.5, stage_sizes=(), stage_features=()
        )
    )


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "ShuffleNetV1: stem: unknown name 'tiny'; one of imagenet, small"),
        ({"variant": "megvi"}, "ShuffleNetV1: variant: unknown name 'megvi'; did you mean 'megvii'"),
        (
            {"groups": 0, "stem_features": 24, "stage_features": (240, 480, 960)},
            "ShuffleNetV1: groups=0 must be at least 1; 1 is not shuffled",
        ),
        ({"groups": 5}, "ShuffleNetV1: width_multiplier=1.0 in groups=5 must be one of 1.0 in 1, 1.0 in 2, 0.5 in 3, "),
        (
            {"width_multiplier": 0.7},
            "ShuffleNetV1: width_multiplier=0.7 in groups=3 must be one of .* or give stem_fea",
        ),
        (
            {"bottleneck_ratio": 0.21},
            "ShuffleNetV1: bottleneck_ratio=0.21 of stage_features=240 must leave a multiple of",
        ),
        (
            {"stage_strides": (1, 2)},
            r"ShuffleNetV1: stage_strides=\(1, 2\) must be one for each of stage_sizes=\(4, 8, 4\); cha",
        ),
        ({"stage_features": (24, 48, 96)}, "ShuffleUnitV1: features=24 must exceed channels=24, which are joined; cha"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("shufflenet_v1_g3", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)
