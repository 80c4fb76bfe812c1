"""Transposed convolution: against flax and jax.lax, against a loop over the formula, and as the adjoint of conv2d."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from arch.efficiency.complexity import Macs, abstract_variables, count, count_macs
from arch.ops.conv import Conv, ConvTranspose, conv2d, conv_transpose2d, transposed_padding
from tests.compiling import quick_jit

FIELDS = {
    "plain": {"features": 5, "kernel_size": (3, 3)},
    "upsampling": {"features": 4, "kernel_size": (4, 4), "strides": (2, 2), "bias_init": nn.initializers.normal()},
    "valid": {"features": 4, "kernel_size": (4, 3), "strides": (2, 1), "padding": "VALID", "use_bias": False},
    "gaps": {"features": 3, "kernel_size": (2, 1), "strides": (3, 2), "padding": "VALID"},
    "dilated": {"features": 3, "kernel_size": (3, 2), "kernel_dilation": (2, 3), "strides": (1, 3)},
    "number": {"features": 3, "kernel_size": (3, 3), "padding": 2, "strides": (3, 1)},
    "pairs": {"features": 3, "kernel_size": (3, 2), "padding": ((4, 5), (-1, 3)), "strides": (2, 3)},
    "transposed": {"features": 3, "kernel_size": (3, 2), "strides": (2, 2), "transpose_kernel": True},
    "pointwise": {"features": 3, "kernel_size": (1, 1), "strides": (2, 2)},
}


def _assert_close(actual, expected, tolerance):
    """Up to `tolerance` of the largest value."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        other = np.asarray(other, np.float64)
        assert leaf.shape == other.shape
        np.testing.assert_allclose(
            np.asarray(leaf, np.float64), other, rtol=0, atol=tolerance * np.max(np.abs(other), initial=0.0)
        )


def _parts(layer, variables, x):
    """The value and its gradients."""

    def loss(params, x):
        out = layer.apply({"params": params}, x)
        return jnp.sum(jnp.sin(out) * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

    return jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)


def test_module_is_flaxs_own_with_its_gradients(x64):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 6))
    layers = [[cls(**fields) for cls in (ConvTranspose, nn.ConvTranspose)] for fields in FIELDS.values()]

    @quick_jit
    def init(key):
        return [[layer.init(key, x.astype(jnp.float32)) for layer in pair] for pair in layers]

    @quick_jit
    def run(variables, x):
        return [[_parts(layer, variables[i][0], x) for layer in pair] for i, pair in enumerate(layers)]

    variables = init(jax.random.key(1))
    for name, (ours, theirs) in zip(FIELDS, variables, strict=True):
        jax.tree.map(functools.partial(np.testing.assert_array_equal, err_msg=name), ours, theirs)
    variables = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
    for ours, theirs in run(variables, x):
        _assert_close(ours, theirs, 1e-12)


@pytest.mark.parametrize("dtypes", [{}, {"dtype": jnp.bfloat16}, {"param_dtype": jnp.bfloat16}])
def test_dtypes_are_flaxs(dtypes):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 6))
    layers = [cls(**FIELDS["upsampling"], **dtypes) for cls in (ConvTranspose, nn.ConvTranspose)]
    (ours, our_variables), (theirs, their_variables) = (
        layer.init_with_output(jax.random.key(1), x) for layer in layers
    )
    jax.tree.map(np.testing.assert_array_equal, our_variables, their_variables)
    assert ours.dtype == theirs.dtype
    _assert_close(ours, theirs, 2e-2 if ours.dtype == jnp.bfloat16 else 1e-5)


def test_sizes_are_those_of_lax():
    for size, taps, stride, dilation, padding in itertools.product(
        (0, 1, 4), (1, 2, 3, 5), (1, 2, 3), (1, 2), ("SAME", "VALID", ((5, 3), (0, 0)), ((9, 0), (2, 7)))
    ):
        x, kernel = (
            jax.ShapeDtypeStruct((2, size, 3, 2), jnp.float32),
            jax.ShapeDtypeStruct((taps, 2, 2, 3), jnp.float32),
        )
        fields = {"strides": (stride, 2), "padding": padding}
        theirs = functools.partial(lax.conv_transpose, rhs_dilation=(dilation, 1), **fields)
        ours = functools.partial(conv_transpose2d, kernel_dilation=(dilation, 1), **fields)
        assert jax.eval_shape(ours, x, kernel) == jax.eval_shape(theirs, x, kernel), (size, taps, stride, dilation)


