"""DenseNet against torchvision's networks, recorded in tests/goldens, and what a dense block promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import models, norm
from arch.blocks.dense import DenseLayer
from arch.ops.conv import Conv
from arch.weights.names import densenet as names
from tests.compiling import quick_jit
from tests.models.checks import (
    check_eval_parity,
    check_examples_reach_norms_and_dropout,
    check_parity,
    maps_of,
)

_SMALL = {"num_classes": 10, "stage_sizes": (2, 2), "growth_rate": 8, "stem_features": 16}


def test_parity_with_torchvision(x64):
    """Logits, updated running statistics and the gradient of every parameter, from the same weights, in float64."""
    unbiased = norm.create("batch_norm", unbiased_running_variance=True)
    check_parity(models.create("densenet121", norm=unbiased, **_SMALL), "densenet.npz", "small", 32, names.torchvision)


@pytest.mark.slow
def test_parity_of_densenet121(x64):
    model = models.create("densenet121", num_classes=10)
    check_eval_parity(model, "densenet.npz", "densenet121", 64, names.torchvision)


def test_timm_has_torchvisions_names():
    assert names.timm is names.torchvision


def test_the_stages_are_those_of_the_papers_table():
    """Table 1, DenseNet-121: sizes, and the 1x1 convolutions of the layers (4k) and of the transitions (half)."""
    maps, out = maps_of(models.create("densenet121"), 224)
    assert maps["stem_conv"]["__call__"][0].shape == (1, 112, 112, 64)
    features = 64
    for stage, (size, num_layers) in enumerate([(56, 6), (28, 12), (14, 24), (7, 16)], start=1):
        if stage > 1:
            features //= 2
            transition = maps[f"transition{stage - 1}"]
            assert transition["conv"]["__call__"][0].shape == (1, 2 * size, 2 * size, features)
            assert transition["__call__"][0].shape == (1, size, size, features)
        for number in range(1, num_layers + 1):
            layer = maps[f"stage{stage}_unit{number}"]
            features += 32
            assert layer["conv1"]["__call__"][0].shape == (1, size, size, 128)
            assert layer["conv2"]["__call__"][0].shape == (1, size, size, 32)
            assert layer["__call__"][0].shape == (1, size, size, features)
    assert maps["head_norm"]["__call__"][0].shape == (1, 7, 7, 1024)
    assert out.shape == (1, 1000)


def test_no_layer_is_lost_on_the_way():
    """What a layer puts out begins with what it got, and so does what the block puts out with all that came before."""
    model = models.create("densenet121", stem="small", **_SMALL)
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3), np.float32)

    @quick_jit
    def run(x):
        _, variables = model.init_with_output(jax.random.key(0), x, train=False)
        return model.apply(variables, x, train=False, capture_intermediates=True, mutable=["intermediates"])[1]

    maps = jax.device_get(run(x))["intermediates"]
    before = maps["stem_conv"]["__call__"][0]
    for number in (1, 2):
        layer = maps[f"stage1_unit{number}"]
        np.testing.assert_array_equal(layer["__call__"][0], np.concatenate([before, layer["conv2"]["__call__"][0]], -1))
        before = layer["__call__"][0]
    transition = maps["transition1"]
    means = transition["conv"]["__call__"][0].reshape(2, 4, 2, 4, 2, -1).mean((2, 4))
    np.testing.assert_allclose(transition["__call__"][0], means, rtol=1e-5, atol=1e-6)


def test_activations_come_before_convolutions():
    """One for each convolution but the first of the small stem, and one before the classifier."""
    for fields, stem in (({"stem": "small"}, []), ({"stem": "imagenet"}, [16])):
        calls = []
        model = models.create(
            "densenet121", act=lambda x, calls=calls: calls.append(x.shape[-1]) or x, **fields, **_SMALL
        )
        maps_of(model, 32)
        stages, head = [16, 32, 24, 32, 32, 16, 32, 24, 32], [32]
        init_and_apply = 2
        assert calls == (stem + stages + head) * init_and_apply


@pytest.mark.parametrize("bottleneck_ratio", [None, 4])
def test_dropout_takes_new_values_only(bottleneck_ratio):
    bound = norm.bind(norm.create("batch_norm"), train=False)
    layer = DenseLayer(4, bottleneck_ratio, 0.5, functools.partial(Conv, use_bias=False), bound, nn.relu)
    x = np.random.default_rng(0).standard_normal((16, 4, 4, 6), np.float32)

    @quick_jit
    def run(x):
        _, variables = layer.init_with_output(jax.random.key(0), x, train=False)
        trained = layer.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})
        return layer.apply(variables, x, train=False), trained

    evaluated, trained = run(x)
    np.testing.assert_array_equal(trained[..., :6], x)
    kept = trained[..., 6:] != 0
    # 1024 values, within 5 standard deviations
    assert abs(kept.mean() - 0.5) < 5 * 0.5 / np.sqrt(kept.size)
    np.testing.assert_allclose(trained[..., 6:][kept], 2 * evaluated[..., 6:][kept], rtol=1e-5)


def test_the_small_stems_keep_and_halve_the_image_size():
    for stem, size in (("small", 28), ("stride2", 14)):
        maps, out = maps_of(models.create("densenet121", stem=stem, **_SMALL), 28)
        assert "stem_norm" not in maps
        assert maps["stem_conv"]["__call__"][0].shape == (1, size, size, 16)
        assert maps["stage2_unit2"]["__call__"][0].shape == (1, size // 2, size // 2, 32)
        assert out.shape == (1, 10)


def test_initial_values_are_torchvisions():
    model = models.create("densenet121", num_classes=100, stage_sizes=(1,), stem_features=64)
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False)["params"])
    params = jax.device_get(init())
    for kernel, fan_in in [
        (params["stem_conv"]["kernel"], 49 * 3),
        (params["stage1_unit1"]["conv1"]["kernel"], 64),
        (params["stage1_unit1"]["conv2"]["kernel"], 9 * 128),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_in), rtol=4 / np.sqrt(2 * kernel.size))
    kernel, limit = params["classifier"]["kernel"], 1 / np.sqrt(96)
    assert -limit <= kernel.min() < -0.99 * limit and 0.99 * limit < kernel.max() <= limit
    assert not params["classifier"]["bias"].any()


def test_examples_reach_norms_and_dropout():
    check_examples_reach_norms_and_dropout(
        models.create("densenet121", num_classes=10, stem="small", dropout_rate=0.5, stage_sizes=(1,), growth_rate=8)
    )


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "DenseNet: stem: unknown name 'tiny'; one of imagenet, small, stride2"),
        ({"growth_rate": 0}, "DenseNet: growth_rate=0 must be at least 1; it is what a layer adds"),
        ({"stage_sizes": (6, 0)}, r"DenseNet: stage_sizes=\(6, 0\) must be at least 1 each; leave out stages"),
        ({"compression_ratio": 0.0}, "DenseNet: compression_ratio=0.0 must leave 1 to 256 of 256 channels; choose one"),
        ({"compression_ratio": 1.5}, "DenseNet: compression_ratio=1.5 must leave 1 to 256 of 256 channels; choose one"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("densenet121", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)


def test_images_that_are_too_small_are_refused():
    model = models.create("densenet121")
    with pytest.raises(ValueError, match=r"^DenseTransition: a map of 1x1 pixels must have 2x2 to be halved; take"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))


def test_integer_images_are_refused():
    model = models.create("densenet121")
    with pytest.raises(ValueError, match=r"^DenseNet: x must be floating point, not uint8; convert"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8), train=False))
