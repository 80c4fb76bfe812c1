"""Resizing and rearranging pixels: against torch's recorded results, formulas in exact arithmetic, and identities."""

import fractions
import functools
import pathlib

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch.ops._lowerings.resampling import MAX_TERMS
from arch.ops.conv import Conv, ConvTranspose, transposed_padding
from arch.ops.conv2d import conv2d
from arch.ops.resize import bilinear_init, icnr_init, pixel_shuffle, pixel_unshuffle, resize
from tests.compiling import quick_jit
from tests.goldens.record_resize import MODES, SCALES, SIZES, TRANSPOSED

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "goldens" / "resize.npz")
OPTIONS = {
    "nearest": {"method": "nearest"},
    "nearest-exact": {"method": "nearest-exact"},
    "bilinear": {},
    "align_corners": {"align_corners": True},
    "antialias": {"antialias": True},
}


def _value_and_gradient(call, x):
    """The output, and the gradient of sum(output * cos(0, 1, ...)), as recorded."""
    out, pull = jax.vjp(call, x)
    return out, pull(jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))[0]


@pytest.mark.parametrize("numbers", [(1, 2, 4), pytest.param((0, 3, 5, 6, 7, 8), marks=pytest.mark.slow)])
def test_resize_is_torchs_with_its_gradient(x64, numbers):
    def modes_of(x, out_size):
        return [_value_and_gradient(lambda x, kw=OPTIONS[mode]: resize(x, out_size, **kw), x) for mode in MODES]

    @quick_jit
    def results(inputs):
        return {number: modes_of(x, SIZES[number][1]) for number, x in inputs.items()}

    for number, modes in results({number: GOLDEN[f"size{number}/x"] for number in numbers}).items():
        for mode, (out, gradient), *expected in zip(
            MODES, modes, GOLDEN[f"size{number}/out"], GOLDEN[f"size{number}/grad"], strict=True
        ):
            name = f"{mode} {SIZES[number]}"
            np.testing.assert_allclose(out, expected[0], rtol=0, atol=1e-13, err_msg=name)
            np.testing.assert_allclose(gradient, expected[1], rtol=0, atol=1e-12, err_msg=name)


