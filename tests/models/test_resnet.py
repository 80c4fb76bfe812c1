"""ResNet and ResNeXt against torchvision's networks, recorded in tests/goldens, and what their fields say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import models, norm
from arch.attention.channel import SqueezeExcite
from arch.efficiency.complexity import abstract_variables, count
from arch.ops.conv import Conv
from arch.ops.deformable import DeformConv
from arch.weights.names import resnet as names
from tests.compiling import quick_jit
from tests.models.checks import (
    check_eval_parity,
    check_examples_reach_norms_and_dropout,
    check_float64_stays,
    check_parity,
    maps_of,
    random_variables,
)

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


@pytest.mark.parametrize("net", ["basic", "dilated"])
def test_parity_with_torchvision_of_two_stages(x64, net):
    """Basic units, and a second stage that has a dilation for its stride, as networks for segmentation have it."""
    fields = {"stage_sizes": (1, 2), "stage_features": (64, 128), "num_classes": 10}
    if net == "dilated":
        # torchvision's first unit keeps the dilation of the stage before.
        dilated = {"stage_strides": (1, 1), "stage_dilations": (1, 2)}
        fields |= {**dilated, "unit_fields": {"stage2_unit1": {"kernel_dilation": 1}}}
    batch_norm = norm.create("batch_norm", unbiased_running_variance=True)
    model = models.create("resnet18" if net == "basic" else "resnet50", norm=batch_norm, **fields)
    check_parity(model, "resnet18.npz", net, 32, names.torchvision)


@pytest.mark.slow
def test_parity_of_resnet18_with_torchvision(x64):
    check_eval_parity(models.create("resnet18", num_classes=10), "resnet18.npz", "resnet18", 64, names.torchvision)


@pytest.mark.parametrize(
    "name,params,batch_stats,conv_macs,macs",
    [
        ("resnet50", 25_557_032, 53_120, 4_087_136_256, 4_089_184_256),
        ("resnext50_32x4d", 25_028_904, 68_224, 4_228_431_872, 4_230_479_872),
    ],
)
def test_counts(name, params, batch_stats, conv_macs, macs):
    """At 224 pixels and 1000 classes, measured on torchvision 0.29.1."""
    cost = count(models.create(name), train=False)
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


def test_the_stride_of_the_first_version_lies_on_the_first_convolution():
    """And that of torchvision's on the second; both on the shortcut."""
    small = {"stage_sizes": (1, 1), "stage_features": (64, 128)}
    for name, expected in (("resnet50_v1", 28), ("resnet50", 56)):
        unit = maps_of(models.create(name, **small), 224)[0]["stage2_unit1"]
        assert [unit[layer]["__call__"][0].shape[1] for layer in ("conv1", "conv2", "shortcut_conv")] == [
            expected,
            28,
            28,
        ], name


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_the_networks_for_cifar_are_as_deep_as_they_are_called(depth):
    """6n + 2 layers; without a parameter on the shortcuts."""
    variables = abstract_variables(models.create(f"cifar_resnet{depth}"), jnp.zeros((1, 32, 32, 3)), train=False)
    kernels = [name for name, layer in _layers(variables["params"]).items() if "kernel" in layer]
    assert len(kernels) == depth
    assert not [name for name in kernels if "shortcut" in name]


def _layers(params, prefix=""):
    """Every module that has parameters of its own, by its path."""
    found = {}
    for name, value in params.items():
        if any(hasattr(leaf, "shape") for leaf in value.values()):
            found[prefix + name] = value
        else:
            found |= _layers(value, f"{prefix}{name}/")
    return found


def test_a_plain_network_is_the_residual_one_without_its_projections():
    """Section 4.1 of ResNet; those are of 1x1, with a scale and a bias."""
    residual, plain = (
        count(models.create("resnet34", shortcut=shortcut), train=False) for shortcut in ("projection", "none")
    )
    changes = ((64, 128, 28), (128, 256, 14), (256, 512, 7))
    assert residual.params - plain.params == sum(before * after + 2 * after for before, after, _ in changes)
    assert residual.conv_macs - plain.conv_macs == sum(before * after * size**2 for before, after, size in changes)


