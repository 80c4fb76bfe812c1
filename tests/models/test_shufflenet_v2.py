"""ShuffleNet v2 against torchvision's and the authors' networks, recorded in tests/goldens."""

import functools
import importlib.util
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util
from jax.extend import core

from arch import models, norm
from arch.ops.stochastic import Examples

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"


@functools.cache
def _recorder():
    """The script that recorded the golden: it can also rebuild the weights, without torch."""
    spec = importlib.util.spec_from_file_location("record_shufflenet_v2", GOLDENS / "record_shufflenet_v2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_TENSORS = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
_BRANCH = ["branch_reduce", "branch_reduce_norm", None, "branch_depthwise", "branch_depthwise_norm", "branch_expand"]
_BRANCH += ["branch_expand_norm"]
_SHORTCUT = ["shortcut_depthwise", "shortcut_depthwise_norm", "shortcut_pointwise", "shortcut_pointwise_norm"]


def _torch_name(variant, path):
    """The torch name of one of our variables, by its path."""
    collection, *layers, tensor = path
    ends = {
        "torchvision": {"stem_conv": "conv1.0", "stem_norm": "conv1.1", "head_conv": "conv5.0", "head_norm": "conv5.1"},
        "megvii": {
            "stem_conv": "first_conv.0",
            "stem_norm": "first_conv.1",
            "head_conv": "conv_last.0",
            "head_norm": "conv_last.1",
        },
    }[variant] | {"classifier": {"torchvision": "fc", "megvii": "classifier.0"}[variant]}
    if len(layers) == 1:
        module = ends[layers[0]]
    else:
        stage, unit = map(int, re.fullmatch(r"stage(\d)_unit(\d)", layers[0]).groups())
        names, places = (
            (_BRANCH, ("branch2", "branch_main")) if "branch" in layers[1] else (_SHORTCUT, ("branch1", "branch_proj"))
        )
        if variant == "torchvision":
            module = f"stage{stage}.{unit - 1}.{places[0]}.{names.index(layers[1])}"
        else:
            module = f"features.{(0, 4, 12)[stage - 2] + unit - 1}.{places[1]}.{names.index(layers[1])}"
    return f"{module}.{_TENSORS[collection, tensor]}"


def _to_torch_layout(value):
    """HWIO to OIHW, and [in, out] to [out, in]."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[np.ndim(value)]
    return np.transpose(value, axes)


def _filled_variables(model, variant):
    shapes = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 64, 64, 3)), train=False), jax.random.key(0))
    filled = {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        name = _torch_name(variant, path)
        if name == "classifier.0.bias":  # the authors' classifier has none
            filled[path] = np.zeros(leaf.shape)
            continue
        torch_shape = tuple(leaf.shape[i] for i in {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[leaf.ndim])
        value = _recorder().fill(name, torch_shape)
        filled[path] = np.transpose(value, {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[value.ndim])
    return traverse_util.unflatten_dict(filled)


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
    golden = np.load(GOLDENS / "shufflenet_v2.npz")
    net = f"{variant}/{width}"
    model = models.create(
        f"shufflenet_v2_x{str(width).replace('.', '_')}",
        variant=variant,
        num_classes=10,
        norm=norm.create("batch_norm", unbiased_running_variance=True),
    )
    variables = _filled_variables(model, variant)
    x, probe = _recorder().images(), _recorder().probe()

    def loss(params):
        logits, updated = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.mean(logits * probe), (logits, updated["batch_stats"])

    logits = jax.jit(lambda variables: model.apply(variables, x, train=False))(variables)
    np.testing.assert_allclose(logits, golden[f"{net}/eval"], rtol=1e-8, atol=1e-8)
    grads, (logits, stats) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    np.testing.assert_allclose(logits, golden[f"{net}/train"], rtol=1e-8, atol=1e-8)

    expected = dict(zip(golden[f"{net}/names"], golden[f"{net}/summaries"], strict=True))
    for path, value in traverse_util.flatten_dict({"params": grads, "batch_stats": stats}).items():
        name = _torch_name(variant, path)
        if name != "classifier.0.bias":
            actual = _recorder().summary(name, _to_torch_layout(value))
            np.testing.assert_allclose(actual, expected.pop(name), rtol=1e-6, atol=1e-9, err_msg=name)
        assert np.isfinite(value).all() and np.any(value != 0), f"{path} is not finite, or zero"
    assert not expected, "tensors of the published network that ours lacks"


@pytest.fixture(scope="module")
def small():
    """(model, variables, images) of a network for small images."""
    model = models.create("shufflenet_v2_x0_5", num_classes=10, stem="small", stage_sizes=(2, 1, 1))
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), _filled_variables(model, "megvii"))
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
    variables = jax.jit(lambda: model.init(jax.random.key(1), x, train=False))()

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return -jnp.mean(jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], 1))

    value, grads = jax.jit(jax.value_and_grad(loss))(variables["params"])
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
    logits, updated = jax.jit(lambda v: half.apply(v, x, train=True, mutable=["batch_stats"]))(variables)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}
    _, state = jax.eval_shape(
        lambda v: half.apply(v, x, train=False, capture_intermediates=True, mutable=["intermediates"]), variables
    )
    assert state["intermediates"]["stage3_unit1"]["branch_reduce"]["__call__"][0].dtype == jnp.bfloat16
    full, _ = jax.jit(lambda v: model.apply(v, x, train=True, mutable=["batch_stats"]))(variables)
    np.testing.assert_allclose(logits, full, atol=0.1 * np.abs(full).max())


def _dtypes(jaxpr):
    """Floating dtypes of all arrays that a program computes, those inside its calls too."""
    found = set()
    for eqn in jaxpr.eqns:
        found |= {var.aval.dtype for var in eqn.outvars if jnp.issubdtype(var.aval.dtype, jnp.floating)}
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: isinstance(v, core.ClosedJaxpr)):
            if isinstance(value, core.ClosedJaxpr | core.Jaxpr):
                found |= _dtypes(value.jaxpr if isinstance(value, core.ClosedJaxpr) else value)
    return found


@pytest.mark.parametrize("norm_name", list(norm.NORMS))
def test_float64_stays_float64_forward_and_backward(x64, norm_name):
    model = models.create(
        "shufflenet_v2_x0_5", num_classes=10, stage_sizes=(2, 1, 2), dropout_rate=0.2, norm=norm.create(norm_name)
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
    assert _dtypes(jax.make_jaxpr(step)(variables, x).jaxpr) == {jnp.dtype("float64")}


def test_dropout_is_that_of_the_authors():
    rates = {
        (name, variant): models.create(name, variant=variant)._resolve_dropout_rate()
        for name in models.MODELS
        for variant in ("megvii", "torchvision")
    }
    assert {key for key, rate in rates.items() if rate} == {("shufflenet_v2_x2_0", "megvii")}
    assert rates["shufflenet_v2_x2_0", "megvii"] == 0.2


def test_examples_reach_norms_and_dropout(small):
    model, variables, x = small
    model = model.clone(dropout_rate=0.5)

    @jax.jit
    def apply(x, weight, ids):
        return model.apply(
            variables,
            x,
            train=True,
            examples=Examples(weight, ids),
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )

    weight, ids = jnp.array([1.0] * 6 + [0.0] * 2), jnp.arange(8)
    logits, stats = apply(x, weight, ids)
    spoiled, spoiled_stats = apply(x.at[6:].set(9.0), weight, ids)
    np.testing.assert_allclose(spoiled[:6], logits[:6], atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), spoiled_stats, stats)
    order = np.array([3, 1, 0, 2, 5, 4, 7, 6])
    np.testing.assert_allclose(apply(x[order], weight, ids[order])[0], logits[order], atol=1e-4)
    assert np.abs(apply(x, weight, ids + 8)[0] - logits).max() > 1e-2


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
            r"ShuffleNetV2: stage_features=\(24, 49, 96\) must be even, one for each of",
        ),
        ({"stage_sizes": (4, 8)}, r"ShuffleNetV2: stage_features=\(116, 232, 464\) must be even, one for each of"),
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
