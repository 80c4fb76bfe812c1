"""conv2d on every path: values and gradients against a NumPy loop, every transformation against jax.lax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from arch.ops._lowerings import canonical, choice
from arch.ops._lowerings.geometry import Geometry
from arch.ops.conv import Conv, conv2d
from tests.compiling import quick_jit

# The programs are tiny and compiled once: let XLA hurry.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2}


def _oracle(x, kernel, *, strides=(1, 1), padding, kernel_dilation=(1, 1), feature_group_count=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=kernel_dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=feature_group_count,
    )


def _assert_close(actual, expected, tolerance):
    """Up to `tolerance` of the largest value."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        other = np.asarray(other, np.float64)
        assert leaf.shape == other.shape
        atol = tolerance * np.max(np.abs(other), initial=0.0)
        np.testing.assert_allclose(np.asarray(leaf, np.float64), other, rtol=0, atol=atol)


_axis = st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(1, 3), st.integers(1, 12))
_padding = st.one_of(
    st.sampled_from(["SAME", "VALID"]), st.tuples(*[st.tuples(st.integers(-1, 4), st.integers(0, 4))] * 2)
)


@st.composite
def _convolutions(draw):
    """(shape of x, shape of the kernel, fields of conv2d)."""
    axes = [draw(_axis), draw(_axis)]
    groups, group_in, group_out = draw(st.integers(1, 9)), draw(st.sampled_from([1, 1, 2, 3])), draw(st.integers(1, 2))
    special = draw(st.sampled_from([None, None, "1x1", "dense 3x3"]))  # they have paths of their own
    if special == "1x1":
        axes = [(1, *axis[1:]) for axis in axes]
    elif special == "dense 3x3":
        axes, groups = [(3, 1, *axis[2:]) for axis in axes], 1
    taps, strides, dilation, size = zip(*axes, strict=True)
    padding = draw(st.just(((0, 0), (0, 0))) if taps == (1, 1) else _padding)
    fields = {"strides": strides, "padding": padding, "kernel_dilation": dilation, "feature_group_count": groups}
    batch = draw(st.integers(1, 3))
    return (batch, *size, groups * group_in), (*taps, group_in, groups * group_out), fields


def _paths(kernel_shape, fields):
    paths = ["reference", "grouped"]
    if kernel_shape[2] == 1:
        paths.append("depthwise")
    if kernel_shape[:2] == (1, 1) and fields["padding"] == ((0, 0), (0, 0)):
        paths.append("matmul")
    if fields["feature_group_count"] == 1:
        paths.append("im2col")
        if kernel_shape[:2] == (3, 3) and fields["strides"] == (1, 1):
            paths.append("winograd")
    return paths


