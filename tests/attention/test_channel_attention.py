import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from arch.attention.channel import SqueezeExcite, squeeze_excite
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.widths import make_divisible
from tests.compiling import quick_jit

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "attention_channel.npz"
TRAINED_NORM = bind(BatchNorm, train=True)


def reference(x, weights, gate=lambda v: 1 / (1 + np.exp(-v))):
    """Squeeze-and-excitation in float64, a pixel at a time."""
    reduce_kernel, expand_kernel, reduce_bias, expand_bias = (np.asarray(w, np.float64) for w in weights)
    out = np.array(x, np.float64)
    for image in out:
        mean = np.zeros(image.shape[-1])
        for i, j in np.ndindex(image.shape[:2]):
            mean += image[i, j] / (image.shape[0] * image.shape[1])
        hidden = np.array([max(mean @ column + b, 0.0) for column, b in zip(reduce_kernel.T, reduce_bias, strict=True)])
        gates = np.array([gate(hidden @ column + b) for column, b in zip(expand_kernel.T, expand_bias, strict=True)])
        for i, j in np.ndindex(image.shape[:2]):
            image[i, j] = image[i, j] * gates
    return out


def numbers(channels, reduced, *shape, seed=0):
    random = np.random.default_rng(seed)
    weights = [random.standard_normal(s) for s in ((channels, reduced), (reduced, channels), (reduced,), (channels,))]
    return random.standard_normal((*shape, channels)), weights


def module_variables(weights):
    reduce_kernel, expand_kernel, reduce_bias, expand_bias = weights
    fc1 = {"kernel": reduce_kernel[None, None], "bias": reduce_bias}
    fc2 = {"kernel": expand_kernel[None, None], "bias": expand_bias}
    return {"params": {"fc1": fc1, "fc2": fc2}}


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 1, 1)])
def test_against_a_loop(x64, shape):
    x, weights = numbers(7, 2, *shape)
    x[0, 0, 0] = 0.0
    expected = reference(x, weights)
    np.testing.assert_allclose(quick_jit(squeeze_excite)(x, *weights), expected, rtol=1e-12)
    module = SqueezeExcite(reduction=3)
    np.testing.assert_allclose(quick_jit(module.apply)(module_variables(weights), x), expected, rtol=1e-12)


@pytest.mark.parametrize("name,fields", [
    ("plain", {}),
    ("swish", dict(act=nn.swish, gate_act=nn.tanh)),
    ("normed", dict(norm=TRAINED_NORM)),
])  # fmt: skip
def test_against_torch(x64, name, fields):
    """torchvision's layer, and torch's layers with batch norms in training; value, gradients of x and of weights."""
    golden = np.load(GOLDEN)
    module = SqueezeExcite(reduction=2, **fields)
    names = [f"{layer}{i}/{part}" for i in (1, 2) for layer, part in
             ([("fc", "kernel"), ("norm", "bias"), ("norm", "scale")] if name == "normed"
              else [("fc", "bias"), ("fc", "kernel")])]  # fmt: skip
    params = unflatten_dict({tuple(path.split("/")): golden[path] for path in names})

    @quick_jit
    def run(params, x, probe):
        stats = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
                             jax.eval_shape(module.init, jax.random.key(0), x).get("batch_stats", {}))  # fmt: skip

        def forward(params, x):
            return module.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])[0]

        out, pull_back = jax.vjp(forward, params, x)
        return out, *pull_back(probe)

    for row in ("odd", "one_pixel"):
        out, grads, grad_x = run(params, golden[f"{row}/x"], golden[f"{row}/probe"])
        flat = flatten_dict(grads, sep="/")
        grad_weights = np.concatenate([np.ravel(flat[path]) for path in sorted(names)])
        for ours, key in ((out, "out"), (grad_x, "grad_x"), (grad_weights, "grad_weights")):
            np.testing.assert_allclose(ours, golden[f"{row}/{name}/{key}"], rtol=1e-9, atol=1e-12, err_msg=row)


