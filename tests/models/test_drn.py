"""Dilated residual networks: recorded ones, what dilation keeps of a network with strides, and the layout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models
from arch.models.classification.drn import DRN_A, drn_units
from arch.ops.conv import Conv
from arch.weights.names import resnet as resnet_names
from tests.compiling import quick_jit
from tests.models.checks import check_eval_parity, check_examples_reach_norms_and_dropout, random_variables

_UNIT = {"conv1": "conv1", "norm1": "bn1", "conv2": "conv2", "norm2": "bn2", "conv3": "conv3", "norm3": "bn3"}
_UNIT |= {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1", "conv": "0", "norm": "1"}


def _names(model, layers):
    """The names in tests/goldens/record_drn.py."""
    if len(layers) == 1:
        return {"stem_conv": "stem.0", "stem_norm": "stem.1", "classifier": "fc"}[layers[0]]
    stage, unit = layers[0].removeprefix("stage").split("_unit")
    return f"stages.{int(stage) - 1}.{int(unit) - 1}.{_UNIT[layers[1]]}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["drn_a_50", "drn_c_26", "drn_d_22", "drn_d_54"])
def test_parity_with_torchvisions_units(x64, name):
    """Logits in evaluation, and maps, from the same weights, in float64."""
    names = resnet_names.torchvision if name == "drn_a_50" else _names
    conv = functools.partial(Conv, implementation="reference")
    check_eval_parity(models.create(name, num_classes=10, conv=conv), "drn.npz", name, 32, names, jit=jax.jit)


@pytest.mark.parametrize("first_of_last", [1, 2])
def test_dilation_keeps_the_function_on_the_pixels_that_strides_leave(x64, first_of_last):
    """A convolution behind removed strides sees what it saw, if it is dilated by their product.

    The first unit of DRN-A's last stage is not: there the two networks part.
    """
    sizes = {"stage_sizes": (1, 1, 2, 2), "stage_features": (2, 4, 6, 8), "stem_features": 4, "stem": "small"}
    strided = models.create("resnet50", features_only=True, **sizes)
    unit_fields = {**DRN_A["unit_fields"], "stage4_unit1": {"kernel_dilation": first_of_last}}
    dilated = models.create("drn_a_50", features_only=True, **sizes, unit_fields=unit_fields)
    x = np.random.default_rng(1).standard_normal((2, 16, 16, 3))
    variables = random_variables(strided, x)

    @quick_jit
    def run(variables):
        return strided.apply(variables, x, train=False), dilated.apply(variables, x, train=False)

    expected, maps = jax.device_get(run(variables))
    assert (set(expected), set(maps)) == ({1, 2, 4, 8}, {1, 2})
    np.testing.assert_allclose(maps[1], expected[1], rtol=1e-12, atol=1e-12)
    assert maps[2].shape == (2, 8, 8, 32)
    same = np.allclose(maps[2][:, ::4, ::4], expected[8], rtol=1e-10, atol=1e-10)
    assert same == (first_of_last == 2)


def test_stage_3_of_drn_a_sees_what_it_saw(x64):
    """There the first unit has but one 3x3 convolution, the one whose stride is removed."""
    sizes = {"stage_sizes": (1, 1, 3), "stage_features": (2, 4, 6), "stem_features": 4, "stem": "small"}
    fields = {"stage_strides": (1, 2, 1), "stage_dilations": (1, 1, 2)}
    unit_fields = {"stage3_unit1": DRN_A["unit_fields"]["stage3_unit1"]}
    strided = models.create("resnet50", features_only=True, **sizes)
    dilated = models.create("drn_a_50", features_only=True, **sizes, **fields, unit_fields=unit_fields)
    x = np.random.default_rng(1).standard_normal((2, 12, 12, 3))
    variables = random_variables(strided, x)
    run = quick_jit(lambda variables: [net.apply(variables, x, train=False) for net in (strided, dilated)])
    expected, maps = jax.device_get(run(variables))
    np.testing.assert_allclose(maps[2][:, ::2, ::2], expected[4], rtol=1e-10, atol=1e-10)


def _windows(name, **fields):
    """(features, kernel size, stride, dilation) of each convolution, in order."""
    calls = []

    def conv(**layer):
        if layer["kernel_size"] != (1, 1):
            dilation = layer.get("kernel_dilation", (1, 1))
            calls.append((layer["features"], layer["kernel_size"][0], layer["strides"][0], dilation[0]))
        return Conv(**layer)

    model = models.create(name, conv=conv, **fields)
    jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    return calls


def test_the_layout_is_the_papers():
    """Figure 5, and the authors' code: features, kernel size, stride and dilation of what is larger than 1x1."""
    middle = [(64, 3, 2, 1), (64, 3, 1, 1), (64, 3, 1, 1), (64, 3, 1, 1)]
    middle += [(128, 3, 2, 1), (128, 3, 1, 1), (128, 3, 1, 1), (128, 3, 1, 1)]
    middle += [(256, 3, 1, 2)] * 4 + [(512, 3, 1, 4)] * 4
    ends = [(16, 7, 1, 1)], [(512, 3, 1, 2)], [(512, 3, 1, 1)]
    first, seven, eight = ends
    c = [*first, (16, 3, 1, 1), (16, 3, 1, 1), (32, 3, 2, 1), (32, 3, 1, 1), *middle, *seven * 2, *eight * 2]
    assert _windows("drn_c_26") == c == _windows("drn_b_26")
    assert _windows("drn_d_22") == [*first, (16, 3, 1, 1), (32, 3, 2, 1), *middle, *seven, *eight]
    assert _windows("drn_d_24") == [*first, (16, 3, 1, 1), (32, 3, 2, 1), *middle, *seven * 2, *eight * 2]
    a = [(64, 7, 2, 1), *[(64, 3, 1, 1)] * 4, (128, 3, 2, 1), *[(128, 3, 1, 1)] * 3]
    a += [(256, 3, 1, 1)] * 2 + [(256, 3, 1, 2)] * 2 + [(512, 3, 1, 1)] * 2 + [(512, 3, 1, 4)] * 2
    assert _windows("drn_a_18") == a


