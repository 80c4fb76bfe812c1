import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.sampling import affine_grid, bilinear_sample, bilinear_shift, bilinear_sum, grid_sample, is_inside
from tests.compiling import quick_jit

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "sampling.npz"
FLAGS = {"corners": True, "edges": False}
SLOW = pytest.mark.slow  # what differs little from another
STEP = 2.0**-20  # of differences to the right; exact where a function is linear


@pytest.fixture(scope="module")
def goldens():
    with np.load(GOLDENS) as file:
        return dict(file)


def with_gradients(function, inputs, probe):
    """A function's value and the gradients of sum(value * probe), from one program."""

    @quick_jit
    def results(probe, *inputs):
        out, pull_back = jax.vjp(function, *inputs)
        return out, *pull_back(probe)

    return jax.device_get(results(probe, *inputs))


def counts(y, x, size, boundary):
    """Whether a point is in the range of the spec's table."""
    before, after = (0.5, -0.5) if boundary == "deformable_roi" else (1, 0)
    return not any(at < -before or at > n + after for at, n in zip((y, x), size, strict=True))


def pixel_weights(y, x, size, boundary):
    """The share of every pixel in one sample: the sum of the spatial transformer's paper, and the spec's table."""
    if np.isnan(y) or np.isnan(x):
        return np.full(size, np.nan)
    if not counts(y, x, size, boundary):
        return np.zeros(size)
    if boundary in ("roi_align", "deformable_roi"):
        y, x = (min(max(at, 0), n - 1) for at, n in zip((y, x), size, strict=True))
    rows, columns = ([max(0, 1 - abs(at - m)) for m in range(n)] for at, n in zip((y, x), size, strict=True))
    return np.outer(rows, columns)


def sample_loop(x, ys, xs, boundary="zeros"):
    """[*ys.shape, channels] of one image."""
    pairs = zip(ys.flat, xs.flat, strict=True)
    samples = [np.tensordot(pixel_weights(*at, x.shape[:2], boundary), x, 2) for at in pairs]
    return np.reshape(samples, (*ys.shape, x.shape[2]))


def some_points(random, height, width):
    """30 points in and around a map, on its pixels and its borders, far away, and two that are not numbers."""
    ys, xs = random.uniform(-1.7, height + 0.7, 30), random.uniform(-1.7, width + 0.7, 30)
    ys[:13] = (-1, -0.75, -0.5, -0.25, 0, 1, 1, height - 1, height - 0.75, height - 0.5, height - 0.25, height, 0)
    xs[6:19] = (1, 0, -1, -0.75, -0.5, -0.25, 0, width - 1, width - 0.75, width - 0.5, width - 0.25, width, 1)
    ys[25:], xs[25:] = (1e3, -1e30, 0.5, np.nan, 0.25), (0.5, 1e30, np.inf, 0.25, np.nan)
    return ys, xs


@pytest.mark.parametrize("boundary", ["zeros", pytest.param("deformable", marks=SLOW), "roi_align", "deformable_roi"])
def test_samples_and_gradients_against_the_sum_over_all_pixels(x64, boundary):
    """What is not a number shows, and passes nothing on."""
    random, size = np.random.RandomState(0), (3, 4)
    x, probe = random.standard_normal((1, *size, 2)), random.standard_normal((1, 30, 2))
    ys, xs = some_points(random, *size)
    sample = functools.partial(bilinear_sample, boundary=boundary)
    out, grad_x, grad_y, grad_x_ = with_gradients(sample, (x, ys[None], xs[None]), probe)
    np.testing.assert_allclose(out[0], sample_loop(x[0], ys, xs, boundary), atol=1e-14)
    shares = np.nan_to_num([pixel_weights(*at, size, boundary) for at in zip(ys, xs, strict=True)])
    np.testing.assert_allclose(grad_x[0], np.einsum("pmn,pc->mnc", shares, probe[0]), atol=1e-14)
    for gradient, moved in ((grad_y, (ys + STEP, xs)), (grad_x_, (ys, xs + STEP))):
        slopes = (sample_loop(x[0], *moved, boundary) - out[0]) / STEP
        # Not where a step leaves the range, for there the value jumps.
        pairs = zip(zip(ys, xs, strict=True), zip(*moved, strict=True), strict=True)
        same = [counts(*here, size, boundary) == counts(*there, size, boundary) for here, there in pairs]
        assert sum(same) > 25
        expected = np.nan_to_num(np.sum(slopes * probe[0], axis=1))
        np.testing.assert_allclose(gradient[0][same], expected[same], atol=1e-8)


