"""IGCV1: the published sizes, the authors' published layouts, what follows a pair, and its initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models
from arch.efficiency.complexity import abstract_variables, count
from arch.models.classification.igcv1 import cifar
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, maps_of

_SMALL = {"stage_sizes": (1, 1), "stage_features": (8, 16), "stage_primary_groups": (4, 4), "stem_features": 8}


def test_the_published_size_of_l100m2_counts_no_norms():
    """8.61 million, of convolutions and classifier; a norm has as many parameters as running statistics."""
    cost = count(models.create("igcv1_l100m2"), train=False)
    assert cost.params - cost.batch_stats == 8_607_700
    assert round(cost.macs / 1e9, 1) == 1.3


@pytest.mark.parametrize("name,params,gmacs", [("igcv1_l4m32", 11.205e6, 1.9), ("igcv1_l16m16", 11.329e6, 2.2)])
def test_the_others_are_near_what_was_published(name, params, gmacs):
    """Not to the digit: of convolutions within 1%, of multiply-adds within 3%."""
    cost = count(models.create(name, features_only=True), train=False)
    np.testing.assert_allclose(cost.params - cost.batch_stats, params, rtol=0.01)
    np.testing.assert_allclose(cost.macs / 1e9, gmacs, rtol=0.03)


@pytest.mark.parametrize("name,primary,width", [("igcv1_l4m32", 4, 32), ("igcv1_l16m16", 16, 16)])
def test_layouts_are_those_of_the_published_symbols(name, primary, width):
    """Features 4 * 32 or 16 * 16 in the first stage and twice as many in the next, in as many primary groups."""
    model, x = models.create(name), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = abstract_variables(model, x, train=False)["params"]
    first, second = params["stage1_unit1"], params["stage2_unit1"]
    features = primary * width
    assert params["stem_conv"]["kernel"].shape == (7, 7, 3, features)
    assert first["igc1"]["primary"]["kernel"].shape == (3, 3, width, features)
    assert first["igc1"]["secondary"]["kernel"].shape == (1, 1, primary, features)
    assert "shortcut_conv" not in first
    assert second["igc1"]["primary"]["kernel"].shape == (3, 3, width, 2 * features)
    assert second["igc2"]["primary"]["kernel"].shape == (3, 3, 2 * width, 2 * features)
    assert second["igc2"]["secondary"]["kernel"].shape == (1, 1, primary, 2 * features)
    assert second["shortcut_conv"]["kernel"].shape == (1, 1, width, 2 * features)


@pytest.mark.parametrize("residual,stages", [(False, [8, 16]), (True, [8, 8, 16, 16])])
def test_one_activation_follows_a_pair(residual, stages):
    """None lies between its two convolutions; of the second pair of a residual unit it follows the addition."""
    calls = []
    model = models.create("igcv1_l100m2", **_SMALL, residual=residual, act=lambda x: calls.append(x.shape[-1]) or x)
    maps_of(model, 32)
    init_and_apply = 2
    assert calls == [8, *stages] * init_and_apply


def test_cifar_fields():
    """Depth 8 has two pairs a stage; channels double by the secondary groups."""
    assert cifar(8, 24, 2) == {
        "stage_sizes": (2, 2, 2),
        "stage_features": (48, 96, 192),
        "stage_primary_groups": (24, 24, 24),
        "residual": False,
        "stem_features": 48,
        "stem": "small",
    }


def test_initial_values_are_the_authors():
    model = models.create("igcv1_l100m2", **{**_SMALL, "stage_features": (64, 128), "stem_features": 64}, stem="small")
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for kernel, fan_in in [
        (params["stem_conv"]["kernel"], 27),
        (params["stage1_unit1"]["igc1"]["primary"]["kernel"], 9 * 16),
        (params["stage2_unit1"]["shortcut_conv"]["kernel"], 16),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_in), rtol=4 / np.sqrt(2 * kernel.size))
    limit, weights = 1 / np.sqrt(128), params["classifier"]["kernel"]
    assert -limit <= weights.min() < -0.9 * limit and 0.9 * limit < weights.max() <= limit
    assert not params["classifier"]["bias"].any()


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    no_stages = {"stage_sizes": (), "stage_features": (), "stage_primary_groups": ()}
    check_examples_reach_norms_and_dropout(
        models.create("igcv1_l100m2", num_classes=10, stem="small", dropout_rate=0.5, stem_features=16, **no_stages)
    )


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "IGCV1: stem: unknown name 'tiny'; one of imagenet, small"),
        (
            {"stage_sizes": (2, 2)},
            r"IGCV1: stage_features=\(200, 400, 800, 1600\) must be one for each of stage_sizes=\(2, 2\)",
        ),
        ({"stage_primary_groups": (100, 200, 400, 700)}, "IGC: num_primary_groups=700 must divide in_features=800"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("igcv1_l100m2", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)
