import functools
import pathlib

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops import roi
from arch.ops._regions import region_sum
from arch.ops._regions.bins import PixelBins, SampleGrids, floor_divide, round_half_away
from arch.ops.roi import ps_roi_align, ps_roi_pool, roi_align, roi_pool
from tests.compiling import quick_jit

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "roi.npz"
BINS, SCALE = (2, 3), 0.5  # of the goldens


@pytest.fixture(scope="module")
def goldens():
    with np.load(GOLDENS) as arrays:
        return dict(arrays)


def _calls():
    """name of the golden -> our call of (x, rois), and the channels of x that it takes."""
    calls = {
        "pool": (lambda x, rois: roi_pool(x, rois, BINS, SCALE), 2),
        "ps_pool": (lambda x, rois: ps_roi_pool(x, rois, BINS, SCALE), 6),
    }
    for ratio in (-1, 1, 2, 3):
        for name, aligned in (("aligned", True), ("not aligned", False)):
            align = functools.partial(
                roi_align, output_size=BINS, spatial_scale=SCALE, sampling_ratio=ratio, aligned=aligned
            )
            calls[f"align/{ratio}/{name}"] = align, 2
    for ratio in (-1, 2, 3):
        align = functools.partial(ps_roi_align, output_size=BINS, spatial_scale=SCALE, sampling_ratio=ratio)
        calls[f"ps_align/{ratio}"] = align, 6
    return calls


CALLS = _calls()


