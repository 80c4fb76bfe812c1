"""Drop path: what survives is exact, how often it survives is binomial, and the noise follows the example."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.drop_path import (
    DropPath,
    FractalJoin,
    drop_path,
    global_drop_path,
    join,
    local_drop_path,
    sample_columns,
)
from arch.ops.stochastic import Examples
from tests.compiling import quick_jit

MANY = 20_000
KEY = jax.random.key(7)


def _random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _check_share(events, probability):
    """Within five standard deviations of a mean of independent draws."""
    share, bound = np.mean(events), 5 * np.sqrt(probability * (1 - probability) / len(events))
    assert abs(share - probability) <= bound, (share, probability, bound)


def test_an_example_is_dropped_whole_or_scaled():
    x = _random(0, 200, 3, 2, 4)
    x[:, 0, 0, 0] = [np.nan, np.inf] * 100

    @quick_jit
    def run(x):
        y, pull = jax.vjp(lambda x: drop_path(x, KEY, 0.3), x)
        return y, *pull(jnp.ones_like(y))

    y, gradient = jax.device_get(run(x))
    kept = y[:, 1, 0, 0] != 0
    assert 0 < kept.sum() < 200
    np.testing.assert_allclose(y[kept], x[kept] / np.float32(0.7), rtol=2e-7)
    assert not np.any(y[~kept]), "what is no number must not survive in an example that is dropped"
    np.testing.assert_allclose(gradient, np.broadcast_to(kept[:, None, None, None] / 0.7, x.shape), rtol=1e-6)


def test_bfloat16_survivors_are_scaled_as_in_float32():
    x = jnp.full((64, 3), 1.7, jnp.bfloat16)
    kept = np.unique(np.float32(drop_path(x, jax.random.key(0), 0.15)))
    np.testing.assert_array_equal(kept, [0, np.float32(jnp.bfloat16(np.float32(x[0, 0]) / np.float32(0.85)))])


def test_examples_survive_as_often_as_the_rate_says():
    """At a fixed rate, and at one that is traced, as a schedule has it."""
    x = np.ones((MANY, 1), np.float32)

    @quick_jit
    def run(x, rate):
        other = jax.random.fold_in(KEY, 1)
        return drop_path(x, KEY, 0.3), drop_path(x, KEY, rate), drop_path(x, other, 0.3), drop_path(x, KEY, 0.9)

    first, traced, second, seldom = (y[:, 0] for y in run(x, np.float32(0.3)))
    np.testing.assert_allclose(first, traced, rtol=2e-7)
    _check_share(first == 0, 0.3)
    _check_share(seldom == 0, 0.9)
    # The draws of two keys, and of neighbours, have nothing to do with each other.
    _check_share((first == 0) & (second == 0), 0.09)
    _check_share((first == 0) & (np.roll(first, 1) == 0), 0.09)
    # The mean stays: its variance is that of kept / 0.7.
    assert abs(np.mean(first) - 1) < 5 * np.sqrt(0.3 / 0.7 / MANY)


def test_drop_path_at_its_ends_and_in_evaluation():
    x = _random(0, 6, 2, 3)

    @quick_jit
    def run(x, zero, one):
        rates = (0.0, 1.0, zero, one)
        outs = [drop_path(x, KEY, rate) for rate in rates]
        gradients = [jax.grad(lambda x, rate: drop_path(x, KEY, rate).sum())(x, rate) for rate in rates]
        ends = [DropPath(rate).apply({}, x, train=True, rngs={"dropout": KEY}) for rate in (0.0, 1.0)]
        by_rate = jax.grad(lambda rate: drop_path(x, KEY, rate).sum())(one)
        return outs, gradients, ends, DropPath(0.5).apply({}, x, train=False), by_rate

    outs, gradients, ends, evaluation, by_rate = run(x, np.float32(0), np.float32(1))
    for y, expected in zip((*outs, *ends, evaluation), (x, 0 * x, x, 0 * x, x, 0 * x, x), strict=True):
        np.testing.assert_array_equal(y, expected)
    for gradient, expected in zip(gradients, (1, 0, 1, 0), strict=True):
        np.testing.assert_array_equal(gradient, np.full_like(x, expected))
    assert np.isfinite(by_rate)


def test_the_noise_is_the_same_for_any_layout_of_devices():
    x = _random(0, 3, 8, 2, 3)

    def all_of_them(x, ids):
        options = {"train": True, "examples": Examples(id=ids), "rngs": {"dropout": KEY}}
        column = sample_columns(KEY, 3, jnp.arange(x.shape[1]) if ids is None else ids)
        joined = FractalJoin(0.5).apply({}, list(x), columns=(0, 1, 2), column=column, **options)
        return DropPath(0.5).apply({}, x[0], **options), column, joined

    mesh, spec = jax.sharding.Mesh(jax.devices()[:4], ("batch",)), jax.sharding.PartitionSpec
    sharded = jax.shard_map(
        all_of_them, mesh=mesh, in_specs=(spec(None, "batch"), spec("batch")), out_specs=spec("batch")
    )
    expected = quick_jit(lambda x: all_of_them(x, None))(x)
    for out, whole in zip(quick_jit(sharded)(x, np.arange(8)), expected, strict=True):
        np.testing.assert_array_equal(out, whole)


def test_equal_ids_draw_once_for_the_batch():
    """The paper's way: one network a batch."""
    ids = np.zeros(16, int)

    def each(seed):
        inputs = [jnp.full((16, 2), 2.0**i) for i in range(3)]
        key = jax.random.key(seed)
        return local_drop_path(inputs, key, 0.5, ids)[:, 0], sample_columns(key, 3, ids)

    for drawn in quick_jit(jax.vmap(each))(np.arange(8)):
        assert (np.ptp(drawn, axis=1) == 0).all() and len(np.unique(drawn)) > 1


