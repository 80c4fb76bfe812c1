"""clcNet: the layout of the author's code, activations, groups and initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models
from arch.efficiency.complexity import abstract_variables
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, maps_of

_SMALL = {"stage_sizes": (1, 2), "stage_features": (8, 16), "stem_features": 4}


@pytest.mark.parametrize("name,layers", [("clcnet_a", (1, 1, 5, 2)), ("clcnet_b", (1, 1, 7, 3))])
def test_the_stages_are_those_of_the_authors_code(name, layers):
    """(a, b, c, d) units follow the first of each of the last four stages, which has stride 2."""
    maps, out = maps_of(models.create(name), 224)
    assert maps["stage1_unit1"]["__call__"][0].shape == (1, 112, 112, 64)
    for stage, more in enumerate(layers, start=2):
        size, features = 224 // 2**stage, 2 ** (stage + 5)
        assert maps[f"stage{stage}_unit{1 + more}"]["__call__"][0].shape == (1, size, size, features)
        assert f"stage{stage}_unit{2 + more}" not in maps
    assert out.shape == (1, 1000)


@pytest.mark.parametrize("spatial,pointwise", [(2, 2), (4, 1)])
def test_groups_are_of_two_channels_and_two(spatial, pointwise):
    """Or of as many as the fields say: the 3x3 convolution's by their channels, the 1x1's by their number."""
    model = models.create("clcnet_a", spatial_group_features=spatial, num_pointwise_groups=pointwise)
    params = abstract_variables(model, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32), train=False)["params"]
    unit = params["stage5_unit1"]["conv"]
    assert unit["spatial"]["kernel"].shape == (3, 3, spatial, 512)
    assert unit["pointwise"]["kernel"].shape == (1, 1, 512 // pointwise, 1024)


def test_no_activation_lies_between_the_two_convolutions():
    calls = []
    maps, _ = maps_of(models.create("clcnet_a", **_SMALL, act=lambda x: calls.append(x.shape[-1]) or x), 32)
    init_and_apply = 2
    assert calls == [4, 8, 16, 16] * init_and_apply
    assert maps["stage2_unit1"]["conv"]["spatial_norm"]["__call__"][0].shape == (1, 8, 8, 8)


def test_initial_values_are_the_authors():
    fields = {"stage_sizes": (1,), "stage_features": (128,), "stem_features": 64}
    model = models.create("clcnet_a", num_classes=100, stem="small", **fields)
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for kernel, fan_out in [
        (params["stem_conv"]["kernel"], 9 * 64),
        (params["stage1_unit1"]["conv"]["spatial"]["kernel"], 9 * 64),
        (params["stage1_unit1"]["conv"]["pointwise"]["kernel"], 128),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=4 / np.sqrt(2 * kernel.size))
    limit, weights = 1 / np.sqrt(128), params["classifier"]["kernel"]
    assert -limit <= weights.min() < -0.9 * limit and 0.9 * limit < weights.max() <= limit
    assert not params["classifier"]["bias"].any()


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    no_stages = {"stage_sizes": (), "stage_features": ()}
    check_examples_reach_norms_and_dropout(
        models.create("clcnet_a", num_classes=10, stem="small", dropout_rate=0.5, **no_stages)
    )


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "ClcNet: stem: unknown name 'tiny'; one of imagenet, small"),
        (
            {"stage_sizes": (1, 2)},
            r"ClcNet: stage_features=\(64, 128, 256, 512, 1024\) must be one for each of stage_size",
        ),
        (
            {"num_pointwise_groups": 4},
            "ChannelLocalConv: num_spatial_groups=16 must be at most in_features / num_pointw",
        ),
        ({"spatial_group_features": 3}, "ChannelLocalUnit: spatial_group_features=3 must divide channels=32; choose a"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("clcnet_a", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)