def _some_fast(names, fast):
    """All names as parameters of a test; in the fast tier those in `fast` alone."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", _some_fast(CALLS, ("pool", "align/2/aligned", "align/-1/not aligned", "ps_align/2")))
def test_values_and_gradients_equal_torchvision(x64, goldens, name):
    """RoIs inside, at the edges, over them, outside, without extent, turned inside out, with corners at halves."""
    call, channels = CALLS[name]
    weight = goldens["probe"]
    if name == "ps_pool":
        weight = weight * goldens["ps_pool/consistent"][:, None, None, None]

    @quick_jit
    def results(x, rois):
        out, pull_back = jax.vjp(lambda x: call(x, rois), x)
        return out, pull_back(jnp.asarray(weight[..., : out.shape[-1]]))[0]

    out, gradient = results(goldens["x"][..., :channels], goldens["rois"])
    expected = np.nan_to_num(goldens[f"{name}/out"], nan=0.0)  # 0 / 0 there: no point in a region without extent
    np.testing.assert_allclose(out, expected, atol=1e-13)
    np.testing.assert_allclose(gradient, goldens[f"{name}/grad_x"], atol=1e-13)


def _ramp(size):
    return np.arange(size * size, dtype=np.float32).reshape(1, size, size, 1)


@pytest.mark.slow
def test_published_numbers():
    """Values that torchvision gives on ramps, worked out by hand too: a ramp read at points is itself."""
    small, large = _ramp(4), _ramp(8)
    sensitive = np.arange(256, dtype=np.float32).reshape(4, 8, 8).transpose(1, 2, 0)[None]
    whole, fractional = [0, 1, 1, 5, 5], [0, 0.6, 0.6, 5.4, 6.4]
    align = functools.partial(roi_align, output_size=2, spatial_scale=1.0)
    calls = {
        "pool": (roi_pool, small, [0, 0, 0, 3, 3], [5, 7, 13, 15]),
        "pool of a box": (roi_pool, large, whole, [27, 29, 43, 45]),
        "pool of a fractional box": (roi_pool, large, fractional, [27, 29, 51, 53]),
        "pool rounds halves away from zero": (roi_pool, small, [0, 0.5, 0.5, 2.5, 2.5], [10, 11, 14, 15]),
        "align": (align, small, [0, 0, 0, 3, 3], [3.75, 5.25, 9.75, 11.25]),
        "align of a box": (align, large, whole, [18, 20, 34, 36]),
        "align of a fractional box": (align, large, fractional, [18.2, 20.6, 41.4, 43.8]),
        "position-sensitive": (ps_roi_pool, sensitive, whole, [13.5, 79.5, 157.5, 223.5]),
    }

    @quick_jit
    def results():
        outs = {}
        for name, (op, x, box, _) in calls.items():
            options = dict(sampling_ratio=2, aligned=False) if op is align else dict(output_size=2, spatial_scale=1.0)
            outs[name] = op(jnp.asarray(x), jnp.asarray([box], jnp.float32), **options)
        rois = jnp.asarray([whole, fractional], jnp.float32)
        outs["aligned"] = [align(jnp.asarray(large), rois, sampling_ratio=n, aligned=True) for n in (0, 1, 2, 3)]
        return outs

    outs = results()
    for name, (*_, expected) in calls.items():
        np.testing.assert_allclose(outs[name].reshape(-1), expected, rtol=1e-6, err_msg=name)
    for out in outs["aligned"]:  # whatever the number of points, the mean of a ramp is its value at the centre
        np.testing.assert_allclose(out[0].reshape(-1), [13.5, 15.5, 29.5, 31.5], rtol=1e-5)
        np.testing.assert_allclose(out[1].reshape(-1), [13.7, 16.1, 36.9, 39.3], rtol=1e-5)


def test_rounding_and_dividing():
    halves = np.arange(-9, 10, dtype=np.float32) / 2
    expected = [float(np.trunc(v + np.copysign(0.5, v))) for v in halves]
    np.testing.assert_array_equal(jax.jit(round_half_away)(halves), expected)
    values = np.arange(-500, 2000)
    divisors = (1, 3, 5, 7, 11, 13, 14)
    quotients = jax.jit(lambda v: [floor_divide(v, divisor) for divisor in divisors])(values.astype(np.float32))
    for divisor, quotient in zip(divisors, quotients, strict=True):
        np.testing.assert_array_equal(quotient, values // divisor, err_msg=str(divisor))


def _ps_pool_loop(x, rois, cotangent, bins, scale, inclusive_end):
    """Position-sensitive pooling and the gradient of sum(out * cotangent), from the formula."""
    out, gradient = np.zeros((len(rois), *bins, x.shape[3] // (bins[0] * bins[1]))), np.zeros(x.shape)

    def away(value):
        return np.trunc(value + np.copysign(0.5, value))

    def edges(first, last, number, num_bins, pixels):
        if inclusive_end:
            start = away(first) * scale
            size = max((away(last) + 1) * scale - start, 0.1)
        else:
            start, pixels = away(first * scale), pixels - 1
            size = max(away(last * scale) - start, 1)
        low = np.floor(start + number * size / num_bins)
        high = np.ceil(start + (number + 1) * size / num_bins)
        return slice(*(int(np.clip(edge, 0, pixels)) for edge in (low, high)))

    for r, i, j, c in np.ndindex(out.shape):
        image, x1, y1, x2, y2 = rois[r]
        rows = edges(y1, y2, i, bins[0], x.shape[1])
        columns = edges(x1, x2, j, bins[1], x.shape[2])
        at = (int(image), rows, columns, (c * bins[0] + i) * bins[1] + j)
        if x[at].size:
            out[r, i, j, c] = x[at].mean()
            gradient[at] += cotangent[r, i, j, c] / x[at].size
    return out, gradient


def test_position_sensitive_pooling_against_a_loop(x64, goldens):
    """Both conventions; torchvision's own gradient is not that of its output at the lower and right edges."""
    random = np.random.RandomState(0)
    x, rois = random.standard_normal((2, 6, 7, 12)), goldens["rois"]
    cotangent = random.standard_normal((len(rois), *BINS, 2))

    @quick_jit
    def results(x):
        def result(inclusive_end):
            pool = functools.partial(
                ps_roi_pool, rois=rois, output_size=BINS, spatial_scale=SCALE, inclusive_end=inclusive_end
            )
            out, pull_back = jax.vjp(lambda x: pool(x), x)
            return out, pull_back(jnp.asarray(cotangent))[0]

        return {inclusive_end: result(inclusive_end) for inclusive_end in (False, True)}

    for inclusive_end, (out, gradient) in results(x).items():
        expected, expected_gradient = _ps_pool_loop(x, rois, cotangent, BINS, SCALE, inclusive_end)
        np.testing.assert_allclose(out, expected, atol=1e-13)
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-13)


