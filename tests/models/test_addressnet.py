"""AddressNet: the published costs as far as they are known, and what our reading of it keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models
from arch.efficiency.complexity import abstract_variables, count
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, maps_of

_SMALL = {"stage_sizes": (1, 2), "stage_features": (8, 16), "stage_groups": (2, 4), "stem_features": 8}


@pytest.mark.parametrize("name,depth,params,mmacs", [("addressnet_20", 20, 0.1, 22), ("addressnet_44", 44, 0.2, 53)])
def test_published_costs(name, depth, params, mmacs):
    """On CIFAR-100: parameters as rounded as they are published, multiply-adds to 7%; depth counts convolutions."""
    model = models.create(name, num_classes=100)
    cost = count(model, (1, 32, 32, 3), train=False)
    assert round(cost.params / 1e6, 1) == params
    np.testing.assert_allclose(cost.macs / 1e6, mmacs, rtol=0.07)
    stem_and_classifier = 2
    assert 2 * sum(model.stage_sizes) + stem_and_classifier == depth


def test_half_of_the_channels_are_kept_from_unit_to_unit():
    """To the bit: the last half of what a unit sees is the first half of what it puts out."""
    model = models.create("addressnet_20", **{**_SMALL, "stage_sizes": (2, 1)}, num_classes=10)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))

    def run(x):
        return model.init_with_output(jax.random.key(1), x, train=False, capture_intermediates=True)

    _, state = quick_jit(run)(x)
    first, second = (state["intermediates"][f"stage1_unit{unit}"]["__call__"][0] for unit in (1, 2))
    np.testing.assert_array_equal(second[..., :4], first[..., 4:])


def test_convolutions_are_all_1x1_but_the_stems():
    """In the groups of their stage, to a share of new features."""
    model = models.create("addressnet_20", **_SMALL, new_ratio=0.75, expand_ratio=1.5)
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    params = abstract_variables(model, x, train=False)["params"]
    assert params["stem_conv"]["kernel"].shape == (3, 3, 3, 8)
    assert params["stage1_unit1"]["conv1"]["kernel"].shape == (1, 1, 4, 12)
    assert params["stage1_unit1"]["conv2"]["kernel"].shape == (1, 1, 6, 6)
    assert params["stage2_unit2"]["conv1"]["kernel"].shape == (1, 1, 4, 24)
    assert params["stage2_unit2"]["conv2"]["kernel"].shape == (1, 1, 6, 12)


def test_an_activation_follows_every_convolution():
    calls = []
    maps_of(models.create("addressnet_20", **_SMALL, act=lambda x: calls.append(x.shape[-1]) or x), 8)
    init_and_apply = 2
    assert calls == [8, 8, 4, 16, 8, 16, 8] * init_and_apply


def test_initial_values():
    model = models.create("addressnet_20", **{**_SMALL, "stage_features": (64, 128), "stem_features": 64})
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for kernel, fan_in in [
        (params["stem_conv"]["kernel"], 27),
        (params["stage1_unit1"]["conv1"]["kernel"], 32),
        (params["stage2_unit1"]["conv2"]["kernel"], 32),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_in), rtol=4 / np.sqrt(2 * kernel.size))
    limit, weights = 1 / np.sqrt(128), params["classifier"]["kernel"]
    assert -limit <= weights.min() < -0.9 * limit and 0.9 * limit < weights.max() <= limit


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    no_stages = {"stage_sizes": (), "stage_features": (), "stage_groups": ()}
    check_examples_reach_norms_and_dropout(
        models.create("addressnet_20", num_classes=10, dropout_rate=0.5, stem_features=16, **no_stages)
    )


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "AddressNet: stem: unknown name 'tiny'; one of imagenet, small"),
        (
            {"stage_sizes": (3, 3)},
            r"AddressNet: stage_features=\(72, 144, 288\) must be one for each of stage_sizes=\(3, 3\)",
        ),
        ({"new_ratio": 0.0}, r"AddressNet: new_ratio=0.0 must lie in \(0, 1\]; 0.5 is the paper's"),
        ({"new_ratio": 0.25}, "AddressUnit: features=144 less new_features=36 must be in 0, ..., channels=72"),
        ({"stage_groups": (2, 4, 7)}, "Conv: feature_group_count=7 must divide in_features=144"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("addressnet_20", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)
