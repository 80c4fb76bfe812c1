"""What the tests of units made of convolutions share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from arch.ops.conv import Conv
from tests.compiling import quick_jit

NO_BIAS = functools.partial(Conv, use_bias=False)


def affine(name):
    """A norm that is told from none, and from an activation: of a shortcut x * 3, else x * 2 - 0.1."""
    return (lambda x: x * 3) if name.startswith("shortcut") else (lambda x: x * 2 - 0.1)


PARTS = {"conv": NO_BIAS, "norm": affine, "act": jnp.tanh}


def random_params(unit, shape, random):
    """Standard normal values for the parameters of a unit whose input has this shape."""
    variables = jax.eval_shape(unit.init, jax.random.key(0), jnp.zeros(shape))
    return jax.tree.map(lambda leaf: random.standard_normal(leaf.shape), variables["params"])


def connections(unit, channels):
    """Which outputs of a unit see which inputs: [features, channels] booleans, by gradients; nothing cancels."""
    unit = unit.clone(conv=NO_BIAS, norm=lambda name: lambda x: x, act=lambda x: x)
    x = jnp.ones((1, 5, 5, channels))
    shapes = jax.eval_shape(unit.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    slopes = quick_jit(jax.jacrev(lambda x: unit.apply(variables, x).sum((0, 1, 2))))(x)
    return np.asarray(slopes).sum((1, 2, 3)) != 0
