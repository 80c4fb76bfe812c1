"""ShiftNet: the published table and sizes, what a group's first unit keeps, and initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models
from arch.efficiency.complexity import count
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, maps_of

_SMALL = {
    "stage_sizes": (1, 2),
    "stage_features": (16, 24),
    "stage_kernel_sizes": (3, 3),
    "expand_ratios": ((2, 1), (2, 1)),
    "stem_features": 8,
}


def test_the_groups_are_those_of_the_papers_table():
    """Kernels 5, 5, 3, 3; expansion 4, 4, 3, 2 of the first units, 4, 3, 2, 1 of the others; what the first learns."""
    maps, out = maps_of(models.create("shiftnet_a"), 224)
    rows = [(5, 64, 4, 4), (6, 128, 4, 3), (7, 256, 3, 2), (3, 512, 2, 1)]
    channels = 32
    for stage, (units, features, first, others) in enumerate(rows, start=1):
        size = 112 // 2**stage
        assert maps[f"stage{stage}_unit1"]["conv1"]["__call__"][0].shape[-1] == first * (features - channels)
        assert maps[f"stage{stage}_unit{units}"]["conv1"]["__call__"][0].shape == (1, size, size, others * features)
        assert f"stage{stage}_unit{units + 1}" not in maps
        channels = features
    assert models.create("shiftnet_a").stage_kernel_sizes == (5, 5, 3, 3)
    assert out.shape == (1, 1000)


def test_published_costs():
    """B: 371 million multiply-adds; C: 0.78 million parameters, where its first units have no shortcut."""
    assert round(count(models.create("shiftnet_b"), train=False).macs / 1e6) == 371
    plain, concatenated = models.create("shiftnet_c"), models.create("shiftnet_c", concatenate=True)
    assert round(count(plain, train=False).params / 1e6, 2) == 0.78
    assert round(count(concatenated, train=False).params / 1e6, 2) == 0.69


def test_a_kernel_size_is_how_far_channels_move():
    """A pixel reaches the corners of 5x5 taps, and not beyond."""
    fields = {"stage_sizes": (1,), "stage_features": (33,), "expand_ratios": ((1, 1),), "features_only": True}
    model = models.create("shiftnet_a", **fields, stage_kernel_sizes=(5,), stem_features=8, stem="small")
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    variables = quick_jit(lambda: model.init(jax.random.key(1), x, train=False))()
    pixel = quick_jit(jax.grad(lambda x: jnp.sum(model.apply(variables, x, train=False)[2][0, 4, 4, :25] ** 2)))(x)
    rows = np.flatnonzero(np.abs(pixel[0]).sum((1, 2)))
    # At stride 2 row 4 is row 8 of the image; the stem sees one more on each side.
    np.testing.assert_array_equal(rows, np.arange(8 - 2 - 1, 8 + 2 + 2))


def test_channels_are_given_to_taps_in_turn_or_in_groups():
    model = models.create("shiftnet_a", **_SMALL, stem="small", num_classes=10)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = quick_jit(lambda: model.init(jax.random.key(1), x, train=False))()
    in_groups, in_turn = (
        quick_jit(lambda x, net=net: net.apply(variables, x, train=False))(x)
        for net in (model, model.clone(assignment="modulo"))
    )
    assert np.abs(in_turn - in_groups).max() > 1e-3


def test_activations_precede_the_convolutions_but_the_stems():
    """And the last one follows the last group."""
    calls = []
    maps_of(models.create("shiftnet_a", **_SMALL, act=lambda x: calls.append(x.shape[-1]) or x), 32)
    init_and_apply = 2
    assert calls == [8, 16, 16, 16, 24, 24, 24] * init_and_apply


def test_initial_values():
    model = models.create("shiftnet_a", **{**_SMALL, "stage_features": (64, 128)}, stem="small", num_classes=100)
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for kernel, fan_out in [
        (params["stage1_unit1"]["conv1"]["kernel"], 2 * 56),
        (params["stage2_unit2"]["conv2"]["kernel"], 128),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=4 / np.sqrt(2 * kernel.size))
    limit, weights = 1 / np.sqrt(128), params["classifier"]["kernel"]
    assert -limit <= weights.min() < -0.9 * limit and 0.9 * limit < weights.max() <= limit


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    no_stages = dict.fromkeys(("stage_sizes", "stage_features", "stage_kernel_sizes", "expand_ratios"), ())
    check_examples_reach_norms_and_dropout(
        models.create("shiftnet_a", num_classes=10, stem="small", dropout_rate=0.5, **no_stages)
    )


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "ShiftNet: stem: unknown name 'tiny'; one of imagenet, small"),
        (
            {"stage_sizes": (5, 6)},
            r"ShiftNet: stage_features=\(64, 128, 256, 512\) must be one for each of stage_sizes=\(5, 6\)",
        ),
        ({"stem_features": 64}, "ShiftUnit: features=64 must exceed channels=64, which are kept"),
        ({"assignment": "paper"}, "spatial_shift: assignment: unknown name 'paper'; one of contiguous, modulo"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("shiftnet_a", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    assert "\n" not in str(error.value)
