"""What the normalizations with running statistics share: parameters, dtypes, checks, and how a statistic moves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax

from arch.errors import unknown_name

RULES = ("mean", "sequential")


class NormDtypes(NamedTuple):
    """Dtypes of one normalization: of its output, its parameters, its statistics and its arithmetic."""

    output: jnp.dtype
    param: jnp.dtype
    stats: jnp.dtype
    compute: jnp.dtype


class RunningNorm(nn.Module):
    """Base of the normalizations whose evaluation takes statistics from the collection `batch_stats`.

    Attributes:
        epsilon: added to the variance.
        use_bias: adds a learned bias.
        use_scale: multiplies by a learned scale.
        bias_init: initial bias.
        scale_init: initial scale.
        dtype: of the output; None takes that of x.
        param_dtype: of the parameters and running statistics; None takes dtype, at least float32.
    """

    epsilon: float = 1e-5
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros_init()
    scale_init: Initializer = nn.initializers.ones_init()
    dtype: Dtype | None = None
    param_dtype: Dtype | None = None

    @nn.nowrap
    def dtypes(self, x: jax.Array) -> NormDtypes:
        """The dtypes for x [batch, ..., channels], which is checked here."""
        if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"{type(self).__name__}: x={x.dtype}{list(x.shape)} must be floating point [batch, ..., channels]; "
                "convert it"
            )
        output = jnp.dtype(self.dtype or x.dtype)
        param = jnp.dtype(self.param_dtype or jnp.promote_types(output, jnp.float32))
        return NormDtypes(output, param, jnp.promote_types(param, jnp.float32), jnp.promote_types(x.dtype, jnp.float32))

    @nn.nowrap
    def affine(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The parameters `scale` and `bias` [channels]; ones and zeros for those that are switched off."""
        features, dtype = x.shape[-1:], self.dtypes(x).param
        scale = self.param("scale", self.scale_init, features, dtype) if self.use_scale else jnp.ones(features, dtype)
        bias = self.param("bias", self.bias_init, features, dtype) if self.use_bias else jnp.zeros(features, dtype)
        return scale, bias


def normalize_running(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """(x - mean) / sqrt(var + epsilon) * scale + bias, of x [batch, ..., channels] and four arrays [channels]."""
    return (x - mean) * (lax.rsqrt(var + epsilon) * scale) + bias


def check_momentum(owner: str, momentum: float) -> None:
    """Refuses a momentum under which a running statistic would leave the range of what it averages."""
    if not 0.0 <= momentum <= 1.0:
        raise ValueError(f"{owner}: momentum={momentum} must lie in [0, 1]; it is the share of the old value kept")


def move_running(
    running: nn.Variable, values: jax.Array, counts: jax.Array, momentum: float, rule: str = "mean"
) -> None:
    """Moves a running statistic towards those of the groups that a batch was split into.

    "mean": every group moves it from the old value, and the results are averaged: what independent replicas keep, once
    their running statistics are averaged. "sequential": one group after the other moves it, the last one most.

    Args:
        running: [channels].
        values: [groups, channels]; no gradient goes through them.
        counts: [groups], how many values a channel had; a group that counts 0 moves nothing.
        momentum: share of the old value that is kept at a move.
        rule: one of RULES.

    Raises:
        ValueError: another rule.
    """
    old, values = running.value, lax.stop_gradient(values)
    seen, rest = (counts > 0).astype(values.dtype), 1.0 - momentum
    # Written with the share of the old value, which is exactly 1 where no group moves it, and 0 at momentum 0.
    if rule == "mean":
        kept, shares = 1.0 - rest * seen.mean(), rest * seen / len(seen)
    elif rule == "sequential":
        # m moves in a row are momentum^m old + (1 - momentum) sum_i momentum^(m - i) value_i.
        factor = jnp.asarray(momentum, values.dtype)
        kept, shares = factor ** seen.sum(), rest * seen * factor ** (seen.sum() - jnp.cumsum(seen))
    else:
        raise unknown_name("move_running: rule", rule, RULES)
    running.value = (kept * old + (shares[:, None] * values).sum(0)).astype(old.dtype)
