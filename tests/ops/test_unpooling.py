"""Max pooling with switches and unpooling: against torch's recorded results and loops over the formula."""

import pathlib

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.pooling import max_pool
from arch.ops.unpooling import max_pool_with_argmax, max_unpool
from tests.compiling import quick_jit
from tests.goldens.record_resize import POOLS

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "goldens" / "resize.npz")
UNPOOLED = [name for name in POOLS if f"{name}/unpool/out" in GOLDEN]


def _pool(name, x):
    _, window, strides, padding = POOLS[name]
    return max_pool_with_argmax(x, window, strides, padding)


def _unpool(name, x, indices, with_windows):
    size, window, strides, padding = POOLS[name]
    windows = {"window_shape": window, "strides": strides, "padding": padding} if with_windows else {}
    return max_unpool(x, indices, size, **windows)


def _cosines(out):
    return jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)


@pytest.mark.parametrize("names", [("odd", "overlapping", "pixel"), pytest.param(tuple(POOLS), marks=pytest.mark.slow)])
def test_pooling_is_torchs_with_its_indices_and_gradient(x64, names):
    @quick_jit
    def results(inputs):
        outs = {}
        for name, x in inputs.items():
            values, pull, indices = jax.vjp(lambda x, name=name: _pool(name, x), x, has_aux=True)
            outs[name] = values, indices, pull(_cosines(values))[0]
        return outs

    for name, (values, indices, gradient) in results({name: GOLDEN[f"{name}/x"] for name in names}).items():
        np.testing.assert_array_equal(values, GOLDEN[f"{name}/out"], err_msg=name)
        np.testing.assert_array_equal(indices, GOLDEN[f"{name}/indices"], err_msg=name)
        np.testing.assert_allclose(gradient, GOLDEN[f"{name}/grad"], atol=1e-13, err_msg=name)
        assert indices.dtype == jnp.int32


@pytest.mark.parametrize("with_windows", [False, True])
def test_unpooling_is_torchs_with_its_gradient(x64, with_windows):
    @quick_jit
    def results(inputs):
        outs = {}
        for name, (values, indices) in inputs.items():
            out, pull = jax.vjp(lambda x, name=name, i=indices: _unpool(name, x, i, with_windows), values)
            outs[name] = out, pull(_cosines(out))[0]
        return outs

    # Of any integer type; those of torch are int64.
    inputs = {name: (GOLDEN[f"{name}/values"], GOLDEN[f"{name}/indices"]) for name in UNPOOLED}
    inputs["odd"] = inputs["odd"][0], inputs["odd"][1].astype(np.uint8)
    for name, (out, gradient) in results(inputs).items():
        np.testing.assert_array_equal(out, GOLDEN[f"{name}/unpool/out"], err_msg=name)
        np.testing.assert_array_equal(gradient, GOLDEN[f"{name}/unpool/grad"], err_msg=name)


def test_values_that_meet_are_added(x64):
    """Where windows overlap: both ways to unpool against a loop, and their derivatives of every kind."""
    random = np.random.RandomState(0)
    names = ["overlapping", "uneven"]
    inputs = {name: (random.standard_normal(GOLDEN[f"{name}/out"].shape), GOLDEN[f"{name}/indices"]) for name in names}

    @quick_jit
    def results(inputs):
        outs = {}
        for name, (x, indices) in inputs.items():
            for with_windows in (False, True):
                call = lambda x, n=name, i=indices, w=with_windows: _unpool(n, x, i, w)  # noqa: E731
                out, pull = jax.vjp(call, x)
                pushed = jax.jvp(lambda g, pull=pull: pull(g)[0], (_cosines(out),), (out,))
                outs[name, with_windows] = out, *pushed, jax.vmap(call)(jnp.stack([x, 2 * x]))
        return outs

    for (name, _), (out, gradient, pushed, mapped) in results(inputs).items():
        x, indices = inputs[name]
        expected, probe = np.zeros(out.shape), np.asarray(_cosines(out))
        taken, taken_out = np.empty(x.shape), np.empty(x.shape)
        for n, i, j, c in np.ndindex(x.shape):
            row, column = divmod(indices[n, i, j, c], out.shape[2])
            expected[n, row, column, c] += x[n, i, j, c]
        for n, i, j, c in np.ndindex(x.shape):
            row, column = divmod(indices[n, i, j, c], out.shape[2])
            taken[n, i, j, c], taken_out[n, i, j, c] = probe[n, row, column, c], expected[n, row, column, c]
        np.testing.assert_allclose(out, expected, atol=1e-14)
        np.testing.assert_allclose(mapped, [expected, 2 * expected], atol=1e-14)
        np.testing.assert_array_equal(gradient, taken)
        np.testing.assert_allclose(pushed, taken_out, atol=1e-14)


