"""GoogLeNet and the Inception networks against torchvision's and timm's, recorded in tests/goldens."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import AUXILIARY, models, norm
from arch.blocks import auxiliary, inception
from arch.efficiency.complexity import abstract_variables
from arch.models.classification import googlenet
from arch.ops.conv import Conv
from arch.ops.dtypes import Dtypes
from arch.ops.pooling import adaptive_avg_pool
from arch.weights.names import googlenet as googlenet_names
from arch.weights.names import inception_resnet_v2 as inception_resnet_v2_names
from arch.weights.names import inception_v3 as inception_v3_names
from arch.weights.names import inception_v4 as inception_v4_names
from tests.models.checks import check_eval_parity, check_examples_reach_norms_and_dropout, check_parity, maps_of

NETWORKS = ("googlenet", "inception_v3", "inception_v4", "inception_resnet_v2")
SMALL = {"width_multiplier": 1 / 8, "stage_sizes": (1, 1, 1), "stem": "small", "num_classes": 10}
# The recorded networks of one module a stage do not drop, and keep torch's unbiased running variance.
RECORDED = {
    "num_classes": 10,
    "stage_sizes": (1, 1, 1),
    "dropout_rate": 0.0,
    "norm": norm.create("batch_norm", epsilon=1e-3, unbiased_running_variance=True),
}


def create(name, **fields):
    return models.create(name, **{**SMALL, **fields})


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,layer_names,size",
    [
        ("googlenet", googlenet_names.torchvision, 64),
        ("inception_v3", inception_v3_names.torchvision, 107),
        ("inception_v4", inception_v4_names.timm, 107),
        ("inception_resnet_v2", inception_resnet_v2_names.timm, 107),
    ],
)
def test_parity_in_evaluation(x64, name, layer_names, size):
    """Whole networks: logits and the last map of each stride, from the same weights, in float64."""
    check_eval_parity(models.create(name, num_classes=10), "inception.npz", name, size, layer_names)


def test_parity_of_a_small_googlenet(x64):
    """Logits, updated running statistics and the gradient of every parameter, from the same weights, in float64."""
    model = models.create("googlenet", **RECORDED)
    check_parity(model, "inception.npz", "googlenet_small", 32, googlenet_names.torchvision)


@pytest.mark.slow
def test_parity_of_a_small_inception_v3(x64):
    model = models.create("inception_v3", **RECORDED)
    check_parity(model, "inception.npz", "inception_v3_small", 91, inception_v3_names.torchvision)


class Head(nn.Module):
    """An auxiliary head alone, on an image."""

    name_of: str

    @nn.compact
    def __call__(self, x, *, train):
        wide = jnp.dtype(x.dtype)
        layer = {"dtype": wide, "param_dtype": wide}
        fields = {
            "num_classes": 10,
            "conv": functools.partial(Conv, use_bias=False, **layer),
            "norm": norm.bind(RECORDED["norm"], train=train, **layer),
            "act": nn.relu,
            "kernel_init": nn.initializers.normal(),
            "dtypes": Dtypes(wide, wide, wide),
            "name": "head",
        }
        if self.name_of == "inception_v3":
            conv_init = nn.initializers.normal()
            return auxiliary.ConvAuxiliaryHead(features=(128, 768), padding="VALID", conv_init=conv_init, **fields)(x)
        return auxiliary.HiddenAuxiliaryHead(
            features=128,
            hidden_features=1024,
            pool=functools.partial(adaptive_avg_pool, output_size=4),
            dropout_rate=0.0,
            hidden_bias_init=nn.initializers.zeros,
            **fields,
        )(x, train=train)


@pytest.mark.parametrize("name,size", [("googlenet", 14), ("inception_v3", 17)])
def test_parity_of_the_auxiliary_heads(x64, name, size):
    """Logits, updated running statistics and the gradient of every parameter, from the same weights, in float64."""

    def layer_names(model, layers):
        if name == "googlenet":
            return googlenet_names.torchvision(model, ["auxiliary1", *layers[1:]]).removeprefix("aux1.")
        return inception_v3_names.torchvision(model, ["auxiliary", *layers[1:]]).removeprefix("AuxLogits.")

    check_parity(Head(name), "inception.npz", f"{name}_head", size, layer_names)


@pytest.mark.parametrize("name,whole", [("googlenet", ("auxiliary1", "auxiliary2")), ("inception_v3", ("auxiliary",))])
def test_auxiliary_heads_are_for_training(name, whole):
    """Their logits come in training alone, each with its weight; evaluation does not depend on their parameters."""
    x = np.random.default_rng(0).standard_normal((2, 12, 12, 3), np.float32)
    stage_sizes = (1, 3, 1) if name == "googlenet" else (1, 1, 1)
    model = create(name, stage_sizes=stage_sizes, auxiliary_heads=True, auxiliary_weight=0.125)
    variables = abstract_variables(model, x, train=False)
    assert sorted(variables) == ["batch_stats", "params"]
    assert {layer for layer in variables["params"] if layer.startswith("auxiliary")} == set(whole)
    without = abstract_variables(model.clone(auxiliary_heads=False), x, train=False)
    assert not [layer for layer in without["params"] if layer.startswith("auxiliary")]
    assert not [layer for layer in abstract_variables(model.clone(features_only=True), x, train=False)["params"]
                if layer.startswith("auxiliary")]  # fmt: skip

    states = {}

    def apply(variables, x):
        for train in (True, False):
            rngs = {"dropout": jax.random.key(0)}
            _, states[train] = model.apply(variables, x, train=train, mutable=["batch_stats", AUXILIARY], rngs=rngs)

    jax.eval_shape(apply, variables, x)
    assert set(states[True][AUXILIARY]) == {f"{head}_logits" for head in whole}
    for logits, weight in states[True][AUXILIARY].values():
        assert (logits.shape, logits.dtype, weight) == ((2, 10), jnp.float32, 0.125)
    assert AUXILIARY not in states[False]


def test_what_the_heads_count_is_published():
    """GoogLeNet's paper, section 5; torchvision's training of Inception v3."""
    assert models.create("googlenet").auxiliary_weight == 0.3
    assert models.create("inception_v3").auxiliary_weight == 0.4


_GOOGLENET = {
    **{f"stage1_unit{i}": (28, out) for i, out in enumerate((256, 480), start=1)},
    **{f"stage2_unit{i}": (14, out) for i, out in enumerate((512, 512, 512, 528, 832), start=1)},
    **{f"stage3_unit{i}": (7, out) for i, out in enumerate((832, 1024), start=1)},
}
_V3 = {
    **{f"stage1_unit{i}": (35, out) for i, out in enumerate((256, 288, 288), start=1)},
    **{f"stage2_unit{i}": (17, 768) for i in range(1, 5)},
    **{f"stage3_unit{i}": (8, 2048) for i in range(1, 3)},
    **{"stem_unit1": (149, 32), "stem_unit2": (147, 32), "stem_unit4": (73, 80), "stem_unit5": (71, 192)},
    **{"reduction1": (17, 768), "reduction2": (8, 1280)},
}
_V4 = {
    **{"stem_mixed1": (73, 160), "stem_mixed2": (71, 192), "stem_mixed3": (35, 384)},
    **{f"stage1_unit{i}": (35, 384) for i in range(1, 5)},
    **{f"stage2_unit{i}": (17, 1024) for i in range(1, 8)},
    **{f"stage3_unit{i}": (8, 1536) for i in range(1, 4)},
    **{"reduction1": (17, 1024), "reduction2": (8, 1536)},
}
_RESNET_V2 = {
    **{f"stage1_unit{i}": (35, 320) for i in range(1, 11)},
    **{f"stage2_unit{i}": (17, 1088) for i in range(1, 21)},
    **{f"stage3_unit{i}": (8, 2080) for i in range(1, 11)},
    **{"mixed": (35, 320), "reduction1": (17, 1088), "reduction2": (8, 2080), "head_unit": (8, 1536)},
}


@pytest.mark.parametrize("name,published,size", [
    ("googlenet", _GOOGLENET, 224), ("inception_v3", _V3, 299),
    ("inception_v4", _V4, 299), ("inception_resnet_v2", _RESNET_V2, 299),
])  # fmt: skip
def test_the_modules_are_those_of_the_papers_tables(name, published, size):
    maps, out = maps_of(models.create(name), size)
    for module, (pixels, channels) in published.items():
        assert maps[module]["__call__"][0].shape == (1, pixels, pixels, channels), module
    assert out.shape == (1, 1000)
    assert {module for module in maps if "unit" in module and "stage" in module} == {
        m for m in published if "stage" in m
    }


def shapes_of_maps(name, size, **fields):
    model = create(name, features_only=True, **fields)
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    maps = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0], x)
    return {stride: leaf.shape[1] for stride, leaf in maps.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_small_stems_leave_pixels_of_small_images(name):
    assert shapes_of_maps(name, 8) == {1: 8, 2: 4, 4: 2}
    assert shapes_of_maps(name, 28) == {1: 28, 2: 14, 4: 7}
    assert shapes_of_maps(name, 8, stem="stride2") == {2: 4, 4: 2, 8: 1}
    assert shapes_of_maps(name, 1, stem="stride2") == {2: 1, 4: 1, 8: 1}


@pytest.mark.parametrize("name", NETWORKS[1:])
def test_padding_is_the_papers_where_not_given(name):
    """75 pixels are the fewest of torchvision's Inception v3; with padding any image will do."""
    assert shapes_of_maps(name, 75, stem="imagenet") == {2: 35, 4: 15, 8: 7, 16: 3, 32: 1}
    assert shapes_of_maps(name, 75, stem="imagenet", padding="SAME") == {2: 38, 4: 19, 8: 10, 16: 5, 32: 3}
    assert shapes_of_maps(name, 32, stem="imagenet", padding="SAME") == {2: 16, 4: 8, 8: 4, 16: 2, 32: 1}
    # Without padding, the first, second and fifth layer of the stem lose two pixels each, in Inception v4 two more do.
    deeper = name == "inception_v4"
    assert shapes_of_maps(name, 28, padding="VALID") == ({1: 18, 2: 8, 4: 3} if deeper else {1: 22, 2: 10, 4: 4})
    for stem, smallest in (("imagenet", 75), ("small", 17 if deeper else 13), ("stride2", 31 if deeper else 23)):
        fields = {"stem": stem, "padding": "VALID"}
        assert set(shapes_of_maps(name, smallest, **fields).values()) >= {1}
        with pytest.raises(
            ValueError, match=f"images of height=.* must have at least {smallest} pixels a side without"
        ):
            shapes_of_maps(name, smallest - 1, **fields)


