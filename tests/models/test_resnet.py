"""ResNet-50 and ResNeXt-50 against torchvision's networks, recorded in tests/goldens, and their published counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models, norm
from arch.efficiency.complexity import abstract_variables, complexity
from arch.ops.conv import Conv
from arch.weights.names import resnet as names
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, check_float64_stays, check_parity, maps_of

_SMALL = {"stage_sizes": (1, 2), "stage_features": (64, 128), "groups": 8, "base_width": 8}


@pytest.mark.parametrize(
    "net",
    [
        "small",
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("resnext50_32x4d", marks=pytest.mark.slow),
    ],
)
def test_parity_with_torchvision(x64, net):
    """Logits, updated running statistics and the gradient of every parameter, from the same weights, in float64."""
    fields = {"num_classes": 10, "norm": norm.create("batch_norm", unbiased_running_variance=True)}
    if net == "small":
        check_parity(models.create("resnext50_32x4d", **fields, **_SMALL), "resnet.npz", net, 32, names.torchvision)
    else:
        # By JAX's own convolutions: 32 programs a grouped one take minutes to compile.
        model = models.create(net, conv=functools.partial(Conv, implementation="reference"), **fields)
        check_parity(model, "resnet.npz", net, 64, names.torchvision, jit=jax.jit)


@pytest.mark.parametrize(
    "name,params,batch_stats,conv_macs,macs",
    [
        ("resnet50", 25_557_032, 53_120, 4_087_136_256, 4_089_184_256),
        ("resnext50_32x4d", 25_028_904, 68_224, 4_228_431_872, 4_230_479_872),
    ],
)
def test_counts(name, params, batch_stats, conv_macs, macs):
    """At 224 pixels and 1000 classes, measured on torchvision 0.29.1."""
    cost = complexity(models.create(name), train=False)
    assert (cost.params, cost.batch_stats, cost.conv_macs, cost.macs) == (params, batch_stats, conv_macs, macs)


def test_the_stages_are_those_of_the_papers_table():
    """Table 1 of ResNeXt: channels of the units and of their grouped convolutions, which carry the stride."""
    maps, out = maps_of(models.create("resnext50_32x4d", stage_sizes=(1, 1, 1, 1)), 224)
    for stage, (size, features) in enumerate([(56, 128), (28, 256), (14, 512), (7, 1024)], start=1):
        unit = maps[f"stage{stage}_unit1"]
        assert unit["conv2"]["__call__"][0].shape == (1, size, size, features), stage
        assert unit["__call__"][0].shape == (1, size, size, 2 * features), stage
        assert unit["conv1"]["__call__"][0].shape[1] == (size if stage == 1 else 2 * size), stage
    assert maps["stem_conv"]["__call__"][0].shape == (1, 112, 112, 64)
    assert out.shape == (1, 1000)


def test_the_small_stem_keeps_the_image_size():
    maps, out = maps_of(models.create("resnext50_32x4d", stem="small", num_classes=10, **_SMALL), 28)
    assert maps["stem_norm"]["__call__"][0].shape == (1, 28, 28, 64)
    assert maps["stage2_unit2"]["__call__"][0].shape == (1, 14, 14, 512)
    assert out.shape == (1, 10)


def test_float64_stays_float64_forward_and_backward(x64):
    check_float64_stays(models.create("resnet50", num_classes=10, dropout_rate=0.1, **_SMALL))


def test_bfloat16_computes_so_and_keeps_the_rest_float32():
    model = models.create("resnet50", num_classes=10, dtype=jnp.bfloat16, **_SMALL)
    maps, out = maps_of(model, 32)
    assert maps["stem_norm"]["__call__"][0].dtype == maps["stage2_unit2"]["__call__"][0].dtype == jnp.bfloat16
    variables = abstract_variables(model, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32), train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} | {out.dtype} == {jnp.dtype("float32")}


def test_initial_values_are_torchvisions():
    one_stage = {"stage_sizes": (1,), "stage_features": (64,), "groups": 8, "base_width": 8}
    model = models.create("resnext50_32x4d", num_classes=100, stem="small", **one_stage)
    zeroed = model.clone(zero_init_residual=True)
    x = jnp.zeros((1, 8, 8, 3))
    init = quick_jit(lambda: [net.init(jax.random.key(0), x, train=False)["params"] for net in (model, zeroed)])
    params, zeroed_params = jax.device_get(init())
    for kernel, fan_out in [
        (params["stem_conv"]["kernel"], 9 * 64),
        (params["stage1_unit1"]["conv2"]["kernel"], 9 * 64),
        (params["stage1_unit1"]["conv3"]["kernel"], 256),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=4 / np.sqrt(2 * kernel.size))
    limit = 1 / np.sqrt(256)
    for values in params["classifier"].values():
        assert -limit <= values.min() < -0.9 * limit and 0.9 * limit < values.max() <= limit
    for name, layer in params["stage1_unit1"].items():
        if "norm" in name:
            assert (layer["scale"] == 1).all() and not layer["bias"].any()
            assert (zeroed_params["stage1_unit1"][name]["scale"] == (name != "norm3")).all()


def test_the_activation_follows_the_addition():
    """Two inside a unit, and one on the sum."""
    calls = []
    model = models.create("resnet50", act=lambda x: calls.append(x.shape[-1]) or x, num_classes=10, **_SMALL)
    maps_of(model, 32)
    stem, stages = [64], [64, 64, 256, 128, 128, 512, 128, 128, 512]
    init_and_apply = 2
    assert calls == (stem + stages) * init_and_apply


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    check_examples_reach_norms_and_dropout(
        models.create("resnet50", num_classes=10, stem="small", dropout_rate=0.5, stage_sizes=(), stage_features=())
    )


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "ResNet: stem: unknown name 'tiny'; one of imagenet, small"),
        ({"stage_sizes": (3, 4)}, r"ResNet: stage_features=\(64, 128, 256, 512\) must be one for each of stage_sizes="),
        ({"groups": 0}, "ResNet: base_width=64 and groups=0 must leave a channel a group at stage_features=64"),
        ({"base_width": 0}, "ResNet: base_width=0 and groups=1 must leave a channel a group at stage_features=64"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("resnet50", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)


def test_integer_images_are_refused():
    model = models.create("resnet50")
    with pytest.raises(ValueError, match=r"^ResNet: x must be floating point, not uint8; convert"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8), train=False))
