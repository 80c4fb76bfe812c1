"""Attention over channels: squeeze-and-excitation."""

from collections.abc import Callable

import jax
from flax import linen as nn

from arch.errors import check_map
from arch.ops.conv import Conv
from arch.ops.pooling import global_avg_pool


def squeeze_excite(
    x: jax.Array,
    reduce_kernel: jax.Array,
    expand_kernel: jax.Array,
    reduce_bias: jax.Array | None = None,
    expand_bias: jax.Array | None = None,
    *,
    act: Callable[[jax.Array], jax.Array] = nn.relu,
    gate_act: Callable[[jax.Array], jax.Array] = nn.sigmoid,
) -> jax.Array:
    """Scales each channel of an image by a gate, computed from the means of all its channels.

    gates = gate_act(act(mean @ reduce_kernel + reduce_bias) @ expand_kernel + expand_bias), where mean
    [batch, channels] is over height and width; out[n, i, j, c] = x[n, i, j, c] * gates[n, c]. Mean and gates are
    computed in at least float32. In the module, `SqueezeExcite`, norms may take the place of the biases.

    Paper: Hu et al., Squeeze-and-Excitation Networks (arXiv:1709.01507), section 3.
    Parameters: kernels [channels, reduced_features] and [reduced_features, channels]; biases [reduced_features] and
        [channels], or two norms instead of them. With biases, for a reduction r, 2 * channels^2 / r + channels / r +
        channels scalars.
    MACs: 2 * channels * reduced_features + height * width * channels.

    Args:
        x: [batch, height, width, channels], floating point.
        reduce_kernel: [channels, reduced_features].
        expand_kernel: [reduced_features, channels].
        reduce_bias: [reduced_features]; None adds none.
        expand_bias: [channels]; None adds none.
        act: between the two layers.
        gate_act: makes the gates, usually in [0, 1].

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: x that is not four-dimensional and floating point; weights whose shapes do not fit.
    """
    owner = "squeeze_excite"
    check_map(owner, x)
    channels, reduced = x.shape[-1], reduce_kernel.shape[-1]
    arrays = {"reduce_kernel": reduce_kernel, "expand_kernel": expand_kernel}
    arrays |= {"reduce_bias": reduce_bias, "expand_bias": expand_bias}
    for (name, array), shape in zip(
        arrays.items(), ((channels, reduced), (reduced, channels), (reduced,), (channels,)), strict=True
    ):
        if array is not None and array.shape != shape:
            raise ValueError(
                f"{owner}: {name}={list(array.shape)} must be {list(shape)}, for channels={channels} and "
                f"reduced_features={reduced}; reshape it"
            )
    hidden = act(_linear(global_avg_pool(x), reduce_kernel, reduce_bias))
    return _scale_channels(x, gate_act(_linear(hidden, expand_kernel, expand_bias)))


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation, with or without normalization; `squeeze_excite` as a module.

    gates = gate_act(norm2(fc2(act(norm1(fc1(mean)))))). `fc1` and `fc2` are 1x1 convolutions of a map of one pixel, as
    in torchvision and timm, so that weights are imported by the rule for convolutions. Without norms they have biases,
    as in the official networks; with norms they have none, as in ShuffleNet v2+, which has norm1 alone. The block
    belongs on a residual branch, before the addition.

    In training, a batch norm over a single example has one value a channel to normalize: it puts out its bias, and the
    gates do not depend on x (torch refuses). Take more examples a device, or statistics across devices.

    Parameters: `fc1` kernel [1, 1, channels, reduced_features], `fc2` kernel [1, 1, reduced_features, channels]; a bias
        each, or `norm1` and, with gate_norm, `norm2`.

    Attributes:
        reduction: channels for one feature of the hidden layer: max(1, channels // reduction), 1 or above.
        reduced_features: features of the hidden layer where another rule gives them, such as
            `make_divisible(channels / 4)` in MobileNet v3; None leaves them to `reduction`.
        conv: makes both layers from their fields.
        norm: makes a normalization, a function of x alone, from its name; None leaves both out.
        gate_norm: whether a norm follows the second layer too; unused without norms.
        act: between the two layers.
        gate_act: makes the gates, usually in [0, 1]; `nn.hard_sigmoid` in MobileNet v3 and ShuffleNet v2+.
    """

    reduction: int = 16
    reduced_features: int | None = None
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., Callable[[jax.Array], jax.Array]] | None = None
    gate_norm: bool = True
    act: Callable[[jax.Array], jax.Array] = nn.relu
    gate_act: Callable[[jax.Array], jax.Array] = nn.sigmoid

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to the same shape and dtype.

        Raises:
            ValueError: x that is not four-dimensional and floating point; a reduction or a number of features below 1.
        """
        check_map("SqueezeExcite", x)
        channels = x.shape[-1]
        hidden = self.act(self._layer(global_avg_pool(x)[:, None, None], 1, self._hidden_features(channels)))
        return _scale_channels(x, self.gate_act(self._layer(hidden, 2, channels))[:, 0, 0])

    def _layer(self, x: jax.Array, number: int, features: int) -> jax.Array:
        x = self.conv(features=features, kernel_size=(1, 1), use_bias=self.norm is None, name=f"fc{number}")(x)
        return self.norm(name=f"norm{number}")(x) if self.norm and (number == 1 or self.gate_norm) else x

    def _hidden_features(self, channels: int) -> int:
        for name, value in (("reduction", self.reduction), ("reduced_features", self.reduced_features)):
            if value is not None and value < 1:
                raise ValueError(f"SqueezeExcite: {name}={value} must be at least 1, for channels={channels}; raise it")
        return self.reduced_features or max(1, channels // self.reduction)


def _linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """x @ kernel + bias, in the dtype of x."""
    out = x @ kernel.astype(x.dtype)
    return out if bias is None else out + bias.astype(x.dtype)


def _scale_channels(x: jax.Array, gates: jax.Array) -> jax.Array:
    """x [batch, height, width, channels] times gates [batch, channels]."""
    return x * gates.astype(x.dtype)[:, None, None]