@pytest.mark.slow
def test_gradients_of_boxes_only_where_asked_for(x64, goldens):
    random = np.random.RandomState(1)
    x, rois = random.standard_normal((2, 6, 7, 6)), goldens["rois"][:2]
    step = 1e-6 * random.standard_normal(rois.shape) * [0, 1, 1, 1, 1]

    def scalar(op, rois, **options):
        return jnp.sum(op(jnp.asarray(x), rois, BINS, SCALE, **options) ** 2)

    asked = [
        functools.partial(scalar, roi_align, sampling_ratio=2, aligned=aligned, differentiate_boxes=True)
        for aligned in (False, True)
    ]
    asked.append(functools.partial(scalar, ps_roi_align, sampling_ratio=2, differentiate_boxes=True))
    others = [
        functools.partial(scalar, roi_pool),
        functools.partial(scalar, ps_roi_pool),
        functools.partial(scalar, roi_align, sampling_ratio=2, aligned=True),
        functools.partial(scalar, roi_align, sampling_ratio=0, aligned=True),
    ]

    @quick_jit
    def results(rois):
        differences = [f(rois + step) - f(rois - step) for f in asked]
        values = [scalar(ps_roi_align, rois, sampling_ratio=2, differentiate_boxes=flag) for flag in (False, True)]
        return differences, [jax.grad(f)(rois) for f in asked], [jax.grad(f)(rois) for f in others], values

    differences, gradients, zeros, values = results(jnp.asarray(rois))
    np.testing.assert_allclose(*values, rtol=1e-12)
    for difference, gradient in zip(differences, gradients, strict=True):
        np.testing.assert_allclose(np.sum(gradient * 2 * step), difference, rtol=1e-6)
        np.testing.assert_array_equal(gradient[:, 0], 0)
    for gradient in zeros:
        np.testing.assert_array_equal(gradient, 0)


# Their steps depend on the RoIs, so that JAX alone could not transpose them.
LOOPS = {
    "pool": lambda x, rois: roi_pool(x, rois, BINS, SCALE),
    "adaptive align": lambda x, rois: roi_align(x, rois, BINS, SCALE, 0, True),
    "position-sensitive": lambda x, rois: ps_roi_pool(x, rois, BINS, SCALE),
}
ALL = LOOPS | {
    "align": lambda x, rois: roi_align(x, rois, BINS, SCALE, 2, True),
    "position-sensitive align": lambda x, rois: ps_roi_align(x, rois, BINS, SCALE, 2),
}


@pytest.mark.parametrize("name", _some_fast(LOOPS, ()))
def test_loops_can_be_mapped_and_differentiated_in_both_modes(name, goldens):
    op, random = LOOPS[name], np.random.RandomState(0)
    x, tangent = random.standard_normal((2, 2, 2, 6, 7, 6)).astype(np.float32)
    rois = np.stack([goldens["rois"][:6], goldens["rois"][6:12]]).astype(np.float32)

    def gradient(x, rois):
        return jax.grad(lambda x: jnp.sum(op(x, rois) ** 3))(x)

    @quick_jit
    def results(x, rois, tangent):
        apart = [(op(x[a], rois[b]), gradient(x[a], rois[b])) for a, b in ((0, 0), (1, 1), (0, 1), (1, 0))]
        mapped = [
            jax.vmap(lambda x, rois: (op(x, rois), gradient(x, rois)), axes)(*args)
            for axes, args in (((0, 0), (x, rois)), ((None, 0), (x[0], rois)), ((0, None), (x, rois[0])))
        ]
        pushed = jax.jvp(lambda x: op(x, rois[0]), (x[0],), (tangent[0],))[1]
        second = jax.jvp(lambda x: gradient(x, rois[0]), (x[0],), (tangent[0],))[1]
        return apart, mapped, pushed, second

    apart, mapped, pushed, second = results(x, rois, tangent)
    for (out, gradients), pairs in zip(mapped, ((0, 1), (0, 2), (0, 3)), strict=True):
        for k, pair in enumerate(pairs):
            np.testing.assert_allclose(out[k], apart[pair][0], atol=1e-6)
            np.testing.assert_allclose(gradients[k], apart[pair][1], atol=1e-5)
    out, grad = apart[0]
    np.testing.assert_allclose(np.sum(3 * out**2 * pushed), np.sum(grad * tangent[0]), rtol=1e-4)
    # Between ties all three are linear in x: the second derivative along `tangent` is 6 sum(out * pushed**2).
    np.testing.assert_allclose(np.sum(second * tangent[0]), np.sum(6 * out * pushed**2), rtol=1e-4)


