"""Modules of branches: the order of factors, the operators that they consist of, residual units."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import norm
from arch.blocks import inception
from arch.blocks.conv_unit import ConvUnit
from arch.efficiency.complexity import count_params
from arch.models.classification import inception_resnet_v2, inception_v3, inception_v4
from arch.ops.conv import Conv, FactorizedConv
from tests.compiling import quick_jit


def transposed(branches):
    """Rows for columns in every kernel."""

    def turn(step):
        if isinstance(step, inception.ConvStep) and isinstance(step.kernel_size, tuple):
            return dataclasses.replace(step, kernel_size=step.kernel_size[::-1])
        return tuple(map(turn, step)) if isinstance(step, tuple) else step

    return tuple(tuple(map(turn, steps)) for steps in branches)


def module(branches, unit=inception.InceptionModule, **fields):
    conv = functools.partial(Conv, use_bias=False)
    return unit(branches, conv=conv, norm=norm.bind(norm.create("batch_norm"), train=False), act=nn.relu, **fields)


@pytest.mark.parametrize("branches", [
    inception_v3.factorized_branches(64, inception.average_step(True)),
    inception_v3.expanded_branches(inception.average_step(True)),
    inception_v4.FACTORIZED_BRANCHES,
    inception_v4.EXPANDED_BRANCHES,
    inception_resnet_v2.UNIT_BRANCHES[1],
])  # fmt: skip
def test_the_order_of_the_factors_changes_parameters_by_none(x64, branches):
    """7x1 before 1x7 costs what 1x7 before 7x1 does, and sees the image as the other sees its transpose."""
    branches = inception.widen(branches, 1 / 8)
    assert transposed(branches) != branches
    x = np.random.default_rng(0).standard_normal((2, 9, 7, 16))
    model, swapped = module(branches), module(transposed(branches))
    shapes, swapped_shapes = (jax.eval_shape(each.init, jax.random.key(0), x) for each in (model, swapped))
    assert count_params(shapes) == count_params(swapped_shapes)
    random = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: random.uniform(0.1, 0.9, leaf.shape), shapes)
    turned = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1) if leaf.ndim == 4 else leaf, variables)
    assert jax.tree.map(jnp.shape, turned) == jax.tree.map(jnp.shape, swapped_shapes)

    @quick_jit
    def run(x, variables, turned):
        return model.apply(variables, x), swapped.apply(turned, x.swapaxes(1, 2)).swapaxes(1, 2)

    out, expected = run(x, variables, turned)
    np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-12)


def test_a_factorized_branch_is_the_operator_of_the_lecture():
    """`FactorizedConv` with what lies between, and after."""
    steps = (inception.ConvStep(8, (1, 7)), inception.ConvStep(16, (7, 1)))
    branch = module((steps,))
    x = np.random.default_rng(0).standard_normal((2, 9, 8, 4), np.float32)
    shapes = jax.eval_shape(branch.init, jax.random.key(0), x)
    random = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: random.uniform(0.1, 0.9, leaf.shape).astype(leaf.dtype), shapes)
    operator = FactorizedConv(16, 7, 8, conv=branch.conv, norm=branch.norm, act=nn.relu)
    units = ("branch1_unit1", "branch1_unit2")
    params = {"horizontal_norm": variables["params"][units[0]]["norm"]}
    params |= {
        place: variables["params"][unit]["conv"] for place, unit in zip(("horizontal", "vertical"), units, strict=True)
    }
    stats = {"horizontal_norm": variables["batch_stats"][units[0]]["norm"]}
    last = {kind: tree[units[1]]["norm"] for kind, tree in variables.items()}

    @quick_jit
    def run(x):
        factorized = operator.apply({"params": params, "batch_stats": stats}, x)
        after = norm.create("batch_norm")().apply(last, factorized, train=False)
        return branch.apply(variables, x), nn.relu(after)

    out, expected = run(x)
    np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_a_residual_unit_adds_what_its_scale_says():
    x = np.random.default_rng(0).standard_normal((2, 5, 5, 8), np.float32)
    make = functools.partial(
        module, inception.widen(inception_resnet_v2.UNIT_BRANCHES[0], 1 / 8), inception.InceptionResidualUnit
    )
    shapes = jax.eval_shape(make(scale=1.0).init, jax.random.key(0), x)
    random = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: random.uniform(0.1, 0.9, leaf.shape).astype(leaf.dtype), shapes)
    assert set(shapes["params"]["project"]) == {"kernel", "bias"}

    @quick_jit
    def run(x):
        bare = [make(scale=scale, last_act=False).apply(variables, x) for scale in (0.0, 0.25, 1.0)]
        return bare, make(scale=0.25).apply(variables, x)

    (nothing, quarter, whole), activated = run(x)
    np.testing.assert_array_equal(nothing, x)
    np.testing.assert_allclose(quarter - x, (whole - x) / 4, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(activated, np.maximum(quarter, 0))


def test_a_unit_pads_as_it_is_told():
    """With half of its kernel, which for 3x3 of stride 2 is not "SAME" on even sizes, unless something is given."""
    x = np.random.default_rng(0).standard_normal((1, 6, 6, 2), np.float32)
    conv = functools.partial(Conv, use_bias=False)
    kernel = np.random.default_rng(1).standard_normal((3, 3, 2, 4), np.float32)
    shared = {"conv": conv, "norm": lambda name: lambda x: x, "act": lambda x: x}
    for padding, pairs in ((None, ((1, 1), (1, 1))), ("SAME", ((0, 1), (0, 1))), ("VALID", ((0, 0), (0, 0)))):
        out = ConvUnit(4, 2, **shared, padding=padding).apply({"params": {"conv": {"kernel": kernel}}}, x)
        expected = jax.lax.conv_general_dilated(x, kernel, (2, 2), pairs, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    even = ConvUnit(4, 1, **shared, kernel_size=(2, 4), padding="VALID")
    assert jax.eval_shape(even.init, jax.random.key(0), x)["params"]["conv"]["kernel"].shape == (2, 4, 2, 4)
    with pytest.raises(ValueError, match=r"^symmetric_padding: kernel_size=\(2, 2\) must be odd"):
        jax.eval_shape(ConvUnit(4, 1, **shared, kernel_size=2).init, jax.random.key(0), x)
