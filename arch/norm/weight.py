"""Weights normalized instead of activations: weight normalization, weight standardization, and what goes with them.

Both are bases to be put before a layer that has a parameter "kernel":

    class WeightNormDepthwiseConv(WeightNorm, DepthwiseConv): ...

The result has the fields of the layer, and is a `conv` of a network: `create("resnet50", conv=WeightNormConv,
norm=norm.create("mean_only_batch_norm"))`; `CONVS` has them by name.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax

from arch.errors import named_factory
from arch.norm.batch import batch_moments
from arch.norm.group import check_channels_last, scale_and_shift, standardize
from arch.norm.running import check_momentum, move_running
from arch.ops.conv import Conv
from arch.ops.stochastic import Examples


def weight_norm(v: jax.Array, g: jax.Array, axis: int = -1) -> jax.Array:
    """w = g * v / |v|, the norm over all axes but `axis`: length and direction of each output channel's kernel.

    v and w [kernel_height, kernel_width, in_features / groups, features], g [features]. Where all of an output
    channel's v is zero, so is its w.

    Paper: Salimans and Kingma, Weight Normalization (arXiv:1602.07868), section 2.
    Parameters: v, of the shape of the kernel, and g [features].
    MACs: 0, two products an element of the kernel.

    Args:
        v: directions, of any length but zero.
        g: lengths, [v.shape[axis]].
        axis: of the output channels.

    Returns:
        The kernel, in the shape and dtype of v.
    """
    squares = _sum_of_squares(v, axis)
    multiplier = g.astype(squares.dtype) * lax.rsqrt(jnp.where(squares > 0, squares, jnp.ones_like(squares)))
    return (v * jnp.expand_dims(multiplier, _other_axes(v, axis))).astype(v.dtype)


def weight_standardization(kernel: jax.Array, axis: int = -1, epsilon: float = 1e-5) -> jax.Array:
    """(w - mean) / sqrt(var + epsilon), over all axes but `axis`: mean 0 and variance 1 for each output channel.

    Paper: Qiao et al., Weight Standardization (arXiv:1903.10520), section 2 of its first version.
    Parameters: none beyond those of the layer.
    MACs: 0, a product an element of the kernel.

    Args:
        kernel: [kernel_height, kernel_width, in_features / groups, features].
        axis: of the output channels.
        epsilon: added to the variance; without it the result would not change under w -> a w + b, a above 0.

    Returns:
        The shape and dtype of `kernel`.

    Raises:
        ValueError: a single weight an output channel, of which only zero would be left.
    """
    fan_in = kernel.size // max(kernel.shape[axis], 1)
    if fan_in < 2:
        raise ValueError(
            f"weight_standardization: kernel={list(kernel.shape)} must have at least 2 weights an output channel, "
            f"not {fan_in}; standardize other layers"
        )
    values = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    return standardize(values, _other_axes(kernel, axis), epsilon).astype(kernel.dtype)


class WeightNorm(nn.Module):
    """Base for a layer whose kernel is `weight_norm` of its parameters `v` and `g`, as the paper calls them.

    Both are made from the layer's own initial kernel: v is it and g its lengths, so that the layer starts as it would
    without. torch.nn.utils.parametrizations.weight_norm has g as `original0` [features, 1, 1, 1] and v as `original1`
    [features, in_features / groups, kernel_height, kernel_width]; for a transposed convolution its dim=0 means input
    channels, and dim=1 ours.

    Differs from flax.linen.WeightNorm: that starts with g = 1, which changes the layer.
    """

    @nn.nowrap
    def param(self, name: str, init_fn: Callable[..., Any], *init_args: Any, **init_kwargs: Any) -> Any:
        """Declares a parameter; for "kernel" those that it is made of."""
        if name != "kernel":
            return super().param(name, init_fn, *init_args, **init_kwargs)
        axis = output_axis(self)
        v = super().param("v", init_fn, *init_args, **init_kwargs)
        g = super().param("g", lambda key: jnp.sqrt(_sum_of_squares(v, axis)).astype(v.dtype))
        return weight_norm(v, g, axis)


class WeightStandardization(nn.Module):
    """Base for a layer that computes with the `weight_standardization` of its parameter `kernel`."""

    @nn.nowrap
    def param(self, name: str, init_fn: Callable[..., Any], *init_args: Any, **init_kwargs: Any) -> Any:
        """Declares a parameter; "kernel" comes back standardized."""
        value = super().param(name, init_fn, *init_args, **init_kwargs)
        return weight_standardization(value, output_axis(self)) if name == "kernel" else value


class WeightNormConv(WeightNorm, Conv):
    """A convolution, dense, grouped or depthwise, under weight normalization."""


class WeightNormDense(WeightNorm, nn.Dense):
    """A dense layer under weight normalization."""


class WeightStandardizedConv(WeightStandardization, Conv):
    """A convolution, dense, grouped or depthwise, under weight standardization; a norm of activations follows it."""


# The convolutions of a network by name.
CONVS = {
    "conv": functools.partial(Conv),
    "weight_norm": functools.partial(WeightNormConv),
    "weight_standardization": functools.partial(WeightStandardizedConv),
}


def create_conv(name: str, **fields: Any) -> functools.partial:
    """The factory of a convolution, to be the `conv` of a network.

    Args:
        name: a key of CONVS.
        **fields: fields of that convolution.

    Raises:
        ValueError: a name, or a field, that does not exist.
    """
    return functools.partial(named_factory("arch.norm.weight.create_conv", CONVS, name, fields), **fields)


class Affine(nn.Module):
    """No normalization: y = x + bias, x and y [batch, ..., channels], in the place of a norm.

    It has a bias, because a network whose norms have one leaves it out of its convolutions.

    Parameters: bias [channels], and scale [channels] where asked for.
    MACs: 0.

    Attributes:
        use_bias: adds a learned bias a channel.
        bias_init: initial bias.
        scale_init: initial value of a learned scale a channel; None has no scale. A block that has to start at zero
            gives one.
        dtype: of the output; None takes that of x.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    use_bias: bool = True
    bias_init: Initializer = nn.initializers.zeros_init()
    scale_init: Initializer | None = None
    dtype: Dtype | None = None
    param_dtype: Dtype | None = None

    @property
    def use_scale(self) -> bool:
        """Whether there is a scale."""
        return self.scale_init is not None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        """Shifts x [batch, ..., channels]; the same in training and evaluation.

        Raises:
            ValueError: x without channels or of integers.
        """
        del train, examples
        check_channels_last("Affine", x)
        values = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return scale_and_shift(self, values, x.shape[-1:], x.dtype)


