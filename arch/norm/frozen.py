"""Frozen batch normalization: fixed statistics in training too, for fine-tuning with few examples a device."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from arch.norm.running import RunningNorm, normalize_running
from arch.ops.stochastic import Examples


class FrozenBatchNorm(RunningNorm):
    """The affine map that a trained `BatchNorm` is in evaluation, in training too.

    y = (x - mean) / sqrt(var + epsilon) * scale + bias with the running statistics, for x [batch, ..., channels]. Takes
    the variables of `BatchNorm` as they are.

    Paper: He et al., Deep Residual Learning (arXiv:1512.03385), appendix A.
    Parameters: `scale`, `bias` [channels]; statistics `mean`, `var` [channels] in `batch_stats`, which never move.
    MACs: 0 by convention; 2 x height x width x channels.

    The frozen `scale` and `bias` stay leaves of `params`, so that checkpoints fit; their gradient is zero. An optimiser
    then leaves them, unless its weight decay selects them: `arch.optim.masks.decay_mask` selects by the number of
    dimensions and at its default, 2, leaves out all that have one, as these do; with `decay_min_ndim=0` they would
    shrink. A mask by path (`masks.select(params, exclude="norm")`) leaves them out of any decay.

    Attributes:
        train_affine: trains `scale` and `bias`; False stops their gradient.
        epsilon, use_bias, use_scale, bias_init, scale_init, dtype, param_dtype: as in `RunningNorm`.
    """

    train_affine: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        """Maps x [batch, ..., channels]; the same in training and evaluation, whatever `examples` weigh.

        Raises:
            ValueError: integers, or fewer than two axes.
        """
        del train, examples
        dtypes = self.dtypes(x)
        mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:], dtypes.stats).value
        var = self.variable("batch_stats", "var", jnp.ones, x.shape[-1:], dtypes.stats).value
        scale, bias = self.affine(x)
        if not self.train_affine:
            scale, bias = lax.stop_gradient((scale, bias))
        mean, var = lax.stop_gradient((mean, var))
        return normalize_running(x.astype(dtypes.compute), mean, var, scale, bias, self.epsilon).astype(dtypes.output)
