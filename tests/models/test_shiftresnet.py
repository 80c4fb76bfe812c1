"""ShiftResNet: the authors' counts, options and initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models
from arch.efficiency.complexity import count
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, maps_of

_SMALL = {"stage_sizes": (1, 1), "stage_features": (6, 8), "stem_features": 6, "num_classes": 10}

# Parameters in millions, of the table in the authors' README; by expansion.
_README = {
    20: {1: 0.03, 3: 0.10, 6: 0.19, 9: 0.28},
    56: {1: 0.10, 3: 0.29, 6: 0.58, 9: 0.87},
    110: {1: 0.20, 3: 0.59, 6: 1.18, 9: 1.76},
}


@pytest.mark.parametrize("depth", _README)
def test_the_sizes_of_the_authors_table(depth):
    for expansion, millions in _README[depth].items():
        model = models.create(f"shiftresnet{depth}_e3", num_classes=10, expand_ratio=expansion)
        assert round(count(model, (1, 32, 32, 3), train=False).params / 1e6, 2) == millions, expansion


@pytest.mark.parametrize(
    "name,fields,params,counted",
    [
        ("shiftresnet20_e3", {}, 95_642, 16_581_248),
        ("cifar_resnet20", {"shortcut": "projection"}, 272_474, 40_960_640),
    ],
)
def test_the_authors_count_of_multiply_adds(name, fields, params, counted):
    """Of it and of their ResNet: the stem counts as 3x3 from the last stage's 64 channels to 1, not from 3 to 16."""
    cost = count(models.create(name, num_classes=10, **fields), (1, 32, 32, 3), train=False)
    assert cost.params == params
    assert cost.macs - 32 * 32 * 9 * 3 * 16 + 32 * 32 * 9 * 64 == counted


def test_the_last_activation_of_a_unit_precedes_the_addition_or_follows_it():
    """Only behind the addition are all of a unit's outputs positive."""
    model = models.create("shiftresnet20_e3", **_SMALL, features_only=True)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    for after in (False, True):
        net = model.clone(act_after_addition=after, norm=lambda **fields: lambda x, train, examples: x)
        maps, _ = quick_jit(lambda x, net=net: net.init_with_output(jax.random.key(1), x, train=False))(x)
        assert (maps[2].min() >= 0) == after


def test_channels_are_given_to_taps_in_turn_or_in_groups():
    model = models.create("shiftresnet20_e3", **_SMALL)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = quick_jit(lambda: model.init(jax.random.key(1), x, train=False))()
    in_turn, in_groups = (
        quick_jit(lambda x, net=net: net.apply(variables, x, train=False))(x)
        for net in (model, model.clone(assignment="contiguous"))
    )
    assert np.abs(in_turn - in_groups).max() > 1e-3


def test_the_large_stem_and_the_small_one():
    maps, _ = maps_of(models.create("shiftresnet20_e3"), 32)
    assert maps["stem_conv"]["__call__"][0].shape == (1, 32, 32, 16)
    maps, _ = maps_of(models.create("shiftresnet20_e3", stem="imagenet"), 64)
    assert maps["stage1_unit1"]["__call__"][0].shape == (1, 16, 16, 16)


def test_initial_values_are_torchs():
    model = models.create("shiftresnet20_e3", **{**_SMALL, "stage_features": (32, 64), "num_classes": 100})
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for values, fan_in in [
        (params["stage1_unit1"]["conv2"]["kernel"], 96),
        (params["stage2_unit1"]["shortcut_conv"]["kernel"], 32),
        (params["classifier"]["kernel"], 64),
        (params["classifier"]["bias"], 64),
    ]:
        limit = 1 / np.sqrt(fan_in)
        assert -limit <= values.min() < -0.8 * limit and 0.8 * limit < values.max() <= limit


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    fields = {**_SMALL, "stage_sizes": (), "stage_features": (), "stem_features": 16}
    check_examples_reach_norms_and_dropout(models.create("shiftresnet20_e3", dropout_rate=0.5, **fields))


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "ShiftResNet: stem: unknown name 'tiny'; one of imagenet, small"),
        (
            {"stage_sizes": (3, 3)},
            r"ShiftResNet: stage_features=\(16, 32, 64\) must be one for each of stage_sizes=\(3, 3",
        ),
        ({"expand_ratio": 0.5}, "spatial_shift: channels=8 must be at least the 9 taps"),
        ({"assignment": "paper"}, "spatial_shift: assignment: unknown name 'paper'; one of contiguous, modulo"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("shiftresnet20_e3", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)
