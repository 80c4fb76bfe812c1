"""The first layers of a network: from the image to the map that the stages work on."""

from collections.abc import Callable

import jax
from flax import linen as nn

from arch.errors import unknown_name
from arch.ops.conv import symmetric_padding
from arch.ops.pooling import max_pool

SMALL_STRIDES = {"small": 1, "stride2": 2}
STEMS = ("imagenet", *SMALL_STRIDES)


def image_stem(
    x: jax.Array,
    *,
    owner: str,
    kind: str,
    features: int,
    kernel_size: int,
    pool: bool,
    conv: Callable[..., nn.Module],
    norm: Callable[..., Callable[[jax.Array], jax.Array]],
    act: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Convolution, normalization, activation and, for large images, pooling, with symmetric padding.

    Its layers `stem_conv` and `stem_norm` belong to the module that calls it, from its compact `__call__`.

    Args:
        x: [batch, height, width, channels].
        owner: the network, for the error.
        kind: "imagenet" is a convolution of stride 2 and, with `pool`, a max pool 3x3 of stride 2; for images of 8 to
            64 pixels "small" is a 3x3 convolution of stride 1, and "stride2" one of stride 2, which makes all that
            follows four times cheaper.
        features: channels of the convolution.
        kernel_size: taps along height and width of the large stem's convolution; odd.
        pool: whether the large stem pools.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.

    Returns:
        [batch, height / stride, width / stride, features]; the stride is `stem_stride(kind, pool)`.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in STEMS:
        raise unknown_name(f"{owner}: stem", kind, STEMS)
    if kind in SMALL_STRIDES:
        layer = {"kernel_size": (3, 3), "strides": (SMALL_STRIDES[kind],) * 2}
    else:
        layer = {"kernel_size": (kernel_size, kernel_size), "strides": (2, 2)}
    x = conv(features=features, padding=symmetric_padding(layer["kernel_size"]), **layer, name="stem_conv")(x)
    x = act(norm(name="stem_norm")(x))
    if kind == "imagenet" and pool:
        x = max_pool(x, (3, 3), strides=(2, 2), padding=symmetric_padding((3, 3)))
    return x


def stem_stride(kind: str, pool: bool) -> int:
    """Pixels of the image to a step of the map that `image_stem` returns."""
    return SMALL_STRIDES.get(kind, 4 if pool else 2)