def test_without_examples_and_without_pixels():
    kernel = jnp.ones((3, 3, 2, 4))
    assert conv_transpose2d(jnp.ones((0, 2, 2, 2)), kernel, padding="SAME").shape == (0, 2, 2, 4)
    # All cropped: no output, and no gradient.
    gradient = jax.grad(lambda x: conv_transpose2d(x, kernel, padding=((-1, 1), (1, 1))).sum())
    assert not np.any(gradient(jnp.ones((1, 2, 2, 2))))
    # No input, and no less padding: zeros.
    out = conv_transpose2d(jnp.ones((1, 0, 2, 2)), kernel, padding=((3, 2), (1, 1)), strides=2)
    assert out.shape == (1, 3, 3, 4) and not np.any(out)


def _loop(x, kernel, *, strides, padding, kernel_dilation=(1, 1), output_padding=(0, 0), groups=1):
    """torch's definition, kernels as [height, width, out / groups, in]: each pixel adds the kernel to the output.

    Returns the value and, of its product with noise, the gradients of x and of the kernel; all in float64 NumPy.
    """
    extents = [dilation * (taps - 1) + 1 for dilation, taps in zip(kernel_dilation, kernel.shape, strict=False)]
    reach = [(size - 1) * stride + e for size, stride, e in zip(x.shape[1:3], strides, extents, strict=True)]
    features = kernel.shape[2] * groups
    # All that the kernel reaches, and what output padding adds to it.
    full = np.zeros((x.shape[0], *(r + more for r, more in zip(reach, output_padding, strict=True)), features))
    kept = (
        slice(None),
        *(slice(before, size - after) for size, (before, after) in zip(full.shape[1:3], padding, strict=True)),
    )
    out_noise = np.zeros_like(full)
    out_noise[kept] = _noise(full[kept].shape)
    x_gradient, kernel_gradient = np.zeros_like(x), np.zeros_like(kernel)
    group_in, group_out = x.shape[3] // groups, kernel.shape[2]
    for (row, column), tap, group in itertools.product(
        np.ndindex(*x.shape[1:3]), np.ndindex(*kernel.shape[:2]), range(groups)
    ):
        place = [p * s + t * d for p, s, t, d in zip((row, column), strides, tap, kernel_dilation, strict=True)]
        ins, outs = (slice(group * n, (group + 1) * n) for n in (group_in, group_out))
        weights = kernel[tap][:, ins]
        full[:, *place, outs] += x[:, row, column, ins] @ weights.T
        x_gradient[:, row, column, ins] += out_noise[:, *place, outs] @ weights
        kernel_gradient[tap][:, ins] += out_noise[:, *place, outs].T @ x[:, row, column, ins]
    return full[kept], x_gradient, kernel_gradient


def _noise(shape):
    return np.random.default_rng(3).normal(size=shape)


# Shapes of x and of the kernel as torch has it, but for the order of its axes: [height, width, out / groups, in].
LOOPS = [
    ((2, 3, 4, 6), (3, 3, 4, 6), {"strides": (2, 2), "padding": ((1, 1), (1, 1)), "output_padding": (1, 0)}),
    (
        (2, 4, 2, 6),
        (3, 2, 2, 6),
        {"strides": (3, 2), "padding": ((0, 2), (1, 0)), "groups": 3, "output_padding": (2, 1)},
    ),
    ((2, 3, 4, 4), (4, 3, 1, 4), {"strides": (2, 1), "padding": ((1, 1), (2, 0)), "groups": 4}),
    (
        (1, 3, 3, 6),
        (2, 3, 1, 6),
        {"strides": (1, 2), "padding": ((1, 0), (0, 1)), "groups": 3, "kernel_dilation": (3, 2)},
    ),
    (
        (2, 2, 3, 4),
        (1, 1, 3, 4),
        {"strides": (2, 3), "padding": ((0, 0), (0, 0)), "groups": 2, "output_padding": (1, 2)},
    ),
]


