import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops._lowerings import max_pooling
from arch.ops._lowerings.geometry import Geometry
from arch.ops.pooling import adaptive_avg_pool, avg_pool, ceil_mode_padding, global_avg_pool, max_pool


@pytest.mark.parametrize("size", [6, 7])
def test_max_pool_against_a_loop_on_negative_values(size):
    x = -1.0 - jax.random.uniform(jax.random.key(0), (2, size, size, 3))
    out_size = (size + 2 - 3) // 2 + 1
    padded = np.pad(np.asarray(x), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    expected = np.empty((2, out_size, out_size, 3))
    for i, j in np.ndindex(out_size, out_size):
        expected[:, i, j] = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2))
    np.testing.assert_array_equal(max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))), expected)


# Height and width, window, strides, padding: overlapping, with gaps, uneven, one-sided.
_GEOMETRIES = [
    ((7, 6), (3, 3), (2, 2), ((1, 1), (1, 1))),
    ((8, 8), (3, 3), (2, 2), "SAME"),
    ((5, 9), (2, 3), (1, 2), ((0, 1), (2, 0))),
    ((7, 7), (2, 2), (3, 3), "VALID"),
    ((6, 6), (3, 2), (1, 1), "SAME"),
    ((4, 5), (4, 5), (1, 1), "VALID"),
]


def _pool_loop(x, cotangent, window, strides, padding):
    """The maxima, and the gradient of sum(maxima * cotangent), which goes to the first of equal values."""
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
    padded = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-np.inf)
    sizes = [(n - k) // s + 1 for n, k, s in zip(padded.shape[1:3], window, strides, strict=True)]
    out, gradient = np.empty((x.shape[0], *sizes, x.shape[3])), np.zeros(padded.shape)
    for n, i, j, c in np.ndindex(out.shape):
        top, left = i * strides[0], j * strides[1]
        pixels = padded[n, top : top + window[0], left : left + window[1], c]
        row, column = np.unravel_index(np.argmax(pixels), pixels.shape)
        out[n, i, j, c] = pixels[row, column]
        if cotangent is not None:
            gradient[n, top + row, left + column, c] += cotangent[n, i, j, c]
    (top, _), (left, _) = padding
    return out, gradient[:, top : top + x.shape[1], left : left + x.shape[2]]


@pytest.mark.parametrize("size,window,strides,padding", _GEOMETRIES)
def test_max_pool_and_its_derivatives_against_a_loop_with_ties(x64, size, window, strides, padding):
    random = np.random.RandomState(0)
    x = random.randint(-3, 1, (2, *size, 3)).astype(np.float64)  # few values: most windows have ties
    pool = functools.partial(max_pool, window_shape=window, strides=strides, padding=padding)
    cotangent = random.standard_normal(jax.eval_shape(pool, x).shape)
    tangent, other = random.standard_normal((2, *x.shape))
    expected, expected_gradient = _pool_loop(x, cotangent, window, strides, padding)

    @jax.jit
    def results(x):
        out, pull_back = jax.vjp(pool, x)
        (gradient,) = pull_back(cotangent)
        pushed = jax.jvp(pool, (x,), (tangent,))[1]
        by_example = jax.vmap(lambda x, c: jax.vjp(pool, x[None])[1](c[None])[0][0])(x, cotangent)
        second = jax.jvp(jax.grad(lambda x: jnp.sum(pool(x) ** 3)), (x,), (other,))[1]
        return out, gradient, pushed, by_example, second

    out, gradient, pushed, by_example, second = results(x)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-12)
    np.testing.assert_allclose(np.sum(pushed * cotangent), np.sum(expected_gradient * tangent), rtol=1e-10)
    np.testing.assert_allclose(by_example, expected_gradient, atol=1e-12)
    others = jax.jit(lambda x: jax.jvp(pool, (x,), (other,))[1])(x)
    # Constant where it picks, so that the Hessian of sum(out ** 3) is P^T diag(6 out) P.
    np.testing.assert_allclose(np.sum(second * tangent), np.sum(6 * out * pushed * others), rtol=1e-9)


def test_max_pool_passes_on_what_is_not_a_number():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1).at[0, 1, 1].set(jnp.nan)
    out = max_pool(x, 2, 2, "VALID")
    np.testing.assert_array_equal(out[0, :, :, 0], [[np.nan, 7], [13, 15]])
    gradient = jax.grad(lambda x: jnp.nansum(max_pool(x, 2, 2, "VALID")))(x)
    np.testing.assert_array_equal(np.flatnonzero(gradient), [7, 13, 15])


