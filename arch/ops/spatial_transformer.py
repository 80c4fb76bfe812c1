"""The spatial transformer: a network that turns and zooms its own input."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype
from jax import lax

from arch.errors import check_map
from arch.ops.conv import Conv
from arch.ops.conv2d import as_pair
from arch.ops.pooling import max_pool
from arch.ops.sampling import affine_grid as affine_grid
from arch.ops.sampling import grid_sample as grid_sample


class LocalizationNet(nn.Module):
    """A small network that looks at an image; what a spatial transformer asks where it has been given no other.

    Convolutions, each with an activation and a 2x2 max pool, then a hidden dense layer, as the paper has for digits.

    Attributes:
        features: output channels of each convolution.
        kernel_size: height and width of their kernels, in taps.
        hidden_features: of the dense layer.
        dtype: of the computation; None takes what x and the parameters promote to.
        param_dtype: of the parameters.
        conv: makes the convolutions from their fields.
        act: the activation.
    """

    features: Sequence[int] = (20, 20)
    kernel_size: int | Sequence[int] = 5
    hidden_features: int = 20
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    conv: Callable[..., nn.Module] = Conv
    act: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, hidden_features]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for number, features in enumerate(self.features):
            x = self.conv(features=features, kernel_size=self.kernel_size, **dtypes, name=f"conv{number}")(x)
            x = max_pool(self.act(x), 2, 2, "SAME")
        x = x.reshape(x.shape[0], -1)
        return self.act(nn.Dense(self.hidden_features, **dtypes, name="hidden")(x))


class SpatialTransformer(nn.Module):
    """Moves an image by the affine map that a network of it tells: y = grid_sample(x, affine_grid(theta(x))).

    The map is a dense layer of what the network says. It starts with weights 0 and the identity for a bias, and so the
    whole as the identity.

    Paper: Jaderberg et al., Spatial Transformer Networks (arXiv:1506.02025), section 3.
    Parameters: those of the network, and `theta`: `kernel [told, 6]`, `bias [6]`.
    MACs: those of the network, told * 6, and 4 * out_height * out_width * channels for reading.

    Attributes:
        size: height and width of the output, in pixels; None keeps those of x.
        align_corners: which convention normalized coordinates have, as in `affine_grid`; the paper's has corners.
        localization: makes the network, a function of x alone, from its name; its output is flattened.
        param_dtype: of the dense layer's parameters, which computes in at least float32.
    """

    size: int | Sequence[int] | None = None
    align_corners: bool = True
    localization: Callable[..., Callable[[jax.Array], jax.Array]] = LocalizationNet
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels], floating point, to [batch, out_height, out_width, channels].

        Raises:
            ValueError: x that is not floating point NHWC or has no pixels.
        """
        check_map("SpatialTransformer", x)
        if 0 in x.shape[1:3]:
            raise ValueError(f"SpatialTransformer: x{list(x.shape)} must have pixels; pad it")
        told = self.localization(name="localization")(x)
        told = told.reshape(x.shape[0], -1)
        theta = nn.Dense(
            6,
            dtype=jnp.promote_types(told.dtype, jnp.float32),
            param_dtype=self.param_dtype,
            precision=lax.Precision.HIGHEST,  # coordinates need all digits
            kernel_init=nn.initializers.zeros_init(),
            bias_init=_identity,
            name="theta",
        )(told)
        size = x.shape[1:3] if self.size is None else as_pair("SpatialTransformer: size", self.size)
        return grid_sample(x, affine_grid(theta.reshape(-1, 2, 3), size, self.align_corners), self.align_corners)


def _identity(key: jax.Array, shape: Sequence[int], dtype: Dtype) -> jax.Array:
    """The affine map that moves nothing."""
    del key
    return jnp.asarray([[1, 0, 0], [0, 1, 0]], dtype).reshape(shape)
