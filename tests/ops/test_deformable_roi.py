import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.roi import DeformRoIPool, deform_roi_pool
from tests.compiling import quick_jit

# Inside, fractional; whole; without extent; over the edges; outside; turned inside out.
ROIS = np.asarray(
    [
        [1, 2.3, 1.1, 9.7, 8.9],
        [0, 0, 0, 13, 11],
        [0, 5, 3, 5, 3],
        [1, -4.5, 6.5, 8.2, 19.5],
        [0, 40, 40, 50, 50],
        [0, 9.5, 8.5, 3.5, 2.5],
    ]
)
BINS, SCALE = (3, 2), 0.5


def _pool_loop(x, rois, offsets, bins, scale, groups, num_points, offset_scale):
    """The authors' program, line by line, in float64."""
    height, width = x.shape[1:3]
    num_blocks = offsets.shape[3] // 2
    channels = x.shape[3] // (groups[0] * groups[1])
    out = np.zeros((len(rois), *bins, channels))

    def away(value):
        return np.trunc(value + np.copysign(0.5, value))

    def bilinear(plane, y, x):
        top, left = int(np.floor(y)), int(np.floor(x))
        bottom, right = int(np.ceil(y)), int(np.ceil(x))
        dy, dx = y - top, x - left
        upper = (1 - dx) * plane[top, left] + dx * plane[top, right]
        return (1 - dy) * upper + dy * ((1 - dx) * plane[bottom, left] + dx * plane[bottom, right])

    for r, ph, pw, c in np.ndindex(out.shape):
        image, x1, y1, x2, y2 = rois[r]
        start_x, start_y = away(x1) * scale - 0.5, away(y1) * scale - 0.5
        roi_width = max((away(x2) + 1) * scale - 0.5 - start_x, 0.1)
        roi_height = max((away(y2) + 1) * scale - 0.5 - start_y, 0.1)
        bin_height, bin_width = roi_height / bins[0], roi_width / bins[1]
        part = offsets[r, ph * offsets.shape[1] // bins[0], pw * offsets.shape[2] // bins[1]]
        block = c // (channels // num_blocks)
        left = pw * bin_width + start_x + part[2 * block] * offset_scale * roi_width
        top = ph * bin_height + start_y + part[2 * block + 1] * offset_scale * roi_height
        group = (ph * groups[0] // bins[0]) * groups[1] + pw * groups[1] // bins[1]
        plane = x[int(image), :, :, c * groups[0] * groups[1] + group]
        total, count = 0.0, 0
        for iy, ix in np.ndindex(num_points, num_points):
            py, px = top + iy * bin_height / num_points, left + ix * bin_width / num_points
            if px < -0.5 or px > width - 0.5 or py < -0.5 or py > height - 0.5:
                continue
            total += bilinear(plane, np.clip(py, 0, height - 1), np.clip(px, 0, width - 1))
            count += 1
        out[r, ph, pw, c] = total / count if count else 0.0
    return out


@pytest.mark.parametrize(
    "groups,parts,num_blocks,num_points",
    [
        ((1, 1), BINS, 1, 4),
        pytest.param((3, 2), (2, 2), 2, 3, marks=pytest.mark.slow),
        pytest.param((2, 1), (5, 3), 3, 1, marks=pytest.mark.slow),
    ],
)
def test_values_against_a_loop_and_gradients_against_differences(x64, groups, parts, num_blocks, num_points):
    random = np.random.RandomState(0)
    x, direction = random.standard_normal((2, 2, 6, 7, 6 * groups[0] * groups[1]))
    offsets, turn = random.standard_normal((2, len(ROIS), *parts, 2 * num_blocks))
    options = dict(group_size=groups, samples_per_part=num_points, offset_scale=0.3)
    cotangent = random.standard_normal((len(ROIS), *BINS, 6))

    @quick_jit
    def results(x, direction, offsets, turn):
        def pool(x, offsets):
            return deform_roi_pool(x, ROIS, offsets, BINS, SCALE, **options)

        out, pull_back = jax.vjp(pool, x, offsets)
        moved = [pool(x, offsets + sign * 1e-6 * turn) for sign in (1, -1)]
        return out, pull_back(jnp.asarray(cotangent)), pool(direction, offsets), moved

    out, (gradient_x, gradient_offsets), along, moved = results(x, direction, offsets, turn)
    expected = functools.partial(
        _pool_loop, rois=ROIS, bins=BINS, scale=SCALE, groups=groups, num_points=num_points, offset_scale=0.3
    )
    np.testing.assert_allclose(out, expected(x, offsets=offsets), atol=1e-12)
    # It is linear in x, and the loop is what it does.
    np.testing.assert_allclose(along, expected(direction, offsets=offsets), atol=1e-12)
    np.testing.assert_allclose(np.sum(gradient_x * direction), np.sum(cotangent * along), rtol=1e-10)
    difference = np.sum(cotangent * (moved[0] - moved[1])) / 2e-6
    np.testing.assert_allclose(np.sum(gradient_offsets * turn), difference, rtol=1e-6)


def test_no_offsets_are_zero_offsets_and_one_offset_moves_the_region(x64):
    x = np.random.RandomState(0).standard_normal((2, 9, 8, 4))
    rois = np.asarray([[0, 2, 3, 5, 6], [1, 1, 2, 4, 5]], np.float64)  # 4 by 4 pixels
    moved = rois + np.asarray([0, 2, 1, 2, 1])

    @quick_jit
    def results(x, rois, moved):
        pool = functools.partial(deform_roi_pool, x, output_size=2, spatial_scale=1.0)
        zeros, constant = jnp.zeros((2, 2, 2, 2)), jnp.broadcast_to(jnp.asarray([5.0, 2.5]), (2, 1, 1, 2))
        return pool(rois, None), pool(rois, zeros), pool(rois, constant), pool(moved, None)

    none, zeros, constant, expected = results(x, rois, moved)
    np.testing.assert_array_equal(none, zeros)
    np.testing.assert_allclose(constant, expected, rtol=1e-12)  # 0.1 * (5, 2.5) * 4 pixels = (2, 1) pixels


def test_regions_of_no_image_and_numbers_that_are_none():
    rois = np.asarray([[0, 0, 0, 3, 3], [-1, 0, 0, 3, 3], [0, 0, np.nan, 3, 3], [0, 0, 0, 3, 3]], np.float32)
    offsets = np.zeros((4, 2, 2, 2), np.float32)
    offsets[3, 0, 0] = np.nan, 1e30
    x = np.ones((1, 4, 4, 2), np.float32)

    @quick_jit
    def results(x, rois, offsets):
        out, pull_back = jax.vjp(lambda x, offsets: deform_roi_pool(x, rois, offsets, 2, 1.0), x, offsets)
        return out, pull_back(jnp.ones_like(out))

    out, gradients = results(x, rois, offsets)
    expected = np.ones((4, 2, 2))
    expected[1], expected[2], expected[3, 0, 0] = 0, np.nan, np.nan
    np.testing.assert_array_equal(out[..., 0], expected)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    assert np.any(gradients[0])


@pytest.mark.parametrize("modulated", [pytest.param(False, marks=pytest.mark.slow), True])
def test_module_begins_without_moving_anything_and_learns_to(modulated):
    random = np.random.RandomState(0)
    x, rois = random.standard_normal((2, 6, 7, 4)).astype(np.float32), ROIS.astype(np.float32)
    module = DeformRoIPool(output_size=BINS, spatial_scale=SCALE, modulated=modulated)
    num_offsets = (3 if modulated else 2) * 6

    @quick_jit
    def results(x, rois):
        variables = module.init(jax.random.key(0), x, rois)
        gradients = jax.grad(lambda variables: jnp.sum(module.apply(variables, x, rois) ** 2))(variables)
        return variables, gradients, module.apply(variables, x, rois), deform_roi_pool(x, rois, None, BINS, SCALE)

    variables, gradients, out, still = results(x, rois)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {"offset": {"kernel": (6 * 4, num_offsets), "bias": (num_offsets,)}}
    np.testing.assert_allclose(out, 0.5 * still if modulated else still, rtol=1e-6)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_dtypes():
    module, rois = DeformRoIPool(output_size=2, spatial_scale=1.0, modulated=True), jnp.zeros((3, 5), jnp.bfloat16)
    x = jnp.zeros((1, 4, 4, 2), jnp.bfloat16)
    out, variables = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), x, rois))
    assert out.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    "fields,message",
    [
        (dict(offsets=jnp.zeros((2, 2, 2, 2))), r"offsets\[2, 2, 2, 2\] must be \[3, .*as there are 3 rois; .*"),
        (dict(offsets=jnp.zeros((3, 2, 2, 3))), r"offsets\[3, 2, 2, 3\] must be .*"),
        (dict(offsets=jnp.zeros((3, 2, 2, 8))), "num_offset_groups=4 must divide channels=6; .*"),
        (dict(group_size=2), "channels=6 must be a multiple of num_groups=4, .*"),
        (dict(samples_per_part=0), "samples_per_part=0 must be 1 or more; .*"),
        (dict(rois=jnp.zeros((3, 4))), r"rois=float32\[3, 4\] must be .*"),
    ],
)
def test_refusals_in_one_line(fields, message):
    options = dict(x=jnp.zeros((1, 4, 4, 6)), rois=jnp.zeros((3, 5)), offsets=None, output_size=2, spatial_scale=1.0)
    with pytest.raises(ValueError, match=f"^deform_roi_pool: {message}$"):
        deform_roi_pool(**options | fields)
