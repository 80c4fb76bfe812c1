import functools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from arch.efficiency.complexity import count_macs
from arch.ops import sampled_conv
from arch.ops.conv import Conv
from arch.ops.deformable import DeformConv, deform_conv2d
from tests.compiling import quick_jit

ROOT = pathlib.Path(__file__).parents[2]
# As in tests/goldens/record_sampling.py: strides, symmetric padding, dilation, groups.
CONVS = {
    "plain": ((1, 1), (1, 1), (1, 1), 1),
    "pixels": ((1, 1), (1, 1), (1, 1), 1),
    "masked": ((1, 1), (1, 1), (1, 1), 1),
    "strided": ((2, 1), (1, 0), (1, 2), 1),
    "groups": ((1, 2), (2, 2), (2, 1), 2),
    "offset_groups": ((1, 1), (1, 1), (1, 1), 1),
    "both_groups": ((1, 1), (1, 1), (1, 1), 4),
    "one_pixel": ((1, 1), (1, 1), (1, 1), 1),
}

FAST = ("pixels", "strided")  # of the goldens; "both_groups" runs in steps


def golden(name):
    prefix = f"deform_conv/{name}/"
    with np.load(ROOT / "tests" / "goldens" / "sampling.npz") as file:
        return {key.removeprefix(prefix): file[key] for key in file if key.startswith(prefix)}


def with_gradients(name, arrays):
    """The output and the gradients of sum(output * probe) in x, offsets, kernel and mask."""
    strides, padding, dilation, groups = CONVS[name]
    options = {"strides": strides, "padding": [(pad, pad) for pad in padding], "kernel_dilation": dilation}
    keys = [key for key in ("x", "offsets", "kernel", "mask") if key in arrays]

    @quick_jit
    def results(probe, *inputs):
        def convolve(x, offsets, kernel, mask=None):
            return deform_conv2d(x, offsets, kernel, mask=mask, **options, feature_group_count=groups)

        out, pull_back = jax.vjp(convolve, *inputs)
        return out, *pull_back(probe)

    outs = jax.device_get(results(arrays["probe"], *(arrays[key] for key in keys)))
    return dict(zip(["out", *(f"grad_{key}" for key in keys)], outs, strict=True))


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CONVS]
)
def test_against_torchvision(x64, name):
    """At whole pixels too, where an untrained layer is: derivatives are those to the right."""
    arrays = golden(name)
    for key, value in with_gradients(name, arrays).items():
        np.testing.assert_allclose(value, arrays[key], atol=1e-13, err_msg=key)


@pytest.mark.parametrize(
    "name,bytes_a_step",
    [
        pytest.param("plain", 4 * 3 * 9 * 2 * 8, marks=pytest.mark.slow),
        pytest.param("groups", 1, marks=pytest.mark.slow),
        ("both_groups", 1),
    ],
)
def test_in_steps_of_few_images_or_rows(x64, monkeypatch, name, bytes_a_step):
    arrays = golden(name)
    monkeypatch.setattr(sampled_conv, "_BYTES_A_STEP", bytes_a_step)
    for key, value in with_gradients(name, arrays).items():
        np.testing.assert_allclose(value, arrays[key], atol=1e-13, err_msg=key)