def modules_called(model, size=8, train=True):
    """Every module that a network calls, by tracing it."""
    called = []

    def note(call, args, kwargs, context):
        if context.method_name == "__call__":
            called.append(context.module)
        return call(*args, **kwargs)

    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    with nn.intercept_methods(note):
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        jax.eval_shape(lambda x: model.init(rngs, x, train=train), x)
    return called


def test_the_scales_of_the_residual_units_are_the_released_ones():
    """0.17, 0.10, 0.20, and for the last of all 1 without activation."""
    for scales in ((0.17, 0.10, 0.20), (0.5, 0.25, 0.125)):
        given = {} if scales[0] == 0.17 else {"residual_scales": scales}
        called = modules_called(create("inception_resnet_v2", stage_sizes=(1, 2, 2), **given))
        units = [(m.scale, m.last_act) for m in called if isinstance(m, inception.InceptionResidualUnit)]
        first, second, third = ((scale, True) for scale in scales)
        assert units == [first, second, second, third, (1.0, False)]


@pytest.mark.parametrize("name,fields,rates", [
    ("googlenet", {}, {0.2}), ("googlenet", {"variant": "paper"}, {0.4}),
    ("googlenet", {"auxiliary_heads": True}, {0.7, 0.2}), ("inception_v3", {}, {0.5}),
    ("googlenet", {"auxiliary_heads": True, "auxiliary_dropout_rate": 0.3, "dropout_rate": 0.1}, {0.1, 0.3}),
    ("inception_v4", {}, {0.2}), ("inception_resnet_v2", {}, {0.2}),
])  # fmt: skip
def test_dropout_is_the_published(name, fields, rates):
    assert {m.rate for m in modules_called(create(name, **fields)) if type(m).__name__ == "Dropout"} == rates