def test_join_against_a_loop(x64):
    inputs = np.random.default_rng(0).standard_normal((3, 9, 2, 2))
    keep = np.array([*itertools.product([True, False], repeat=3), [True, False, True]])
    inputs[~keep.T] = np.nan

    @quick_jit
    def run(inputs, keep):
        out, pull = jax.vjp(lambda inputs: join(inputs, keep), inputs)
        return out, pull(jnp.ones_like(out))[0], join(inputs), join(inputs[:1])

    out, gradients, whole, alone = run([*inputs], keep)
    assert out.dtype == np.float64
    for n, row in enumerate(keep):
        expected = np.mean(inputs[row, n], axis=0) if row.any() else np.zeros((2, 2))
        np.testing.assert_allclose(out[n], expected, atol=1e-15)
        for gradient, kept in zip(gradients, row, strict=True):
            np.testing.assert_array_equal(gradient[n], np.full((2, 2), kept / max(row.sum(), 1)))
    np.testing.assert_allclose(whole[0], inputs[:, 0].mean(0), atol=1e-15)
    np.testing.assert_array_equal(alone, inputs[0])


def test_join_of_bfloat16_sums_in_float32():
    inputs = [np.full((1, 1), value, jnp.bfloat16) for value in (256, 1, 1)]
    for out in quick_jit(lambda inputs: (join(inputs), join(inputs, jnp.ones((1, 3), bool))))(inputs):
        assert out.dtype == jnp.bfloat16 and out == 86


@pytest.mark.parametrize("rate", [0.15, 0.6, 1.0])
def test_local_drop_path_keeps_every_subset_as_often_as_it_should(rate):
    """Of three inputs; the mean of a subset of these tells which it is."""
    values = np.float32([1, 10, 100])
    inputs = [np.full((MANY, 1), value) for value in values]

    @quick_jit
    def run(inputs):
        out, pull = jax.vjp(lambda inputs: local_drop_path(inputs, KEY, rate), inputs)
        return out[:, 0], pull(jnp.ones_like(out))[0]

    out, gradients = jax.device_get(run(inputs))
    seen = np.zeros(MANY, bool)
    for size in (1, 2, 3):
        probability = (1 - rate) ** size * rate ** (3 - size) + (rate**3 / 3 if size == 1 else 0)
        for subset in itertools.combinations(range(3), size):
            is_subset = out == values[list(subset)].sum() / np.float32(size)
            _check_share(is_subset, probability)
            for i, gradient in enumerate(gradients):
                np.testing.assert_array_equal(gradient[is_subset, 0], np.float32((i in subset) / np.float32(size)))
            seen |= is_subset
    assert seen.all(), "each output is the mean of what is left, and something is"


def test_equal_inputs_join_to_themselves():
    x = _random(0, 100, 4)
    outs = quick_jit(lambda x: (join([x, x]), local_drop_path([x, x, x, x], KEY, 0.5), join([x] * 3)))(x)
    np.testing.assert_array_equal(outs[0], x)
    for out in outs[1:]:
        np.testing.assert_allclose(out, x, rtol=2e-7)


def test_columns_are_uniform_and_local_ones_have_their_share():
    ids = np.arange(MANY)
    run = quick_jit(lambda ids: [sample_columns(KEY, 4, ids, ratio) for ratio in (0.5, 0.0, 1.0)])
    half, none, every = run(ids)
    assert half.dtype == jnp.int32
    assert (none == -1).all() and every.min() == 0
    _check_share(half == -1, 0.5)
    for column in range(4):
        _check_share(half == column, 1 / 8)
        _check_share(every == column, 1 / 4)


def test_global_drop_path_takes_the_column_or_else_the_mean():
    inputs, column = _random(0, 2, 6, 3), np.array([0, 2, 1, -1, 2, 0])
    inputs[1, [0, 5]] = np.nan

    @quick_jit
    def run(inputs):
        out, pull = jax.vjp(lambda inputs: global_drop_path(inputs, (0, 2), column), inputs)
        return out, pull(jnp.ones_like(out))[0]

    out, gradients = run([*inputs])
    mean = inputs.mean(0)
    expected = [inputs[0, 0], inputs[1, 1], mean[2], mean[3], inputs[1, 4], inputs[0, 5]]
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    np.testing.assert_array_equal(out[1], inputs[1, 1])
    for gradient, share in zip(gradients, ([1, 0, 0.5, 0.5, 0, 1], [0, 1, 0.5, 0.5, 1, 0]), strict=True):
        np.testing.assert_array_equal(gradient[:, 0], share)


