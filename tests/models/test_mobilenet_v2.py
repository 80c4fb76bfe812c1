"""MobileNet v2 against torchvision's network, recorded in tests/goldens, and its published counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models, norm
from arch.weights.names import mobilenet_v2 as names
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, check_parity, maps_of

_SMALL = {"stage_sizes": (1, 2), "stage_features": (16, 24), "stage_strides": (1, 2), "expand_ratios": (1, 6)}


@pytest.mark.parametrize("net", ["small", pytest.param("whole", marks=pytest.mark.slow)])
def test_parity_with_torchvision(x64, net):
    """Logits, updated running statistics and the gradient of every parameter, from the same weights, in float64."""
    fields = {"width_multiplier": 0.35, **_SMALL} if net == "small" else {}
    model = models.create(
        "mobilenet_v2",
        num_classes=10,
        dropout_rate=0.0,
        norm=norm.create("batch_norm", unbiased_running_variance=True),
        **fields,
    )
    check_parity(model, "mobilenet_v2.npz", net, 32 if net == "small" else 64, names.torchvision)


def test_the_stages_are_those_of_the_papers_table():
    """Table 2; the first unit of a stage has its stride."""
    maps, out = maps_of(models.create("mobilenet_v2"), 224)
    stages = [(112, 16), (56, 24), (28, 32), (14, 64), (14, 96), (7, 160), (7, 320)]
    for stage, (size, features) in enumerate(stages, start=1):
        assert maps[f"stage{stage}_unit1"]["__call__"][0].shape == (1, size, size, features), stage
    assert maps["stem_conv"]["__call__"][0].shape == (1, 112, 112, 32)
    assert maps["head_conv"]["__call__"][0].shape == (1, 7, 7, 1280)
    assert out.shape == (1, 1000)


def test_the_small_stem_keeps_the_image_size():
    maps, out = maps_of(models.create("mobilenet_v2", stem="small", num_classes=10, **_SMALL), 28)
    assert maps["stem_conv"]["__call__"][0].shape == (1, 28, 28, 32)
    assert maps["head_conv"]["__call__"][0].shape == (1, 14, 14, 1280)
    assert out.shape == (1, 10)


def test_dropout_and_activation_are_those_of_the_paper():
    """0.2 before the classifier; ReLU6 after every normalization but those of the bottlenecks."""
    assert models.create("mobilenet_v2").dropout_rate == 0.2
    np.testing.assert_array_equal(models.create("mobilenet_v2").act(jnp.array([-1.0, 3.0, 7.0])), [0.0, 3.0, 6.0])
    calls = []
    model = models.create("mobilenet_v2", act=lambda x: calls.append(x.shape[-1]) or x, num_classes=10, **_SMALL)
    _, out = maps_of(model, 32)
    stem, stages, head = [32], [32, 96, 96, 144, 144], [1280]
    init_and_apply = 2
    assert calls == (stem + stages + head) * init_and_apply
    assert out.dtype == jnp.float32


def test_initial_values_are_torchvisions():
    one_stage = {"stage_sizes": (1,), "stage_features": (16,), "stage_strides": (1,), "expand_ratios": (6,)}
    model = models.create("mobilenet_v2", num_classes=10, stem="small", **one_stage)
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for kernel, fan_out in [
        (params["head_conv"]["kernel"], 1280),
        (params["stage1_unit1"]["expand"]["kernel"], 6 * 32),
        (params["stage1_unit1"]["depthwise"]["kernel"], 9 * 6 * 32),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=4 / np.sqrt(2 * kernel.size))
    np.testing.assert_allclose(params["classifier"]["kernel"].std(), 0.01, rtol=4 / np.sqrt(2 * 12800))
    assert not params["classifier"]["bias"].any()


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "MobileNetV2: stem: unknown name 'tiny'; one of imagenet, small"),
        ({"width_multiplier": 0.0}, r"make_divisible: value=0.0 and divisor=8 must be positive"),
        ({"stage_sizes": (1, 2)}, r"MobileNetV2: stage_features=.* must be one for each of stage_sizes=\(1, 2\)"),
        ({"expand_ratios": (0, 6, 6, 6, 6, 6, 6)}, "InvertedResidual: expand_ratio=0 must leave at least one of cha"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("mobilenet_v2", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)


def test_integer_images_are_refused():
    model = models.create("mobilenet_v2")
    with pytest.raises(ValueError, match=r"^MobileNetV2: x must be floating point, not uint8; convert"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8), train=False))


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    no_stages = dict.fromkeys(_SMALL, ())
    check_examples_reach_norms_and_dropout(
        models.create("mobilenet_v2", num_classes=10, stem="small", dropout_rate=0.5, head_features=32, **no_stages)
    )
