"""Xception against timm's network, recorded in tests/goldens, and what may lie inside its separable convolutions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models
from arch.efficiency.complexity import count
from arch.ops.conv import Conv
from arch.weights.names import xception as names
from tests.compiling import quick_jit
from tests.models.checks import check_eval_parity, check_examples_reach_norms_and_dropout, maps_of

_SMALL = {"entry_features": (16, 24), "num_middle_blocks": 1, "exit_features": (32, 40, 48)}


@pytest.mark.parametrize("net", ["small", pytest.param("whole", marks=pytest.mark.slow)])
def test_parity_with_timm(x64, net):
    if net == "small":
        check_eval_parity(models.create("xception", num_classes=10, **_SMALL), "xception.npz", net, 39, names.timm)
    else:
        # By JAX's own convolutions: few programs, where 35 widths of depthwise ones would be compiled.
        model = models.create("xception", num_classes=10, conv=functools.partial(Conv, implementation="reference"))
        check_eval_parity(model, "xception.npz", net, 71, names.timm, jit=jax.jit)


def test_the_flows_are_those_of_the_papers_figure():
    """Figure 5, at 299 pixels: the first convolution of the exit flow keeps 728 channels."""
    maps, out = maps_of(models.create("xception"), 299)
    assert maps["stem_conv"]["__call__"][0].shape == (1, 149, 149, 32)
    assert maps["stem_conv2"]["__call__"][0].shape == (1, 147, 147, 64)
    for block, size, widths in [
        *(("entry1", 147, (128, 128)), ("entry2", 74, (256, 256)), ("entry3", 37, (728, 728))),
        *((f"middle{number}", 19, (728, 728, 728)) for number in range(1, 9)),
        ("exit1", 19, (728, 1024)),
    ]:
        for number, features in enumerate(widths, start=1):
            assert maps[block][f"separable{number}"]["__call__"][0].shape == (1, size, size, features), block
        assert f"separable{len(widths) + 1}" not in maps[block]
        assert ("shortcut_conv" in maps[block]) == ("middle" not in block)
    assert maps["exit2"]["__call__"][0].shape == (1, 10, 10, 1536)
    assert maps["exit3"]["__call__"][0].shape == (1, 10, 10, 2048)
    assert out.shape == (1, 1000)


def test_what_lies_between_depthwise_and_pointwise():
    """Two scalars a channel of each depthwise convolution for a norm, a call for an activation, and no MACs."""
    fields = {"stem_features": 4, "more_stem_features": (6,), "entry_features": (8,), "num_middle_blocks": 1}
    # Of each separable convolution the channels of the activation before it, if any, and of its depthwise half.
    convolutions = [(None, 6), (8, 8), *[(8, 8)] * 3, (8, 8), (8, 8), (None, 12)]
    costs = {}
    for norm_between, act_between in itertools.product((False, True), repeat=2):
        calls = []
        model = models.create(
            "xception",
            act=lambda x: calls.append(x.shape[-1]) or x,  # noqa: B023
            norm_between=norm_between,
            act_between=act_between,
            exit_features=(12, 16),
            **fields,
        )
        maps_of(model, 35)
        before, between = zip(*convolutions, strict=True)
        inside = zip(before, between if act_between else (None,) * len(between), strict=True)
        expected = [4, 6, *(features for pair in inside for features in pair if features), 16]
        init_and_apply = 2
        assert calls == expected * init_and_apply
        costs[norm_between, act_between] = cost = count(model, (1, 35, 35, 3), train=False)
        added = 2 * sum(between) if norm_between else 0
        assert cost.params - costs[False, False].params == added
        assert cost.batch_stats - costs[False, False].batch_stats == added
        assert cost.macs == costs[False, False].macs


def test_small_stems_pad():
    for stem, size in (("small", 28), ("stride2", 14)):
        maps, out = maps_of(models.create("xception", stem=stem, num_classes=10, **_SMALL), 28)
        assert maps["stem_norm2"]["__call__"][0].shape == (1, size, size, 64)
        assert out.shape == (1, 10)


def test_initial_values():
    model = models.create(
        "xception", num_classes=100, stem="small", entry_features=(32,), num_middle_blocks=0, exit_features=(64,)
    )
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for kernel, variance in [
        (params["stem_conv2"]["kernel"], 2 / (9 * 64)),
        (params["entry1"]["separable1"]["depthwise"]["kernel"], 2 / (9 * 64)),
        (params["exit1"]["shortcut_conv"]["kernel"], 2 / 64),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(variance), rtol=4 / np.sqrt(2 * kernel.size))
    classifier = params["classifier"]
    np.testing.assert_allclose(classifier["kernel"].std(), 0.01, rtol=4 / np.sqrt(2 * classifier["kernel"].size))
    assert not classifier["bias"].any()


def test_examples_reach_norms_and_dropout():
    assert models.create("xception").dropout_rate == 0.5
    check_examples_reach_norms_and_dropout(
        models.create(
            "xception", num_classes=10, stem="small", entry_features=(8,), num_middle_blocks=0, exit_features=(12,)
        )
    )


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "Xception: stem: unknown name 'tiny'; one of imagenet, small"),
        (
            {"entry_features": ()},
            r"Xception: entry_features=\(\) and exit_features=\(1024, 1536, 2048\) must have a blo",
        ),
        ({"exit_features": ()}, r"Xception: entry_features=\(128, 256, 728\) and exit_features=\(\) must have a block"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("xception", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 35, 35, 3)), train=False))
    assert "\n" not in str(error.value)


def test_images_that_leave_no_pixel_are_refused():
    model = models.create("xception")
    with pytest.raises(ValueError, match=r"^global_avg_pool: x=\[1, 0, 0, 2048\] must have a pixel; give a"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), train=False))
