"""VGG against torchvision's network, recorded in tests/goldens, and table 1 of the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models, norm
from arch.efficiency.complexity import count
from arch.weights.names import vgg as names
from tests.compiling import quick_jit
from tests.models.checks import check_eval_parity, check_examples_reach_norms_and_dropout, check_parity, maps_of

_SMALL = {"stage_sizes": (1, 2), "stage_features": (8, 16)}
_RECORDED = {"num_classes": 10, "hidden_features": (24, 16), "dropout_rate": 0.0}


@pytest.mark.parametrize("net", ["small", pytest.param("vgg16", marks=pytest.mark.slow)])
def test_logits_and_maps_are_torchvisions(x64, net):
    """The linear layers see the map channel by channel; bins that average it overlap, or repeat its one pixel."""
    fields = _SMALL if net == "small" else {}
    check_eval_parity(models.create("vgg16", **_RECORDED, **fields), "vgg.npz", net, 32, names.torchvision)


def test_parity_with_torchvision_under_norms(x64):
    """Logits, updated running statistics and the gradient of every parameter."""
    unbiased = norm.create("batch_norm", unbiased_running_variance=True)
    model = models.create("vgg16_bn", norm=unbiased, **_RECORDED, **_SMALL)
    check_parity(model, "vgg.npz", "small_bn", 32, names.torchvision)


def test_the_small_stem_is_the_large_one_and_stride2_halves_every_map():
    for stem, size in {"imagenet": 16, "small": 16, "stride2": 8}.items():
        model = models.create("vgg16", stem=stem, features_only=True, **_SMALL)
        _, maps = maps_of(model, 16)
        first = 16 // size
        shapes = {first: (1, size, size, 8), 2 * first: (1, size // 2, size // 2, 16)}
        assert {stride: leaf.shape for stride, leaf in maps.items()} == {
            **shapes, 4 * first: (1, size // 4, size // 4, 16),
        }  # fmt: skip


def test_without_the_final_pool_the_last_map_is_the_last_convolutions():
    _, maps = maps_of(models.create("vgg16", features_only=True, final_pool=False), 448)
    assert max(maps) == 16 and maps[16].shape == (1, 28, 28, 512)


def test_the_linear_layers_have_the_published_sizes():
    """fc6, fc7 and fc8; on a map of `pool_size`, whatever the image's."""
    for size in (224, 256):
        layers, out = maps_of(models.create("vgg16"), size)
        assert layers["hidden1"]["__call__"][0].shape == layers["hidden2"]["__call__"][0].shape == (1, 4096)
        assert out.shape == (1, 1000)
    cost, smaller = (count(models.create("vgg16", pool_size=pool_size), train=False) for pool_size in (7, 3))
    assert cost.params - smaller.params == 512 * (49 - 9) * 4096


def test_an_activation_follows_every_layer_but_the_classifier():
    calls = []
    model = models.create("vgg16", act=lambda x: calls.append(x.shape[-1]) or x, **_RECORDED, **_SMALL)
    maps_of(model, 32)
    init_and_apply = 2
    assert calls == [8, 16, 16, 24, 16] * init_and_apply


def test_initial_values_are_torchvisions():
    model = models.create("vgg16_bn", **{**_RECORDED, "hidden_features": (256,)}, **_SMALL)
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for name, std in {"stage2_conv2": np.sqrt(2 / (9 * 16)), "hidden1": 0.01, "classifier": 0.01}.items():
        kernel = params[name]["kernel"]
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), std, rtol=4 / np.sqrt(2 * kernel.size))
        assert not params[name]["bias"].any()
    assert (params["stage2_norm2"]["scale"] == 1).all() and not params["stage2_norm2"]["bias"].any()


def test_examples_reach_norms_and_dropout():
    fields = {"stage_sizes": (1,), "stage_features": (8,), "pool_size": 1, "hidden_features": (32,)}
    check_examples_reach_norms_and_dropout(models.create("vgg16_bn", num_classes=10, **fields))


def test_dropout_follows_each_hidden_layer():
    """At rate 1 the logits are the classifier's bias; in evaluation nothing is dropped."""
    model = models.create("vgg16", num_classes=10, hidden_features=(16,), pool_size=1, dropout_rate=1.0, **_SMALL)
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3), np.float32)

    @quick_jit
    def run(x):
        variables = model.init(jax.random.key(0), x, train=False)
        rngs = {"dropout": jax.random.key(1)}
        return [model.apply(variables, x, train=train, rngs=rngs) for train in (True, False)]

    dropped, kept = run(x)
    assert not dropped.any() and kept.any()


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "VGG: stem: unknown name 'tiny'; one of imagenet, small"),
        (
            {"stage_sizes": (3, 4)},
            r"VGG: stage_sizes=\(3, 4\) must be 1 or more, one for each of stage_features=\(64, ",
        ),
        ({"stage_sizes": (2, 2, 0, 3, 3)}, r"VGG: stage_sizes=\(2, 2, 0, 3, 3\) must be 1 or more"),
        (
            {"stem": "stride2"},
            "VGG: height=32 and width=32 must be at least 64, or pooling leaves nothing; give larger",
        ),
        ({"pool_size": 0}, "adaptive_avg_pool: output_size=0 must be one or two positive integers"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("vgg16", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)


def test_integer_images_are_refused():
    with pytest.raises(ValueError, match=r"^VGG: x must be floating point, not uint8; convert"):
        x = jnp.zeros((1, 32, 32, 3), jnp.uint8)
        jax.eval_shape(lambda: models.create("vgg16").init(jax.random.key(0), x, train=False))