@pytest.mark.parametrize("name,fields,deviation", [
    ("googlenet", {}, 0.01), ("inception_v3", {}, 0.1),
    ("googlenet", {"variant": "paper"}, None), ("inception_v4", {}, math.sqrt(2 / 576)),
    ("inception_resnet_v2", {}, math.sqrt(2 / 576)), ("googlenet", {"kernel_init": nn.initializers.normal(2.0)}, 2.0),
])  # fmt: skip
def test_initial_values(name, fields, deviation):
    """Of every convolution a kernel of 3x3x64x64, fan-in 576, and its bias; Caffe's "xavier" is uniform up to
    sqrt(3 / fan-in)."""
    convs = [m for m in modules_called(create(name, **fields)) if isinstance(m, Conv)]
    (kernel_init,) = {m.kernel_init for m in convs}
    kernel = np.asarray(kernel_init(jax.random.key(0), (3, 3, 64, 64), jnp.float32))
    # 5 standard errors
    np.testing.assert_allclose(kernel.std(), deviation or 1 / math.sqrt(576), rtol=5 / math.sqrt(2 * kernel.size))
    if deviation is None:
        np.testing.assert_allclose(np.abs(kernel).max(), math.sqrt(3 / 576), rtol=1e-3)
        assert {float(m.bias_init(None, (), jnp.float32)) for m in convs} == {np.float32(0.2)}
    assert {m.use_bias for m in convs} >= {deviation is None}