def test_published_values_of_one_row():
    def row(values, size, **options):
        return resize(jnp.asarray(values, jnp.float32)[None, None, :, None], (1, size), **options)[0, 0, :, 0]

    @quick_jit
    def rows():
        squares = row([0, 1, 4, 9], 2), row([0, 1, 4, 9], 2, antialias=True)
        lines = row([0, 1], 4), row([0, 1], 4, align_corners=True)
        return *squares, *lines, row([0, 1, 2], 5, method="nearest"), row([0, 1, 2], 5, method="nearest-exact")

    expected = [0.5, 6.5], [1, 40 / 7], [0, 0.25, 0.75, 1], [0, 1 / 3, 2 / 3, 1], [0, 0, 1, 1, 2], [0, 0, 1, 2, 2]
    for ours, theirs in zip(rows(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("size,out_size", [(2, 82), (4, 41), (100, 7)])
def test_nearest_pixels_are_exact(size, out_size):
    """At the first two sizes the pixels that float32 chooses are off: of torch's "nearest" and "nearest-exact"."""
    x = np.arange(size, dtype=np.int32).reshape(1, size, 1, 1)
    for method, start in (("nearest", 0), ("nearest-exact", fractions.Fraction(1, 2))):
        out = quick_jit(lambda x, method=method: resize(x, (out_size, 1), method))(x)
        assert out.dtype == jnp.int32
        expected = [int((i + start) * fractions.Fraction(size, out_size)) for i in range(out_size)]
        np.testing.assert_array_equal(out[0, :, 0, 0], expected)


def _triangles(size, out_size):
    """[out_size, size] bilinear weights by the edges, from the formula."""
    weights = np.zeros((out_size, size))
    for i in range(out_size):
        point = min(max((i + 0.5) * size / out_size - 0.5, 0), size - 1)
        for j in range(size):
            weights[i, j] = max(0, 1 - abs(point - j))
    return weights


def test_sums_of_many_terms(x64):
    """Where a pixel is read so often that its gradient is a sum of sums."""
    size, out_size = (1, 3), (2 * MAX_TERMS + 5, 7)
    random = np.random.RandomState(0)
    x, probe = random.standard_normal((1, *size, 2)), random.standard_normal((1, *out_size, 2))
    rows, columns = (_triangles(*sizes) for sizes in zip(size, out_size, strict=True))

    @quick_jit
    def run(x, probe):
        out, pull = jax.vjp(lambda x: resize(x, out_size), x)
        return out, *pull(probe)

    out, gradient = run(x, probe)
    np.testing.assert_allclose(out, np.einsum("ip,jq,npqc->nijc", rows, columns, x), atol=1e-13)
    np.testing.assert_allclose(gradient, np.einsum("ip,jq,nijc->npqc", rows, columns, probe), atol=1e-11)


def test_what_is_not_finite_reaches_its_own_pixels_alone():
    x = jnp.ones((1, 2, 3, 1)).at[0, 0, 0].set(jnp.inf)
    out, gradient = quick_jit(lambda x: _value_and_gradient(lambda x: resize(x, (4, 6), "nearest"), x))(x)
    assert np.isinf(out).sum() == 4 and np.isfinite(gradient).all()
    pulled = quick_jit(lambda g: jax.vjp(lambda x: resize(x, (1, 1)), x)[1](g)[0])(jnp.full((1, 1, 1, 1), jnp.inf))
    np.testing.assert_array_equal(pulled[0, :, :, 0], [[0, np.inf, 0]] * 2)


@pytest.mark.slow
def test_derivatives_of_every_kind_and_maps(x64):
    """The map is linear: its derivative is itself, and so in reverse over forward, mapped, sharded and exported."""
    random = np.random.RandomState(0)
    x, tangent = random.standard_normal((2, 2, 3, 5, 2))
    call = lambda x: resize(x, (6, 4))  # noqa: E731
    pulled = lambda x: jax.grad(lambda x: jnp.sum(call(x) ** 3))(x)  # noqa: E731

    @quick_jit
    def results(x, tangent):
        out, pushed = jax.jvp(call, (x,), (tangent,))
        second = jax.jvp(pulled, (x,), (tangent,))[1]
        third = jax.vjp(lambda g: jax.vjp(call, x)[1](g)[0], out)[1](tangent)[0]
        each = jax.vmap(lambda x: pulled(x[None])[0], 1, 1)(x.swapaxes(0, 1)).swapaxes(0, 1)
        return out, call(tangent), pushed, second, third, each, pulled(x)

    out, moved, pushed, second, third, each, gradient = results(x, tangent)
    np.testing.assert_allclose(pushed, moved, atol=1e-14)
    np.testing.assert_allclose(third, moved, atol=1e-14)
    np.testing.assert_allclose(np.vdot(second, tangent), np.sum(6 * out * moved**2), rtol=1e-12)
    np.testing.assert_allclose(each, gradient, atol=1e-13)
    spec = jax.sharding.PartitionSpec("batch")
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("batch",))
    sharded = quick_jit(jax.shard_map(pulled, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(sharded(x), gradient, atol=1e-13)
    exported = jax.export.export(jax.jit(pulled), platforms=("cpu", "cuda", "tpu"))(x)
    np.testing.assert_allclose(exported.call(x), gradient, atol=1e-13)


def test_pixel_shuffle_is_torchs_with_its_gradient(x64):
    inputs = {name: GOLDEN[f"{name}/x"] for name in SCALES}
    calls = {name: lambda x, scale=scale: pixel_shuffle(x, scale) for name, scale in SCALES.items()}
    results = quick_jit(lambda inputs: {name: _value_and_gradient(calls[name], x) for name, x in inputs.items()})
    for name, (out, gradient) in results(inputs).items():
        np.testing.assert_array_equal(out, GOLDEN[f"{name}/out"])
        np.testing.assert_allclose(gradient, GOLDEN[f"{name}/grad"], atol=1e-15)
        np.testing.assert_array_equal(pixel_unshuffle(out, SCALES[name]), inputs[name])


def test_pixel_shuffle_against_a_loop_in_both_orders():
    scale, features = 3, 2
    x = np.arange(2 * 2 * 1 * 18).reshape(2, 2, 1, 18)
    outs = quick_jit(lambda x: {order: pixel_shuffle(x, scale, order) for order in ("torch", "tf")})(x)
    for order, out in outs.items():
        expected = np.empty((2, 6, 3, features), int)
        for h, w, i, j, c in np.ndindex(2, 1, scale, scale, features):
            channel = (c * scale + i) * scale + j if order == "torch" else (i * scale + j) * features + c
            expected[:, h * scale + i, w * scale + j, c] = x[:, h, w, channel]
        np.testing.assert_array_equal(out, expected)
        assert out.dtype == jnp.int32
        np.testing.assert_array_equal(pixel_unshuffle(out, scale, order), x)


def test_icnr_starts_as_a_nearest_resize():
    x = np.random.RandomState(0).standard_normal((1, 4, 3, 2)).astype(np.float32)
    base = lambda key, shape, dtype: jnp.cos(jnp.arange(54, dtype=dtype)).reshape(shape)  # noqa: E731

    @quick_jit
    def results(x):
        layers = {order: Conv(12, 3, kernel_init=icnr_init(2, base, order)) for order in ("torch", "tf")}
        outs = {order: layer.init_with_output(jax.random.key(0), x)[0] for order, layer in layers.items()}
        expected = resize(conv2d(x, base(None, (3, 3, 2, 3), x.dtype), padding="SAME"), (8, 6), "nearest")
        return {order: pixel_shuffle(out, 2, order) for order, out in outs.items()}, expected

    outs, expected = results(x)
    for out in outs.values():
        np.testing.assert_allclose(out, expected, atol=1e-6)
    kernel = icnr_init(3, nn.initializers.he_normal())(jax.random.key(0), (1, 1, 2, 18), jnp.bfloat16)
    assert kernel.dtype == jnp.bfloat16
    assert len(np.unique(kernel.astype(jnp.float32))) == 4


def test_bilinear_init_upsamples_as_torchs_fcn(x64):
    layer = functools.partial(ConvTranspose, 2, use_bias=False, kernel_init=bilinear_init(), param_dtype=jnp.float64)
    kinds = ({}, {"transpose_kernel": True}, {"feature_group_count": 2})

    def parts(name, x, fields):
        taps, stride, padding = TRANSPOSED[name]
        module = layer(taps, stride, transposed_padding(taps, padding), **fields)
        return _value_and_gradient(lambda x: module.init_with_output(jax.random.key(0), x)[0], x)

    results = quick_jit(lambda inputs: {name: [parts(name, x, kind) for kind in kinds] for name, x in inputs.items()})
    for name, kinds in results({name: GOLDEN[f"{name}/x"] for name in TRANSPOSED}).items():
        for out, gradient in kinds:
            np.testing.assert_allclose(out, GOLDEN[f"{name}/out"], atol=1e-13)
            np.testing.assert_allclose(gradient, GOLDEN[f"{name}/grad"], atol=1e-13)


def test_bilinear_init_keeps_a_ramp():
    """Inside, a layer that doubles or triples the size is `resize`, and a ramp stays one."""
    ramp = np.arange(5.0)[:, None] + 10 * np.arange(6.0)
    x = np.stack([ramp, -ramp], -1)[None].astype(np.float32)
    for stride in (2, 3):
        layer = ConvTranspose(2, 2 * stride - stride % 2, stride, use_bias=False, kernel_init=bilinear_init())
        out = quick_jit(lambda x, layer=layer: layer.init_with_output(jax.random.key(0), x)[0])(x)
        points = [(np.arange(size * stride) + 0.5) / stride - 0.5 for size in (5, 6)]
        expected = points[0][:, None] + 10 * points[1]
        inner = (slice(stride, -stride),) * 2
        np.testing.assert_allclose(out[0, *inner, 0], expected[inner], atol=1e-4)
        np.testing.assert_array_equal(out[..., 1], -out[..., 0])
    kernel = bilinear_init()(jax.random.key(0), (1, 4, 1, 3), jnp.bfloat16)
    assert kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kernel[0, :, 0], np.outer([0.25, 0.75, 0.75, 0.25], [1, 1, 1]))


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda x: resize(x, 4, "bicubic"), "resize: method: unknown name 'bicubic'; .*"),
        (lambda x: resize(x[0], 4), r"resize: x\[3, 3, 8\] must be NHWC with at least one pixel; .*"),
        (lambda x: resize(x[:, :0], 4), r"resize: x\[1, 0, 3, 8\] must be NHWC with at least one pixel; .*"),
        (lambda x: resize(x, 0), "resize: size=0 must be one or two positive integers; .*"),
        (lambda x: resize(x.astype(int), 4), "resize: x must be floating point for 'bilinear', not int32; .*"),
        (lambda x: resize(x, 4, "nearest", align_corners=True), "resize: align_corners=True and .* must be False .*"),
        (lambda x: resize(x, 4, align_corners=True, antialias=True), "resize: align_corners and antialias .*"),
        (lambda x: pixel_shuffle(x, 3), r"pixel_shuffle: scale\^2=9 must divide channels=8; .*"),
        (lambda x: pixel_shuffle(x, 2, "caffe"), "pixel_shuffle: order: unknown name 'caffe'; .*"),
        (lambda x: pixel_shuffle(x[0], 2), r"pixel_shuffle: x\[3, 3, 8\] must be NHWC; .*"),
        (lambda x: pixel_unshuffle(x, 2), "pixel_unshuffle: scale=2 must divide height=3 and width=3; .*"),
        (lambda x: pixel_unshuffle(x, 0), "pixel_unshuffle: scale=0 must be at least 1; .*"),
        (lambda x: icnr_init(2, nn.initializers.zeros)(None, (3, 3, 2, 6)), r"icnr_init: scale\^2=4 .* channels=6; .*"),
        (lambda x: bilinear_init()(None, (4, 4, 2, 3)), r"bilinear_init: shape=\(4, 4, 2, 3\) must be .*"),
    ],
)
def test_refusals_are_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call(jnp.zeros((1, 3, 3, 8)))