def test_stage_strides_and_dilations_are_taken():
    """The trunk of networks for segmentation, and one whose last stage alone keeps the size."""
    x = jnp.zeros((1, 64, 64, 3))
    for fields, expected in (
        ({"stage_strides": (1, 2, 2, 1)}, {4: (16, 256), 8: (8, 512), 16: (4, 2048)}),
        ({"stage_strides": (1, 2, 1, 1), "stage_dilations": (1, 1, 2, 4)}, {4: (16, 256), 8: (8, 2048)}),
    ):
        model = models.create("resnet50", features_only=True, **fields)
        maps = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x, train=False)[0])  # noqa: B023
        assert {stride: leaf.shape for stride, leaf in maps.items()} == {
            stride: (1, size, size, channels) for stride, (size, channels) in expected.items()
        }


def test_groups_may_differ_from_stage_to_stage():
    """They share the stage's features, unless base_width says how many each has."""
    model = models.create("resnet50", stage_sizes=(1, 1), stage_features=(64, 128), groups=(4, 2))
    kernels = {}
    for name, net in {"shared": model, "of four": model.clone(base_width=4)}.items():
        params = abstract_variables(net, jnp.zeros((1, 32, 32, 3)), train=False)["params"]
        kernels[name] = [params[f"stage{stage}_unit1"]["conv2"]["kernel"].shape for stage in (1, 2)]
    assert kernels["shared"] == [(3, 3, 16, 64), (3, 3, 64, 128)]
    assert kernels["of four"] == [(3, 3, 4, 16), (3, 3, 8, 16)]


class _Sum(nn.Module):
    """Adds one to what it is given."""

    @nn.compact
    def __call__(self, x):
        return x + 1.0