@pytest.mark.parametrize("name", _some_fast(LOOPS, ()))
def test_loops_under_shard_map_and_export(name, goldens):
    op = LOOPS[name]
    x, rois = goldens["x"].astype(np.float32), goldens["rois"].astype(np.float32)

    def both(x, rois):
        out, pull_back = jax.vjp(lambda x: op(x, rois), x)
        return out, pull_back(out)[0]

    out, gradient = quick_jit(both)(x, rois)
    mesh, spec = jax.sharding.Mesh(jax.devices()[:2], ("batch",)), jax.sharding.PartitionSpec
    mapped = jax.shard_map(both, mesh=mesh, in_specs=(spec(), spec("batch")), out_specs=(spec("batch"), spec()))
    sharded, summed = quick_jit(mapped)(x, rois)
    np.testing.assert_allclose(sharded, out, atol=1e-6)
    np.testing.assert_allclose(summed, gradient, atol=1e-5)
    jax.export.export(jax.jit(both), platforms=("cpu", "cuda", "tpu"))(x, rois)


def test_what_other_platforms_pool_with_agrees(x64, goldens, monkeypatch):
    """There all RoIs take a step together."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *operands, cpu, default: default(*operands))
    rule = PixelBins(BINS, SCALE, "roi_pool")

    @quick_jit
    def results(x, rois, probe):
        out, pull_back = jax.vjp(lambda x: roi._largest(x, rois, rule), x)
        return out, pull_back(probe)[0]

    out, gradient = results(goldens["x"][..., :2], goldens["rois"], goldens["probe"][..., :2])
    np.testing.assert_array_equal(out, goldens["pool/out"])
    np.testing.assert_allclose(gradient, goldens["pool/grad_x"], atol=1e-13)


@pytest.mark.parametrize(
    "rule",
    [
        PixelBins(BINS, SCALE, "r_fcn"),
        pytest.param(SampleGrids(BINS, SCALE, aligned=False, sampling_ratio=0), marks=pytest.mark.slow),
    ],
)
def test_what_other_platforms_sum_with_agrees(rule, goldens):
    random, rois = np.random.RandomState(0), goldens["rois"].astype(np.float32)
    regions = region_sum.Regions((2, 6, 7, 1, 6), rule)
    x = random.standard_normal(regions.maps).astype(np.float32)
    gradient = random.standard_normal((len(rois), *BINS, 1)).astype(np.float32)

    @quick_jit
    def results(x, gradient, rois):
        def result(on_cpu):
            options = dict(regions=regions, on_cpu=on_cpu)
            return region_sum._sum(x, rois, **options), region_sum._spread(gradient, rois, **options)

        return result(True), result(False)

    for ours, theirs in zip(*results(x, gradient, rois), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", _some_fast(ALL, ("align",)))
def test_rows_that_stand_for_nothing_and_numbers_that_are_none(goldens, name):
    op = ALL[name]
    x = goldens["x"].astype(np.float32) + 5
    inside, far = [1, 2.3, 1.1, 9.7, 8.9], [0, -np.inf, -1e30, np.inf, 1e30]
    none = [[-1, 0, 0, 9, 9], [2, 0, 0, 9, 9], [0, np.nan, 0, 9, 9], [0, 0, 0, 9, np.nan], [np.nan, 0, 0, 9, 9]]
    rois = np.asarray([inside, *none, far, [1.9, *inside[1:]]], np.float32)

    @quick_jit
    def results(x, rois):
        out, pull_back = jax.vjp(lambda x: op(x, rois), x)
        return out, [pull_back(jnp.zeros_like(out).at[rows].set(1.0))[0] for rows in (slice(None), 0, slice(1, 6))]

    out, (gradient, of_the_first, of_none) = results(x, rois)
    assert np.all(out[0] > 0)
    np.testing.assert_array_equal(out[1:3], 0)
    assert np.all(np.isnan(out[3:6]))
    assert np.all(np.isfinite(out[6]))
    np.testing.assert_array_equal(out[7], out[0])  # an index is cut off, not rounded
    assert np.all(np.isfinite(gradient)) and np.any(of_the_first)
    np.testing.assert_array_equal(of_none, 0)


def test_dtypes(x64, goldens):
    rois = goldens["rois"]
    for name, op in ALL.items():
        for dtype in (jnp.bfloat16, jnp.float64):
            x = jax.ShapeDtypeStruct((2, 6, 7, 6), dtype)
            assert jax.eval_shape(op, x, rois).dtype == dtype, name
            assert jax.eval_shape(jax.grad(lambda x, op=op: jnp.sum(op(x, rois))), x).dtype == dtype, name


def test_no_rois(goldens):
    x, none = goldens["x"], goldens["rois"][:0]
    outs = quick_jit(lambda x: [op(x, none) for op in ALL.values()])(x)
    assert [out.shape for out in outs] == [(0, *BINS, channels) for channels in (6, 6, 1, 6, 1)]


def test_pooling_passes_on_what_is_not_a_number():
    x = jnp.asarray(_ramp(4)).at[0, 1, 1, 0].set(jnp.nan)
    rois = jnp.asarray([[0, 0, 0, 3, 3]], jnp.float32)
    out, pull_back = quick_jit(lambda x: jax.vjp(lambda x: roi_pool(x, rois, 2, 1.0), x))(x)
    np.testing.assert_array_equal(out[0, :, :, 0], [[np.nan, 7], [13, 15]])
    np.testing.assert_array_equal(np.flatnonzero(pull_back(jnp.ones_like(out))[0]), [5, 7, 13, 15])


@pytest.mark.slow
def test_gradients_of_bfloat16_maps_are_summed_in_float32():
    x, rois = jnp.ones((1, 2, 2, 1), jnp.bfloat16), jnp.zeros((1000, 5))

    @quick_jit
    def gradients(x):
        pool = jax.grad(lambda x: jnp.sum(roi_pool(x, rois, 1, 1.0), dtype=jnp.float32))(x)
        mean = jax.grad(lambda x: jnp.sum(roi_align(x, rois, 1, 1.0, 0, False), dtype=jnp.float32))(x)
        return pool[0, :, :, 0], mean[0, :, :, 0]

    pool, mean = gradients(x)
    np.testing.assert_array_equal(pool, [[1000, 0], [0, 0]])  # rounded after each RoI it would stay at 256
    np.testing.assert_array_equal(mean, [[250, 250], [250, 250]])


@pytest.mark.parametrize("name", _some_fast(LOOPS, ()))
def test_memory_is_that_of_the_maps_and_the_output(name):
    """All bins against all pixels would be [64, 2, 3, 48, 48, 24], 85 MB."""
    x, rois = jax.ShapeDtypeStruct((2, 48, 48, 24), jnp.float32), jax.ShapeDtypeStruct((64, 5), jnp.float32)
    gradient = quick_jit(jax.grad(lambda x, rois: jnp.sum(LOOPS[name](x, rois) ** 2)))
    assert gradient.lower(x, rois).compile().memory_analysis().temp_size_in_bytes < 4 * 2 * 48 * 48 * 24 * 4


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda x, r: roi_pool(x[0], r, 2, 1.0), r"roi_pool: x=float32\[4, 4, 6\] must be .*"),
        (lambda x, r: roi_pool(x.astype(int), r, 2, 1.0), r"roi_pool: x=int32\[1, 4, 4, 6\] must be floating .*"),
        (lambda x, r: roi_pool(x, r[:, 1:], 2, 1.0), r"roi_pool: rois=float32\[3, 4\] must be .* \[num_rois, 5\], .*"),
        (
            lambda x, r: roi_align(x, r.astype(int), 2, 1.0, 2, True),
            r"roi_align: rois=int32\[3, 5\] must be .*",
        ),
        (lambda x, r: roi_pool(x, r, 0, 1.0), "roi_pool: output_size=0 must be .*"),
        (lambda x, r: roi_pool(x, r, 2, 0.0), "roi_pool: spatial_scale=0.0 must be above 0; .*"),
        (lambda x, r: ps_roi_pool(x, r, 2, 1.0), "ps_roi_pool: channels=6 must be a multiple of num_groups=4, .*"),
        (lambda x, r: ps_roi_align(x, r, 2, 1.0, 2), "ps_roi_align: channels=6 must be a multiple of num_groups=4, .*"),
        (
            lambda x, r: roi_align(x, r, 2, 1.0, 0, True, differentiate_boxes=True),
            "roi_align: sampling_ratio=0 must be 1 or more with differentiate_boxes=True, .*",
        ),
    ],
)
def test_refusals_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call(jnp.zeros((1, 4, 4, 6)), jnp.zeros((3, 5)))
