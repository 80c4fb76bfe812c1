"""The laws that every operator keeps; what has no row in `tests.catalogue` fails here."""

import functools
import importlib
import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.catalogue import OPERATORS
from tests.compiling import quick_jit

ROOT = pathlib.Path(__file__).parents[1]
SIZES = (1, 2, 5, 8)

# Public names beside operators, and what they are instead.
NO_OPERATORS = {
    "Dtypes": "the dtypes of a network",
    "Examples": "what a layer knows of its batch",
    "RandomMaclaurin": "numbers that a projection is made of",
    "TensorSketch": "numbers that a projection is made of",
    "as_matrices": "reads an argument",
    "as_padding": "reads an argument",
    "as_pair": "reads an argument",
    "as_positions": "reads an argument",
    "as_streams": "reads an argument",
    "ceil_mode_padding": "a rule for padding",
    "create": "an activation by its name",
    "example_keys": "one key an example",
    "like_examples": "gives values the axes of an array",
    "make_divisible": "a rule for widths",
    "pool_geometry": "reads an argument",
    "reduce_positions": "reads an argument",
    "resolve_dtypes": "the dtypes of a network",
    "sum_outer_products": "what bilinear pooling and covariances share",
    "symmetric_padding": "reads an argument",
    "transposed_padding": "reads an argument",
}

CASES = [
    pytest.param(case, id=f"{operator.name}-{name}") for operator in OPERATORS for name, case in operator.cases.items()
]
REFUSALS = [
    pytest.param(call, pattern, id=f"{operator.name}-{number}")
    for operator in OPERATORS
    for number, (call, pattern) in enumerate(operator.refusals)
]


def cases(law):
    """The cases that a law concerns."""
    return pytest.mark.parametrize("case", [param for param in CASES if law(param.values[0])])


def make(case, seed=0, height=6, width=5):
    return case.make(np.random.default_rng(seed), height, width)