def test_fields_of_single_units(x64):
    """A deformable convolution whose offsets are zero is a convolution; a context and a gate act where they are set."""
    small = {"stage_sizes": (1, 1), "stage_features": (8, 8), "stem_features": 16, "stem": "small"}
    plain = models.create("resnet50", features_only=True, **small)
    deformed = plain.clone(unit_fields={"stage2_unit1": {"spatial_conv": DeformConv}})
    with_context = plain.clone(unit_fields={"stage2_unit1": {"context": lambda conv, norm, name: _Sum(name=name)}})
    gated = plain.clone(gate=SqueezeExcite)
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3))
    variables = random_variables(plain, x)
    gate_variables = random_variables(gated, x)
    assert hash(deformed) != hash(plain)

    own = abstract_variables(deformed, jnp.asarray(x), train=False)["params"]
    offset = jax.tree.map(lambda leaf: np.zeros(leaf.shape), own["stage2_unit1"]["conv2"]["offset"])
    unit = variables["params"]["stage2_unit1"]
    deformed_unit = {**unit, "conv2": {**unit["conv2"], "offset": offset}}
    deformed_variables = {**variables, "params": {**variables["params"], "stage2_unit1": deformed_unit}}

    @quick_jit
    def run():
        return (
            plain.apply(variables, x, train=False),
            deformed.apply(deformed_variables, x, train=False),
            with_context.apply(variables, x, train=False),
        )

    expected, same, moved = jax.device_get(run())
    for stride in (1, 2):
        np.testing.assert_allclose(same[stride], expected[stride], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(moved[stride], expected[stride] + (stride == 2), rtol=1e-12)
    assert {name for name in gate_variables["params"] if "gate" in gate_variables["params"][name]} == {
        "stage1_unit1",
        "stage2_unit1",
    }
    assert {leaf.dtype for leaf in jax.tree.leaves(own)} == {jnp.dtype("float64")}


def test_split_transform_sum_is_concatenation_is_a_convolution_in_groups(x64):
    """Figure 3 of ResNeXt, (a), (b) and (c), for the same parameters."""
    groups, width = 4, 3
    model = models.create(
        "resnext50_32x4d",
        features_only=True,
        stage_sizes=(1,),
        stage_features=(16,),
        groups=groups,
        base_width=4 * width,
        stem_features=64,
        stem="small",
    )
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3))
    variables = random_variables(model, x)
    unit, stats = (variables[kind]["stage1_unit1"] for kind in ("params", "batch_stats"))

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def normalized(x, name, path=slice(None)):
        scale, bias = (unit[name][key][path] for key in ("scale", "bias"))
        mean, var = (stats[name][key][path] for key in ("mean", "var"))
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def transformed(x, group):
        path = slice(group * width, (group + 1) * width)
        x = nn.relu(normalized(conv(x, unit["conv1"]["kernel"][..., path]), "norm1", path))
        return nn.relu(normalized(conv(x, unit["conv2"]["kernel"][..., path]), "norm2", path)), path

    @quick_jit
    def run():
        stem = model.clone(stage_sizes=(), stage_features=()).apply(variables, x, train=False)[1]
        paths = [transformed(stem, group) for group in range(groups)]
        summed = sum(conv(path, unit["conv3"]["kernel"][:, :, channels]) for path, channels in paths)
        joined = conv(jnp.concatenate([path for path, _ in paths], -1), unit["conv3"]["kernel"])
        other = sum(
            conv(path, unit["conv3"]["kernel"][:, :, channels])
            for (path, _), (_, channels) in zip(paths, paths[::-1], strict=True)
        )
        outs = [nn.relu(normalized(out, "norm3") + stem) for out in (summed, joined, other)]
        return model.apply(variables, x, train=False)[1], *outs

    grouped, summed, joined, other = jax.device_get(run())
    np.testing.assert_allclose(summed, grouped, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(joined, grouped, rtol=1e-10, atol=1e-12)
    assert np.abs(other - grouped).max() > 0.1


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
        ({"groups": 0}, "ResNet: base_width=None and groups=0 must leave a channel a group at stage_features=64"),
        ({"base_width": 0}, "ResNet: base_width=0 and groups=1 must leave a channel a group at stage_features=64"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
        ({"unit": "bottlenek"}, "ResNet: unit: unknown name 'bottlenek'; did you mean 'bottleneck'"),
        ({"stride_at": "third"}, "ResNet: stride_at: unknown name 'third'; one of first, second"),
        ({"unit": "basic", "stride_at": "frist"}, "ResNet: stride_at: unknown name 'frist'; did you mean 'first'"),
        ({"stage_sizes": (3, 4, 0, 3)}, r"ResNet: stage_sizes=\(3, 4, 0, 3\) must be at least 1 each; leave out stag"),
        ({"stage_strides": 2}, "ResNet: stage_strides=2 must be a sequence, one value a stage; give a tuple"),
        ({"shortcut": "identity"}, "BottleneckUnit: shortcut: unknown name 'identity'; one of none, projection"),
        ({"shortcut": "zero_pad", "stage_features": (8,) * 4}, "zero_pad_shortcut: features=32 must be at least chan"),
        ({"stage_strides": (1, 2)}, r"ResNet: stage_strides=\(1, 2\) must be one for each of stage_sizes="),
        ({"stage_dilations": (1, 2)}, r"ResNet: stage_dilations=\(1, 2\) must be one for each of stage_sizes="),
        ({"groups": (1, 2)}, r"ResNet: groups=\(1, 2\) must be one for each of stage_sizes="),
        ({"unit": "basic", "groups": 2}, "ResNet: groups=2 and base_width=None must be left out with unit='basic'"),
        ({"unit_fields": {"stage1_unit4": {}}}, "ResNet: unit_fields: unknown name 'stage1_unit4'; did you mean"),
        (
            {"unit_fields": {"stage1_unit1": {"dilation": 2}}},
            "ResNet: unit_fields of stage1_unit1: unknown name 'dilation'; did you mean 'kernel_dilation'",
        ),
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
