"""GUNN: a small network against a loop, the order of its updates, where maps are averaged, and initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import models
from arch.efficiency.complexity import count
from arch.ops import gradually_updated
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, maps_of
from tests.ops.numpy_conv import convolve

_SMALL = {"stage_sizes": (1, 1), "stage_features": (4, 6), "stage_segments": (2, 3), "stem_features": 4}
_SMALL |= {"stem": "small", "num_classes": 5}


class _Affine(nn.Module):
    """A norm that is told from none and from an activation: x * 2 - 0.1."""

    dtype: jnp.dtype = None
    param_dtype: jnp.dtype = None

    def __call__(self, x, *, train, examples=None):
        return x * 2 - 0.1


def _network_loop(params, x, conv_first, projection, *, parallel=False):
    """The network in float64 NumPy; the act is tanh, the norm that of `_Affine`."""

    def layer(x, name):
        return convolve(x, params[name]["kernel"]) * 2 - 0.1

    def mean2x2(x):
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4

    x = np.tanh(layer(x, "stem_conv"))
    for stage, segments in ((1, 2), (2, 3)):
        x = x if conv_first or stage == 1 else mean2x2(x)
        x = np.tanh(layer(x, f"stage{stage}_conv"))
        x = mean2x2(x) if conv_first and stage == 2 else x
        kernels, width, old = params[f"stage{stage}_layer1"], x.shape[-1] // segments, x
        for i in range(segments):
            name, seen = f"segment{i + 1}", old if parallel else x
            change = np.tanh(convolve(seen, kernels[f"{name}_reduce"]["kernel"]) * 2 - 0.1)
            change = np.tanh(convolve(change, kernels[f"{name}_conv"]["kernel"]) * 2 - 0.1)
            change = convolve(change, kernels[f"{name}_expand"]["kernel"]) * 2 - 0.1
            if projection:
                change = change + convolve(seen, kernels[f"{name}_projection"]["kernel"]) * 2 - 0.1
            x = x.copy()
            x[..., i * width : (i + 1) * width] += change
    if "head_conv" in params:
        x = np.tanh(layer(x, "head_conv"))
    return x.mean((1, 2)) @ params["classifier"]["kernel"] + params["classifier"]["bias"]


@pytest.mark.parametrize("name,head", [("gunn_15", 8), ("gunn_18", None)])
def test_network_against_a_loop_in_which_the_order_of_updates_matters(x64, name, head):
    """Computed side by side, from the old channels, it is another network with the same parameters."""
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 4, 4, 3))
    model = models.create(name, **_SMALL, head_features=head, norm=_Affine, act=jnp.tanh)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))["params"]
    params = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape), shapes)
    actual = quick_jit(lambda params, x: model.apply({"params": params}, x, train=False))(params, x)
    is_15 = name == "gunn_15"
    expected = _network_loop(params, x, conv_first=is_15, projection=is_15)
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)
    parallel = _network_loop(params, x, conv_first=is_15, projection=is_15, parallel=True)
    assert np.abs(parallel - expected).max() > 0.1


def test_the_last_segment_sees_the_first_ones_update(monkeypatch):
    """By gradients: of what the first update changes something reaches the last one's, and nothing side by side."""
    model = models.create("gunn_18", **{**_SMALL, "stage_sizes": (1,), "stage_features": (4,), "stage_segments": (2,)})
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 3))
    variables = quick_jit(lambda: model.init(jax.random.key(1), x, train=False))()

    def reaches():
        def last_segment(params):
            maps = model.clone(features_only=True).apply({**variables, "params": params}, x, train=False)
            return jnp.sum(maps[1][..., 2:] ** 2)

        grads = quick_jit(jax.grad(last_segment))(variables["params"])
        return np.abs(grads["stage1_layer1"]["segment1_expand"]["kernel"]).max() > 0

    assert reaches()
    sequential = gradually_updated.gradually_update

    def side_by_side(x, updates):
        changes = [update(x) for update in updates]
        return sequential(x, [lambda _, change=change: change for change in changes])

    monkeypatch.setattr(gradually_updated, "gradually_update", side_by_side)
    assert not reaches()


def test_maps_are_averaged_behind_the_convolution_in_one_and_before_it_in_the_other():
    maps, _ = maps_of(models.create("gunn_15"), 32)
    assert maps["stage2_conv"]["__call__"][0].shape == (1, 32, 32, 300)
    assert maps["stage3_conv"]["__call__"][0].shape == (1, 16, 16, 360)
    assert maps["head_conv"]["__call__"][0].shape == (1, 8, 8, 360)
    maps, _ = maps_of(models.create("gunn_18"), 64)
    assert maps["stage2_conv"]["__call__"][0].shape == (1, 8, 8, 800)
    assert maps["stage4_conv"]["__call__"][0].shape == (1, 2, 2, 2000)
    assert "head_conv" not in maps


def test_a_wider_network_for_cifar_has_the_counted_size():
    """720, 900, 1080 channels in 20, 25, 30 segments: 14.06 million parameters; GUNN-24 is published with 29.6."""
    wide = {"stage_features": (720, 900, 1080), "head_features": 1080}
    cost = count(models.create("gunn_15", num_classes=10, **wide), (1, 32, 32, 3), train=False)
    assert round(cost.params / 1e6, 2) == 14.06


def test_a_stage_may_have_two_layers():
    """As the name GUNN-24 implies."""
    maps, _ = maps_of(models.create("gunn_15", **{**_SMALL, "stage_sizes": (2, 2), "head_features": 8}), 8)
    assert maps["stage1_layer2"]["__call__"][0].shape == (1, 8, 8, 4)
    assert maps["stage2_layer2"]["__call__"][0].shape == (1, 4, 4, 6)


def test_initial_values_are_the_authors():
    wide = {"stage_features": (64, 64), "stage_segments": (2, 2), "num_classes": 100}
    model = models.create("gunn_15", **{**_SMALL, **wide}, head_features=64)
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for kernel, fan_out in [
        (params["stage2_conv"]["kernel"], 64),
        (params["stage1_layer1"]["segment1_conv"]["kernel"], 9 * 64),
        (params["stage1_layer1"]["segment2_projection"]["kernel"], 32),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=4 / np.sqrt(2 * kernel.size))
    limit, weights = 1 / np.sqrt(64), params["classifier"]["kernel"]
    assert -limit <= weights.min() < -0.9 * limit and 0.9 * limit < weights.max() <= limit
    assert not params["classifier"]["bias"].any()


def test_examples_reach_norms_and_dropout():
    """On the stem and the head alone."""
    no_stages = {"stage_sizes": (), "stage_features": (), "stage_segments": ()}
    check_examples_reach_norms_and_dropout(
        models.create("gunn_18", num_classes=10, stem="small", dropout_rate=0.5, head_features=32, **no_stages)
    )


def test_images_that_are_too_small_are_refused():
    model = models.create("gunn_18")
    with pytest.raises(ValueError, match=r"^GUNN: a map of 1x1 pixels must have 2x2 to be halved; take larger images"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False))


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "GUNN: stem: unknown name 'tiny'; one of imagenet, small"),
        ({"transition": "pool"}, "GUNN: transition: unknown name 'pool'; did you mean 'pool_first'"),
        (
            {"stage_sizes": (1, 1)},
            r"GUNN: stage_features=\(400, 800, 1600, 2000\) must be one for each of stage_sizes=",
        ),
        ({"stage_segments": (10, 20, 40, 60)}, "GraduallyUpdated: num_segments=60 must divide channels=2000"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("gunn_18", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)