def test_against_a_loop_on_every_path(x64):
    rng = np.random.default_rng(0)
    arrays = [(rng.normal(size=x), rng.normal(size=kernel)) for x, kernel, _ in LOOPS]

    def paths(kernel_shape, groups):
        # A 1x1 kernel keeps its path when strides put zeros between the pixels, and after the last.
        fitting = {"depthwise": kernel_shape[2] == 1, "matmul": kernel_shape[:2] == (1, 1)}
        return ["auto", "reference", "grouped", *(name for name in fitting if fitting[name])]

    @quick_jit
    def run(arrays):
        parts = []
        for (x, kernel), (_, _, fields) in zip(arrays, LOOPS, strict=True):
            fields = dict(fields)
            groups, more = fields.pop("groups", 1), fields.pop("output_padding", 0)
            dilation = fields.get("kernel_dilation", 1)
            fields["padding"] = transposed_padding(
                kernel.shape[:2], fields["padding"], kernel_dilation=dilation, output_padding=more
            )
            for path in paths(kernel.shape, groups):
                layer = functools.partial(
                    conv_transpose2d, feature_group_count=groups, transpose_kernel=True, implementation=path, **fields
                )
                out, pull = jax.vjp(layer, x, kernel)
                parts.append((out, *pull(jnp.asarray(_noise(out.shape)))))
        return parts

    actual = iter(run(arrays))
    for (x, kernel), (_, _, fields) in zip(arrays, LOOPS, strict=True):
        expected = _loop(x, kernel, **fields)
        for _ in paths(kernel.shape, fields.get("groups", 1)):
            _assert_close(next(actual), expected, 1e-12)


def test_the_two_kernels_are_one_flipped():
    x, kernel = np.random.default_rng(0).normal(size=(2, 3, 4, 6)), np.random.default_rng(1).normal(size=(3, 2, 2, 6))
    sliding = np.zeros((3, 2, 2, 6))
    for group, i, o in np.ndindex(3, 2, 2):
        sliding[:, :, i, 2 * group + o] = kernel[::-1, ::-1, o, 2 * group + i]
    fields = {"features": 6, "kernel_size": (3, 2), "strides": 2, "feature_group_count": 3, "use_bias": False}

    @quick_jit
    def run(x, kernel, sliding):
        by_kernel = {True: kernel, False: sliding}
        return [
            ConvTranspose(transpose_kernel=t, **fields).apply({"params": {"kernel": k}}, x)
            for t, k in by_kernel.items()
        ]

    transposed, slid = run(*(array.astype(np.float32) for array in (x, kernel, sliding)))
    np.testing.assert_allclose(slid, transposed, rtol=0, atol=1e-6)
    np.testing.assert_allclose(slid, _loop(x, kernel, strides=(2, 2), padding=((0, 1), (0, 0)), groups=3)[0], atol=1e-5)


def test_it_is_the_adjoint_of_conv2d(x64):
    cases = [(8, 2, 1, 1), (7, 2, 1, 2), (9, 3, 0, 4), (5, 1, 2, 1)]

    def products(size, strides, padding, groups):
        x, kernel = _noise((2, size, size, 4)), _noise((3, 3, 4 // groups, 8))
        fields = {"strides": strides, "feature_group_count": groups}
        out = conv2d(x, kernel, padding=padding, **fields)
        y = _noise(out.shape)
        # Of the sizes that the convolution takes to that of y, the one of x.
        more = (size + 2 * padding - 3) % strides
        back = conv_transpose2d(
            y, kernel, padding=transposed_padding(3, padding, output_padding=more), transpose_kernel=True, **fields
        )
        assert back.shape == x.shape
        return jnp.vdot(out, y), jnp.vdot(x, back)

    for forward, backward in quick_jit(lambda: [products(*case) for case in cases])():
        np.testing.assert_allclose(forward, backward, rtol=1e-12)


def test_transposed_padding_gives_torchs_sizes():
    """(size - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1, from torch's manual."""
    for size, taps, stride, dilation, padding, more in itertools.product(
        (1, 5), (1, 2, 4), (1, 3), (1, 2), (0, 1), (0, 1)
    ):
        expected = (size - 1) * stride - 2 * padding + dilation * (taps - 1) + more + 1
        if expected < 0:
            continue
        pairs = transposed_padding(taps, padding, kernel_dilation=dilation, output_padding=(more, 0))
        fn = functools.partial(conv_transpose2d, strides=stride, padding=pairs, kernel_dilation=dilation)
        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, size, 9, 1), (taps, taps, 1, 1))]
        assert jax.eval_shape(fn, *shapes).shape[1] == expected
    assert transposed_padding((4, 3), ((1, 2), 0), kernel_dilation=(1, 2)) == ((2, 1), (4, 4))


