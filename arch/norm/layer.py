"""Layer normalization, in the three readings that networks of convolutions give it."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.errors import unknown_name
from arch.norm.group import affine, check_channels_last, normalize_groups, scale_and_shift, standardize
from arch.ops.stochastic import Examples

READINGS = ("hwc", "hwc_elementwise", "c")


class LayerNorm(nn.Module):
    """Layer normalization: mean and variance of each example, over all of it or over the channels of a pixel.

    y = (x - mean) / sqrt(var + epsilon) * scale + bias, x and y [batch, ..., channels]. `reading` says over what:

    - "hwc": over height, width and channels, scale and bias a channel: `GroupNorm` of one group, and what Wu and He
      compare with as LN;
    - "hwc_elementwise": over the same, scale and bias an element: torch.nn.LayerNorm((H, W, C)). Their shape ties the
      network to one image size, and with three axes they are not spared by an optimiser whose weight decay begins at
      two;
    - "c": over the channels of each pixel, scale and bias a channel: flax.linen.LayerNorm, and ConvNeXt
      (arXiv:2201.03545, section 2.6).

    Paper: Ba et al., Layer Normalization (arXiv:1607.06450), section 3.
    Parameters: scale and bias [channels], of "hwc_elementwise" [height, width, channels].
    MACs: 0, two products an element.
    Differs from the paper: it leaves open what a layer's units are in a map; hence the readings.

    Differs from flax.linen.LayerNorm: the variance of shifted values; epsilon 1e-5 as in torch.

    Attributes:
        reading: "hwc", "hwc_elementwise" or "c"; there is no default, because none goes without saying.
        epsilon: added to the variance; ConvNeXt takes 1e-6.
        use_bias: adds a learned bias.
        use_scale: multiplies by a learned scale.
        bias_init: initial bias.
        scale_init: initial scale.
        dtype: of the output; None takes that of x.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    reading: str
    epsilon: float = 1e-5
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros_init()
    scale_init: Initializer = nn.initializers.ones_init()
    dtype: Dtype | None = None
    param_dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        """Normalizes x [batch, ..., channels]; the same in training and evaluation, whatever `examples` weigh.

        Raises:
            ValueError: an unknown reading; x without channels or of integers; another map size than the parameters
                have.
        """
        del train, examples
        if self.reading not in READINGS:
            raise unknown_name("LayerNorm: reading", self.reading, READINGS)
        check_channels_last("LayerNorm", x)
        shape = x.shape[1:] if self.reading == "hwc_elementwise" else x.shape[-1:]
        self._check_parameters(shape)
        if self.reading == "hwc":
            scale, bias = affine(self, shape, x.dtype)
            return normalize_groups(x, scale, bias, 1, self.epsilon).astype(self.dtype or x.dtype)
        if self.reading == "c":
            values = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            y = standardize(values, (x.ndim - 1,), self.epsilon)
        else:
            dtype = jnp.promote_types(x.dtype, jnp.float32)
            ones, zeros = jnp.ones(x.shape[-1:], dtype), jnp.zeros(x.shape[-1:], dtype)
            y = normalize_groups(x, ones, zeros, 1, self.epsilon)
        return scale_and_shift(self, y, shape, x.dtype)

    def _check_parameters(self, shape: tuple[int, ...]) -> None:
        """The parameters, where there are any yet, fit the input."""
        for name in ("scale", "bias"):
            if self.has_variable("params", name) and self.get_variable("params", name).shape != shape:
                has = list(self.get_variable("params", name).shape)
                raise ValueError(
                    f"LayerNorm: {name}={has} must have the shape {list(shape)} of reading={self.reading!r}; "
                    "keep the size of the maps, or choose another reading"
                )
