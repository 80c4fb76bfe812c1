"""What samplers are made of: values, derivatives and transformations against loops."""

import itertools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from arch.ops._lowerings import rows
from arch.ops._lowerings.moves import move
from arch.ops.sampling import bilinear_sample
from tests.compiling import quick_jit

NUM_ROWS = 7


def read(table, weights, index):
    return np.einsum("pt,ptc->pc", weights, table[index])


def write(gradient, weights, index):
    out = np.zeros((NUM_ROWS, gradient.shape[1]))
    np.add.at(out, index, gradient[:, None] * weights[..., None])
    return out


def dot(gradient, table, index):
    return np.einsum("pc,ptc->pt", gradient, table[index])


OURS = {
    "read": rows.read,
    "write": lambda *arrays: rows.write(*arrays, NUM_ROWS),
    "dot": lambda *arrays: rows.dot(*arrays, arrays[0].dtype),
}
LOOPS = {"read": read, "write": write, "dot": dot}
# Of (cotangent, left, right, index): the gradients in left and in right.
TRANSPOSES = {
    "read": lambda out, table, weights, index: (write(out, weights, index), dot(out, table, index)),
    "write": lambda out, gradient, weights, index: (read(out, weights, index), dot(gradient, out, index)),
    "dot": lambda out, gradient, table, index: (read(table, out, index), write(gradient, out, index)),
}


def arrays(name, random):
    """The three arrays of a primitive: 5 points of 3 terms, which meet some rows twice, and 2 channels."""
    table, value, point = (NUM_ROWS, 2), (5, 2), (5, 3)
    shapes = {"read": (table, point), "write": (value, point), "dot": (value, table)}[name]
    return *map(random.standard_normal, shapes), random.randint(0, NUM_ROWS, point).astype(np.int32)


@pytest.mark.parametrize("name", OURS)
def test_rows_against_loops_in_steps_and_at_once(x64, monkeypatch, name):
    """A CPU takes two of the five points a step; other platforms take all."""
    monkeypatch.setattr(rows, "_BYTES_A_STEP", 2 * 3 * 2 * 8)
    params = {"read": {}, "write": {"num_rows": NUM_ROWS}, "dot": {"dtype": jnp.float64}}[name]
    inputs = arrays(name, np.random.RandomState(0))
    run = getattr(rows, f"_{name}")
    outs = quick_jit(lambda *inputs: [run(*inputs, **params, on_cpu=on_cpu) for on_cpu in (True, False)])(*inputs)
    for out in outs:
        np.testing.assert_allclose(out, LOOPS[name](*inputs), atol=1e-14)


@pytest.mark.parametrize("name", OURS)
def test_rows_have_derivatives_of_both_modes_and_second_order(x64, name):
    ours, loop, random = OURS[name], LOOPS[name], np.random.RandomState(1)
    left, right, index = arrays(name, random)
    (dl, dr, _), (el, er, _) = arrays(name, random), arrays(name, random)

    @quick_jit
    def results(*real):
        cubes = jax.grad(lambda *real: jnp.sum(ours(*real, index) ** 3), (0, 1))
        return jax.jvp(lambda *real: ours(*real, index), real, (dl, dr))[1], jax.jvp(cubes, real, (dl, dr))[1]

    pushed, second = results(left, right)
    out, one = loop(left, right, index), loop(dl, right, index) + loop(left, dr, index)
    np.testing.assert_allclose(pushed, one, atol=1e-13)
    other, both = loop(el, right, index) + loop(left, er, index), loop(dl, er, index) + loop(el, dr, index)
    expected = np.sum(6 * out * one * other + 3 * out**2 * both)
    np.testing.assert_allclose(np.vdot(second[0], el) + np.vdot(second[1], er), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["read", *(pytest.param(name, marks=pytest.mark.slow) for name in ("write", "dot"))])
