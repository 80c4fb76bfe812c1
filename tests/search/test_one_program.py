"""Architectures as data: the same networks, parameters and training as one program each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import jax_utils, traverse_util

from arch import AXIS_NAME
from arch.models.classification.nas_bench_201 import NASBench201
from arch.search import one_program
from arch.search.one_program import OneProgram
from arch.search.spaces.nas_bench_201 import CONNECT, NASBench201Space
from arch.training import metrics
from arch.training.state import create_state
from arch.training.step import make_eval_step, make_train_step

SPACE = NASBench201Space(CONNECT)
CELLS = [(2, 1, 2, 0, 1, 2), (2, 2, 0, 1, 2, 0)]
SHAPE, STEPS, SEEDS = (8, 8, 1), 4, (5, 9)
TX = optax.sgd(optax.linear_schedule(0.1, 0.0, STEPS), momentum=0.9)


def model(cell, **fields):
    return NASBench201(
        num_classes=4, cell=cell, operations=CONNECT, stage_sizes=(1, 1), features=4, dtype=jnp.float64, **fields
    )


def preprocess(images, keys):
    images = jnp.where(images == 255, jnp.inf, images.astype(jnp.float64) / 128 - 1)
    return images if keys is None else images + 0.3 * jax.vmap(lambda key: jax.random.normal(key, SHAPE))(keys)


def batches(seed, count=STEPS):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield {
            "image": rng.integers(0, 255, (6, *SHAPE), np.uint8),
            "label": rng.integers(0, 4, 6, np.int32),
            "weight": np.array([1, 1, 1, 1, 1, 0], np.float32),
        }


def program(grouping):
    return OneProgram(
        functools.partial(model, branch=grouping == "one"), TX, preprocess=(preprocess, preprocess), image_shape=SHAPE,
        num_classes=4, num_steps=STEPS, grouping=grouping, dtype=jnp.float64,
    )  # fmt: skip


def trained_alone(cell, seed):
    """(parameters, statistics, metrics) of a program of its own, on one device."""
    net, device = model(SPACE.to_json(SPACE.decode(cell))), jax.devices()[:1]
    options = {"image_shape": SHAPE, "num_classes": 4, "dtype": jnp.float64}
    state = jax_utils.replicate(create_state(net, TX, seed=seed, **options), device)
    step = jax.pmap(make_train_step(net, TX, seed=seed, preprocess=preprocess), AXIS_NAME, devices=device)
    count = jax.pmap(make_eval_step(net, preprocess=preprocess), AXIS_NAME, devices=device)
    for batch in batches(seed):
        state = step(state, jax.tree.map(lambda x: x[None], batch))
    sums = jax.tree.map(jnp.zeros_like, state.metrics)
    for batch in batches(0, 2):
        sums = count(
            {"params": state.params, "batch_stats": state.batch_stats}, jax.tree.map(lambda x: x[None], batch), sums
        )
    found = jax.tree.map(lambda x: np.asarray(x[0]), (state.params, state.batch_stats, sums))
    return *map(traverse_util.flatten_dict, found[:2]), metrics.compute(found[2])


@pytest.mark.slow
@pytest.mark.parametrize("grouping", ["one", "vmap"])
def test_each_candidate_comes_to_what_it_comes_to_alone(x64, grouping, monkeypatch):
    """With its own seed, order and augmentation, in float64: parameters, running statistics and metrics.

    A third that diverges takes no other along where each is computed alone.
    """
    monkeypatch.setattr(one_program, "STEPS_A_CALL", 3)  # which does not divide the steps: calls are of two
    together, cells, seeds, streams = program(grouping), np.array(CELLS, np.int32), SEEDS, [*map(batches, SEEDS)]
    if grouping == "one":
        first, second, *others = batches(SEEDS[0])
        broken = [first, {**second, "image": np.full_like(second["image"], 255)}, *others]
        cells, seeds, streams = cells[[0, 1, 0]], (*seeds, SEEDS[0]), [*streams, broken]
    states = together.train(cells, seeds, streams)
    measured = together.evaluate(cells, states, lambda: batches(0, 2))
    assert [int(state.bad_step) for state in states] == [-1, -1, 1][: len(seeds)]
    for cell, seed, state, values in zip(CELLS, SEEDS, states, measured, strict=False):
        params, stats, expected = trained_alone(cell, seed)
        for ours, alone in ((state.params, params), (state.batch_stats, stats)):
            ours = traverse_util.flatten_dict(ours)
            assert alone.keys() < ours.keys()  # those of the operations that were not chosen are there too
            for path, leaf in alone.items():
                np.testing.assert_allclose(ours[path], leaf, rtol=1e-9, atol=1e-11, err_msg=str(path))
        assert values == pytest.approx(expected, rel=1e-9)


def test_a_grouping_that_is_not_there():
    with pytest.raises(ValueError, match="OneProgram: grouping: unknown name 'vamp'; did you mean 'vmap'"):
        program("vamp")
