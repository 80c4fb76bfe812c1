"""The smallest configuration of every family and option takes one training step, forward and backward."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from arch import models
from arch.efficiency.complexity import abstract_variables
from tests.compiling import quick_jit
from tests.models.checks import floating_dtypes, image, random_variables, step
from tests.models.families import one_fast_each
from tests.models.families.row import Case


def _model(case, **fields):
    return models.create(case.name, **{"num_classes": 10, **case.fields, **fields})


@one_fast_each("CASES", "case", Case.label)
def test_a_step_in_float64_is_finite_and_reaches_every_parameter(case, x64):
    """From random values everywhere, so that what starts at zero hides nothing; in float64, where rounding stands out.

    What is declared to have no gradient has none, and nothing is rounded to a narrower type on the way.
    """
    model = _model(case, dropout_rate=0.0)
    x = np.random.default_rng(0).standard_normal((4, case.image_size, case.image_size, 3))
    variables = random_variables(model, x)
    traced = quick_jit(step(model)).trace(variables, x, jax.random.key(1))
    assert floating_dtypes(traced.jaxpr.jaxpr) == {jnp.dtype("float64")}
    grads, logits = jax.device_get(traced.lower().compile()(variables, x, jax.random.key(1)))
    assert np.isfinite(logits).all()
    for path, grad in traverse_util.flatten_dict(grads, sep="/").items():
        assert np.isfinite(grad).all(), path
        declared = any(re.fullmatch(pattern, path) for pattern in case.no_gradient)
        assert (np.abs(grad).max() < 1e-12) == declared, f"{path} has a gradient of {np.abs(grad).max()}"


@one_fast_each("CASES", "case", Case.label)
def test_a_step_in_bfloat16_with_another_activation(case):
    """Parameters and logits stay wide, maps do not; no usual activation is left in the program: gates are none."""
    model, x = _model(case, act=jnp.sin, dtype=jnp.bfloat16), image(case.image_size, batch=4)
    variables = abstract_variables(model, x, train=False)
    floats = [leaf.dtype for leaf in jax.tree.leaves(variables) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype("float32")}
    features = model.clone(features_only=True)
    maps = jax.eval_shape(lambda variables, x: features.apply(variables, x, train=False), variables, x)
    assert {leaf.dtype for leaf in maps.values()} == {jnp.dtype("bfloat16")}

    program, (_, logits) = jax.make_jaxpr(step(model), return_shape=True)(variables, x, jax.random.key(0))
    assert logits.dtype == jnp.float32
    assert not re.search(r"name=(relu|relu6|silu|swish|gelu|elu|hard_swish)\b", str(program))
    assert " sin " in str(program)