def test_rows_mapped_over_any_of_their_arrays(x64, name):
    random = np.random.RandomState(2)
    inputs = tuple(map(np.stack, zip(*(arrays(name, random) for _ in range(2)), strict=True)))
    probe = random.standard_normal(LOOPS[name](*(a[0] for a in inputs)).shape)
    choices = [axes for axes in itertools.product((0, None), repeat=3) if axes != (None, None, None)]

    def value_and_gradients(left, right, index):
        out, pull_back = jax.vjp(lambda *real: OURS[name](*real, index), left, right)
        return out, *pull_back(probe)

    picked = [[a if axis == 0 else a[0] for a, axis in zip(inputs, axes, strict=True)] for axes in choices]
    outs = quick_jit(
        lambda picked: [jax.vmap(value_and_gradients, axes)(*a) for a, axes in zip(picked, choices, strict=True)]
    )(picked)
    for axes, results in zip(choices, jax.device_get(outs), strict=True):
        for i in range(2):
            each = [a[i if axis == 0 else 0] for a, axis in zip(inputs, axes, strict=True)]
            expected = LOOPS[name](*each), *TRANSPOSES[name](probe, *each)
            for result, array in zip(results, expected, strict=True):
                np.testing.assert_allclose(result[i], array, atol=1e-13, err_msg=str(axes))


def move_loop(x, steps, out_size):
    out = np.zeros((x.shape[0], *out_size, x.shape[3]))
    for i, j, c in np.ndindex(out.shape[1:]):
        row, column = (i, j) + np.broadcast_to(steps, (2, x.shape[3]))[:, c]
        if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
            out[:, i, j, c] = x[:, row, column, c]
    return out


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_moves_and_their_derivatives_alone_and_mapped(x64, count):
    random, size, out_size = np.random.RandomState(3), (3, 4), (4, 3)
    x, tangent = random.standard_normal((2, 2, 2, *size, 3))
    probe = random.standard_normal((2, 2, *out_size, 3))
    steps = random.randint(-2, 3, (2, 2, count)).astype(np.int32)
    choices = [(0, 0), (0, None), (None, 0)]

    def results(x, steps, tangent, probe):
        moved, pushed = jax.jvp(lambda x: move(x, steps, out_size), (x,), (tangent,))
        (gradient,) = jax.vjp(lambda x: move(x, steps, out_size), x)[1](probe)
        return moved, pushed, gradient

    picked = [[a if axis == 0 else a[0] for a, axis in zip((x, steps), axes, strict=True)] for axes in choices]
    outs = quick_jit(
        lambda picked: [
            jax.vmap(results, (*axes, 0, 0))(*a, tangent, probe) for a, axes in zip(picked, choices, strict=True)
        ]
    )(picked)
    for axes, (moved, pushed, gradient) in zip(choices, jax.device_get(outs), strict=True):
        for i in range(2):
            at_x, at_steps = (i if axis == 0 else 0 for axis in axes)
            np.testing.assert_array_equal(moved[i], move_loop(x[at_x], steps[at_steps], out_size))
            np.testing.assert_array_equal(pushed[i], move_loop(tangent[i], steps[at_steps], out_size))
            np.testing.assert_array_equal(gradient[i], move_loop(probe[i], -steps[at_steps], size))


@pytest.mark.parametrize("check_vma", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_samples_under_shard_map_and_export(x64, check_vma):
    """The images of a device, at points that all devices share, whose gradient is summed over them."""
    random = np.random.RandomState(4)
    x = random.standard_normal((4, 3, 4, 2))
    ys, xs = random.uniform(-1, 3, (2, 1, 5))

    def gradients(x, ys, xs):
        def loss(x, ys, xs):
            points = [jnp.broadcast_to(at, (x.shape[0], 5)) for at in (ys, xs)]
            return jnp.sum(bilinear_sample(x, *points) ** 2)

        return jax.grad(loss, (0, 1, 2))(x, ys, xs)

    def on_device(x, ys, xs):
        grad_x, *shared = gradients(x, ys, xs)
        # With check_vma JAX itself sums the gradients of what devices share.
        return grad_x, *(shared if check_vma else jax.lax.psum(shared, "batch"))

    batch, alone = PartitionSpec("batch"), PartitionSpec()
    mesh, specs = Mesh(jax.devices()[:2], ("batch",)), (batch, alone, alone)
    sharded = quick_jit(jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=check_vma))
    expected = jax.device_get(quick_jit(gradients)(x, ys, xs))
    for ours, alone in zip(sharded(x, ys, xs), expected, strict=True):
        np.testing.assert_allclose(ours, alone, atol=1e-13)
    if check_vma:
        exported = jax.export.export(jax.jit(gradients), platforms=("cpu", "cuda", "tpu"))(x, ys, xs)
        assert exported.platforms == ("cpu", "cuda", "tpu")
