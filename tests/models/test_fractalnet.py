"""FractalNet: against the recursion of its definition, and each column alone against a plain network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util
from jax import lax

from arch import models, norm
from arch.blocks.fractal import FractalBlock
from arch.efficiency.complexity import abstract_variables
from arch.ops.conv import Conv
from arch.ops.stochastic import Dropout
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, maps_of

_FROZEN = norm.create("frozen_batch_norm")  # each example is computed alone, in training too
_SMALL = {"num_classes": 10, "stage_features": (4, 6), "num_columns": 3, "dropout_rate": 0.0, "norm": _FROZEN}


def _small(**fields):
    return models.create("fractalnet_20", **{**_SMALL, **fields})


def _images(batch=2):
    return np.random.default_rng(0).standard_normal((batch, 8, 8, 3))


def _random_variables(model):
    """All values random, running statistics too."""
    random = np.random.default_rng(0)
    shapes = abstract_variables(model, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float64), train=False)

    def value(path, leaf):
        values = random.standard_normal(leaf.shape)
        return np.exp(0.5 * values) if path[-1].key == "var" else values

    return jax.tree_util.tree_map_with_path(value, shapes)


def _unit(x, variables, stage, column, number):
    """Convolution with a bias, the running statistics, ReLU: written out."""
    params, stats = (
        variables[name][f"stage{stage}"][f"column{column}_unit{number}"] for name in ("params", "batch_stats")
    )
    x = lax.conv_general_dilated(
        x, params["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = (x + params["conv"]["bias"] - stats["norm"]["mean"]) / jnp.sqrt(stats["norm"]["var"] + 1e-5)
    return jnp.maximum(x * params["norm"]["scale"] + params["norm"]["bias"], 0)


def _pool(x):
    batch, height, width, features = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, features).max((2, 4))


def _classify(x, variables):
    head = variables["params"]["classifier"]
    return x.mean((1, 2)) @ head["kernel"] + head["bias"]


def _plain(x, variables, column, num_stages=2):
    """The network of one column."""
    for stage in range(1, num_stages + 1):
        for number in range(1, 2**column + 1):
            x = _unit(x, variables, stage, column, number)
        x = _pool(x)
    return _classify(x, variables)


def _fractal(x, variables, num_columns, pool, num_stages=2):
    """f_1(z) = unit(z), f_C+1(z) = join(f_C(f_C(z)), unit(z)); a join that follows another is one with it."""

    def paths(z, size, take):
        """What the columns of f_size put out, not joined."""
        column = num_columns - size
        short = take(z, column)
        if size == 1:
            return [short]
        return [short, *paths(mean(paths(z, size - 1, take)), size - 1, take)]

    def mean(maps):
        return sum(maps) / len(maps)

    for stage in range(1, num_stages + 1):
        counts = dict.fromkeys(range(num_columns), 0)

        def take(z, column, stage=stage, counts=counts):
            counts[column] += 1
            return _unit(z, variables, stage, column, counts[column])

        ends = paths(x, num_columns, take)
        x = mean([_pool(end) for end in ends]) if pool == "before_join" else _pool(mean(ends))
        assert counts == {column: 2**column for column in range(num_columns)}
    return _classify(x, variables)


@pytest.mark.parametrize(
    "num_columns,pool", [(1, "before_join"), (2, "after_join"), (3, "before_join"), (4, "after_join")]
)
def test_evaluation_is_the_recursion_with_means(x64, num_columns, pool):
    model = _small(num_columns=num_columns, pool=pool, norm=norm.create("batch_norm"))
    variables = _random_variables(model)
    run = quick_jit(lambda x, v: (model.apply(v, x, train=False), _fractal(x, v, num_columns, pool)))
    actual, expected = run(_images(), variables)
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_the_two_places_of_pooling_differ(x64):
    variables = _random_variables(_small())
    run = quick_jit(
        lambda x: [_small(pool=pool).apply(variables, x, train=False) for pool in ("before_join", "after_join")]
    )
    before, after = run(_images())
    assert np.abs(before - after).max() > 1e-3


def test_a_column_alone_is_a_plain_network(x64):
    """From the variables of the whole, in evaluation and in training, however the whole drops its paths."""
    variables, x = _random_variables(_small()), _images()
    alone = [_small(only_column=column, global_drop_path_ratio=1.0) for column in range(3)]

    @quick_jit
    def run(variables, x):
        out = []
        for column, model in enumerate(alone):
            expected = _plain(x, variables, column)
            # No random stream: nothing is drawn.
            out += [(model.apply(variables, x, train=train), expected) for train in (False, True)]
        return out

    for actual, expected in run(variables, x):
        np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_a_column_alone_has_its_parameters_only(x64):
    whole = traverse_util.flatten_dict(_random_variables(_small()), sep="/")
    parts = [traverse_util.flatten_dict(_random_variables(_small(only_column=column)), sep="/") for column in range(3)]
    for column, part in enumerate(parts):
        assert {path for path in part if "column" in path} == {path for path in whole if f"column{column}_" in path}
        assert {path: part[path].shape for path in part} == {path: whole[path].shape for path in part}
    assert {path for part in parts for path in part} == set(whole)


def test_global_drop_path_makes_each_example_one_column(x64):
    """With all examples on columns, each comes out as the plain network of one of them; all columns are drawn."""
    model = _small(global_drop_path_ratio=1.0)
    variables, x = _random_variables(model), np.repeat(_images(4), 8, axis=0)

    @quick_jit
    def run(variables, x):
        trained = model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})
        return trained, [_plain(x, variables, column) for column in range(3)]

    trained, columns = run(variables, x)
    is_column = [np.isclose(trained, column, rtol=1e-9).all(1) for column in columns]
    np.testing.assert_array_equal(np.sum(is_column, axis=0), 1)
    assert all(np.sum(is_column, axis=1) > 0)


@pytest.mark.parametrize("train", [False, True])
def test_a_block_keeps_to_the_column_that_it_is_told(x64, train):
    x, columns = _images(6), np.array([0, 2, 1, 1, 0, 2])
    conv = functools.partial(Conv, param_dtype=jnp.float64)
    bound = norm.bind(_FROZEN, train=train)
    make = functools.partial(
        FractalBlock, 4, 3, drop_path_rate=0.5, dropout_rate=0.0, pool="before_join", conv=conv, norm=bound, act=nn.relu
    )

    @quick_jit
    def run(x):
        variables = make(only_column=None).init(jax.random.key(0), x, train=False)
        alone = [make(only_column=column).apply(variables, x, train=False) for column in range(3)]
        rngs = {"dropout": jax.random.key(1)}
        return make(only_column=None).apply(variables, x, train=train, column=columns, rngs=rngs), alone

    out, alone = run(x)
    np.testing.assert_allclose(out, [alone[column][n] for n, column in enumerate(columns)], rtol=1e-9, atol=1e-12)


def test_drop_path_is_what_tells_training_from_evaluation(x64):
    """With fixed statistics and no dropout: without drop path they are the same, and each kind tells them apart."""
    kinds = [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5)]
    variables, x = _random_variables(_small()), _images(16)

    @quick_jit
    def run(variables, x):
        rngs = {"dropout": jax.random.key(0)}
        nets = [_small(drop_path_rate=rate, global_drop_path_ratio=ratio) for rate, ratio in kinds]
        trained = [net.apply(variables, x, train=True, rngs=rngs) for net in nets]
        return nets[0].apply(variables, x, train=False), trained

    evaluated, trained = run(variables, x)
    neither, local, mixed = (np.isclose(out, evaluated, rtol=1e-9).all(1) for out in trained)
    assert neither.all()
    assert not local.all()
    # The examples without a column join all paths.
    assert 0 < mixed.sum() < 16


def test_dropout_rises_from_block_to_block():
    """0, 0.1, 0.2, 0.3, 0.4 between convolution and normalization, section 4."""
    rates = {}

    def note(call, args, kwargs, context):
        if isinstance(context.module, Dropout):
            rates.setdefault(context.module.path[0], set()).add(round(context.module.rate, 9))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        maps_of(models.create("fractalnet_20"), 32)
    assert rates == {**{f"stage{stage}": {(stage - 1) / 10} for stage in range(1, 6)}, "dropout": {0.0}}


def test_columns_and_maps_are_those_of_the_generator():
    """Units of each column at each size; the depth is that of the name."""
    for name, num_columns, depth in (("fractalnet_20", 3, 20), ("fractalnet_40", 4, 40)):
        maps, out = maps_of(models.create(name), 32)
        for stage, features in enumerate((64, 128, 256, 512, 512), start=1):
            block, size = maps[f"stage{stage}"], 32 >> stage
            assert block["__call__"][0].shape == (1, size, size, features)
            units = [key for key in block if "unit" in key]
            assert len(units) == 2**num_columns - 1
            for key in units:
                assert block[key]["__call__"][0].shape == (1, 2 * size, 2 * size, features)
            assert sum(f"column{num_columns - 1}_" in key for key in units) * 5 == depth
        assert out.shape == (1, 1000)


def test_stems():
    """None for small images: the first block sees them."""
    small = {"num_classes": 10, "stage_features": (4,), "num_columns": 1, "features_only": True}
    for stem, size, shapes in (
        ("small", 8, {2: 4}),
        ("stride2", 8, {2: 4, 4: 2}),
        ("imagenet", 32, {4: 8, 8: 4}),
    ):
        model = models.create("fractalnet_20", stem=stem, stem_features=6, **small)
        maps, out = maps_of(model, size)
        assert {stride: leaf.shape for stride, leaf in out.items()} == {
            stride: (1, pixels, pixels, 4 if stride == max(shapes) else 6) for stride, pixels in shapes.items()
        }
        assert ("stem_conv" in maps) == (stem != "small")


def test_initial_values_are_xaviers():
    model = models.create("fractalnet_20", num_classes=100, stage_features=(64,), num_columns=2)
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 3)), train=False)["params"])
    params = jax.device_get(init())
    stage = params["stage1"]
    for layer, fan_in in (
        (stage["column0_unit1"]["conv"], 27),
        (stage["column1_unit2"]["conv"], 9 * 64),
        (params["classifier"], 64),
    ):
        limit = np.sqrt(3 / fan_in)
        assert -limit <= layer["kernel"].min() < -0.99 * limit and 0.99 * limit < layer["kernel"].max() <= limit
        assert not layer["bias"].any()


def test_examples_reach_norms_and_dropout():
    check_examples_reach_norms_and_dropout(_small(norm=norm.create("batch_norm"), num_columns=2, dropout_rate=0.5))


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "FractalNet: stem: unknown name 'tiny'; one of imagenet, small, stride2"),
        ({"pool": "after"}, "FractalBlock: pool: unknown name 'after'; did you mean 'after_join'?"),
        ({"num_columns": 0}, "sample_columns: num_columns=0 must be at least 1; give those of the network"),
        (
            {"num_columns": 0, "global_drop_path_ratio": 0.0},
            "FractalBlock: num_columns=0 must be at least 1; 1 is a plain network",
        ),
        ({"only_column": 3}, "FractalBlock: only_column=3 must be one of 0 to 2; choose one, or None for all"),
        (
            {"stem": "stride2"},
            "FractalBlock: maps of 1x1 pixels must have 2x2 to be pooled; take larger images, or few",
        ),
        ({"drop_path_rate": 2.0}, r"FractalNet: drop_path_rate=2.0 must lie in \[0, 1\]; it is the share of a join"),
        ({"global_drop_path_ratio": 2.0}, r"FractalNet: global_drop_path_ratio=2.0 must lie in \[0, 1\]; it is the"),
        ({"dropout_rate": 2.0}, r"FractalNet: dropout_rate=2.0 must lie in \[0, 1\]; it is that of the last block"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("fractalnet_20", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=True))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["drop_path_rate", "global_drop_path_ratio"])
def test_evaluation_refuses_rates_too(name):
    model = models.create("fractalnet_20", **{name: -0.5})
    with pytest.raises(ValueError, match=rf"^FractalNet: {name}=-0.5 must lie in \[0, 1\]"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))


def test_integer_images_are_refused():
    model = models.create("fractalnet_20")
    with pytest.raises(ValueError, match=r"^FractalNet: x must be floating point, not uint8; convert"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8), train=False))
