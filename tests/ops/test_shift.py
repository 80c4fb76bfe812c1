"""Shifts: against loops over the formulas, depthwise convolution with one-hot kernels, and finite differences."""

import itertools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.conv2d import conv2d
from arch.ops.shift import ActiveShift, active_shift, address_shift, shortcut_shift, spatial_shift
from tests.compiling import quick_jit


def _moves(channels, kernel_size, assignment, dilation):
    """The rows and columns by which each channel moves."""
    (kh, kw), (dh, dw) = kernel_size, dilation
    share, moves = channels // (kh * kw), []
    for c in range(channels):
        tap = c // share if assignment == "contiguous" else c % (kh * kw)
        if c >= share * kh * kw:
            tap = (kh * kw) // 2
        moves.append((dh * (tap // kw - kh // 2), dw * (tap % kw - kw // 2)))
    return moves


def _moved(x, moves):
    out = np.zeros_like(x)
    for i, j, c in np.ndindex(x.shape[1:]):
        row, column = i + moves[c][0], j + moves[c][1]
        if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
            out[:, i, j, c] = x[:, row, column, c]
    return out


# Height and width, channels, kernel size, dilation: remainders of channels, other than square, beyond the map, a pixel.
_SHIFTS = [
    ((4, 5), 20, (3, 3), (1, 1)),
    ((5, 3), 9, (3, 3), (2, 1)),
    ((4, 4), 7, (1, 3), (1, 2)),
    ((2, 3), 26, (5, 5), (3, 2)),
    ((1, 1), 10, (3, 3), (1, 1)),
    ((3, 2), 4, (1, 1), (1, 1)),
]


def test_spatial_shift_against_a_loop(x64):
    random = np.random.RandomState(0)
    cases = list(itertools.product(_SHIFTS, ("contiguous", "modulo")))
    inputs = [random.standard_normal((2, 2, *size, channels)) for (size, channels, *_), _ in cases]

    @quick_jit
    def results(inputs):
        outs = []
        for ((_, _, kernel_size, dilation), assignment), (x, probe) in zip(cases, inputs, strict=True):
            call = lambda x, k=kernel_size, a=assignment, d=dilation: spatial_shift(  # noqa: E731
                x, k, assignment=a, kernel_dilation=d
            )
            out, pull = jax.vjp(call, x)
            outs.append((out, *pull(probe)))
        return outs

    for ((_, channels, kernel_size, dilation), assignment), (x, probe), (out, gradient) in zip(
        cases, inputs, results(inputs), strict=True
    ):
        moves = _moves(channels, kernel_size, assignment, dilation)
        np.testing.assert_array_equal(out, _moved(x, moves))
        # A shift by single pixels is a permutation with zeros: its transpose is the shift back.
        np.testing.assert_array_equal(gradient, _moved(probe, [(-row, -column) for row, column in moves]))


def test_spatial_shift_is_a_depthwise_convolution(x64):
    x = np.random.RandomState(0).standard_normal((1, 6, 5, 11))

    @quick_jit
    def results(x):
        outs = []
        for assignment in ("contiguous", "modulo"):
            kernel = np.zeros((3, 3, 1, 11))
            for c, (row, column) in enumerate(_moves(11, (3, 3), assignment, (1, 1))):
                kernel[row + 1, column + 1, 0, c] = 1
            options = {"padding": 2, "kernel_dilation": 2, "feature_group_count": 11, "implementation": "reference"}
            shifted = spatial_shift(x, 3, assignment=assignment, kernel_dilation=2)
            outs.append((shifted, conv2d(x, jnp.asarray(kernel), **options)))
        return outs

    for shifted, convolved in results(x):
        np.testing.assert_array_equal(shifted, convolved)


def test_shifts_move_any_values():
    x = np.arange(2 * 3 * 3 * 9, dtype=np.int16).reshape(2, 3, 3, 9)
    broken = np.zeros((1, 3, 3, 9), np.float32)
    broken[0, 1, 1, 0] = np.nan
    out, broken = quick_jit(lambda x, y: (spatial_shift(x, 3), spatial_shift(y, 3)))(x, broken)
    assert out.dtype == jnp.int16
    np.testing.assert_array_equal(out, _moved(x, _moves(9, (3, 3), "contiguous", (1, 1))))
    # What is not finite stays in its channel.
    np.testing.assert_array_equal(np.argwhere(np.isnan(broken)), [[0, 2, 2, 0]])


def test_address_shift_against_a_loop(x64):
    x, probe = np.random.RandomState(0).standard_normal((2, 2, 4, 3, 10))

    @quick_jit
    def results(x):
        out, pull = jax.vjp(lambda x: address_shift(x, 2), x)
        return address_shift(x), out, *pull(probe)

    once, twice, gradient = results(x)
    moves = np.array([(0, 1)] * 2 + [(0, -1)] * 2 + [(1, 0)] * 2 + [(-1, 0)] * 2 + [(0, 0)] * 2)
    np.testing.assert_array_equal(once, _moved(x, moves))
    np.testing.assert_array_equal(twice, _moved(x, 2 * moves))
    np.testing.assert_array_equal(gradient, _moved(probe, -2 * moves))


def test_shortcut_shift_keeps_and_adds():
    x, new = np.random.RandomState(0).standard_normal((2, 2, 3, 3, 4)).astype(np.float32)
    out, gradient = quick_jit(jax.value_and_grad(lambda n: jnp.sum(shortcut_shift(x, n) ** 2)))(new[..., :1])
    np.testing.assert_allclose(out, np.sum(x**2) + np.sum(new[..., :1] ** 2), rtol=1e-6)
    np.testing.assert_array_equal(gradient, 2 * new[..., :1])
    out = shortcut_shift(jnp.asarray(x), jnp.asarray(new))
    np.testing.assert_array_equal(out, np.concatenate([x, new], -1))


@pytest.mark.slow
def test_derivatives_of_every_kind_and_maps(x64):
    x, tangent = np.random.RandomState(0).standard_normal((2, 2, 3, 4, 9))
    call = lambda x: spatial_shift(x, 3, assignment="modulo")  # noqa: E731
    gradient = lambda x: jax.grad(lambda x: jnp.sum(call(x) ** 3))(x)  # noqa: E731

    @quick_jit
    def results(x, tangent):
        each = jax.vmap(lambda x: gradient(x[None])[0], 1, 1)(x.swapaxes(0, 1)).swapaxes(0, 1)
        return *jax.jvp(call, (x,), (tangent,)), *jax.jvp(gradient, (x,), (tangent,)), each

    out, pushed, grad, second, each = results(x, tangent)
    moves = _moves(9, (3, 3), "modulo", (1, 1))
    np.testing.assert_array_equal(pushed, _moved(tangent, moves))
    np.testing.assert_allclose(grad, _moved(3 * np.asarray(out) ** 2, [(-r, -c) for r, c in moves]), rtol=1e-14)
    np.testing.assert_allclose(np.vdot(second, tangent), np.sum(6 * out * pushed**2), rtol=1e-12)
    np.testing.assert_array_equal(each, grad)
    spec = jax.sharding.PartitionSpec("batch")
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("batch",))
    sharded = quick_jit(jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_array_equal(sharded(x), grad)
    exported = jax.export.export(jax.jit(gradient), platforms=("cpu", "cuda", "tpu"))(x)
    np.testing.assert_array_equal(exported.call(x), grad)


def _read(x, row, column):
    """x [height, width] at a real point, 0 outside."""
    total = 0.0
    for i, j in np.ndindex(x.shape):
        total += x[i, j] * max(0, 1 - abs(row - i)) * max(0, 1 - abs(column - j))
    return total


def _active(x, displacements):
    out = np.empty_like(x)
    for n, i, j, c in np.ndindex(x.shape):
        out[n, i, j, c] = _read(x[n, ..., c], i + displacements[c, 0], j + displacements[c, 1])
    return out


def test_active_shift_against_a_loop_and_finite_differences(x64):
    random = np.random.RandomState(0)
    x, probe = random.standard_normal((2, 2, 4, 3, 5))
    displacements = np.array([(0.3, -0.6), (-1.2, 0.5), (2.7, -2.2), (-3.5, 0.25), (9.5, -0.5)])
    out, gradient, moved = quick_jit(
        lambda x, d: (lambda out, pull: (out, *pull(jnp.asarray(probe))))(*jax.vjp(active_shift, x, d))
    )(x, displacements)  # fmt: skip
    np.testing.assert_allclose(out, _active(x, displacements), atol=1e-13)
    # Linear in x: the gradient is read off from unit maps by the inner product with another.
    np.testing.assert_allclose(np.vdot(gradient, probe), np.vdot(probe, _active(probe, displacements)), rtol=1e-12)
    for c, axis in np.ndindex(displacements.shape):
        step = np.zeros_like(displacements)
        step[c, axis] = 1e-6
        difference = _active(x, displacements + step) - _active(x, displacements - step)
        np.testing.assert_allclose(moved[c, axis], np.vdot(difference, probe) / 2e-6, rtol=0, atol=1e-7)


def test_whole_displacements_move_by_pixels(x64):
    x = np.random.RandomState(0).standard_normal((1, 5, 4, 9))
    moves = np.array(_moves(9, (3, 3), "contiguous", (2, 1)))
    out, gradient = quick_jit(jax.value_and_grad(lambda x, d: active_shift(x, d)[0, 2, 1].sum(), 1))(x, 1.0 * moves)
    moved = _moved(x, moves)
    np.testing.assert_allclose(out, moved[0, 2, 1].sum(), atol=1e-14)
    # At a pixel the derivative is the difference to the next.
    further = [_moved(x, moves + step) - moved for step in ((1, 0), (0, 1))]
    np.testing.assert_allclose(gradient, np.stack([each[0, 2, 1] for each in further], -1), atol=1e-14)


def test_active_shift_module_learns_displacements():
    x = jnp.ones((1, 1, 1, 400), jnp.bfloat16)
    out, variables = quick_jit(ActiveShift().init_with_output)(jax.random.key(0), x)
    assert out.dtype == jnp.bfloat16 and jax.tree.map(jnp.shape, variables) == {"params": {"displacements": (400, 2)}}
    initial = variables["params"]["displacements"]
    assert initial.dtype == jnp.float32 and -1 <= initial.min() < -0.95 and 0.95 < initial.max() <= 1


def test_coordinates_are_not_rounded_with_x():
    """From pixel 256 on bfloat16 has even numbers alone."""
    x = np.arange(300).reshape(1, 300, 1, 1) % 2
    out = quick_jit(active_shift)(jnp.asarray(x, jnp.bfloat16), jnp.asarray([[0.25, 0.0]]))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out[0, 280:290, 0, 0], [0.25, 0.75] * 5)


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda x: spatial_shift(x, 3), r"spatial_shift: channels=8 must be at least the 9 taps of .*\(3, 3\), .*"),
        (lambda x: spatial_shift(x, (1, 2)), r"spatial_shift: kernel_size=\(1, 2\) must be odd, .*"),
        (lambda x: spatial_shift(x, 1, assignment="cuda"), "spatial_shift: assignment: unknown name 'cuda'; .*"),
        (lambda x: spatial_shift(x[0], 1), r"spatial_shift: x\[4, 4, 8\] must be NHWC; .*"),
        (lambda x: spatial_shift(x, 1, kernel_dilation=0), "spatial_shift: kernel_dilation=0 must be .*"),
        (lambda x: address_shift(x[..., :3]), "address_shift: channels=3 must be at least 4, .*"),
        (lambda x: address_shift(x, 0), "address_shift: distance=0 must be at least 1; .*"),
        (lambda x: shortcut_shift(x, x[:, 1:]), r"shortcut_shift: x\[1, 4, 4, 8\] and new\[1, 3, 4, 8\] must be .*"),
        (lambda x: shortcut_shift(x, x.astype(int)), "shortcut_shift: x and new must be .* float32 and int32; .*"),
        (lambda x: active_shift(x.astype(int), x[0, 0, :, :2]), "active_shift: x=int32.* must be floating .*"),
        (
            lambda x: active_shift(x, x[0, 0, :, :2]),
            r"active_shift: displacements=float32\[4, 2\] .*=8, 2\]; .*",
        ),
    ],
)
def test_refusals_are_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call(jnp.zeros((1, 4, 4, 8)))
