"""Residual attention networks against the authors' prototxt, recorded in tests/goldens, and what masks do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models, norm
from arch.blocks.preactivation import PreactivationUnit
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.pooling import global_avg_pool
from tests.compiling import quick_jit
from tests.models.checks import (
    check_examples_reach_norms_and_dropout,
    check_parity,
    maps_of,
    random_variables,
)

_RECORDED = {"stage_sizes": (1, 1), "stage_features": (16, 32), "stage_levels": (2, 1), "last_size": 1}
_RECORDED |= {"last_features": 32, "stem_features": 8, "num_classes": 10, "attention": "signed"}
_SMALL = {"stage_sizes": (1,), "stage_features": (8,), "stage_levels": (1,), "last_size": 0, "stem_features": 4}
_SMALL |= {"num_trunk_units": 1, "stem": "small", "num_classes": 10}


@pytest.mark.slow
@pytest.mark.parametrize("net,name", [("attention", "attention_56"), ("next", "attention_next_56")])
def test_parity_with_the_prototxt(x64, net, name):
    """Logits, updated running statistics and the gradient of every parameter, from the same weights, in float64."""
    fields = {**_RECORDED, "norm": norm.create("batch_norm", unbiased_running_variance=True)}
    if net == "next":
        fields["groups"] = 4
    model = models.create(name, **fields)
    check_parity(model, "residual_attention.npz", net, 36, lambda _, layers: ".".join(layers))


@pytest.mark.parametrize("name,counts", [("attention_56", (1, 1, 1)), ("attention_92", (1, 2, 3))])
def test_the_stages_are_those_of_the_papers_table(name, counts):
    """Table 2: sizes of maps, modules of each stage, and how far their masks go down."""
    maps, out = maps_of(models.create(name), 224)
    assert maps["stem_conv"]["__call__"][0].shape == (1, 112, 112, 64)
    sizes = {1: (56, 28, 14, 7), 2: (28, 14, 7), 3: (14, 7)}
    for stage, count in enumerate(counts, start=1):
        size, features = sizes[stage][0], 128 * 2**stage
        assert maps[f"stage{stage}_unit"]["__call__"][0].shape == (1, size, size, features)
        assert f"stage{stage}_attention{count + 1}" not in maps
        for number in range(1, count + 1):
            module = maps[f"stage{stage}_attention{number}"]
            assert module["__call__"][0].shape == (1, size, size, features)
            mask = module["mask"]
            for level, smaller in enumerate(sizes[stage][1:], start=1):
                assert mask[f"down{level}_unit1"]["__call__"][0].shape == (1, smaller, smaller, features)
            assert mask["bottom_unit1"]["__call__"][0].shape == (1, 7, 7, features)
            assert mask["conv2"]["__call__"][0].shape == (1, size, size, features)
    for number in (1, 2, 3):
        assert maps[f"last_unit{number}"]["__call__"][0].shape == (1, 7, 7, 2048)
    assert maps["last_norm"]["__call__"][0].shape == (1, 7, 7, 2048)
    assert out.shape == (1, 1000)


def test_the_large_stem_pools_in_ceil_mode():
    """13 pixels make 6, where symmetric padding makes 7."""
    maps, _ = maps_of(models.create("attention_56", **{**_SMALL, "stem": "imagenet"}), 26)
    assert maps["stem_conv"]["__call__"][0].shape == (1, 13, 13, 4)
    assert maps["stage1_unit"]["__call__"][0].shape == (1, 6, 6, 8)


def test_attention_next_has_units_of_resnext():
    """32 groups of 4 channels in the first stage, and nothing normalized twice."""
    maps, _ = maps_of(models.create("attention_next_56"), 64)
    unit, mask = maps["stage1_attention1"]["pre_unit1"], maps["stage1_attention1"]["mask"]
    assert unit["conv2"]["__call__"][0].shape[-1] == 128 and unit["norm3"]["__call__"][0].shape[-1] == 256
    assert "last_norm" not in maps and "norm1" not in mask and "norm2" in mask
    assert "shortcut_norm" in maps["stage2_unit"]


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).standard_normal((2, 8, 8, 3))


def test_masks_of_zeros_leave_the_trunk(x64, x):
    """Such a network is its trunk, unit after unit; with the naive form nothing of the image is left."""
    fields = {**_SMALL, "attention": "signed"}
    model, naive = (models.create("attention_56", **fields, form=form) for form in ("residual", "naive"))
    variables = random_variables(model, x)
    last = variables["params"]["stage1_attention1"]["mask"]["conv2"]
    last["kernel"] = np.zeros_like(last["kernel"])
    norms = bind(BatchNorm, train=False)

    def trunk(variables, x):
        def layer(module, x, *path):
            trees = {}
            for group, tree in variables.items():
                for name in path:
                    tree = tree.get(name, {})
                trees[group] = tree
            return module.apply(trees, x)

        unit = PreactivationUnit(
            8, 2, 1, "second", "projection", lambda **f: Conv(use_bias=False, **f), norms, jax.nn.relu
        )
        x = layer(Conv(4, (3, 3), padding=((1, 1), (1, 1)), use_bias=False), x, "stem_conv")
        stem_norm, last_norm = ({g: t[name] for g, t in variables.items()} for name in ("stem_norm", "last_norm"))
        x = jax.nn.relu(BatchNorm().apply(stem_norm, x, train=False))
        x = layer(unit, x, "stage1_unit")
        for name in ("pre_unit1", "trunk_unit1", "post_unit1"):
            x = layer(unit, x, "stage1_attention1", name)
        x = global_avg_pool(jax.nn.relu(BatchNorm().apply(last_norm, x, train=False)))
        return x @ variables["params"]["classifier"]["kernel"] + variables["params"]["classifier"]["bias"]

    @quick_jit
    def run(variables):
        return [net.apply(variables, x, train=False) for net in (model, naive)], trunk(variables, x)

    (logits, without_trunk), expected = run(variables)
    np.testing.assert_allclose(logits, expected, rtol=1e-10)
    np.testing.assert_allclose(without_trunk[0], without_trunk[1], rtol=1e-10)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_every_option_of_the_modules_reaches_them(x64, x):
    variables = random_variables(models.create("attention_56", **_SMALL), x)
    options = ({}, {"attention": "channel"}, {"attention": "spatial"}, {"attention": "signed"}, {"form": "naive"})
    nets = [models.create("attention_56", **_SMALL, **fields) for fields in options]
    logits = quick_jit(lambda variables: [net.apply(variables, x, train=False) for net in nets])(variables)
    for other in range(1, len(options)):
        assert np.abs(logits[other] - logits[0]).max() > 1e-6, options[other]
    maps, _ = maps_of(
        models.create("attention_56", **{**_SMALL, "num_trunk_units": 3}, num_outer_units=2, num_mask_units=2), 8
    )
    module = maps["stage1_attention1"]
    units = {name for name in module if "unit" in name} | {name for name in module["mask"] if "unit" in name}
    assert units == {f"{part}_unit{n}" for part in ("pre", "post", "down1", "bottom") for n in (1, 2)} | {
        f"trunk_unit{n}" for n in (1, 2, 3)
    }


def test_initial_values():
    model = models.create("attention_56", **{**_SMALL, "num_classes": 1000, "stage_features": (16,)})
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    # 4 standard errors of a standard deviation
    for kernel, deviation in [
        (params["stage1_attention1"]["mask"]["conv2"]["kernel"], np.sqrt(2 / 16)),
        (params["stage1_attention1"]["pre_unit1"]["conv2"]["kernel"], np.sqrt(2 / (9 * 4))),
        (params["classifier"]["kernel"], 0.01),
    ]:
        np.testing.assert_allclose(kernel.std(), deviation, rtol=4 / np.sqrt(2 * kernel.size))
    assert not params["classifier"]["bias"].any()


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    none = {"stage_sizes": (), "stage_features": (), "stage_levels": ()}
    check_examples_reach_norms_and_dropout(models.create("attention_56", **{**_SMALL, **none, "dropout_rate": 0.5}))


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "ResidualAttentionNet: stem: unknown name 'tiny'; one of imagenet, small"),
        (
            {"stage_sizes": (1, 2)},
            r"ResidualAttentionNet: stage_features=\(256, 512, 1024\) must be one for each of stage_sizes=",
        ),
        (
            {"groups": 2},
            "ResidualAttentionNet: groups=2 must be 1 with pre_activation, whose units have no groups; take",
        ),
        (
            {"groups": 3, "pre_activation": False},
            "ResidualAttentionNet: groups=3 must divide the 64 channels of 3x3 convolutions that bottleneck_ratio=0.25 "
            "leaves of 256; change either",
        ),
        ({"attention": "chanel"}, "MaskBranch: attention: unknown name 'chanel'; did you mean 'channel'"),
        ({"form": "resdual"}, "residual_attention: form: unknown name 'resdual'; did you mean 'residual'"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("attention_56", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)


def test_integer_images_are_refused():
    model = models.create("attention_56")
    with pytest.raises(ValueError, match=r"^ResidualAttentionNet: x must be floating point, not uint8; convert"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8), train=False))