def test_it_costs_as_much_as_the_convolution_that_it_transposes():
    x = (2, 8, 8, 6)
    for groups, transpose_kernel in itertools.product((1, 2), (False, True)):
        layer = ConvTranspose(
            10, (4, 3), strides=2, use_bias=False, feature_group_count=groups, transpose_kernel=transpose_kernel
        )
        # Each input value meets all taps of all outputs of its group.
        macs = 2 * 8 * 8 * 6 * (4 * 3 * 10 // groups)
        cost = count(layer, x)
        assert (cost.params, cost.conv_macs, cost.linear_macs) == (4 * 3 * 6 * 10 // groups, macs, 0)
        back = Conv(6, (4, 3), strides=2, use_bias=False, feature_group_count=groups)
        assert count(back, (2, 16, 16, 10)).conv_macs == macs
        shape = jax.ShapeDtypeStruct(x, jnp.float32)
        gradients = jax.value_and_grad(lambda *args, layer=layer: jnp.sin(layer.apply(*args)).sum(), (0, 1))
        assert count_macs(gradients, abstract_variables(layer, shape), shape) == Macs(conv=3 * macs)
    assert count(nn.ConvTranspose(10, (4, 3), (2, 2), use_bias=False), x).macs == 2 * 8 * 8 * 6 * 4 * 3 * 10


def test_mapped_and_pushed_forward(x64):
    """What no convolution of JAX is asked for: kernels under vmap, forward mode over reverse."""
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
    kernels = jax.random.normal(jax.random.key(1), (3, 3, 2, 4, 5))

    def derivatives(convolution):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(convolution(x, kernel, strides=(2, 1), padding="SAME")))

        def mapped(x):
            return jax.vmap(jax.grad(loss, (0, 1)), (None, 0))(x, kernels)

        return jax.jvp(mapped, (x,), (jnp.cos(x),))

    ours, theirs = quick_jit(lambda: [derivatives(fn) for fn in (conv_transpose2d, lax.conv_transpose)])()
    _assert_close(ours, theirs, 1e-12)


def _call(x_shape=(2, 5, 5, 4), kernel_shape=(3, 3, 2, 6), dtype=jnp.float32, **fields):
    fields = {"padding": "SAME", "feature_group_count": 2, **fields}
    return conv_transpose2d(jnp.ones(x_shape, dtype), jnp.ones(kernel_shape, dtype), **fields)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"x_shape": (5, 5, 4)}, "conv_transpose2d: x and kernel must have 4 axes, not shapes (5, 5, 4) and "),
        ({"dtype": jnp.int32}, "conv_transpose2d: x must be floating point, not int32; convert it"),
        ({"feature_group_count": 3}, "conv_transpose2d: in_features=4 must be feature_group_count=3 times "),
        (
            {"feature_group_count": 4, "kernel_shape": (3, 3, 1, 6)},
            "conv_transpose2d: feature_group_count=4 must divide features=6; choose a divisor",
        ),
        (
            {"transpose_kernel": True},
            "conv_transpose2d: in_features=4 must be kernel.shape[3]=6 with transpose_kernel; change the kernel",
        ),
        (
            {"transpose_kernel": True, "feature_group_count": 3, "kernel_shape": (3, 3, 2, 4)},
            "conv_transpose2d: feature_group_count=3 must divide in_features=4; choose a divisor",
        ),
        ({"strides": (2,)}, "conv_transpose2d: strides=(2,) must be one or two positive integers; "),
        ({"padding": "SAMEY"}, "conv_transpose2d: padding: unknown name 'SAMEY'; did you mean 'SAME'?"),
        ({"padding": ((1, 1),)}, "conv_transpose2d: padding=((1, 1),) must be a (before, after) for height and for "),
        ({"padding": -3}, "conv_transpose2d: padding=-3 must not leave a size below 0, as (-3, -3); crop less"),
        (
            {"implementation": "depthwise"},
            "conv_transpose2d: implementation='depthwise': in_features / feature_group_count=3 must be 1; ",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError) as error:
        _call(**arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_other_errors():
    with pytest.raises(
        ValueError, match=r"^ConvTranspose: feature_group_count=4 must divide in_features=4 and features=6"
    ):
        ConvTranspose(6, (3, 3), feature_group_count=4).init(jax.random.key(0), jnp.ones((1, 4, 4, 4)))
    with pytest.raises(ValueError, match=r"^transposed_padding: padding='SAME' must be numbers; "):
        transposed_padding(3, "SAME")
    with pytest.raises(ValueError, match=r"^transposed_padding: output_padding=-1 must be one or two numbers from 0; "):
        transposed_padding(3, 1, output_padding=-1)