def test_fractal_join_mixes_local_and_global():
    inputs, column = _random(0, 3, 6, 2), np.array([0, -1, 2, -1, 1, -1])
    fractal = functools.partial(FractalJoin(0.5).apply, {}, columns=(0, 1, 2), rngs={"dropout": KEY})

    @quick_jit
    def run(inputs):
        mixed, local = (fractal(inputs, train=True, column=c) for c in (column, None))
        sure = FractalJoin(0.0).apply({}, inputs, train=True)
        return mixed, local, fractal(inputs, train=False), fractal(inputs, train=False, column=column), sure

    mixed, local, evaluation, alone, sure = run([*inputs])
    mean = inputs.mean(0)
    for n, chosen in enumerate(column):
        np.testing.assert_array_equal(mixed[n], local[n] if chosen < 0 else inputs[chosen, n])
        np.testing.assert_allclose(alone[n], mean[n] if chosen < 0 else inputs[chosen, n], rtol=1e-6)
    assert not np.allclose(local, mean)
    np.testing.assert_allclose(evaluation, mean, rtol=1e-6)
    np.testing.assert_allclose(sure, mean, rtol=1e-6)


@pytest.mark.parametrize("train", [True, False])
def test_a_column_is_one_path_through_a_whole_network(train):
    """Two fractal blocks of three columns whose convolutions add a bit of their own: the output is the path."""
    num_columns, num_blocks, length = 3, 2, 4

    def network(z, column):
        bits, paths = iter(range(100)), {c: 0 for c in range(num_columns)}
        for block in range(num_blocks):
            starts = [z] * num_columns
            for step in range(length):
                # Column c has 2^c convolutions in a block, and a join wherever any of them end together.
                ending = [c for c in range(num_columns) if (step + 1) % (length >> c) == 0]
                outs = []
                for c in ending:
                    bit = 2.0 ** next(bits)
                    paths[c] += bit
                    outs.append(starts[c] + bit)
                rngs = {"dropout": jax.random.fold_in(KEY, block * length + step)}
                z = FractalJoin(0.15).apply({}, outs, train=train, columns=ending, column=column, rngs=rngs)
                starts = [z if c in ending else starts[c] for c in range(num_columns)]
        return z, paths

    column = np.array([0, 1, 2, 2, 0])
    out, paths = quick_jit(network)(np.zeros((5, 1), np.float32), column)
    np.testing.assert_array_equal(out[:, 0], [paths[c] for c in column])


def test_dtypes_stay(x64):
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        x = jax.ShapeDtypeStruct((2, 3), dtype)
        run = lambda x: (drop_path(x, KEY, 0.5), drop_path(x, KEY, jnp.float32(0.5)), local_drop_path([x, x], KEY, 0.5))  # noqa: E731
        assert {out.dtype for out in jax.eval_shape(run, x)} == {jnp.dtype(dtype)}


X = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    "call,message",
    [
        (
            lambda: drop_path(X, KEY, 1.5),
            "drop_path: rate=1.5 must lie in [0, 1]; it is the share of paths that are dropped",
        ),
        (
            lambda: DropPath(-0.1).apply({}, X, train=False),
            "DropPath: rate=-0.1 must lie in [0, 1]; it is the share of paths that are dropped",
        ),
        (
            lambda: local_drop_path([X], KEY, 2),
            "local_drop_path: rate=2 must lie in [0, 1]; it is the share of paths that are dropped",
        ),
        (
            lambda: join([X, X[:1]]),
            "join: inputs must be one or more of one shape and dtype, not float32[2, 3], float32[1, 3]; convert them",
        ),
        (
            lambda: FractalJoin().apply({}, [], train=False),
            "FractalJoin: inputs must be one or more of one shape and dtype, not none; convert them",
        ),
        (
            lambda: join([X, X], np.ones((3, 2), bool)),
            "join: keep of shape (3, 2) must have a row for each of 2 examples and a column for each of 2 inputs; "
            "give [batch, number of inputs]",
        ),
        (
            lambda: global_drop_path([X, X], (1, 1), np.zeros(2, int)),
            "global_drop_path: columns=(1, 1) must name another column for each of 2 inputs; give as many",
        ),
        (
            lambda: FractalJoin().apply({}, [X, X], train=False, column=np.zeros(2, int)),
            "FractalJoin: columns=() must name another column for each of 2 inputs; give as many",
        ),
        (
            lambda: sample_columns(KEY, 0, np.arange(2)),
            "sample_columns: num_columns=0 must be at least 1; give those of the network",
        ),
        (
            lambda: sample_columns(KEY, 2, np.arange(2), 1.1),
            "sample_columns: global_ratio=1.1 must lie in [0, 1]; it is the share that keeps to one column",
        ),
    ],
)
def test_refusals_in_one_line(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message
