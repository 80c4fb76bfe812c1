"""What holds for every network: published sizes, the maps that it declares, a step forward and backward."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from arch import AUXILIARY, models
from arch.efficiency.complexity import abstract_variables, count
from tests.compiling import quick_jit
from tests.models.checks import floating_dtypes
from tests.models.families import CASES, MAPS, ROWS

_EACH_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.label())


def _image(size, dtype=jnp.float32, batch=1):
    return jax.ShapeDtypeStruct((batch, size, size, 3), dtype)


def _case(case, **fields):
    return models.create(case.name, **{"num_classes": 10, **case.fields, **fields})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.label())
def test_published_sizes(row):
    cost = count(models.create(row.name, **row.fields), (1, row.image_size, row.image_size, 3), train=False)
    for name in ("params", "batch_stats", "conv_macs", "macs"):
        published = getattr(row, name)
        assert published is None or getattr(cost, name) == published, name


@pytest.mark.parametrize("name", models.MODELS)
def test_maps_are_those_declared(name):
    """At every stride, and no head is made for them."""
    declared = MAPS[name]
    x = _image(declared.image_size)
    model = models.create(name, features_only=True)
    variables = abstract_variables(model, x, train=False)
    maps = jax.eval_shape(lambda variables, x: model.apply(variables, x, train=False), variables, x)
    assert {stride: leaf.shape for stride, leaf in maps.items()} == {
        stride: (1, size, size, channels) for stride, (size, channels) in declared.shapes.items()
    }
    assert "classifier" not in variables["params"]


def _step(model, rngs=()):
    """(variables, images, key) -> the gradient of a function of the logits in training, all heads', and the logits."""

    def step(variables, x, key):
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        streams = {name: jax.random.fold_in(key, index) for index, name in enumerate(("dropout", *rngs))}

        def loss(params):
            logits, state = model.apply(
                {**rest, "params": params}, x, train=True, mutable=["batch_stats", AUXILIARY], rngs=streams
            )
            probe = jnp.sin(jnp.arange(logits.size, dtype=logits.dtype)).reshape(logits.shape)
            heads = [logits, *(auxiliary for auxiliary, _ in state.get(AUXILIARY, {}).values())]
            return sum(jnp.mean(head * probe) for head in heads), logits

        return jax.grad(loss, has_aux=True)(variables["params"])

    return step


@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_loss_and_gradient_trace(name):
    """At the size that the network was published for."""
    model, x = models.create(name), _image(MAPS[name].image_size, batch=2)
    variables = abstract_variables(model, x, train=False)
    key = jax.eval_shape(lambda: jax.random.key(0))
    rngs = {rng: None for case in CASES if isinstance(model, type(_case(case))) for rng in case.rngs}
    grads, logits = jax.eval_shape(_step(model, tuple(rngs)), variables, x, key)
    assert logits.shape == (2, 1000)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, variables["params"])


@_EACH_CASE
def test_one_step_is_finite_and_reaches_every_parameter(case, x64):
    """From random values everywhere, so that what starts at zero hides nothing; in float64, where rounding stands out.

    What is declared to have no gradient has none.
    """
    model, random = _case(case, dropout_rate=0.0), np.random.default_rng(0)
    x = random.standard_normal((4, case.image_size, case.image_size, 3))
    variables = traverse_util.flatten_dict(quick_jit(lambda x: model.init(jax.random.key(0), x, train=False))(x))
    for path, leaf in variables.items():
        if path[0] == "params":
            variables[path] = np.asarray(leaf) + 0.1 * random.standard_normal(leaf.shape) * (np.std(leaf) or 1.0)
    step = quick_jit(_step(model, case.rngs))
    grads, logits = jax.device_get(step(traverse_util.unflatten_dict(variables), x, jax.random.key(1)))
    assert np.isfinite(logits).all()
    for path, grad in traverse_util.flatten_dict(grads, sep="/").items():
        assert np.isfinite(grad).all(), path
        declared = any(re.fullmatch(pattern, path) for pattern in case.no_gradient)
        assert (np.abs(grad).max() < 1e-12) == declared, f"{path} has a gradient of {np.abs(grad).max()}"


@_EACH_CASE
def test_the_activation_is_the_only_one(case):
    """Another activation leaves none of the usual ones in the program; gates are no activations."""
    model, x = _case(case, act=jnp.sin), _image(case.image_size, batch=4)
    variables = abstract_variables(model, x, train=False)
    program = str(jax.make_jaxpr(_step(model, case.rngs))(variables, x, jax.random.key(0)))
    assert not re.search(r"name=(relu|relu6|silu|swish|gelu|elu|hard_swish)\b", program)
    assert " sin " in program


@_EACH_CASE
def test_float64_stays_float64(case, x64):
    model, x = _case(case), _image(case.image_size, jnp.float64, batch=4)
    variables = abstract_variables(model, x, train=False)
    floats = [leaf.dtype for leaf in jax.tree.leaves(variables) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype("float64")}
    program = jax.make_jaxpr(_step(model, case.rngs))(variables, x, jax.random.key(0))
    assert floating_dtypes(program.jaxpr) == {jnp.dtype("float64")}


@_EACH_CASE
def test_bfloat16_keeps_parameters_and_logits_wide(case):
    model, x = _case(case, dtype=jnp.bfloat16), _image(case.image_size, batch=4)
    variables = abstract_variables(model, x, train=False)
    floats = [leaf.dtype for leaf in jax.tree.leaves(variables) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype("float32")}
    logits, maps = (
        jax.eval_shape(lambda variables, x: model.apply(variables, x, train=False), variables, x)  # noqa: B023
        for model in (model, model.clone(features_only=True))
    )
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in maps.values()} == {jnp.dtype("bfloat16")}


def test_every_network_has_a_case_of_its_family():
    classes = {type(models.create(case.name, **case.fields)) for case in CASES}
    assert {type(models.create(name)) for name in models.MODELS} <= classes
