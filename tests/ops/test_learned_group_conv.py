"""Learned group convolution: against loops written from the paper, through a whole training, and converted."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch.efficiency.complexity import count
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.learned_group_conv import (
    IndexedGroupConv,
    LearnedGroupConv,
    condensation_stage,
    condense,
    condensed_variables,
    group_lasso,
    importance,
    to_index_and_grouped_conv,
)
from tests.compiling import quick_jit

# (in_features, features, num_groups, condense_factor)
SIZES = [(16, 8, 4, 4), (12, 18, 3, 2), (16, 6, 2, 8), (6, 4, 2, 1), (8, 8, 1, 4)]


def _random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def _condense_loop(kernel, live, condense_factor):
    """One condensation, group by group; `live` has a set of inputs for each group, and loses some."""
    in_features, features = kernel.shape[2:]
    for group, inputs in enumerate(live):
        filters = range(group, features, len(live))
        by_importance = sorted(inputs, key=lambda c: sum(abs(float(kernel[0, 0, c, o])) for o in filters))
        inputs.difference_update(by_importance[: in_features // condense_factor])


def _as_mask(live, in_features):
    return np.array([[c in inputs for inputs in live] for c in range(in_features)])


def _condensed(kernel, num_groups, condense_factor):
    """A final mask, by the loop."""
    live = [set(range(kernel.shape[2])) for _ in range(num_groups)]
    for _ in range(condense_factor - 1):
        _condense_loop(kernel, live, condense_factor)
    return _as_mask(live, kernel.shape[2])


def _masked_loop(x, kernel, mask):
    """The convolution, weight by weight."""
    out = np.zeros((*x.shape[:3], kernel.shape[3]))
    for c, o in np.ndindex(kernel.shape[2:]):
        out[..., o] += x[..., c] * kernel[0, 0, c, o] * mask[c, o % mask.shape[1]]
    return out


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_stages_lie_evenly_over_the_first_half(factor):
    num_steps = 120
    stages = np.asarray(quick_jit(lambda steps: condensation_stage(steps / num_steps, factor))(np.arange(121.0)))
    bounds = [Fraction(k, 2 * (factor - 1)) for k in range(1, factor)]
    assert stages.tolist() == [sum(Fraction(step, num_steps) >= bound for bound in bounds) for step in range(121)]
    assert stages[0] == 0 and stages[59] == max(factor - 2, 0) and stages[60] == stages[120] == factor - 1
    assert condensation_stage(0.5, factor).dtype == jnp.int32 and condensation_stage(0.5, factor) == factor - 1


def test_importance_is_of_interleaved_groups():
    kernel = np.float32([[[[1, -10, 2, 20], [0, 3, 0, -0.5]]]])
    narrow = np.ones((1, 1, 1, 300), jnp.bfloat16)
    pairs, alone, wide = quick_jit(lambda x, y: (importance(x, 2), importance(x, 4), importance(y, 1)))(kernel, narrow)
    np.testing.assert_array_equal(pairs, [[3, 30], [0, 3.5]])
    np.testing.assert_array_equal(alone, np.abs(kernel[0, 0]))
    np.testing.assert_array_equal(wide, [[300]])  # bfloat16 cannot count to it


@pytest.mark.parametrize("in_features,features,num_groups,factor", SIZES)
def test_condensation_against_a_loop_while_the_kernel_changes(in_features, features, num_groups, factor):
    run = quick_jit(functools.partial(condense, condense_factor=factor))
    mask = np.ones((in_features, num_groups), bool)
    live = [set(range(in_features)) for _ in range(num_groups)]
    for stage in range(factor + 1):
        kernel = _random(stage, 1, 1, in_features, features).astype(np.float32)
        # What is dropped grows large: it must not come back.
        kernel = np.where(np.tile(mask, features // num_groups), kernel, 100)
        if 0 < stage < factor:
            _condense_loop(kernel, live, factor)
        new = np.asarray(run(kernel, mask, stage))
        np.testing.assert_array_equal(new, _as_mask(live, in_features))
        assert not (new & ~mask).any()
        share = Fraction(factor - min(stage, factor - 1), factor)
        assert (new.sum(0) == in_features * share).all()
        # Done once, whatever the kernel is by now; and there is no way back.
        for again in (stage, max(stage - 1, 0)):
            np.testing.assert_array_equal(run(kernel[..., ::-1], new, again), new)
        mask = new


def test_stages_that_were_jumped_over_are_made_up_for():
    kernel = _random(0, 1, 1, 16, 8)
    mask = quick_jit(functools.partial(condense, condense_factor=4))(kernel, np.ones((16, 4), bool), 3)
    np.testing.assert_array_equal(mask, _condensed(kernel, 4, 4))


def test_a_group_that_has_lost_more_than_is_due_keeps_to_that():
    kernel, mask = _random(0, 1, 1, 8, 4), np.ones((8, 2), bool)
    mask[2:, 0] = False
    new = np.asarray(quick_jit(functools.partial(condense, condense_factor=4))(kernel, mask, 1))
    np.testing.assert_array_equal(new[:, 0], mask[:, 0])
    assert new[:, 1].sum() == 6


def test_a_live_input_of_zeros_is_dropped_and_no_other_in_its_place():
    kernel = 1 + np.abs(_random(0, 1, 1, 8, 4))
    run = quick_jit(functools.partial(condense, condense_factor=4))
    first = np.asarray(run(kernel, np.ones((8, 2), bool), 1))
    zero = np.flatnonzero(first[:, 0])[-1]
    kernel[0, 0, zero] = 0
    second = np.asarray(run(kernel, first, 2))
    assert (second.sum(0) == 4).all() and not second[zero].any()
    # All zero: the numbers are right all the same.
    third = run(np.zeros_like(kernel), second, 3)
    assert (np.sum(third, axis=0) == 2).all()


def test_condensation_on_two_devices():
    kernels = _random(0, 2, 1, 1, 16, 8).astype(np.float32)
    ones, stages = np.ones((2, 16, 4), bool), np.array([3, 0])
    masks = jax.pmap(lambda kernel, mask, stage: condense(kernel, mask, stage, 4))(kernels, ones, stages)
    np.testing.assert_array_equal(masks, [_condensed(kernels[0], 4, 4), ones[1]])


@pytest.mark.parametrize("is_condensed", [False, True])
def test_group_lasso_against_a_loop(x64, is_condensed):
    kernel, mask = _random(0, 1, 1, 12, 18), np.ones((12, 3), bool)
    kernel[0, 0, 4], kernel[0, 0, 7] = 0, 1e-5  # both below the bound
    mask[[0, 5], [1, 2]] = False
    if is_condensed:
        mask = _condensed(kernel, 3, 2)
    expected, expected_gradient = 0.0, np.zeros_like(kernel)
    for c, group in np.ndindex(mask.shape):
        filters = kernel[0, 0, c, group::3] * mask[c, group]
        norm = np.sqrt(max(1e-6, np.sum(filters**2)))
        expected += norm
        if norm > 1e-3:
            expected_gradient[0, 0, c, group::3] = filters / norm
    value, gradient = quick_jit(jax.value_and_grad(functools.partial(group_lasso, condense_factor=2)))(kernel, mask)
    assert value.dtype == gradient.dtype == jnp.float64
    np.testing.assert_allclose(value, 0 if is_condensed else expected, rtol=1e-14)
    np.testing.assert_allclose(gradient, 0 if is_condensed else expected_gradient, atol=1e-14)


def test_masked_and_converted_against_a_loop(x64):
    """Values, and gradients in x and in the kernel."""
    cases = []
    sizes = SIZES[1:4]
    for in_features, features, num_groups, factor in sizes:
        kernel = _random(1, 1, 1, in_features, features)
        mask = _condensed(kernel, num_groups, factor)
        variables = {"params": {"kernel": kernel}, "condensation": {"mask": mask}}
        arrays = (_random(0, 2, 3, 2, in_features), _random(2, 2, 3, 2, features), variables)
        cases.append((*arrays, condensed_variables(variables, factor)))

    def both(size, x, probe, variables, converted):
        learned, indexed = LearnedGroupConv(*size[1:]), IndexedGroupConv(*size[1:])
        out, pull = jax.vjp(lambda x, params: learned.apply({**variables, "params": params}, x), x, variables["params"])
        converted_out, converted_pull = jax.vjp(lambda x: indexed.apply(converted, x), x)
        return out, *pull(probe), converted_out, *converted_pull(probe)

    computed = quick_jit(lambda cases: [both(size, *case) for size, case in zip(sizes, cases, strict=True)])(cases)
    for (x, probe, variables, _), ours in zip(cases, computed, strict=True):
        kernel, mask = variables["params"]["kernel"], variables["condensation"]["mask"]
        masked, by_x, by_params, indexed, indexed_by_x = ours
        full = np.tile(mask, kernel.shape[3] // mask.shape[1])
        assert masked.dtype == indexed.dtype == jnp.float64
        for out in (masked, indexed):
            np.testing.assert_allclose(out, _masked_loop(x, kernel, mask), atol=1e-13)
        for gradient in (by_x, indexed_by_x):
            np.testing.assert_allclose(gradient, np.einsum("bhwo,co->bhwc", probe, kernel[0, 0] * full), atol=1e-13)
        dense_gradient = np.einsum("bhwc,bhwo->co", x, probe)
        np.testing.assert_allclose(by_params["kernel"][0, 0], dense_gradient * full, atol=1e-13)
        assert not np.any(by_params["kernel"][0, 0][~full]), "a dropped weight must get no gradient at all"


def test_conversion_is_exact_where_sums_are():
    """Small whole numbers: float32 adds them without rounding, in any order."""
    random = np.random.default_rng(0)
    x = random.integers(-4, 5, (2, 4, 4, 16)).astype(np.float32)
    kernel = random.integers(-4, 5, (1, 1, 16, 12)).astype(np.float32)
    variables = {"params": {"kernel": kernel}, "condensation": {"mask": _condensed(kernel, 4, 4)}}
    fields = dict(features=12, num_groups=4, act=nn.relu)
    masked = quick_jit(LearnedGroupConv(**fields).apply)(variables, x)
    indexed = quick_jit(IndexedGroupConv(**fields).apply)(condensed_variables(variables, 4), x)
    np.testing.assert_array_equal(masked, indexed)
    np.testing.assert_array_equal(masked, _masked_loop(np.maximum(x, 0), kernel, variables["condensation"]["mask"]))


def test_index_and_kernel_of_a_small_example():
    kernel = np.arange(16.0).reshape(1, 1, 4, 4)
    mask = np.array([[True, False], [False, False], [False, True], [True, True]])
    index, grouped = to_index_and_grouped_conv(kernel, mask, 2)
    assert index.dtype == np.int32 and index.tolist() == [0, 3, 2, 3]
    # Filters 0 and 2 are those of the first group, 1 and 3 of the second.
    np.testing.assert_array_equal(grouped, [[[[0, 2, 9, 11], [12, 14, 13, 15]]]])


@pytest.mark.parametrize("num_groups,factor", [(4, 4), (4, 2), (2, 4)])
def test_statistics_of_the_norm_follow_the_index(x64, num_groups, factor):
    x = _random(0, 3, 2, 2, 16)
    fields = dict(
        features=8,
        num_groups=num_groups,
        condense_factor=factor,
        norm=bind(BatchNorm, train=False, param_dtype=jnp.float64),
        act=nn.relu,
        param_dtype=jnp.float64,
    )
    kernel, (scale, bias, mean), var = _random(1, 1, 1, 16, 8), _random(2, 3, 16), np.exp(_random(3, 16))
    mask = _condensed(kernel, num_groups, factor)
    variables = {
        "params": {"kernel": kernel, "norm": {"scale": scale, "bias": bias}},
        "batch_stats": {"norm": {"mean": mean, "var": var}},
        "condensation": {"mask": mask},
    }
    converted = condensed_variables(variables, factor)
    shapes = jax.eval_shape(lambda: IndexedGroupConv(**fields).init(jax.random.key(0), x))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), converted) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes
    )

    @quick_jit
    def run(x, variables, converted):
        return LearnedGroupConv(**fields).apply(variables, x), IndexedGroupConv(**fields).apply(converted, x)

    masked, indexed = run(x, variables, converted)
    normalized = np.maximum((x - mean) / np.sqrt(var + BatchNorm().epsilon) * scale + bias, 0)
    np.testing.assert_allclose(masked, _masked_loop(normalized, kernel, mask), atol=1e-12)
    np.testing.assert_allclose(indexed, masked, atol=1e-13)


def test_a_training_condenses_without_compiling_anew():
    """Every step of one compiled program; density by stage; weight decay and gradient leave dropped weights dropped."""
    layer = LearnedGroupConv(features=8, num_groups=4)
    x, target = (_random(seed, 4, 3, 3, 16).astype(np.float32)[..., :n] for seed, n in ((0, 16), (1, 8)))
    traces, num_steps = [], 24

    @quick_jit
    def step(params, condensation, number):
        traces.append(number)
        stage = condensation_stage(number / num_steps, 4)
        mask = condense(params["kernel"], condensation["mask"], stage, 4)

        def loss(params):
            out = layer.apply({"params": params, "condensation": {"mask": mask}}, x)
            return jnp.mean((out - target) ** 2) + 1e-3 * group_lasso(params["kernel"], mask, 4)

        value, gradient = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient), {"mask": mask}, value

    params = {"kernel": _random(2, 1, 1, 16, 8).astype(np.float32) / 4}
    condensation = {"mask": np.ones((16, 4), bool)}
    densities, losses = [], []
    for number in range(num_steps):
        before, frozen = condensation["mask"], params["kernel"]
        params, condensation, value = step(params, condensation, number)
        condensation = jax.device_get(condensation)
        assert not (condensation["mask"] & ~before).any()
        dropped = ~np.tile(condensation["mask"], 2)
        np.testing.assert_array_equal(params["kernel"][0, 0][dropped], frozen[0, 0][dropped])
        densities.append(np.mean(condensation["mask"]))
        losses.append(value)
    assert len(traces) == 1
    assert densities == [1] * 4 + [0.75] * 4 + [0.5] * 4 + [0.25] * 12
    assert losses[-1] < losses[12] and np.isfinite(losses).all()
    variables = {"params": params, "condensation": condensation}
    converted = quick_jit(IndexedGroupConv(features=8, num_groups=4).apply)(condensed_variables(variables, 4), x)
    expected = _masked_loop(x, np.asarray(params["kernel"]), condensation["mask"])
    np.testing.assert_allclose(converted, expected, atol=1e-5)


def test_dtypes():
    x = jax.ShapeDtypeStruct((1, 2, 2, 8), jnp.bfloat16)
    for module in (LearnedGroupConv(8, 2), IndexedGroupConv(8, 2)):
        for dtype, expected in ((jnp.bfloat16, jnp.bfloat16), (None, jnp.float32)):
            init = module.clone(dtype=dtype).init_with_output
            out, variables = jax.eval_shape(init, jax.random.key(0), x)
            assert variables["params"]["kernel"].dtype == jnp.float32 and out.dtype == expected


def test_the_first_variables():
    """All inputs live; and in the converted layer, before it is given others, taken in order."""

    @quick_jit
    def init(x):
        learned = LearnedGroupConv(4, 2).init(jax.random.key(0), x)
        return learned, [IndexedGroupConv(4, 2, factor).init(jax.random.key(0), x) for factor in (2, 1, 4)]

    learned, indexed = init(np.ones((1, 1, 1, 4), np.float32))
    mask = learned["condensation"]["mask"]
    assert mask.shape == (4, 2) and mask.dtype == bool and mask.all()
    assert [variables["condensation"]["index"].tolist() for variables in indexed] == [
        [0, 1, 2, 3],
        [0, 1, 2, 3, 0, 1, 2, 3],
        [0, 1],
    ]


def test_parameters_and_macs():
    for module, share in ((LearnedGroupConv(64, 4, 8), 1), (IndexedGroupConv(64, 4, 8), 8)):
        counted = count(module, (1, 5, 6, 32))
        assert (counted.params, counted.macs) == (32 * 64 // share, 5 * 6 * 32 * 64 // share)


def _shapes(layer):
    return jax.eval_shape(layer.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1, 1, 32), jnp.float32))


KERNEL, MASK = np.ones((1, 1, 32, 64), np.float32), np.ones((32, 4), bool)


@pytest.mark.parametrize(
    "call,message",
    [
        (
            lambda: _shapes(LearnedGroupConv(64, 3)),
            "LearnedGroupConv: num_groups=3 must divide in_features=32 and features=64; choose a divisor of both",
        ),
        (
            lambda: _shapes(IndexedGroupConv(66, 4)),
            "IndexedGroupConv: num_groups=4 must divide in_features=32 and features=66; choose a divisor of both",
        ),
        (
            lambda: _shapes(LearnedGroupConv(64, 4, 5)),
            "LearnedGroupConv: condense_factor=5 must divide in_features=32; choose a divisor",
        ),
        (
            lambda: condense(KERNEL, MASK, 0, 0),
            "condense: condense_factor=0 must divide in_features=32; choose a divisor",
        ),
        (
            lambda: condense(KERNEL[0, 0], MASK, 0, 4),
            "condense: kernel of shape (32, 64) and mask of shape (32, 4) must be [1, 1, in_features, features] and "
            "[in_features, num_groups]; give those of one LearnedGroupConv",
        ),
        (
            lambda: group_lasso(KERNEL, MASK[:16], 4),
            "group_lasso: kernel of shape (1, 1, 32, 64) and mask of shape (16, 4) must be [1, 1, in_features, "
            "features] and [in_features, num_groups]; give those of one LearnedGroupConv",
        ),
        (
            lambda: to_index_and_grouped_conv(KERNEL, MASK, 4),
            "to_index_and_grouped_conv: the groups have [32, 32, 32, 32] inputs of 32 and must have 8, with "
            "condense_factor=4; condense to stage 3 first",
        ),
        (
            lambda: condensation_stage(0.5, 0),
            "condensation_stage: condense_factor=0 must be at least 1; 1 prunes nothing",
        ),
    ],
)
def test_refusals_in_one_line(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message
