"""ResNet with an encoder in place of its last stage: its parts, and what they change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models, norm
from arch.efficiency.complexity import abstract_variables, count_params
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, maps_of, random_variables

_SMALL = {
    "num_classes": 10,
    "stage_sizes": (1,),
    "stage_features": (4,),
    "stem_features": 4,
    "stem": "small",
    "token_features": 8,
    "num_layers": 2,
    "num_heads": 2,
}


def _model(**fields):
    return models.create("attention_resnet50", **{**_SMALL, **fields})


def test_the_encoder_stands_in_place_of_the_last_stage():
    """196 tokens of the base model's width, from the 14x14 map of the third stage, in three layers."""
    maps, out = maps_of(models.create("attention_resnet50"), 224)
    assert maps["resnet"]["stage3_unit6"]["__call__"][0].shape == (1, 14, 14, 1024)
    assert "stage4_unit1" not in maps["resnet"] and "classifier" not in maps["resnet"]
    assert maps["embed"]["__call__"][0].shape == (1, 14, 14, 512)
    for layer in (1, 2, 3):
        assert maps[f"layer{layer}"]["hidden"]["__call__"][0].shape == (1, 196, 2048)
        assert maps[f"layer{layer}"]["attention"]["query"]["__call__"][0].shape == (1, 196, 8, 64)
    assert "layer4" not in maps and maps["norm"]["__call__"][0].shape == (1, 196, 512)
    assert out.shape == (1, 1000)


def test_parameters():
    """Those of ResNet-50's first three stages, and of an encoder of 512 features."""
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    trunk = models.create("resnet50", stage_sizes=(3, 4, 6), stage_features=(64, 128, 256), features_only=True)
    of_trunk = count_params(abstract_variables(trunk, x, train=False))
    layer = 1_050_624 + 2 * 512 * 2048 + 2048 + 512 + 2 * 2 * 512
    ends = 1024 * 512 + 512 + 2 * 512 + 512 * 1000 + 1000
    found = count_params(abstract_variables(models.create("attention_resnet50"), x, train=False))
    assert found == of_trunk + 3 * layer + ends


def test_the_trunk_is_the_resnet(x64):
    x = np.random.default_rng(1).standard_normal((2, 8, 8, 3))
    model = _model(stage_sizes=(1, 1), stage_features=(4, 4), features_only=True)
    sizes = {"stage_sizes": (1, 1), "stage_features": (4, 4), "stem_features": 4, "stem": "small"}
    resnet = models.create("resnet50", **sizes, features_only=True)
    variables = random_variables(model, x)

    @quick_jit
    def run(variables):
        trunk = {group: tree["resnet"] for group, tree in variables.items()}
        return model.apply(variables, x, train=False), resnet.apply(trunk, x, train=False)

    maps, expected = run(variables)
    np.testing.assert_array_equal(maps[1], expected[1])
    assert maps[2].shape == (2, 4, 4, 8) and expected[2].shape == (2, 4, 4, 16)


@pytest.mark.parametrize("use_positions", [True, False])
def test_positions_tell_where_a_pixel_was(x64, use_positions):
    """Without them a classifier of single pixels does not see how they are arranged."""
    x = np.random.default_rng(1).standard_normal((2, 6, 6, 3))
    model = _model(use_positions=use_positions, stage_sizes=(), stage_features=())
    variables = random_variables(model, x)
    kernel = variables["params"]["resnet"]["stem_conv"]["kernel"]
    kernel[[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0  # a 1x1 convolution
    apply = quick_jit(lambda x: model.apply(variables, x, train=False))
    same = np.allclose(apply(x), apply(x[:, ::-1]), rtol=1e-9)
    assert same == (not use_positions)


def test_norms_and_options_reach_the_encoder(x64):
    x = np.random.default_rng(1).standard_normal((2, 8, 8, 3))
    variables = random_variables(_model(), x)
    options = ({}, {"pre_norm": False}, {"token_norm": norm.create("group_norm", num_groups=2)}, {"num_layers": 1})
    logits = quick_jit(lambda v: [_model(**fields).apply(v, x, train=False) for fields in options])(variables)
    for other in range(1, len(options)):
        assert np.abs(logits[other] - logits[0]).max() > 1e-6, options[other]
    maps, _ = maps_of(_model(mlp_ratio=1.5), 8)
    assert maps["layer1"]["hidden"]["__call__"][0].shape == (1, 64, 12)
    assert "norm" not in maps_of(_model(pre_norm=False), 8)[0]


def test_initial_values():
    model = _model(num_classes=1000, token_features=16, num_layers=1)
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    # 4 standard errors of a standard deviation
    for kernel, deviation in [
        (params["embed"]["kernel"], np.sqrt(2 / 16)),
        (params["layer1"]["attention"]["query"]["kernel"], np.sqrt(2 / (16 + 16))),
        (params["layer1"]["hidden"]["kernel"], np.sqrt(2 / (16 + 64))),
        (params["classifier"]["kernel"], 0.01),
    ]:
        np.testing.assert_allclose(kernel.std(), deviation, rtol=4 / np.sqrt(2 * kernel.size))
    assert not params["classifier"]["bias"].any()


@pytest.mark.parametrize("rate", ["dropout_rate", "residual_dropout_rate"])
def test_examples_reach_norms_and_dropout(rate):
    check_examples_reach_norms_and_dropout(_model(**{rate: 0.5, "stage_sizes": (), "stage_features": ()}))


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "ResNet: stem: unknown name 'tiny'; one of imagenet, small"),
        ({"token_features": 6}, "sinusoidal_positions: features=6 must be a multiple of 4, .*; take 8"),
        ({"num_heads": 3}, "MultiHeadAttention: num_heads=3 must divide qkv_features=8; choose a divisor of 8"),
        ({"residual_dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = _model(**fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))
    assert "\n" not in str(error.value)


def test_integer_images_are_refused():
    with pytest.raises(ValueError, match=r"^TransformerClassifier: x must be floating point, not uint8; convert"):
        jax.eval_shape(lambda: _model().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8), train=False))