@pytest.mark.parametrize("check_vma", [True, False])
def test_max_pool_under_shard_map_and_export(check_vma):
    x = jax.random.normal(jax.random.key(0), (4, 6, 6, 2))
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x, (3, 3), (2, 2), "SAME") ** 2))
    spec = jax.sharding.PartitionSpec("batch")
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("batch",))
    mapped = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma))
    exported = jax.export.export(jax.jit(gradient), platforms=("cpu", "cuda", "tpu"))(x)
    expected = _pool_loop(np.asarray(x), 2 * np.asarray(max_pool(x, (3, 3), (2, 2), "SAME")), (3, 3), (2, 2), "SAME")[1]
    np.testing.assert_allclose(mapped(x), expected, rtol=1e-6)
    np.testing.assert_allclose(exported.call(x), expected, rtol=1e-6)


def test_what_other_platforms_run_agrees():
    """The programs of XLA's own, which CPU does not take."""
    x = jnp.asarray(np.random.RandomState(0).randint(-3, 1, (2, 7, 6, 3)), jnp.float32)
    geometry = Geometry((7, 6), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1)
    cotangent = jax.random.normal(jax.random.key(0), (2, 4, 3, 3))
    out, gradient = _pool_loop(np.asarray(x), np.asarray(cotangent), (3, 3), (2, 2), ((1, 1), (1, 1)))
    np.testing.assert_array_equal(max_pooling.reduce_window(x, geometry), out)
    np.testing.assert_allclose(max_pooling.place_by_xla(cotangent, x, geometry), gradient, rtol=1e-6)


