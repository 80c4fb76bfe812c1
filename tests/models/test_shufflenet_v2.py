"""ShuffleNet v2 against torchvision's and the authors' networks, recorded in tests/goldens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from arch import models, norm
from arch.efficiency.complexity import count
from arch.ops.conv import Conv
from arch.ops.stochastic import Examples
from arch.weights.names import shufflenet_v2 as names
from tests.compiling import quick_jit
from tests.models.checks import (
    check_eval_parity,
    check_examples_reach_norms_and_dropout,
    check_parity,
    filled_variables,
    floating_dtypes,
    maps_of,
)


@pytest.mark.parametrize(
    "variant,width",
    [
        ("megvii", 0.5),
        pytest.param("torchvision", 0.5, marks=pytest.mark.slow),
        pytest.param("megvii", 1.0, marks=pytest.mark.slow),
        pytest.param("torchvision", 1.0, marks=pytest.mark.slow),
    ],
)
def test_parity_with_the_published_code(x64, variant, width):
    """Logits, updated running statistics and the gradient of every parameter, from the same weights, in float64."""
    model = models.create(
        f"shufflenet_v2_x{str(width).replace('.', '_')}",
        variant=variant,
        num_classes=10,
        norm=norm.create("batch_norm", unbiased_running_variance=True),
    )
    # The authors' classifier has no bias.
    check_parity(
        model, "shufflenet_v2.npz", f"{variant}/{width}", 64, getattr(names, variant), absent=("classifier.0.bias",)
    )


@pytest.mark.slow
@pytest.mark.parametrize("width", [1.5, 2.0])
def test_parity_with_torchvision_of_the_wide_ones(x64, width):
    # By JAX's own convolutions: as many programs as widths take long to compile.
    conv = functools.partial(Conv, implementation="reference")
    name = f"shufflenet_v2_x{width}".replace(".", "_")
    model = models.create(name, variant="torchvision", num_classes=10, conv=conv)
    check_eval_parity(model, "shufflenet_v2_wide.npz", f"torchvision/{width}", 64, names.torchvision, jit=jax.jit)


def test_shufflenet_v2_164_is_of_the_papers_depth_and_cost():
    """Without gates and residuals its convolutions cost 12.54 GMACs; the paper has 12.7 G with them."""
    model = models.create("se_shufflenet_v2_164")
    maps, out = maps_of(model, 224)
    for number, features in (("", 64), ("2", 64), ("3", 128)):
        assert maps[f"stem_conv{number}"]["__call__"][0].shape == (1, 112, 112, features)
    units = [name for name in maps if "_unit" in name]
    layers = [layer for unit in units for layer in maps[unit] if layer.startswith("branch") and "norm" not in layer]
    assert sum("gate" not in layer for layer in layers) + len(("stem",) * 3 + ("head_conv", "classifier")) == 164
    assert sum("gate" in layer for layer in layers) == len(units) == 53
    assert out.shape == (1, 1000)
    body = count(model.clone(se_reduction=None, residual=False), train=False)
    assert round(body.conv_macs / 1e7) == 1254


def test_gates_cost_two_linear_layers_a_unit():
    """With biases, on the convolved branch: half of the channels, or with a stride what the shortcut leaves."""
    gated, plain = (count(models.create(name), train=False) for name in ("se_shufflenet_v2_x1_0", "shufflenet_v2_x1_0"))
    branches = [116 - 24, *[58] * 3, *[116] * 8, *[232] * 4]
    hidden = [max(1, channels // 16) for channels in branches]
    assert gated.macs - plain.macs == sum(2 * c * h for c, h in zip(branches, hidden, strict=True))
    assert gated.params - plain.params == sum(2 * c * h + c + h for c, h in zip(branches, hidden, strict=True))


@pytest.fixture(scope="module")
def small():
    """(model, variables, images) of a network for small images."""
    model = models.create("shufflenet_v2_x0_5", num_classes=10, stem="small", stage_sizes=(2, 1, 1))
    variables = jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32), filled_variables(model, names.megvii, ("classifier.0.bias",))
    )
    return model, variables, jax.random.normal(jax.random.key(0), (8, 16, 16, 3))


def test_every_parameter_has_a_gradient_at_the_initial_values():
    model = models.create(
        "shufflenet_v2_x0_5",
        num_classes=10,
        stem="small",
        stage_sizes=(2, 1),
        stage_features=(32, 64),
        variant="torchvision",
        norm=norm.create("group_norm"),
    )
    x, labels = jax.random.normal(jax.random.key(0), (8, 12, 12, 3)), jnp.arange(8)
    variables = quick_jit(lambda: model.init(jax.random.key(1), x, train=False))()

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return -jnp.mean(jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], 1))

    value, grads = quick_jit(jax.value_and_grad(loss))(variables["params"])
    assert abs(value - np.log(10)) < 0.5, "the first loss is that of a guess"
    for path, grad in traverse_util.flatten_dict(grads).items():
        assert np.isfinite(grad).all() and np.any(grad != 0), path


@pytest.mark.parametrize("size,map_size", [(8, 1), (28, 4), (32, 4), (64, 8)])
def test_the_small_stem_keeps_the_image_size(small, size, map_size):
    model, variables, _ = small
    out, state = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=False, capture_intermediates=True, mutable=["intermediates"]),
        variables,
        jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32),
    )
    assert out.shape == (2, 10)
    maps = state["intermediates"]
    assert maps["stem_conv"]["__call__"][0].shape == (2, size, size, 24)
    assert maps["head_conv"]["__call__"][0].shape == (2, map_size, map_size, 1024)


def test_the_imagenet_stem_divides_the_size_by_32():
    model = models.create("shufflenet_v2_x1_0")
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    out, state = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=False, capture_intermediates=True, mutable=["intermediates"]), variables, x
    )
    assert out.shape == (2, 1000)
    assert state["intermediates"]["head_conv"]["__call__"][0].shape == (2, 7, 7, 1024)


def test_bfloat16_computes_so_and_keeps_the_rest_float32(small):
    model, variables, x = small
    half = model.clone(dtype=jnp.bfloat16)
    own = jax.eval_shape(lambda x: half.init(jax.random.key(0), x, train=False), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(own)} == {jnp.dtype("float32")}
    logits, updated = quick_jit(lambda v: half.apply(v, x, train=True, mutable=["batch_stats"]))(variables)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}
    _, state = jax.eval_shape(
        lambda v: half.apply(v, x, train=False, capture_intermediates=True, mutable=["intermediates"]), variables
    )
    assert state["intermediates"]["stage3_unit1"]["branch_reduce"]["__call__"][0].dtype == jnp.bfloat16
    full, _ = quick_jit(lambda v: model.apply(v, x, train=True, mutable=["batch_stats"]))(variables)
    np.testing.assert_allclose(logits, full, atol=0.1 * np.abs(full).max())


QUICK_NORMS = ("sync_batch_norm", "group_norm")


@pytest.mark.parametrize(
    "norm_name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK_NORMS)) for name in norm.NORMS]
)
def test_float64_stays_float64_forward_and_backward(x64, norm_name):
    fields = {"ghost_batch_size": 2} if norm_name == "ghost_batch_norm" else {}
    model = models.create(
        "shufflenet_v2_x0_5",
        num_classes=10,
        stage_sizes=(2, 1, 2),
        dropout_rate=0.2,
        norm=norm.create(norm_name, **fields),
    )
    x = jax.ShapeDtypeStruct((2, 4, 16, 16, 3), jnp.float64)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x[0], train=False), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float64")}

    def loss(variables, x):
        logits, updated = model.apply(
            variables,
            x,
            train=True,
            examples=Examples(jnp.ones(4), jnp.arange(4)),
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return jnp.mean(logits**2), updated

    step = jax.vmap(jax.value_and_grad(loss, has_aux=True), in_axes=(None, 0), axis_name="batch")
    assert floating_dtypes(jax.make_jaxpr(step)(variables, x).jaxpr) == {jnp.dtype("float64")}


def test_dropout_is_that_of_the_authors():
    rates = {
        (name, variant): models.create(name, variant=variant)._resolve_dropout_rate()
        for name in models.MODELS
        if name.startswith("shufflenet_v2_x")
        for variant in ("megvii", "torchvision")
    }
    assert {key for key, rate in rates.items() if rate} == {("shufflenet_v2_x2_0", "megvii")}
    assert rates["shufflenet_v2_x2_0", "megvii"] == 0.2


def test_examples_reach_norms_and_dropout(small):
    model, variables, _ = small
    check_examples_reach_norms_and_dropout(model.clone(dropout_rate=0.5), variables)


def test_the_activation_is_the_only_one(small):
    model, variables, x = small
    text = str(jax.make_jaxpr(lambda v: model.clone(act=nn.sigmoid).apply(v, x, train=False))(variables))
    assert "relu" not in text and "logistic" in text


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"variant": "torch"}, "ShuffleNetV2: variant: unknown name 'torch'; did you mean 'torchvision'"),
        ({"stem": "tiny"}, "ShuffleNetV2: stem: unknown name 'tiny'; one of imagenet, small"),
        ({"width_multiplier": 0.7}, "ShuffleNetV2: width_multiplier=0.7 must be one of 0.5, 1.0, 1.5, 2.0; or give"),
        (
            {"stage_features": (24, 49, 96)},
            r"ShuffleNetV2: stage_features=\(24, 49, 96\) must be even; change them",
        ),
        ({"stage_sizes": (4, 8)}, r"ShuffleNetV2: stage_features=\(116, 232, 464\) must be one for each of stage_s"),
        ({"branch": "stars"}, "ShuffleUnitV2: branch: unknown name 'stars'; did you mean 'star'"),
        (
            {"stage_strides": (2, 2)},
            r"ShuffleNetV2: stage_strides=\(2, 2\) must be one for each of stage_sizes=",
        ),
        ({"stage_strides": (4, 2, 2)}, r"ShuffleNetV2: stage_strides=\(4, 2, 2\) must be 1 or 2 each; change them"),
        ({"se_reduction": 0}, "SqueezeExcite: reduction=0 must be at least 1"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("shufflenet_v2_x1_0").clone(**fields)
    with pytest.raises(ValueError, match=f"^{message}"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))


def test_integer_images_are_refused():
    model = models.create("shufflenet_v2_x1_0")
    with pytest.raises(ValueError, match=r"^ShuffleNetV2: x must be floating point, not uint8; convert"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8), train=False))