_SMALL = {
    "stage_sizes": (1, 1, 1),
    "stage_features": (4, 8, 8),
    "stage_strides": (1, 2, 1),
    "stage_dilations": (1, 1, 2),
    "stem_features": 4,
    "stem": "small",
}


def test_degridding_units_have_no_shortcut_in_c_and_have_one_in_b(x64):
    """With a branch of zeros a unit of C puts out zeros, and one of B its input."""
    x = np.random.default_rng(1).standard_normal((2, 8, 8, 3))
    nets = [
        models.create("drn_b_26", num_classes=10, **_SMALL, stage_units=("basic", "basic", kind))
        for kind in ("plain", "basic")
    ]
    two_stages = {key: value[:2] for key, value in _SMALL.items() if key.startswith("stage")}
    without_last = models.create(
        "drn_b_26", num_classes=10, **{**_SMALL, **two_stages, "stage_units": ("basic", "basic")}
    )
    variables = random_variables(nets[0], x)
    for name in ("scale", "bias"):
        variables["params"]["stage3_unit1"]["norm2"][name] *= 0
    plain, residual = (quick_jit(lambda v, net=net: net.apply(v, x, train=False))(variables) for net in nets)
    np.testing.assert_allclose(plain, np.tile(variables["params"]["classifier"]["bias"], (2, 1)), atol=1e-12)
    expected = quick_jit(lambda v: without_last.apply(v, x, train=False))(variables)
    np.testing.assert_allclose(residual, expected, rtol=1e-10)


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    none = dict.fromkeys(("stage_sizes", "stage_units", "stage_features", "stage_strides", "stage_dilations"), ())
    check_examples_reach_norms_and_dropout(
        models.create("drn_d_22", num_classes=10, stem="small", dropout_rate=0.5, **none)
    )


def test_initial_values_are_the_authors():
    model = models.create("drn_d_22", **_SMALL, stage_units=("conv", "basic", "conv"))
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for kernel, fan_out in [
        (params["stage3_unit1"]["conv"]["kernel"], 9 * 8),
        (params["stage2_unit1"]["conv2"]["kernel"], 9 * 8),
        (params["classifier"]["kernel"], 1000),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=4 / np.sqrt(2 * kernel.size))
    assert not params["classifier"]["bias"].any()


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "DRN: stem: unknown name 'tiny'; one of imagenet, small"),
        (
            {"stage_sizes": (1, 2)},
            r"DRN: stage_units=\(.*\) must be one for each of stage_sizes=\(1, 2\); change either",
        ),
        ({"stage_units": ("plane",) * 8}, "DRN: stage_units: unknown name 'plane'; did you mean 'plain'"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("drn_d_22", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False))
    assert "\n" not in str(error.value)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match=r"^drn_units: variant: unknown name 'a'; one of b, c, d$"):
        drn_units("a", "basic")


def test_integer_images_are_refused():
    model = models.create("drn_d_22")
    with pytest.raises(ValueError, match=r"^DRN: x must be floating point, not uint8; convert"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3), jnp.uint8), train=False))
