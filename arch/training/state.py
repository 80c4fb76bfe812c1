"""What a run carries from step to step: all of it is in a checkpoint, and nothing else is needed to go on."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from arch.optim.noise_scale import GradientNoise
from arch.training import metrics as metrics_lib


@struct.dataclass
class TrainState:
    """The state, identical on every device.

    Attributes:
      step: int32 scalar, the steps that were taken. Random numbers derive from it, so no key is kept.
      params: the network's parameters, float32 or wider.
      batch_stats: running statistics of the normalizations; {} where there are none.
      other: the rest of the network's collections, such as the masks of a condensation; no gradient reaches them, and
        nothing but the network's `after_step` changes them.
      opt_state: of the optax transformation.
      ema_params: exponential moving average of `params`; None where none is kept.
      metrics: training metrics summed since the last row of the log.
      noise: estimates of the gradient's noise, summed likewise; None where it is not measured.
      bad_step: int32 scalar, the index of the first step whose loss or gradient was not finite; -1 while there is none.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    other: Any
    opt_state: optax.OptState
    ema_params: Any
    metrics: metrics_lib.Metrics
    noise: GradientNoise | None
    bad_step: jax.Array


def create_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    seed: int,
    image_shape: tuple[int, int, int],
    num_classes: int,
    dtype: jnp.dtype = jnp.float32,
    keep_ema: bool = False,
    measure_noise: bool = False,
) -> TrainState:
    """The state before the first step, on one device; the same for the same seed, whatever the devices.

    Args:
      image_shape: (height, width, channels) of the model's input.
      dtype: of the computation; metrics are summed in it, in float32 at least.
      keep_ema: whether `ema_params` is kept, starting from the parameters.
      measure_noise: whether `noise` is kept.
    """

    def init(key):
        variables = dict(model.init({"params": key}, jnp.zeros((1, *image_shape), dtype), train=False))
        params, batch_stats = variables.pop("params"), variables.pop("batch_stats", {})
        return params, batch_stats, variables, tx.init(params)

    params, batch_stats, other, opt_state = jax.jit(init)(jax.random.key(seed))
    metrics_dtype = jnp.promote_types(dtype, jnp.float32)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        other=other,
        opt_state=opt_state,
        ema_params=jax.tree.map(jnp.copy, params) if keep_ema else None,
        metrics=metrics_lib.zeros(metrics_lib.metrics_class(num_classes), metrics_dtype),
        noise=GradientNoise(*jnp.zeros((2,), metrics_dtype)) if measure_noise else None,
        bad_step=jnp.full((), -1, jnp.int32),
    )


def with_variables(state: TrainState, variables: Mapping[str, Any]) -> TrainState:
    """A state before the first step that starts from these variables, of the same shapes and dtypes."""
    rest = dict(variables)
    params, batch_stats = rest.pop("params"), rest.pop("batch_stats", {})
    ema_params = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    return state.replace(params=params, batch_stats=batch_stats, other=rest, ema_params=ema_params)