def test_published_values():
    x = np.arange(25, dtype=np.float32).reshape(1, 5, 5, 1)
    offsets = np.zeros((1, 5, 5, 9, 2), np.float32)
    right, down = offsets + np.float32([0, 1]), offsets + np.float32([0.5, 0])

    @quick_jit
    def results(x, right, down):
        convolve = functools.partial(deform_conv2d, kernel=jnp.ones((3, 3, 1, 1)), padding=1)
        half = convolve(x, right, mask=jnp.full((1, 5, 5, 9), 0.5))
        return convolve(x, right), convolve(x, down), half

    right, down, half = results(x, right.reshape(1, 5, 5, 18), down.reshape(1, 5, 5, 18))
    np.testing.assert_allclose(right[0, 0, :, 0], [21, 27, 33, 24, 13], rtol=1e-6)
    np.testing.assert_allclose(down[0, 0, :, 0], [22.5, 37.5, 45, 52.5, 37.5], rtol=1e-6)
    np.testing.assert_allclose(half, right / 2, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"padding": "SAME", "strides": 2}, marks=pytest.mark.slow),
        {"padding": "VALID", "kernel_dilation": (1, 2), "feature_group_count": 2},
        pytest.param(
            {"padding": ((2, 0), (1, 3)), "strides": (1, 3), "feature_group_count": 4}, marks=pytest.mark.slow
        ),
    ],
)
def test_offsets_of_whole_pixels_move_an_ordinary_convolution(x64, options):
    random = np.random.RandomState(0)
    groups = options.get("feature_group_count", 1)
    x, kernel = random.standard_normal((2, 6, 7, 4)), random.standard_normal((3, 3, 4 // groups, 4))
    # Three pixels of zeros around, so that x moved by one is the whole story.
    x[:, :3], x[:, -3:], x[:, :, :3], x[:, :, -3:] = 0, 0, 0, 0

    def ordinary(x):
        defaults = {"strides": 1, "kernel_dilation": 1, "feature_group_count": 1}
        fields = {
            key: (value, value) if isinstance(value, int) else value for key, value in (defaults | options).items()
        }
        return lax.conv_general_dilated(
            x, kernel, fields["strides"], fields["padding"], rhs_dilation=fields["kernel_dilation"],
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)  # fmt: skip

    @quick_jit
    def results(x):
        shape = jax.eval_shape(ordinary, x).shape
        moved = jnp.broadcast_to(jnp.float64([1, -1]), (*shape[:3], 9, 2)).reshape(*shape[:3], 18)
        ours = [deform_conv2d(x, offsets, kernel, **options) for offsets in (0 * moved, moved)]
        return ours, [ordinary(x), ordinary(jnp.roll(x, (-1, 1), (1, 2)))]

    for ours, theirs in zip(*results(x), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-13)


def test_one_offset_that_is_not_a_number_and_one_out_of_all_bounds():
    random = np.random.RandomState(1)
    x, kernel = random.standard_normal((1, 4, 4, 2)), random.standard_normal((3, 3, 2, 2))
    offsets = random.uniform(-1, 1, (1, 4, 4, 18))
    offsets[0, 0, 0, 4], offsets[0, 3, 3, 5], offsets[0, 2, 1, 7] = np.nan, np.inf, -1e30
    arrays = {"x": x, "offsets": offsets, "kernel": kernel, "probe": np.ones((1, 4, 4, 2))}
    results = with_gradients("plain", {key: value.astype(np.float32) for key, value in arrays.items()})
    np.testing.assert_array_equal(np.argwhere(np.isnan(results["out"][0, ..., 0])), [[0, 0]])
    assert np.isfinite(results["grad_x"]).all() and np.isfinite(results["grad_offsets"]).all()


@pytest.mark.parametrize("batch,size", [(0, 4), (2, 2)])
def test_no_images_and_windows_that_find_no_place(batch, size):
    x, kernel = np.zeros((batch, size, size, 2), np.float32), np.zeros((3, 3, 2, 5), np.float32)
    offsets = np.zeros((batch, max(0, size - 2), max(0, size - 2), 18), np.float32)

    @quick_jit
    def results(*inputs):
        out, pull_back = jax.vjp(functools.partial(deform_conv2d, padding="VALID"), *inputs)
        return out, pull_back(jnp.ones_like(out))

    out, gradients = jax.device_get(results(x, offsets, kernel))
    assert out.shape == (*offsets.shape[:3], 5)
    assert not any(leaf.any() for leaf in gradients)


@pytest.mark.parametrize("modulated", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_layer_starts_as_an_ordinary_convolution(modulated):
    x = np.random.RandomState(2).standard_normal((2, 5, 6, 4)).astype(np.float32)
    fields = {"features": 6, "kernel_size": (3, 2), "strides": (1, 2), "kernel_dilation": (2, 1)}
    fields["kernel_init"] = nn.initializers.uniform()
    layer = DeformConv(**fields, num_offset_groups=2, feature_group_count=2, modulated=modulated)
    bias = np.arange(6, dtype=np.float32)

    @quick_jit
    def results(x, bias):
        params = layer.init(jax.random.key(0), x)["params"]
        params["bias"] = bias
        ordinary = Conv(**fields, feature_group_count=2).apply(
            {"params": {"kernel": params["kernel"], "bias": bias}}, x
        )
        gradient = jax.grad(lambda params: jnp.sum(layer.apply({"params": params}, x) ** 2))(params)
        return params, layer.apply({"params": params}, x), ordinary, gradient

    params, out, ordinary, gradient = results(x, bias)
    np.testing.assert_allclose(out, (ordinary - bias) / 2 + bias if modulated else ordinary, atol=1e-5)
    shapes = {"kernel": (3, 2, 2, 6), "bias": (6,)}
    assert {key: params[key].shape for key in shapes} == shapes
    told = {"offset": 24, "mask": 12} if modulated else {"offset": 24}
    assert set(params) == {*shapes, *told}
    for name, features in told.items():
        assert params[name]["kernel"].shape == (3, 2, 4, features) and not params[name]["kernel"].any()
    # Whoever is at zero must still learn.
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_published_parameters_and_macs_of_the_offset_convolutions():
    """Three layers of ResNet-101's last stage with four groups: the paper's system."""
    layer = DeformConv(512, (3, 3), kernel_dilation=2, num_offset_groups=4, use_bias=False)
    x = jax.ShapeDtypeStruct((1, 14, 14, 512), jnp.float32)
    params = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x), x)
    assert 3 * sum(leaf.size for leaf in jax.tree.leaves(params["params"]["offset"])) == 995_544
    macs = count_macs(layer.apply, params, x)
    assert (macs.conv, macs.other) == (14 * 14 * 9 * 512 * (512 + 72), 4 * 14 * 14 * 9 * 512)


def test_bfloat16_layers_keep_the_digits_of_offsets():
    """Column 130.25 of a bfloat16 image: there bfloat16 itself has only whole columns."""
    x = np.zeros((1, 1, 140, 1), np.float32)
    x[0, 0, 131] = 1
    layer = DeformConv(1, (1, 1), dtype=jnp.bfloat16, kernel_init=jax.nn.initializers.ones)

    @quick_jit
    def results(x):
        params = layer.init(jax.random.key(0), x)
        params["params"]["offset"]["bias"] = jnp.float32([0, 0.25])
        return layer.apply(params, x)

    out = results(x.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out[0, 0, 129:133, 0], [0, 0.25, 0.75, 0])


# The peak of this process alone: ru_maxrss begins with that of the process that started it.
_MEMORY = """
import pathlib
import jax
import jax.numpy as jnp
from arch.ops.deformable import deform_conv2d

def loss(x, offsets, kernel, mask):
    return jnp.sum(deform_conv2d(x, offsets, kernel, mask=mask, padding="SAME") ** 2)

keys = jax.random.split(jax.random.key(0), 4)
shapes = ((8, 64, 64, 256), (8, 64, 64, 18), (3, 3, 256, 256), (8, 64, 64, 9))
inputs = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]
value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(*inputs)
assert all(bool(jnp.isfinite(gradient).all()) for gradient in gradients)
status = pathlib.Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
"""


@pytest.mark.slow
def test_memory_at_64x64x256():
    """The issue's bound for a batch of 8, forward and backward; all samples alone are 302 MB, and their corners four
    times that."""
    run = subprocess.run([sys.executable, "-c", _MEMORY], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 3e9