def _loop(x, kernel, *, strides, padding, kernel_dilation, feature_group_count):
    """The value and, of its product with noise, both gradients: a sum over taps, in float64 NumPy."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    extents = [dilation * (taps - 1) + 1 for dilation, taps in zip(kernel_dilation, kernel.shape, strict=False)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], extents, strides, padding)
    # What negative padding crops stays in a margin: all pixels keep a place, and windows start later.
    padded = np.pad(x, ((0, 0), *((max(0, before), max(0, after)) for before, after in padding), (0, 0)))
    padded = padded.reshape(*padded.shape[:3], feature_group_count, -1)
    kernel = kernel.reshape(*kernel.shape[:3], feature_group_count, -1)
    starts = [max(0, -before) for before, _ in padding]
    sizes = [
        max(0, (size + sum(pads) - extent) // stride + 1)
        for size, pads, extent, stride in zip(x.shape[1:3], padding, extents, strides, strict=True)
    ]

    def window(tap):
        firsts = [start + t * dilation for start, t, dilation in zip(starts, tap, kernel_dilation, strict=True)]
        ends = [first + size * stride for first, size, stride in zip(firsts, sizes, strides, strict=True)]
        # The last step may lead past the margin, which a slice allows, but never to one pixel more than `size`.
        return slice(None), *(slice(*bounds) for bounds in zip(firsts, ends, strides, strict=True))

    taps = list(np.ndindex(*kernel.shape[:2]))
    out = sum(np.einsum("bhwgi,igo->bhwgo", padded[window(tap)], kernel[tap]) for tap in taps)
    noise = _noise((*out.shape[:3], out.shape[3] * out.shape[4])).reshape(out.shape)
    x_gradient, kernel_gradient = np.zeros_like(padded), np.zeros_like(kernel)
    for tap in taps:
        kernel_gradient[tap] = np.einsum("bhwgi,bhwgo->igo", padded[window(tap)], noise)
        x_gradient[window(tap)] += np.einsum("bhwgo,igo->bhwgi", noise, kernel[tap])
    rows, columns = (
        slice(max(0, before), max(0, before) + size) for (before, _), size in zip(padding, x.shape[1:3], strict=True)
    )
    flat = [
        array.reshape(*array.shape[:3], array.shape[3] * array.shape[4]) for array in (out, x_gradient, kernel_gradient)
    ]
    return flat[0], flat[1][:, rows, columns], flat[2]


def _noise(shape):
    """Exact in bfloat16."""
    return np.random.default_rng(3).integers(-8, 8, size=shape) / 8.0


def _parts(conv, x, kernel):
    """As `_loop`, of a convolution of JAX."""
    out, pull = jax.vjp(conv, x, kernel)
    return out, *pull(jnp.asarray(_noise(out.shape), out.dtype))


def _check_parity(case, narrow_dtypes_on=("auto",)):
    x_shape, kernel_shape, fields = case
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=x_shape), rng.normal(size=kernel_shape)
    paths = _paths(kernel_shape, fields)
    runs = [("float64", path) for path in paths]
    runs += [(dtype, path) for dtype in ("float32", "bfloat16") for path in narrow_dtypes_on or paths]

    @quick_jit
    def run(x, kernel):
        return [
            _parts(functools.partial(conv2d, implementation=path, **fields), x.astype(dtype), kernel.astype(dtype))
            for dtype, path in runs
        ]

    with jax.enable_x64(True):
        for (dtype, path), actual in zip(runs, run(x, kernel), strict=True):
            assert all(part.dtype == dtype for part in actual), path
            expected = _loop(x.astype(dtype), kernel.astype(dtype), **fields)
            _assert_close(actual, expected, TOLERANCE[dtype])


_grid = functools.partial(settings, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@_grid(max_examples=15)
@given(_convolutions())
def test_parity(case):
    _check_parity(case)


@pytest.mark.slow
@_grid(max_examples=120)
@given(_convolutions())
def test_parity_over_the_whole_grid(case):
    """Every path in every dtype."""
    _check_parity(case, narrow_dtypes_on=None)


# Large enough for the rule to leave JAX's own: shapes of x and of the kernel, fields, the programs of the three parts.
CHOSEN = {
    "dense 3x3": ((4, 16, 16, 32), (3, 3, 32, 32), {"padding": "SAME"}, ["winograd"] * 3),
    "dilated": ((2, 24, 24, 32), (3, 3, 32, 40), {"padding": "SAME", "kernel_dilation": (2, 2)}, ["winograd"] * 3),
    "small map": ((2, 7, 7, 128), (3, 3, 128, 128), {"padding": "SAME"}, ["im2col"] * 3),
    "stem": ((3, 64, 62, 3), (7, 7, 3, 8), {"padding": "SAME", "strides": (2, 2)}, ["canonical"] * 2 + ["im2col"]),
    "stem, padded": ((2, 13, 12, 3), (3, 3, 3, 24), {"padding": "SAME", "strides": (2, 2)}, ["canonical"] * 3),
    "narrow": ((2, 9, 8, 5), (3, 3, 5, 6), {"padding": ((2, 0), (-1, 1)), "strides": (2, 1)}, ["canonical"] * 3),
    "narrow, dilated": ((2, 9, 8, 5), (3, 2, 5, 6), {"padding": "SAME", "kernel_dilation": (2, 3)}, ["canonical"] * 3),
    "taps beyond pixels": ((2, 2, 2, 5), (3, 3, 5, 6), {"padding": "SAME"}, ["im2col", "im2col", "canonical"]),
    "strided to few": (
        (2, 4, 4, 5),
        (3, 3, 5, 6),
        {"padding": "SAME", "strides": (2, 2)},
        ["canonical", "im2col", "canonical"],
    ),
    "one pixel": ((2, 1, 1, 5), (3, 3, 5, 6), {"padding": "SAME"}, ["canonical"] * 3),
    "depthwise": ((2, 14, 14, 64), (3, 3, 1, 64), {"padding": "SAME", "strides": (2, 2)}, ["depthwise"] * 3),
    "32 groups": ((2, 14, 14, 128), (3, 3, 4, 128), {"padding": "SAME"}, ["grouped"] * 3),
    "wide groups": ((4, 16, 16, 64), (3, 3, 32, 64), {"padding": "SAME"}, ["grouped"] * 3),  # winograd within
    "1x1": ((2, 14, 14, 64), (1, 1, 64, 32), {"padding": "VALID"}, ["matmul"] * 3),
    "grouped 1x1": ((2, 14, 14, 60), (1, 1, 20, 24), {"padding": "VALID"}, ["matmul"] * 3),
    "grouped 1x1, large map": ((3, 28, 28, 60), (1, 1, 20, 24), {"padding": "VALID"}, ["grouped"] * 3),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_parity_of_what_auto_chooses(name):
    x_shape, kernel_shape, fields, programs = CHOSEN[name]
    groups = x_shape[3] // kernel_shape[2]
    fields = {"strides": (1, 1), "kernel_dilation": (1, 1), "feature_group_count": groups, **fields}
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in (x_shape, kernel_shape))
    conv = functools.partial(conv2d, **fields)
    (equation,) = jax.make_jaxpr(conv)(x, kernel).eqns
    chosen = [
        choice.choose(part, equation.params["geometry"], x_shape[0], kernel_shape, x.dtype, on_cpu=True)
        for part in ("value", "input_gradient", "kernel_gradient")
    ]
    assert [module.__name__.rpartition(".")[2] for module in chosen] == programs
    actual = quick_jit(functools.partial(_parts, conv))(x, kernel)
    _assert_close(actual, _loop(x, kernel, **fields), 1e-5)


# A path, shapes of x and of the kernel, fields.
PATHS = {
    "depthwise": ("depthwise", (4, 7, 6, 4), (3, 3, 1, 4), {"strides": (2, 2), "padding": ((1, 1), (1, 1))}),
    "multiplier": ("depthwise", (4, 5, 6, 3), (3, 2, 1, 6), {"padding": "SAME", "kernel_dilation": (2, 1)}),
    "grouped": ("grouped", (4, 6, 5, 18), (3, 3, 9, 4), {"padding": "SAME", "strides": (1, 2)}),
    "blocks": ("grouped", (4, 4, 5, 24), (2, 2, 6, 8), {"padding": "VALID"}),
    "1x1": ("matmul", (4, 3, 5, 6), (1, 1, 6, 4), {"padding": "VALID", "strides": (2, 2)}),
    "grouped 1x1": ("matmul", (4, 4, 5, 6), (1, 1, 3, 4), {"padding": "VALID"}),
    "im2col": ("im2col", (4, 6, 5, 3), (3, 2, 3, 4), {"padding": "SAME", "strides": (2, 1), "kernel_dilation": (1, 2)}),
    "winograd": ("winograd", (4, 6, 5, 3), (3, 3, 3, 4), {"padding": ((1, 2), (0, 1)), "kernel_dilation": (1, 2)}),
    "dense": ("auto", (4, 6, 5, 3), (3, 3, 3, 4), {"padding": "SAME"}),
    "reference": ("reference", (4, 6, 5, 6), (3, 3, 2, 6), {"padding": "SAME", "strides": (1, 2)}),
}


# One of each path before the rest.
QUICK_PATHS = ("depthwise", "blocks", "grouped 1x1")


@pytest.fixture(params=[p if p in QUICK_PATHS else pytest.param(p, marks=pytest.mark.slow) for p in PATHS])
def path(request):
    """(conv2d, the oracle, x, kernel), both of two arrays."""
    name, x_shape, kernel_shape, fields = PATHS[request.param]
    fields = {**fields, "feature_group_count": x_shape[3] // kernel_shape[2]}
    rng = np.random.default_rng(1)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (x_shape, kernel_shape))
    return functools.partial(conv2d, implementation=name, **fields), functools.partial(_oracle, **fields), x, kernel


def _loss(conv, x, kernel):
    out = conv(x, kernel)
    return jnp.sum(jnp.sin(out) * jnp.arange(out.size).reshape(out.shape) / out.size)


def _transformed(conv, x, kernel):
    """All that JAX can make of a function, but for devices, by name."""
    loss = functools.partial(_loss, conv)
    gradient = jax.grad(loss, (0, 1))
    x_tangent, kernel_tangent = jnp.cos(3 * x), jnp.sin(2 * kernel)
    xs, kernels = jnp.stack([x, x_tangent, x - 1]), jnp.stack([kernel, kernel_tangent, kernel + 1], axis=3)
    out = conv(x, kernel)
    outs = jnp.stack([jnp.cos(out), jnp.sin(out), out], axis=1)
    pull_x = jax.linear_transpose(lambda a: conv(a, kernel), x)
    pull_kernel = jax.linear_transpose(lambda a: conv(x, a), kernel)

    def pull(x, kernel, out):
        return jax.vjp(conv, x, kernel)[1](out)

    axes = [(0, None, None), (None, 3, None), (None, None, 1), (0, 3, None), (0, None, 1), (None, 3, 1), (0, 3, 1)]
    mapped = (xs, kernels, outs)
    alone = (x, kernel, out)
    return {
        "value": out,
        "grad": gradient(x, kernel),
        "jvp": jax.jvp(conv, (x, kernel), (x_tangent, kernel_tangent)),
        "forward over reverse": jax.jvp(gradient, (x, kernel), (x_tangent, kernel_tangent))[1],
        "reverse over reverse": jax.grad(
            lambda *args: sum(jnp.vdot(g, jnp.cos(a)) for g, a in zip(gradient(*args), args, strict=True)), (0, 1)
        )(x, kernel),
        "third order": jax.grad(lambda a: jnp.vdot(jax.jvp(jax.grad(loss), (a, kernel), (a, kernel))[1], a))(x),
        "linear_transpose": (pull_x(out), pull_kernel(out)),
        "transposed twice": jax.linear_transpose(lambda out: pull_x(out)[0], out)(x),
        "checkpoint": jax.grad(jax.checkpoint(loss), (0, 1))(x, kernel),
        "scan": lax.scan(lambda c, a: (c + conv(a, kernel), gradient(a, kernel)), jnp.zeros_like(out), xs),
        "vmap": [
            jax.vmap(conv, a, b)(xs if a[0] == 0 else x, kernels if a[1] == 3 else kernel)
            for a, b in (((0, None), 0), ((None, 3), 2), ((0, 3), 4))
        ],
        "vmap of the gradient": [
            jax.vmap(pull, a)(*(m if i is not None else o for m, o, i in zip(mapped, alone, a, strict=True)))
            for a in axes
        ],
        "vmap of vmap": jax.vmap(jax.vmap(gradient, (0, None)), (None, 3))(xs, kernels),
        "gradient of vmap": jax.grad(lambda k: jnp.sum(jnp.sin(jax.vmap(conv, (None, 3))(x, k))))(kernels),
    }


def test_every_transformation(path):
    conv, oracle, x, kernel = path
    actual = quick_jit(functools.partial(_transformed, conv))(x, kernel)
    expected = quick_jit(functools.partial(_transformed, oracle))(x, kernel)
    for name in expected:
        for part, other in zip(jax.tree.leaves(actual[name]), jax.tree.leaves(expected[name]), strict=True):
            assert part.shape == other.shape, name
            np.testing.assert_allclose(part, other, rtol=0, atol=2e-5 * np.max(np.abs(other)), err_msg=name)


def test_without_jit_and_by_shape(path):
    conv, oracle, x, kernel = path
    _assert_close(conv(x, kernel), oracle(x, kernel), 1e-5)
    shapes = jax.eval_shape(jax.grad(functools.partial(_loss, conv), (0, 1)), x, kernel)
    assert [shape.shape for shape in shapes] == [x.shape, kernel.shape]


def test_devices(path):
    conv, oracle, x, kernel = path
    expected = jax.grad(functools.partial(_loss_by_example, oracle), (0, 1))(x, kernel)
    gradient = jax.grad(functools.partial(_loss_by_example, conv), (0, 1))

    def reduced(x, kernel):
        x_gradient, kernel_gradient = gradient(x, kernel)
        return x_gradient, lax.psum(kernel_gradient, "batch")

    rows = x.reshape(2, 2, *x.shape[1:])
    x_gradient, kernel_gradient = jax.pmap(reduced, axis_name="batch", in_axes=(0, None))(rows, kernel)
    _assert_close((x_gradient.reshape(x.shape), kernel_gradient[0]), expected, 1e-5)

    mesh = Mesh(jax.devices()[:2], ("batch",))
    batch, alone = PartitionSpec("batch"), PartitionSpec()
    for check_vma in (False, True):
        # With check_vma, gradients of what all devices share are summed by the transpose.
        fn = gradient if check_vma else reduced
        fn = jax.shard_map(fn, mesh=mesh, in_specs=(batch, alone), out_specs=(batch, alone), check_vma=check_vma)
        _assert_close(jax.jit(fn)(x, kernel), expected, 1e-5)
        tangents = jax.shard_map(
            lambda x, k: jax.jvp(gradient, (x, k), (x, jnp.zeros_like(k)))[1][0],
            mesh=mesh,
            in_specs=(batch, alone),
            out_specs=batch,
            check_vma=check_vma,
        )
        other = jax.jvp(jax.grad(functools.partial(_loss_by_example, oracle)), (x, kernel), (x, jnp.zeros_like(kernel)))
        _assert_close(jax.jit(tangents)(x, kernel), other[1], 2e-5)


def test_dense_gradients_are_in_the_layout_that_is_fast_within_loops_and_branches():
    x, kernel = jnp.ones((2, 9, 9, 4)), jnp.ones((3, 3, 4, 6))
    gradient = jax.jit(jax.grad(functools.partial(_loss, functools.partial(conv2d, padding="SAME")), (0, 1)))
    text = jax.export.export(gradient, platforms=("cpu",))(x, kernel).mlir_module()
    layouts = [line.split("dim_numbers = ")[1] for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(layouts) == 3
    assert all(layout.startswith("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]") for layout in layouts)
    assert "reverse = [" not in text  # of a window, which has no fast program either


def _loss_by_example(conv, x, kernel):
    return jnp.sum(jnp.sin(conv(x, kernel)))


def test_export_for_three_platforms(path):
    conv, oracle, x, kernel = path
    gradient = jax.jit(jax.grad(functools.partial(_loss, conv), (0, 1)))
    exported = jax.export.export(gradient, platforms=("cpu", "cuda", "tpu"))(x, kernel)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    _assert_close(exported.call(x, kernel), jax.grad(functools.partial(_loss, oracle), (0, 1))(x, kernel), 1e-5)


def test_auto_is_chosen_for_the_platform_that_is_lowered_for():
    x, kernel = jnp.ones((2, 5, 5, 4)), jnp.ones((3, 3, 1, 4))
    for implementation, expected in (
        ("auto", {"cpu": False, "cuda": True, "tpu": True}),
        ("depthwise", {"cpu": False, "cuda": False, "tpu": False}),
        ("reference", {"cpu": True, "cuda": True, "tpu": True}),
    ):
        conv = functools.partial(conv2d, padding="SAME", feature_group_count=4, implementation=implementation)
        gradient = jax.jit(jax.grad(functools.partial(_loss, conv), (0, 1)))
        for platform, is_stock in expected.items():
            text = jax.export.export(gradient, platforms=(platform,))(x, kernel).mlir_module()
            assert ("stablehlo.convolution" in text) == is_stock, (implementation, platform)


def test_no_pixels_integers_and_no_examples():
    kernel = jnp.ones((5, 5, 1, 4))
    conv = functools.partial(conv2d, padding="VALID", feature_group_count=4)
    out, x_gradient, kernel_gradient = _parts(conv, jnp.ones((2, 3, 8, 4)), kernel)
    assert out.shape == (2, 0, 4, 4)
    assert not np.any(x_gradient) and not np.any(kernel_gradient)
    out, _, kernel_gradient = _parts(conv, jnp.ones((0, 8, 8, 4)), kernel)
    assert out.shape == (0, 4, 4, 4) and not np.any(kernel_gradient)
    counts = conv(jnp.ones((2, 5, 5, 4), jnp.int32), kernel.astype(jnp.int32))
    assert counts.dtype == jnp.int32 and np.all(counts == 25)


def test_precision_is_that_of_the_context_at_tracing():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    conv = functools.partial(conv2d, padding="SAME")

    def precisions(conv):
        return jax.jit(conv).trace(x, kernel).lower(lowering_platforms=("cuda",)).as_text()

    assert "HIGHEST" not in precisions(conv)
    assert "HIGHEST" in precisions(functools.partial(conv, precision=lax.Precision.HIGHEST))
    with jax.default_matmul_precision("highest"):
        traced = jax.jit(conv).trace(x, kernel)
    assert "HIGHEST" in traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    "fields",
    [
        {"features": 5, "kernel_size": (3, 3)},
        {"features": 12, "kernel_size": (3, 3), "strides": (2, 2), "feature_group_count": 6, "kernel_dilation": 2},
        {"features": 4, "kernel_size": (1, 1), "feature_group_count": 2, "use_bias": False, "padding": "VALID"},
        {"features": 4, "kernel_size": (3, 2), "padding": 1, "bias_init": nn.initializers.normal()},
        {"features": 4, "kernel_size": (3, 3), "padding": ((1, 0), (0, 2)), "strides": 2, "dtype": jnp.bfloat16},
        {"features": 4, "kernel_size": (3, 3), "param_dtype": jnp.bfloat16, "kernel_init": nn.initializers.ones},
    ],
)
def test_module_is_flaxs_own(fields):
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 6))
    ours, theirs = (cls(**fields).init_with_output(jax.random.key(1), x) for cls in (Conv, nn.Conv))
    jax.tree.map(np.testing.assert_array_equal, ours[1], theirs[1])
    assert ours[0].dtype == theirs[0].dtype
    _assert_close(ours[0], theirs[0], 1e-5 if ours[0].dtype == jnp.float32 else 2e-2)


def _call(x_shape=(2, 5, 5, 4), kernel_shape=(3, 3, 1, 4), dtype=jnp.float32, **fields):
    fields = {"padding": "SAME", "feature_group_count": 4, **fields}
    return conv2d(jnp.ones(x_shape, dtype), jnp.ones(kernel_shape), **fields)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (
            {"implementation": "depthwize"},
            "conv2d: implementation: unknown name 'depthwize'; did you mean 'depthwise'?",
        ),
        (
            {"implementation": "matmul"},
            "conv2d: implementation='matmul': kernel_size=(3, 3) must be (1, 1); choose 'auto'",
        ),
        (
            {"implementation": "matmul", "kernel_shape": (1, 1, 1, 4), "padding": 1},
            "conv2d: implementation='matmul': padding=((1, 1), (1, 1)) must be zero; choose 'auto'",
        ),
        (
            {"implementation": "depthwise", "feature_group_count": 2, "kernel_shape": (3, 3, 2, 4)},
            "conv2d: implementation='depthwise': in_features / feature_group_count=2 must be 1; choose 'auto'",
        ),
        ({"feature_group_count": 3}, "conv2d: in_features=4 must be feature_group_count=3 times kernel.shape[2]=1; "),
        ({"kernel_shape": (3, 3, 1, 6)}, "conv2d: feature_group_count=4 must divide features=6; choose a divisor"),
        ({"x_shape": (5, 5, 4)}, "conv2d: x and kernel must have 4 axes, not shapes (5, 5, 4) and (3, 3, 1, 4); "),
        ({"dtype": jnp.bfloat16}, "conv2d: x and kernel must be of one dtype, not bfloat16 and float32; cast one"),
        ({"strides": (1, 2, 3)}, "conv2d: strides=(1, 2, 3) must be one or two positive integers; "),
        ({"kernel_dilation": 0}, "conv2d: kernel_dilation=0 must be one or two positive integers; "),
        ({"padding": "SAMEY"}, "conv2d: padding: unknown name 'SAMEY'; did you mean 'SAME'?"),
        ({"padding": ((1, 1),)}, "conv2d: padding=((1, 1),) must be a (before, after) for height and for width; "),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError) as error:
        _call(**arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_module_errors():
    with pytest.raises(ValueError, match=r"^Conv: feature_group_count=4 must divide in_features=6 and features=8; "):
        Conv(8, (3, 3), feature_group_count=4).init(jax.random.key(0), jnp.ones((1, 4, 4, 6)))


@pytest.mark.parametrize(("out_features", "channels"), [(16, 3), (17, 4), (32, 4), (33, 3), (72, 4), (88, 3)])
def test_images_get_a_fourth_channel_where_older_programs_are_slow(out_features, channels, monkeypatch):
    """The multiply-adds are those of so many channels, and the value is that of three."""
    monkeypatch.setattr(canonical, "PADS_IMAGES", True)
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((2, 8, 8, 3), (3, 3, 3, out_features)))
    geometry = Geometry((8, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    value = functools.partial(canonical.value, geometry=geometry)
    (conv,) = (eqn for eqn in jax.make_jaxpr(value)(x, kernel).eqns if eqn.primitive.name == "conv_general_dilated")
    assert conv.invars[0].aval.shape[3] == channels
    fields = {"strides": (1, 1), "kernel_dilation": (1, 1), "feature_group_count": 1, "padding": "SAME"}
    _assert_close((quick_jit(value)(x, kernel),), _loop(x, kernel, **fields)[:1], 1e-5)