def test_the_norms_epsilon_is_that_of_the_family():
    for name in NETWORKS:
        assert {m.epsilon for m in modules_called(create(name)) if hasattr(m, "epsilon")} == {1e-3}
    assert not [m for m in modules_called(create("googlenet", variant="paper")) if hasattr(m, "epsilon")]
    assert [m for m in modules_called(create("googlenet", variant="paper", use_norm=True)) if hasattr(m, "epsilon")]


@pytest.mark.parametrize("variant,response,last_window", [("paper", True, 3), ("torchvision", False, 2)])
def test_pools_and_responses_of_googlenet(monkeypatch, variant, response, last_window):
    """Caffe's layout: responses after the first pool and before the second; torchvision's last pool is 2x2."""
    pools, responses = [], []

    def max_pool(x, window, strides, padding, original=googlenet.max_pool):
        out = original(x, window, strides, padding)
        pools.append((window, x.shape[1], out.shape[1]))
        return out

    monkeypatch.setattr(googlenet, "max_pool", max_pool)
    monkeypatch.setattr(googlenet, "local_response_norm", lambda x: responses.append(x.shape[1:]) or x)
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    for given, expected in ((None, response), (True, True), (False, False)):
        model = models.create("googlenet", variant=variant, use_local_response_norm=given)
        pools.clear(), responses.clear()
        abstract_variables(model, x, train=False)
        assert pools == [((3, 3), 112, 56), ((3, 3), 56, 28), ((3, 3), 28, 14), ((last_window,) * 2, 14, 7)]
        assert responses == ([(56, 56, 64), (56, 56, 192)] if expected else [])


