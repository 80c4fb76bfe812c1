"""Ghost batch normalization: a device's batch in parts, each with statistics of its own."""

import jax
from flax import linen as nn

from arch.errors import unknown_name
from arch.norm.batch import BatchNorm, Moments, normalize_batch
from arch.norm.running import RULES, move_running


class GhostBatchNorm(BatchNorm):
    """Batch normalization of each ghost batch, a contiguous part of the device's batch.

    y_i = (x_i - mean_i) / sqrt(var_i + epsilon) * scale + bias for the ghosts i = 1..m of x [m * ghost_batch_size, ...,
    channels]. The running statistics move by one ghost after the other,
    momentum^m old + (1 - momentum) sum_i momentum^(m - i) value_i, or by the mean of all.

    Paper: Hoffer, Hubara and Soudry, Train longer, generalize better (arXiv:1705.08741), algorithm 1.
    Parameters: `scale`, `bias` [channels]; running statistics `mean`, `var` [channels] in `batch_stats`.
    MACs: 0 by convention; 2 x height x width x channels.
    Differs from the paper: running_rule="mean" is offered too, which is what independent devices, one a ghost, keep.

    A ghost is of examples that follow one another, as a device's part of a global batch is, so that ghosts of the size
    of a device's batch are batch normalization per replica. It is a part of the batch of one device, and of one
    micro-batch where gradients are accumulated. One ghost is `BatchNorm`; so is evaluation.

    Attributes:
        ghost_batch_size: examples a ghost, a divisor of the device's batch; 128 in the paper's experiments.
        running_rule: "sequential", the paper's, or "mean"; on each device, before the training step averages devices.
        axis_name, device_group_size: None; across devices nothing is shared.
        momentum, unbiased_running_variance, ...: as in `BatchNorm`.
    """

    ghost_batch_size: int = 128
    running_rule: str = "sequential"

    @nn.nowrap
    def _normalize(
        self, x: jax.Array, scale: jax.Array, bias: jax.Array, weight: jax.Array | None
    ) -> tuple[jax.Array, Moments]:
        """The normalized batch, and the moments of each ghost [ghosts, channels]."""
        self._check()
        size = x.shape[0] if self.is_initializing() else self.ghost_batch_size
        if size < 1 or x.shape[0] % size:
            raise ValueError(
                f"GhostBatchNorm: ghost_batch_size={size} must divide the device's batch of {x.shape[0]}; "
                "choose a divisor"
            )
        ghosts = x.reshape(-1, size, *x.shape[1:])
        weights = None if weight is None else weight.reshape(-1, size)
        normalize = jax.vmap(lambda x, weight: normalize_batch(x, scale, bias, weight, None, self.epsilon))
        y, moments = normalize(ghosts, weights)
        return y.reshape(x.shape[0], *y.shape[2:]), jax.tree.map(lambda leaf: leaf[:, 0], moments)

    @nn.nowrap
    def _move(self, running: nn.Variable, values: jax.Array, counts: jax.Array) -> None:
        move_running(running, values, counts, self.momentum, self.running_rule)

    @nn.nowrap
    def _check(self) -> None:
        if self.axis_name is not None or self.device_group_size is not None:
            raise ValueError(
                f"GhostBatchNorm: axis_name={self.axis_name!r} and device_group_size={self.device_group_size} must be "
                "None, ghosts are parts of one device's batch; use BatchNorm across devices"
            )
        if self.running_rule not in RULES:
            raise unknown_name("GhostBatchNorm: running_rule", self.running_rule, RULES)
