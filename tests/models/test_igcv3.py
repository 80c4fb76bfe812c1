"""IGCV3: the stages of the paper's table, widths, activations and initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models
from arch.efficiency.complexity import abstract_variables, count
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, maps_of

_SMALL = {"stage_sizes": (1, 2), "stage_features": (8, 12), "stage_strides": (1, 2), "expand_ratios": (1, 3)}
_SMALL |= {"stem_features": 8, "head_features": 16}


def test_the_stages_are_those_of_the_papers_table():
    """Twice the units of MobileNet v2 where a stage has more than one; the first has the stage's stride."""
    maps, out = maps_of(models.create("igcv3_d"), 224)
    stages = [(1, 112, 16), (4, 56, 24), (6, 28, 32), (8, 14, 64), (6, 14, 96), (6, 7, 160), (1, 7, 320)]
    for stage, (units, size, features) in enumerate(stages, start=1):
        assert maps[f"stage{stage}_unit{units}"]["__call__"][0].shape == (1, size, size, features), stage
        assert f"stage{stage}_unit{units + 1}" not in maps
    assert maps["head_conv"]["__call__"][0].shape == (1, 7, 7, 1280)
    assert out.shape == (1, 1000)


def test_the_published_cost():
    """3.5 million parameters; the paper's 318 million multiply-adds to 2%."""
    cost = count(models.create("igcv3_d"), train=False)
    assert round(cost.params / 1e6, 1) == 3.5
    np.testing.assert_allclose(cost.macs, 318e6, rtol=0.02)


def test_the_activation_follows_depthwise_convolutions_alone():
    """And the first and the last convolution; it is ReLU6."""
    np.testing.assert_array_equal(models.create("igcv3_d").act(jnp.array([-1.0, 3.0, 7.0])), [0.0, 3.0, 6.0])
    calls = []
    maps_of(models.create("igcv3_d", act=lambda x: calls.append(x.shape[-1]) or x, **_SMALL), 32)
    stem, stages, head = [8], [8, 24, 36], [16]
    init_and_apply = 2
    assert calls == (stem + stages + head) * init_and_apply


@pytest.mark.parametrize(
    "width,groups,features,head",
    [
        (0.5, 2, [8, 12, 16, 32, 48, 80, 160], 1280),
        # 16.8, 22.4, 44.8, 67.2 round to 17, 22, 45, 67, and odd ones go up.
        (0.7, 2, [12, 18, 22, 46, 68, 112, 224], 1280),
        (1.4, 4, [24, 36, 48, 92, 136, 224, 448], 1792),
    ],
)
def test_channels_are_scaled_rounded_and_filled_up_to_groups(width, groups, features, head):
    model = models.create("igcv3_d", width_multiplier=width, groups=groups)
    params = abstract_variables(model, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32), train=False)["params"]
    kernels = [params[f"stage{stage}_unit1"]["project"]["kernel"].shape for stage in range(1, 8)]
    assert [shape[3] for shape in kernels] == features
    assert kernels[1][2] == 6 * features[0] // groups
    assert params["head_conv"]["kernel"].shape[3] == head


def test_initial_values_are_the_authors():
    one_stage = {"stage_sizes": (1,), "stage_features": (64,), "stage_strides": (1,), "expand_ratios": (6,)}
    model = models.create("igcv3_d", num_classes=100, stem="small", head_features=64, **one_stage)
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for kernel, fan_in in [
        (params["stage1_unit1"]["expand"]["kernel"], 16),
        (params["stage1_unit1"]["depthwise"]["kernel"], 9),
        (params["classifier"]["kernel"], 64),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_in), rtol=4 / np.sqrt(2 * kernel.size))
    assert not params["classifier"]["bias"].any()


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    no_stages = dict.fromkeys(("stage_sizes", "stage_features", "stage_strides", "expand_ratios"), ())
    check_examples_reach_norms_and_dropout(
        models.create("igcv3_d", num_classes=10, stem="small", dropout_rate=0.5, head_features=32, **no_stages)
    )


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "IGCV3: stem: unknown name 'tiny'; one of imagenet, small"),
        ({"width_multiplier": 0.0}, r"IGCV3: width_multiplier=0.0 must be above 0 and groups=2 at least 1; raise them"),
        ({"groups": 0}, r"IGCV3: width_multiplier=1.0 must be above 0 and groups=0 at least 1; raise them"),
        ({"stage_sizes": (1, 2)}, r"IGCV3: stage_features=.* must be one for each of stage_sizes=\(1, 2\)"),
        (
            {"expand_ratios": (0, 6, 6, 6, 6, 6, 6)},
            r"InterleavedInvertedResidual: groups=2 must divide the channels \(3",
        ),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("igcv3_d", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)
