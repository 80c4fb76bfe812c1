"""What the tests of norms that keep running statistics share: one training step, and closeness of trees."""

import jax
import jax.numpy as jnp
import numpy as np

from arch.ops.stochastic import Examples
from tests.compiling import quick_jit


def step_of(layer):
    """(params, statistics, x, probe, weight) -> (gradients of params, of x), (output, statistics)."""

    def step(params, stats, x, probe, weight=None):
        def loss(params, x):
            variables = {"params": params, "batch_stats": stats}
            examples = Examples(weight=weight)
            out, updated = layer.apply(variables, x, train=True, examples=examples, mutable=["batch_stats"])
            return jnp.sum(out * probe), (out, updated["batch_stats"])

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    return quick_jit(step)


def close(actual, expected, atol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), actual, expected)