def test_whether_padding_counts_shows_in_inception_v3():
    """At the border of a map of ones a third or more of a window is padding."""
    ones = jnp.ones((1, 4, 4, 1))
    np.testing.assert_allclose(
        inception.average_step(True)(ones)[0, :2, :2, 0], [[4 / 9, 6 / 9], [6 / 9, 1]], rtol=1e-6
    )
    np.testing.assert_array_equal(inception.average_step(False)(ones), ones)
    for name, counted in (("inception_v3", True), ("inception_v4", False), ("inception_resnet_v2", False)):
        given = [{}, {"count_padding": not counted}] if name == "inception_v3" else [{}]
        for fields, expected in zip(given, (counted, not counted), strict=False):
            modules = [m for m in modules_called(create(name, **fields)) if isinstance(m, inception.InceptionModule)]
            steps = [step for m in modules for branch in m.branches for step in branch if hasattr(step, "keywords")]
            averages = [step.keywords["count_padding"] for step in steps if "count_padding" in step.keywords]
            assert set(averages) == {expected}


def test_stages_may_be_longer_than_the_published_and_narrower():
    maps, _ = maps_of(create("googlenet", stage_sizes=(3, 6, 3), width_multiplier=1.0), 8)
    assert [maps[f"stage{s}_unit{u}"]["__call__"][0].shape[-1] for s, u in ((1, 3), (2, 6), (3, 3))] == [480, 832, 1024]
    maps, _ = maps_of(create("inception_v3", stage_sizes=(4, 5, 3), width_multiplier=0.5), 8)
    assert [maps[f"stage{s}_unit{u}"]["__call__"][0].shape[-1] for s, u in ((1, 4), (2, 5), (3, 3))] == [144, 384, 1024]


@pytest.mark.parametrize("name", ["googlenet", *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS[1:])])
def test_examples_reach_norms_and_dropout(name):
    """Examples of weight 0 change nothing for the others, and noise follows an example's id."""
    check_examples_reach_norms_and_dropout(create(name, dropout_rate=0.5))


@pytest.mark.parametrize(
    "name,fields,message",
    [
        *((name, {"stem": "tiny"}, r"\w+: stem: unknown name 'tiny'; one of imagenet, small") for name in NETWORKS),
        *((name, {"padding": "FULL"}, r"Inception\w+: padding: unknown name 'FULL'") for name in NETWORKS[1:]),
        *((name, {"stage_sizes": (1, 1)}, r"\w+: stage_sizes=\(1, 1\) must be 3 numbers of 1") for name in NETWORKS),
        *((name, {"stage_sizes": (1, 0, 1)}, r"\w+: stage_sizes=\(1, 0, 1\) must be 3 num") for name in NETWORKS),
        *((name, {"width_multiplier": 0.0}, "make_divisible: value=0.0 and divisor=8 must be") for name in NETWORKS),
        *((name, {"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]") for name in NETWORKS),
        ("googlenet", {"variant": "caffe"}, "GoogLeNet: variant: unknown name 'caffe'; one of paper, torchvision"),
        (
            "inception_resnet_v2",
            {"residual_scales": (0.1,)},
            r"InceptionResNetV2: residual_scales=\(0.1,\) must be 3, ",
        ),
        (
            "inception_v3",
            {"auxiliary_heads": True, "padding": "VALID"},
            "InceptionV3: maps for the auxiliary head of height=12 and width=12 must have at least 17 pixels a side",
        ),
    ],
)
def test_fields_that_do_not_fit_are_refused(name, fields, message):
    model = create(name, **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_integer_images_are_refused(name):
    with pytest.raises(ValueError, match=r"^\w+: x must be floating point, not uint8; convert"):
        x = jnp.zeros((1, 32, 32, 3), jnp.uint8)
        jax.eval_shape(lambda: create(name).init(jax.random.key(0), x, train=False))
