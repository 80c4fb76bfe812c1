"""ShuffleNet v2+ against the authors' network, recorded in tests/goldens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import models, norm
from arch.efficiency.complexity import count
from arch.models.classification.shufflenet_v2_plus import ShuffleNetV2Plus
from arch.ops.conv import Conv
from arch.weights.names import shufflenet_v2_plus as names
from tests.compiling import quick_jit
from tests.models.checks import check_eval_parity, check_examples_reach_norms_and_dropout, check_parity, maps_of

_SMALL = {"stage_sizes": (2, 1, 2, 2), "units": ("3x3", "xception", "5x5", "7x7", "3x3", "7x7", "xception")}


@pytest.mark.slow
def test_parity_with_the_authors_code_in_training(x64):
    """Logits, updated running statistics and the gradient of every parameter, from the same weights, in float64."""
    model = models.create(
        "shufflenet_v2_plus_small",
        num_classes=10,
        dropout_rate=0.0,
        norm=norm.create("batch_norm", unbiased_running_variance=True),
        **_SMALL,
    )
    check_parity(model, "shufflenet_v2_plus.npz", "small", 64, names.megvii)


@pytest.mark.slow
def test_parity_with_the_authors_code(x64):
    # By JAX's own convolutions: as many programs as widths take long to compile.
    conv = functools.partial(Conv, implementation="reference")
    model = models.create("shufflenet_v2_plus_small", num_classes=10, conv=conv)
    check_eval_parity(model, "shufflenet_v2_plus.npz", "whole", 64, names.megvii, jit=jax.jit)


def test_the_activations_are_the_authors():
    """ReLU in the first stage and inside the gates, h-swish elsewhere, gates from an h-sigmoid."""
    model = models.create("shufflenet_v2_plus_small")
    x = jnp.array([-4.0, -1.0, 1.0, 4.0])
    np.testing.assert_allclose(model.act(x), [0.0, -1 / 3, 2 / 3, 4.0], rtol=1e-6)
    np.testing.assert_allclose(model.gate_act(x), [0.0, 1 / 3, 2 / 3, 1.0], rtol=1e-6)
    assert model._resolve_early_act() is nn.relu
    assert model.clone(act=nn.swish)._resolve_early_act() is nn.swish
    early, late = [], []
    model = model.clone(
        **_SMALL, act=lambda x: late.append(x.shape) or x, early_act=lambda x: early.append(x.shape) or x
    )
    maps_of(model, 64)
    init_and_apply = 2
    # Channels: a shortcut, a bottleneck's two and the three of a branch of three; of the gates a quarter.
    assert [shape[-1] for shape in early] == [16, 18, 20, 18, 18, 18, 26, 26, 52, 52, 320] * init_and_apply
    assert [shape[-1] for shape in late] == [
        *(16, 36, 52, 68, 104, 104, 104, 104, 104),
        *(208, 208, 208, 208, 208, 208, 1280, 1280),
    ] * init_and_apply


def test_gates_and_units_are_where_the_authors_have_them():
    """Each unit by the taps of its depthwise convolutions, a gate in the last two stages and before the classifier."""
    maps, out = maps_of(models.create("shufflenet_v2_plus_large"), 224)
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(lambda x: ShuffleNetV2Plus().init(jax.random.key(0), x, train=False), x)["params"]
    taps = {}
    for stage, size in enumerate((4, 4, 8, 4), start=1):
        for number in range(1, size + 1):
            unit = params[f"stage{stage}_unit{number}"]
            assert ("branch_gate" in unit) == (stage > 2)
            assert ("shortcut_depthwise" in unit) == (number == 1)
            layers = [layer for layer in unit if "branch_depthwise" in layer and "norm" not in layer]
            taps.setdefault(stage, []).append((len(layers), unit[layers[0]]["kernel"].shape[0]))
    one, three = {size: (1, size) for size in (3, 5, 7)}, (3, 3)
    assert taps == {
        1: [one[3], one[3], three, one[5]],
        2: [one[5], one[5], one[3], one[3]],
        3: [one[7], one[3], one[7], one[5], one[5], one[3], one[7], one[3]],
        4: [one[7], one[5], three, one[7]],
    }
    assert set(params["head_gate"]) == {"fc1", "norm1", "fc2"}
    assert maps["head_dense"]["__call__"][0].shape == (1, 1, 1, 1280)
    assert out.shape == (1, 1000)


def test_gates_and_bias_are_fields():
    plain = count(models.create("shufflenet_v2_plus_small"), train=False)
    biased = count(models.create("shufflenet_v2_plus_small", classifier_bias=True), train=False)
    assert biased.params == plain.params + 1000
    reduced = count(models.create("shufflenet_v2_plus_small", se_reduction=8), train=False)
    # Halved: the hidden features of the gates on 172 and 104 channels of stage 3, 208 of stage 4, and 1280, each with
    # two kernels and a norm. The gate of the unit with a stride sees what its shortcut leaves.
    gates = [104, *[104] * 7, 208, *[208] * 3, 1280]
    assert plain.params - reduced.params == sum((c // 4 - c // 8) * (2 * c + 2) for c in gates)
    ungated = count(models.create("shufflenet_v2_plus_small", stage_gates=(False,) * 4), train=False)
    assert plain.params - ungated.params == sum(c // 4 * (2 * c + 2) for c in gates[:-1])


def test_initial_values():
    model = models.create(
        "shufflenet_v2_plus_small",
        num_classes=100,
        stem="small",
        stage_sizes=(1,),
        stage_features=(64,),
        units=("5x5",),
        stage_gates=(True,),
        head_features=128,
    )
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for kernel, variance in [
        (params["stem_conv"]["kernel"], 1 / (3 * 27)),
        (params["stage1_unit1"]["branch_depthwise"]["kernel"], 1 / (3 * 25)),
        (params["stage1_unit1"]["branch_gate"]["fc2"]["kernel"], 1 / (3 * 12)),
        (params["head_dense"]["kernel"], 1e-4),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(variance), rtol=4 / np.sqrt(2 * kernel.size))
    classifier = params["classifier"]
    np.testing.assert_allclose(classifier["kernel"].std(), 0.01, rtol=4 / np.sqrt(2 * classifier["kernel"].size))


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    assert models.create("shufflenet_v2_plus_small").dropout_rate == 0.2
    no_stages = dict.fromkeys(("stage_sizes", "stage_features", "stage_gates", "units"), ())
    check_examples_reach_norms_and_dropout(
        ShuffleNetV2Plus(num_classes=10, stem="small", dropout_rate=0.5, head_features=32, **no_stages)
    )


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "ShuffleNetV2Plus: stem: unknown name 'tiny'; one of imagenet, small"),
        ({"units": ("9x9",) * 20}, "ShuffleNetV2Plus: units: unknown name '9x9'; "),
        (
            {"units": ("3x3",) * 4},
            r"ShuffleNetV2Plus: units, 4, must be one for each unit of stage_sizes=\(4, 4, 8, 4\)",
        ),
        ({"stage_gates": (True,)}, r"ShuffleNetV2Plus: stage_gates=\(True,\) must be one for each of stage_sizes="),
        ({"stage_features": (36,)}, r"ShuffleNetV2Plus: stage_features=\(36,\) must be one for each of stage_sizes="),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("shufflenet_v2_plus_small", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    assert "\n" not in str(error.value)