class MeanOnlyBatchNorm(Affine):
    """Mean-only batch normalization, the companion of weight normalization: y = x - mean + bias.

    x and y [batch, ..., channels]; the mean is that of the batch in training, and a running average, `mean` in the
    collection `batch_stats`, in evaluation. Examples count by `examples.weight`; a batch whose weights are all zero
    moves nothing, and neither does initialization.

    Paper: Salimans and Kingma, Weight Normalization (arXiv:1602.07868), section 4.
    Parameters: bias [channels]; running mean [channels].
    MACs: 0.

    Attributes:
        axis_name: the mapped axis over whose devices the mean is taken in training; None keeps to each device.
        momentum: share of the old value that the running mean keeps at each step, in [0, 1].
        use_bias, bias_init, scale_init, dtype: as in `Affine`.
        param_dtype: of the parameters and the running mean; None takes dtype, at least float32.
    """

    axis_name: str | None = None
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        """Subtracts the mean from x [batch, ..., channels]; returns its shape, in `dtype`.

        Raises:
            ValueError: x without channels or of integers; a momentum outside [0, 1].
        """
        check_channels_last("MeanOnlyBatchNorm", x)
        check_momentum("MeanOnlyBatchNorm", self.momentum)
        stats_dtype = jnp.promote_types(self.param_dtype or self.dtype or x.dtype, jnp.float32)
        running = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:], stats_dtype)
        values = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train:
            # No axis is bound while a model is initialised.
            axis_name = None if self.is_initializing() else self.axis_name
            moments = batch_moments(values, None if examples is None else examples.weight, axis_name)
            centred = (values - moments.shift) - moments.offset
            if not self.is_initializing():
                move_running(running, (moments.shift + moments.offset)[None], moments.count[None], self.momentum)
        else:
            centred = values - running.value
        return scale_and_shift(self, centred, x.shape[-1:], x.dtype)