def test_parameters_of_se_resnet50():
    """What the gates add to ResNet-50, 28,088,024 - 25,557,032, block by block."""
    count = 0
    for channels, blocks in ((256, 3), (512, 4), (1024, 6), (2048, 3)):
        x = jax.ShapeDtypeStruct((1, 1, 1, channels), jnp.float32)
        shapes = jax.eval_shape(SqueezeExcite().init, jax.random.key(0), x)["params"]
        assert shapes["fc1"]["kernel"].shape == (1, 1, channels, channels // 16)
        block = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        assert block == 2 * channels**2 // 16 + channels // 16 + channels
        count += blocks * block
    assert count == 28_088_024 - 25_557_032


@pytest.mark.parametrize("channels,fields,hidden", [
    (40, {}, 2),
    (24, {}, 1),
    (8, {}, 1),
    (72, dict(reduction=4), 18),
    (72, dict(reduced_features=make_divisible(72 / 4)), 24),  # MobileNet v3 large, its fourth block
])  # fmt: skip
def test_hidden_features_and_norms_instead_of_biases(channels, fields, hidden):
    x = jax.ShapeDtypeStruct((2, 4, 4, channels), jnp.float32)
    with_biases = jax.eval_shape(SqueezeExcite(**fields).init, jax.random.key(0), x)["params"]
    with_norms = jax.eval_shape(SqueezeExcite(**fields, norm=TRAINED_NORM).init, jax.random.key(0), x)["params"]
    assert with_biases["fc1"]["kernel"].shape[-1] == hidden
    assert sum(leaf.size for leaf in jax.tree.leaves(with_biases)) == 2 * channels * hidden + hidden + channels
    assert sum(leaf.size for leaf in jax.tree.leaves(with_norms)) == 2 * channels * hidden + 2 * (hidden + channels)
    assert set(with_norms) == {"fc1", "norm1", "fc2", "norm2"}
    one_norm = SqueezeExcite(**fields, norm=TRAINED_NORM, gate_norm=False)
    with_one_norm = jax.eval_shape(one_norm.init, jax.random.key(0), x)["params"]
    assert with_one_norm == {name: with_norms[name] for name in ("fc1", "norm1", "fc2")}


def test_batch_norm_of_one_example_in_training_puts_out_its_bias():
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 6), np.float32)
    module = SqueezeExcite(reduction=2, norm=TRAINED_NORM)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    bias = np.linspace(-2, 2, 6, dtype=np.float32)
    variables["params"]["norm2"]["bias"] = bias
    out, _ = quick_jit(functools.partial(module.apply, mutable=["batch_stats"]))(variables, x)
    np.testing.assert_allclose(out, x / (1 + np.exp(-bias)), rtol=1e-5)


def test_open_gates_change_nothing_and_zero_weights_halve():
    x, weights = numbers(6, 3, 2, 3, 3)
    x = x.astype(np.float32)
    *kernels, reduce_bias, expand_bias = (np.zeros_like(w, np.float32) for w in weights)
    run = quick_jit(squeeze_excite)
    np.testing.assert_array_equal(run(x, *kernels, reduce_bias, expand_bias + 100.0), x)
    np.testing.assert_array_equal(run(x, *kernels, reduce_bias, expand_bias), 0.5 * x)


def test_permuted_channels_with_permuted_weights(x64):
    x, (reduce_kernel, expand_kernel, reduce_bias, expand_bias) = numbers(6, 3, 2, 3, 3)
    order = np.random.default_rng(1).permutation(6)
    run = quick_jit(squeeze_excite)
    permuted = run(x[..., order], reduce_kernel[order], expand_kernel[:, order], reduce_bias, expand_bias[order])
    expected = run(x, reduce_kernel, expand_kernel, reduce_bias, expand_bias)[..., order]
    np.testing.assert_allclose(permuted, expected, rtol=1e-12)


def test_bfloat16_means_are_float32():
    """A mean of 1.00390625 lies half a bfloat16 step above 1, and opens the gates by a half only as it is."""
    x = jnp.asarray(np.tile(np.float32([[1.0078125], [1.0]]), (1, 40, 20, 1)), jnp.bfloat16)
    slope, offset = np.full((1, 1), 1000, np.float32), np.full(1, 10 - 1003.90625, np.float32)
    weights = slope, np.ones((1, 1), np.float32), offset, np.full(1, -10, np.float32)

    @quick_jit
    def run(x, weights):
        return squeeze_excite(x, *weights), SqueezeExcite().apply(module_variables(weights), x)

    for out in run(x, weights):
        assert out.dtype == jnp.bfloat16
        np.testing.assert_array_equal(out, x / 2)


@pytest.mark.parametrize("fields,shape,message", [
    (dict(reduction=0), (1, 2, 2, 8), "SqueezeExcite: reduction=0 must be at least 1, for channels=8; raise it"),
    (dict(reduced_features=0), (1, 2, 2, 8), "SqueezeExcite: reduced_features=0 must be at least 1, .*"),
    (dict(), (2, 8), r"SqueezeExcite: x=float32\[2, 8\] must be floating point NHWC; convert it"),
])  # fmt: skip
def test_module_refuses_in_one_line(fields, shape, message):
    with pytest.raises(ValueError) as error:
        SqueezeExcite(**fields).init(jax.random.key(0), jnp.zeros(shape))
    assert re.fullmatch(message, str(error.value))


@pytest.mark.parametrize("arrays,message", [
    (dict(x=np.zeros((1, 2, 2, 8), np.int32)),
     r"squeeze_excite: x=int32\[1, 2, 2, 8\] must be floating point NHWC; convert it"),
    (dict(expand_kernel=np.zeros((2, 6))),
     r"squeeze_excite: expand_kernel=\[2, 6\] must be \[2, 8\], for channels=8 and reduced_features=2; reshape it"),
    (dict(reduce_bias=np.zeros(8)),
     r"squeeze_excite: reduce_bias=\[8\] must be \[2\], for channels=8 and reduced_features=2; reshape it"),
])  # fmt: skip
def test_function_refuses_in_one_line(arrays, message):
    fitting = dict(x=np.zeros((1, 2, 2, 8), np.float32), reduce_kernel=np.zeros((8, 2)), expand_kernel=np.zeros((2, 8)))
    with pytest.raises(ValueError, match=f"^{message}$"):
        squeeze_excite(**fitting | arrays)