def is_real(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def stack(*leaves):
    return np.stack(leaves) if isinstance(leaves[0], np.ndarray) else jnp.stack(leaves)


def close(actual, expected, tolerance):
    """Every real leaf up to a share of its largest value; the others exactly."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if not is_real(theirs):
            np.testing.assert_array_equal(ours, theirs)
            continue
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(np.abs(theirs).max(initial=0), 1e-3))


@functools.cache
def jitted(case):
    return quick_jit(case.call)


def public(package):
    """Public functions and classes that the files of a package define, by file."""
    for path in sorted((ROOT / "arch" / package).glob("*.py")):
        module = importlib.import_module(f"arch.{package}.{path.stem}".removesuffix(".__init__"))
        for name, value in vars(module).items():
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__ and callable(value):
                yield name, value


@pytest.mark.parametrize("package", ["ops", "attention"])
def test_every_operator_has_a_row(package):
    rows = {value for operator in OPERATORS for value in (*operator.functions, *operator.modules)}
    missing = [f"{value.__module__}.{name}" for name, value in public(package)
               if name not in NO_OPERATORS and value not in rows]  # fmt: skip
    assert not missing


def test_names_are_unique_and_topics_are_words():
    names = [operator.name for operator in OPERATORS]
    assert len(names) == len(set(names))
    assert all(operator.topic and operator.oracle and operator.cases for operator in OPERATORS)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_docstrings_give_paper_parameters_macs_and_errors(operator):
    described = (*operator.functions, *operator.modules)[0]
    text = inspect.getdoc(described)
    for label in ("Paper: ", "Parameters: ", "MACs: "):
        assert re.search(f"^{label}", text, re.MULTILINE), f"{described.__name__}: no line {label!r}"
    if operator.refusals:
        texts = [inspect.getdoc(value) for value in (*operator.functions, *operator.modules)]
        texts += [inspect.getdoc(module.__call__) for module in operator.modules]
        assert any("Raises:" in text for text in texts if text), f"{described.__name__}: no Raises"


@pytest.mark.slow  # eagerly every operation is compiled by itself
@cases(lambda case: True)
def test_jit_is_eager(case):
    inputs = make(case)
    close(jitted(case)(*inputs), case.call(*jax.tree.map(jnp.asarray, inputs)), 1e-5)


@pytest.mark.slow  # another program for each
@cases(lambda case: case.mapped)
def test_vmap_is_a_loop(case):
    each = [make(case, seed) for seed in range(2)]
    mapped = quick_jit(jax.vmap(case.call))(*jax.tree.map(stack, *each))
    close(mapped, jax.tree.map(stack, *[jax.device_get(jitted(case)(*inputs)) for inputs in each]), 1e-5)


@pytest.mark.slow  # another program for each
@cases(lambda case: case.half)
def test_bfloat16_stays_and_is_near_float32(case):
    inputs = make(case)
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16) if is_real(leaf) else leaf, inputs)
    out = jitted(case)(*half)
    # Of what bfloat16 made of the inputs: coordinates and weights are rounded in both.
    expected = jitted(case)(*jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if is_real(leaf) else leaf, half))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(out) if is_real(leaf))
    close(out, expected, case.half_tolerance)


def adversaries(case):
    """Inputs at which operators break: one pixel, flat and extreme maps, and those that the case names."""
    if case.out_shape is not None:
        yield make(case, 0, 1, 1)
    x, *rest = make(case)
    leaves, tree = jax.tree.flatten(x)

    def flat(value):
        return jax.tree.unflatten(tree, [np.full_like(leaf, value) if is_real(leaf) else leaf for leaf in leaves])

    def one_hot(leaf):
        return np.eye(1, leaf.size, leaf.size // 2, dtype=leaf.dtype).reshape(leaf.shape) if is_real(leaf) else leaf

    yield from ((flat(value), *rest) for value in (0, 1))
    yield (jax.tree.map(one_hot, x), *rest)
    yield (jax.tree.map(lambda leaf: leaf * leaf.dtype.type(1e4) if is_real(leaf) else leaf, x), *rest)
    for change in case.adverse:
        yield change((x, *rest))


@cases(lambda case: True)
def test_gradients_are_finite_at_adverse_inputs(case):
    def loss(real, other):
        merged = jax.tree.map(lambda a, b: b if a is None else a, real, other, is_leaf=lambda leaf: leaf is None)
        outs = [leaf for leaf in jax.tree.leaves(case.call(*merged)) if is_real(leaf)]
        return sum(jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)) for out in outs)

    gradient = quick_jit(jax.grad(loss))
    for inputs in (make(case), *adversaries(case)):
        real = jax.tree.map(lambda leaf: leaf if is_real(leaf) else None, inputs)
        other = jax.tree.map(lambda leaf: None if is_real(leaf) else leaf, inputs)
        for leaf in jax.tree.leaves(gradient(real, other)):
            assert np.isfinite(leaf).all()


@cases(lambda case: case.out_shape is not None)
def test_shapes_of_all_sizes(case):
    for height in SIZES:
        for width in SIZES:
            inputs = make(case, 0, height, width)
            out = jax.tree.leaves(jax.eval_shape(case.call, *inputs))[0]
            assert out.shape[1:] == tuple(case.out_shape(height, width)), (height, width)


@cases(lambda case: case.linear)
def test_linearity_and_adjointness(case):
    (x, *rest), (other, *_) = make(case, 0), make(case, 1)
    a, b = np.float32(0.5), np.float32(-2.0)
    close(jitted(case)(a * x + b * other, *rest), a * jitted(case)(x, *rest) + b * jitted(case)(other, *rest), 1e-5)

    out = jitted(case)(x, *rest)
    probe = np.random.default_rng(2).standard_normal(out.shape, np.float32)
    (back,) = quick_jit(lambda probe: jax.linear_transpose(lambda x: case.call(x, *rest), x)(probe))(probe)
    scale = np.linalg.norm(out) * np.linalg.norm(probe)
    np.testing.assert_allclose(np.vdot(out, probe), np.vdot(x, back), rtol=0, atol=1e-6 * scale)


@cases(lambda case: case.inverse is not None)
def test_inverses_are_exact(case):
    inputs = make(case)
    np.testing.assert_array_equal(quick_jit(case.inverse)(jitted(case)(*inputs)), inputs[0])


@cases(lambda case: case.translates)
def test_translation_moves_the_output(case):
    size = 2 * case.margin + 6
    x, *rest = make(case, 0, size, size)
    out = np.asarray(jitted(case)(x, *rest))
    moved = np.asarray(jitted(case)(np.roll(x, (1, 1), (1, 2)), *rest))
    inner = slice(case.margin + 1, -case.margin - 1)
    close(moved[:, inner, inner], np.roll(out, (1, 1), (1, 2))[:, inner, inner], 1e-5)


@pytest.mark.parametrize("call,pattern", REFUSALS)
def test_refusals_are_one_line(call, pattern):
    with pytest.raises(ValueError, match=pattern) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_rows_are_what_they_say():
    for operator in OPERATORS:
        assert all(inspect.isfunction(function) or callable(function) for function in operator.functions)
        assert all(issubclass(module, nn.Module) for module in operator.modules)