def initialize_from_batch(
    model: nn.Module,
    variables: Mapping[str, Any],
    *args: Any,
    axis_name: str | None = None,
    rngs: Any = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Data-dependent initialization: what every `WeightNorm` layer puts out has mean 0 and variance 1 on this batch.

    One pass through the model sets g / std[t] for g and (bias - mean[t]) / std[t] for a bias, where t is what the layer
    puts out, one layer after the other, each on what those before it then put out. A layer without a bias keeps its
    mean; an `Affine` ("none") after it then sets its own bias, and a `MeanOnlyBatchNorm` subtracts the mean anyway. A
    channel that is constant on the batch keeps its g. A layer that is called several times is set by the first call.

    Paper: Salimans and Kingma, Weight Normalization (arXiv:1602.07868), section 3.
    Parameters: none of its own.
    MACs: those of the model.

    Args:
        model: a linen module; its `WeightNorm` layers lie in no `nn.scan` or `nn.vmap`.
        variables: of the model.
        *args: what the model is called with, such as a batch of images.
        axis_name: the mapped axis over whose devices means and variances are taken; None keeps to this device.
        rngs: of the call, where it drops anything.
        **kwargs: as `args`; `train=True` where there are mean-only batch norms.

    Returns:
        The variables with these parameters; nothing but parameters has changed.

    Raises:
        ValueError: a model without `WeightNorm` layers.
    """
    is_normed = {}  # of the layers that are set, by path

    def normalize_output(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        y, layer = call(*args, **kwargs), context.module
        settable = type(layer) is Affine or isinstance(layer, WeightNorm)
        if context.method_name != "__call__" or not settable or layer.path in is_normed:
            return y
        is_normed[layer.path] = isinstance(layer, WeightNorm)
        return _set_by_output(layer, y, axis_name)

    with nn.intercept_methods(normalize_output):
        _, changed = model.apply(variables, *args, mutable=True, rngs=rngs, **kwargs)
    if not any(is_normed.values()):
        raise ValueError(
            "initialize_from_batch: the model must have WeightNorm layers, 0 found; build it with conv=WeightNormConv"
        )
    return {**variables, "params": changed["params"]}


def _set_by_output(layer: nn.Module, y: jax.Array, axis_name: str | None) -> jax.Array:
    """Sets the layer's parameters by what it puts out, and returns what it then puts out."""
    values = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    moments = batch_moments(values, None, axis_name)
    mean = moments.shift + moments.offset
    inverse_std = jnp.ones_like(mean)
    if isinstance(layer, WeightNorm):
        # Less than the rounding of y is no variance.
        constant = moments.var <= lax.square(4 * jnp.finfo(y.dtype).eps * mean)
        inverse_std = jnp.where(constant, inverse_std, lax.rsqrt(jnp.where(constant, inverse_std, moments.var)))
        g = layer.get_variable("params", "g")
        layer.put_variable("params", "g", (g * inverse_std).astype(g.dtype))
    if layer.has_variable("params", "bias"):
        bias = layer.get_variable("params", "bias")
        layer.put_variable("params", "bias", ((bias - mean) * inverse_std).astype(bias.dtype))
        values = (values - moments.shift) - moments.offset
    return (values * inverse_std).astype(y.dtype)


def output_axis(layer: nn.Module) -> int:
    """The axis of the kernel that counts the layer's output channels."""
    if not getattr(layer, "transpose_kernel", False):
        return -1
    groups = getattr(layer, "feature_group_count", 1)
    if groups > 1:
        raise ValueError(
            f"{type(layer).__name__}: transpose_kernel leaves no axis of output channels to "
            f"feature_group_count={groups}; it must be 1, or transpose_kernel False"
        )
    return -2


def _other_axes(kernel: jax.Array, axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(kernel.ndim) if other != axis % kernel.ndim)


def _sum_of_squares(v: jax.Array, axis: int) -> jax.Array:
    """|v|^2 of each output channel, at least float32."""
    return lax.square(v.astype(jnp.promote_types(v.dtype, jnp.float32))).sum(_other_axes(v, axis))