def test_which_points_count():
    ys = np.float32([-1.25, -1, -0.5, 0, 2.5, 2.75, 3, 3.25, np.nan, -np.inf])
    xs = np.full_like(ys, 0.5)
    for boundary, expected in (
        ("zeros", [0, 1, 1, 1, 1, 1, 0, 0, 1, 0]),  # at -1 what is read is 0, but grows
        ("deformable", [0, 1, 1, 1, 1, 1, 0, 0, 1, 0]),
        ("roi_align", [0, 1, 1, 1, 1, 1, 1, 0, 1, 0]),
        ("deformable_roi", [0, 0, 1, 1, 1, 0, 0, 0, 1, 0]),
    ):
        np.testing.assert_array_equal(is_inside(ys, xs, 3, 9, boundary), np.asarray(expected, bool))
        np.testing.assert_array_equal(is_inside(xs, ys, 9, 3, boundary), np.asarray(expected, bool))


def test_the_derivative_at_a_pixel_is_that_to_the_right(x64):
    x = np.asarray([1.0, 4.0, 9.0, 25.0]).reshape(1, 1, 4, 1)
    at = np.asarray([[-1.0, 0.0, 1.0, 3.0, 4.0]])
    slopes = quick_jit(jax.grad(lambda xs: jnp.sum(bilinear_sample(x, jnp.zeros_like(xs), xs))))(at)
    np.testing.assert_allclose(slopes, [[1, 3, 5, -25, 0]])


@pytest.mark.parametrize("size", [(1, 1), pytest.param((2, 1), marks=SLOW)])
def test_weighted_sums_of_samples_of_any_image(x64, size):
    random = np.random.RandomState(1)
    x, weights = random.standard_normal((3, *size, 2)), random.standard_normal((4, 5, 5))
    image = np.asarray([2, 0, 1, 1])
    ys, xs = (np.tile(at[:25].reshape(5, 5), (4, 1, 1)) for at in some_points(random, *size))

    @quick_jit
    def results(x, ys, xs, image):
        options = {"boundary": "roi_align", "image": image[:, None, None]}
        return bilinear_sample(x, ys, xs, **options), bilinear_sum(x, ys, xs, weights, **options)

    samples, sums = results(x, ys, xs, image)
    expected = np.stack([sample_loop(x[of], ys[0], xs[0], "roi_align") for of in image])
    np.testing.assert_allclose(samples, expected, atol=1e-14)
    np.testing.assert_allclose(sums, np.einsum("ijpc,ijp->ijc", expected, weights), atol=1e-14)


def shift_loop(x, dy, dx):
    rows, columns = np.meshgrid(np.arange(x.shape[1]), np.arange(x.shape[2]), indexing="ij")
    channels = enumerate(zip(dy, dx, strict=True))
    moved = [[sample_loop(pixels[..., [c]], rows + y, columns + x_)[..., 0] for pixels in x] for c, (y, x_) in channels]
    return np.moveaxis(moved, 0, -1)


@pytest.mark.parametrize(
    "dy,dx",
    [
        ((0.25, -1.5, 2.0, -0.875, -3.0, -3.5, 1e30, np.inf), (1.125, 0.0, -0.5, 4.5, 0.0, 0.5, 1.0, -np.inf)),
        pytest.param((0.25, -1.5, 2.0, -0.875, 3.0, 0.0, 0.5, 1.0), -1.25, marks=SLOW),
        (0.75, -1.25),
    ],
)
def test_shifts_and_gradients_against_the_sum_over_all_pixels(x64, dy, dx):
    dy, dx = np.asarray(dy), np.asarray(dx)
    each_dy, each_dx = np.broadcast_to(dy, 8), np.broadcast_to(dx, 8)
    x, probe = np.random.RandomState(2).standard_normal((2, 2, 3, 4, 8))
    out, grad_x, *grads = with_gradients(bilinear_shift, (x, dy, dx), probe)
    np.testing.assert_allclose(out, shift_loop(x, each_dy, each_dx), atol=1e-14)
    np.testing.assert_allclose(grad_x, shift_loop(probe, -each_dy, -each_dx), atol=1e-14)  # the transpose moves back
    moves = ((each_dy + STEP, each_dx), (each_dy, each_dx + STEP))
    for gradient, displacement, moved in zip(grads, (dy, dx), moves, strict=True):
        slopes = (shift_loop(x, *moved) - out) / STEP * probe
        expected = slopes.sum(axis=(0, 1, 2) if displacement.ndim else None)
        np.testing.assert_allclose(gradient, expected, atol=1e-7)


def test_a_shift_that_is_not_a_number_spoils_its_own_channel():
    @quick_jit
    def results(x):
        nan = jnp.float32(jnp.nan)
        return bilinear_shift(x, jnp.stack([0, nan, 0]), jnp.float32([0, 0, 1])), bilinear_shift(x, 0.0, nan)

    some, everything = results(np.ones((1, 2, 3, 3), np.float32))
    np.testing.assert_array_equal(some[0, 0], [[1, np.nan, 1], [1, np.nan, 1], [1, np.nan, 0]])
    assert np.isnan(everything).all()