def test_indices_that_are_none_are_left_out():
    x = np.arange(1.0, 9.0, dtype=np.float32).reshape(1, 2, 2, 2)
    indices = np.array([[0, -1], [3, 16], [12, 5], [2**31 - 1, -16]], np.int32).reshape(1, 2, 2, 2)
    out, told = quick_jit(lambda x, i: (max_unpool(x, i, 4), max_unpool(x, i, 4, window_shape=2)))(x, indices)
    expected = np.zeros((16, 2), np.float32)
    expected[0, 0], expected[3, 0], expected[12, 0], expected[5, 1] = 1, 3, 5, 6
    np.testing.assert_array_equal(out.reshape(16, 2), expected)
    # 5 lies in another window than the third.
    expected[5, 1] = 0
    np.testing.assert_array_equal(told.reshape(16, 2), expected)


def test_pooling_again_finds_what_was_unpooled():
    x = np.random.RandomState(0).uniform(1, 2, (2, 5, 7, 3)).astype(np.float32)

    @quick_jit
    def results(x):
        values, indices = max_pool_with_argmax(x, 2, 2, "VALID")
        back = max_unpool(values, indices, (5, 7))
        return values, back, *max_pool_with_argmax(back, 2, 2, "VALID"), indices, max_pool(x, 2, 2, "VALID")

    values, back, again, indices_again, indices, pooled = results(x)
    np.testing.assert_array_equal(values, pooled)
    np.testing.assert_array_equal(again, values)
    np.testing.assert_array_equal(indices_again, indices)
    assert np.count_nonzero(back) == values.size
    np.testing.assert_array_equal(back[back != 0], x[back != 0])


def test_second_derivatives_shards_and_export(x64):
    x, tangent = np.random.RandomState(0).standard_normal((2, 4, 5, 6, 2))
    pooled = lambda x: max_pool_with_argmax(x, 3, 2, "SAME")[0]  # noqa: E731
    gradient = lambda x: jax.grad(lambda x: jnp.sum(pooled(x) ** 3))(x)  # noqa: E731
    out, pushed, grad, second = quick_jit(
        lambda x, t: (*jax.jvp(pooled, (x,), (t,)), *jax.jvp(gradient, (x,), (t,)))
    )(x, tangent)  # fmt: skip
    np.testing.assert_allclose(np.vdot(grad, tangent), np.sum(3 * out**2 * pushed), rtol=1e-12)
    np.testing.assert_allclose(np.vdot(second, tangent), np.sum(6 * out * pushed**2), rtol=1e-12)
    spec = jax.sharding.PartitionSpec("batch")
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("batch",))
    sharded = quick_jit(jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(sharded(x), grad, atol=1e-13)
    exported = jax.export.export(jax.jit(gradient), platforms=("cpu", "cuda", "tpu"))(x)
    np.testing.assert_allclose(exported.call(x), grad, atol=1e-13)


@pytest.mark.parametrize(
    "call,message",
    [
        (
            lambda x, i: max_pool_with_argmax(x[0], 2, 2, "VALID"),
            r"max_pool_with_argmax: x=float32\[2, 2, 3\] must be .*",
        ),
        (lambda x, i: max_pool_with_argmax(i, 2, 2, "VALID"), "max_pool_with_argmax: x=int32.* must be floating .*"),
        (
            lambda x, i: max_pool_with_argmax(x, 2, 2, 2),
            r"max_pool_with_argmax: padding=2 .* window_shape=\(2, 2\), .*",
        ),
        (lambda x, i: max_unpool(i, i, 4), "max_unpool: x=int32.* must be floating point NHWC; .*"),
        (lambda x, i: max_unpool(x, i[:1, :1], 4), r"max_unpool: indices=int32\[1, 1, 2, 3\] .* \[1, 2, 2, 3\] .*"),
        (lambda x, i: max_unpool(x, x, 4), r"max_unpool: indices=float32.* must be integers .*"),
        (lambda x, i: max_unpool(x, i, 0), "max_unpool: size=0 must be .*"),
        (lambda x, i: max_unpool(x, i, 4, strides=2), "max_unpool: strides=2 and .* need window_shape; .*"),
        (
            lambda x, i: max_unpool(x, i, (4, 6), window_shape=2),
            r"max_unpool: size=\(4, 6\) must pool to the size \(2, 2\) of x, not to \(2, 3\); .*",
        ),
    ],
)
def test_refusals_are_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call(jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 2, 2, 3), jnp.int32))