@pytest.mark.parametrize(
    "fields,message",
    [
        (
            dict(padding=((2, 0), (0, 0))),
            r"max_pool: padding=.* must be 0 or more, and less than window_shape=\(2, 2\), .*",
        ),
        (dict(padding="FULL"), "max_pool: padding: unknown name 'FULL'; .*"),
        (dict(strides=0), "max_pool: strides=0 must be .*"),
    ],
)
def test_max_pool_refuses_in_one_line(fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        max_pool(jnp.zeros((1, 4, 4, 1)), **dict(window_shape=2, strides=2, padding="VALID") | fields)


def _average_loop(x, window, strides, padding, count_padding):
    """The means, and with them the matrix that makes them, by looking at every pixel of every window."""
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
    inside = np.pad(np.ones(x.shape[1:3]), padding)
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    sizes = [(n - k) // s + 1 for n, k, s in zip(inside.shape, window, strides, strict=True)]
    out = np.empty((x.shape[0], *sizes, x.shape[3]))
    for i, j in np.ndindex(*sizes):
        at = np.s_[i * strides[0] : i * strides[0] + window[0], j * strides[1] : j * strides[1] + window[1]]
        number = inside[at].size if count_padding else inside[at].sum()
        out[:, i, j] = padded[:, at[0], at[1]].sum((1, 2)) / number
    return out


@pytest.mark.parametrize("count_padding", [True, False])
@pytest.mark.parametrize("size,window,strides,padding", _GEOMETRIES)
def test_avg_pool_and_its_derivatives_against_a_loop(x64, size, window, strides, padding, count_padding):
    random = np.random.RandomState(0)
    x, tangent = random.standard_normal((2, 2, *size, 3))
    pool = functools.partial(
        avg_pool, window_shape=window, strides=strides, padding=padding, count_padding=count_padding
    )
    expected, pushed = (_average_loop(each, window, strides, padding, count_padding) for each in (x, tangent))
    cotangent = random.standard_normal(expected.shape)

    @jax.jit
    def results(x):
        out, pull_back = jax.vjp(pool, x)
        second = jax.jvp(jax.grad(lambda x: jnp.sum(pool(x) ** 3)), (x,), (tangent,))[1]
        return out, *pull_back(cotangent), jax.jvp(pool, (x,), (tangent,))[1], jax.vmap(pool)(x[:, None])[:, 0], second

    out, gradient, forward, mapped, second = results(x)
    for actual in (out, mapped):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(forward, pushed, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.sum(gradient * tangent), np.sum(cotangent * pushed), rtol=1e-11)
    np.testing.assert_allclose(np.sum(second * tangent), np.sum(6 * expected * pushed**2), rtol=1e-11)


def test_avg_pool_of_bfloat16_is_summed_in_float32():
    """256 and 255 ones more are 511; in bfloat16 the sum would stay at 256."""
    x = jnp.ones((1, 16, 16, 1), jnp.bfloat16).at[0, 0, 0, 0].set(256.0)
    pooled = avg_pool(x, 16, 1, "VALID", count_padding=True)
    assert pooled.dtype == jnp.bfloat16
    np.testing.assert_allclose(pooled.astype(jnp.float32), 511 / 256, rtol=2**-8)


def test_avg_pool_under_shard_map_and_export():
    x = jax.random.normal(jax.random.key(0), (4, 6, 5, 2))
    gradient = jax.grad(lambda x: jnp.sum(avg_pool(x, 3, 2, 1, count_padding=False) ** 2))
    spec = jax.sharding.PartitionSpec("batch")
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("batch",))
    exported = jax.export.export(jax.jit(gradient), platforms=("cpu", "cuda", "tpu"))(x)
    mapped = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(mapped(x), gradient(x), rtol=1e-6)
    np.testing.assert_allclose(exported.call(x), gradient(x), rtol=1e-6)


def test_avg_pool_refuses_in_one_line():
    for fields, message in (
        ({"padding": 2}, r"avg_pool: padding=2 must be 0 or more, and less than window_shape=\(2, 2\), .*"),
        ({"strides": 0}, "avg_pool: strides=0 must be .*"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            avg_pool(
                jnp.zeros((1, 4, 4, 1)), **{"window_shape": 2, "strides": 2, "padding": 0, **fields}, count_padding=True
            )
    with pytest.raises(ValueError, match=r"^avg_pool: x=float32\[4, 4, 1\] must be floating point NHWC"):
        avg_pool(jnp.zeros((4, 4, 1)), 2, 2, 0, count_padding=True)


def _windows_in_ceil_mode(size, window, stride, before, after):
    """By walking: a further window must meet something new and start before the map's end."""
    start, count = 0, 1
    while start + window < before + size + after and start + stride < before + size:
        start, count = start + stride, count + 1
    return count


@pytest.mark.parametrize("size", range(1, 13))
def test_ceil_mode_padding_makes_the_windows_of_a_walk(size):
    for window, stride in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2), (2, 3), (5, 3)):
        for before, after in ((b, a) for b in range(window) for a in range(window)):
            pads = ceil_mode_padding((size, 30), (window, 3), (stride, 2), ((before, after), (0, 0)))
            assert pads[1] == (0, 1)
            assert pads[0][0] == before
            assert 0 <= pads[0][1] < window
            out = jax.eval_shape(lambda x: max_pool(x, (window, 3), (stride, 2), pads), jnp.zeros((1, size, 30, 1)))  # noqa: B023
            assert out.shape[1] == _windows_in_ceil_mode(size, window, stride, before, after), (window, stride, before)


def test_ceil_mode_of_known_networks():
    """GoogLeNet's maps are halved, as Caffe does it without padding; rounding down loses a pixel."""
    for size in (112, 56, 28, 14):
        for pads, out_size in ((ceil_mode_padding((size, size), 3, 2), size // 2), ("VALID", size // 2 - 1)):
            out = jax.eval_shape(lambda x: max_pool(x, 3, 2, pads), jnp.zeros((1, size, size, 1)))  # noqa: B023
            assert out.shape == (1, out_size, out_size, 1)


def test_global_avg_pool_of_bfloat16_is_summed_in_float32():
    x = jnp.full((1, 40, 40, 2), 1.0, jnp.bfloat16).at[0, 0, 0, 0].set(9.0)
    pooled = global_avg_pool(x)
    assert pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled, [[1.0 + 8.0 / 1600, 1.0]], rtol=1e-6)


def test_global_avg_pool_keeps_float64(x64):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5), jnp.float64)
    pooled = global_avg_pool(x)
    assert pooled.dtype == jnp.float64
    np.testing.assert_allclose(pooled, np.asarray(x).mean((1, 2)), rtol=1e-14)


@pytest.mark.parametrize("size,grid", [((7, 5), (3, 2)), ((4, 3), (7, 7)), ((6, 8), (3, 4)), ((3, 2), (3, 2))])
def test_adaptive_avg_pool_against_a_loop(x64, size, grid):
    """Bins that overlap, that repeat pixels, that are even; and the map as it is."""
    x = np.random.default_rng(0).standard_normal((2, *size, 3))
    expected = np.empty((2, *grid, 3))
    for i, j in np.ndindex(grid):
        rows = slice(int(np.floor(i * size[0] / grid[0])), int(np.ceil((i + 1) * size[0] / grid[0])))
        columns = slice(int(np.floor(j * size[1] / grid[1])), int(np.ceil((j + 1) * size[1] / grid[1])))
        expected[:, i, j] = x[:, rows, columns].mean((1, 2))
    np.testing.assert_allclose(adaptive_avg_pool(jnp.asarray(x), grid), expected, rtol=1e-12)