def test_affine_grid_against_torch(x64, goldens):
    sizes = ((3, 4), (1, 5), (4, 1), (1, 1))
    grids = [(size, align_corners) for size in sizes for align_corners in FLAGS.values()]
    probes = [goldens["affine_grid/{}x{}/probe".format(*size)] for size, _ in grids]
    outs, gradients = quick_jit(
        lambda theta, probes: (
            [affine_grid(theta, *grid) for grid in grids],
            [
                jax.grad(lambda theta, grid=grid, probe=probe: jnp.sum(affine_grid(theta, *grid) * probe))(theta)
                for grid, probe in zip(grids, probes, strict=True)
            ],
        )
    )(goldens["affine_grid/theta"], probes)
    names = ["affine_grid/{}x{}/{}".format(*size, flag) for size in sizes for flag in FLAGS]
    for name, out, gradient in zip(names, outs, gradients, strict=True):
        np.testing.assert_allclose(out, goldens[f"{name}/out"], atol=1e-14)
        np.testing.assert_allclose(gradient, goldens[f"{name}/grad_theta"], atol=1e-13)


@pytest.mark.parametrize(
    "name,flag",
    [
        ("random", "corners"),
        ("random", "edges"),
        ("pixels", "corners"),
        pytest.param("pixels", "edges", marks=SLOW),
        pytest.param("one_pixel", "corners", marks=SLOW),
        pytest.param("one_pixel", "edges", marks=SLOW),
    ],
)
def test_grid_sample_against_torch(x64, goldens, name, flag):
    x, grid, probe = (goldens[f"grid_sample/{name}/{key}"] for key in ("x", "grid", "probe"))
    sample = functools.partial(grid_sample, align_corners=FLAGS[flag])
    out, grad_x, grad_grid = with_gradients(sample, (x, grid), probe)
    golden = {key: goldens[f"grid_sample/{name}/{flag}/{key}"] for key in ("out", "grad_x", "grad_grid")}
    np.testing.assert_allclose(out, golden["out"], atol=1e-14)  # not a number where torch's is not
    np.testing.assert_allclose(grad_x, golden["grad_x"], atol=1e-14)
    # There torch's gradient is not a number either, and ours is 0.
    np.testing.assert_allclose(grad_grid, np.where(np.isnan(golden["grad_grid"]), 0, golden["grad_grid"]), atol=1e-13)


def test_published_values_of_grid_sample():
    row, x = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 4, 1), np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    xs = np.float32([-1, -0.5, 0, 0.5, 1, 1.2])
    points, theta = np.stack([xs, 0 * xs], -1)[None, None], np.float32([[[1, 0, 0.5], [0, 1, 0]]])

    def results(row, x, points, theta, flag):
        moved = grid_sample(x, affine_grid(theta, (4, 4), flag), flag)
        return grid_sample(row, points, flag)[0, 0, :, 0], moved[0, 0, :, 0]

    both = quick_jit(lambda *inputs: [results(*inputs, flag) for flag in FLAGS.values()])
    (corners, corners_moved), (edges, edges_moved) = both(row, x, points, theta)
    np.testing.assert_allclose(corners, [1, 1.75, 2.5, 3.25, 4, 2.8], rtol=1e-6)
    np.testing.assert_allclose(edges, [0.5, 1.5, 2.5, 3.5, 2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(corners_moved, [0.75, 1.75, 2.75, 0.75], rtol=1e-6)
    np.testing.assert_allclose(edges_moved, [1, 2, 3, 0], atol=2e-6)


def test_coordinates_of_bfloat16_images_keep_their_digits():
    """bfloat16 cannot tell 257.25 from 258."""
    x = np.zeros((1, 1, 300, 1), np.float32)
    x[0, 0, 257] = 1

    @quick_jit
    def results(x):
        sample = bilinear_sample(x, jnp.zeros((1, 1)), jnp.full((1, 1), 257.25))
        return sample, bilinear_shift(x, 0.0, jnp.full(1, 200.25))

    sample, shifted = results(x.astype(jnp.bfloat16))
    assert sample.dtype == shifted.dtype == jnp.bfloat16
    np.testing.assert_array_equal(sample[0, 0], [0.75])
    np.testing.assert_array_equal(shifted[0, 0, 55:59, 0], [0, 0.25, 0.75, 0])


@pytest.mark.parametrize("boundary", ["zeros", "deformable", "roi_align", "deformable_roi"])
def test_a_point_outside_does_not_look_at_the_map(boundary):
    x = jnp.ones((1, 4, 4, 1)).at[0, 0, 0, 0].set(jnp.inf)
    ys, xs = jnp.asarray([[9.0, -5.0]]), jnp.asarray([[2.0, 1.0]])

    @quick_jit
    def run(x):
        out, pull_back = jax.vjp(lambda x: bilinear_sample(x, ys, xs, boundary=boundary), x)
        return out, pull_back(jnp.full_like(out, jnp.inf))[0]

    out, gradient = run(x)
    np.testing.assert_array_equal(out, np.zeros((1, 2, 1)))
    np.testing.assert_array_equal(gradient, np.zeros(x.shape))
