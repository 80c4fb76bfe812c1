"""The first layers of a network: from the image to the map that the stages work on."""

from collections.abc import Callable

import jax
from flax import linen as nn

from arch.errors import unknown_name
from arch.ops.conv import symmetric_padding
from arch.ops.pooling import max_pool

STEMS = ("imagenet", "small")


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
        kind: "imagenet" is a convolution of stride 2 and, with `pool`, a max pool 3x3 of stride 2; "small" is a 3x3
            convolution of stride 1, for images of 8 to 64 pixels.
        features: channels of the convolution.
        kernel_size: taps along height and width of the large stem's convolution; odd.
        pool: whether the large stem pools.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.

    Returns:
        [batch, height / stride, width / stride, features]; the stride is 1, or 2, with the pool 4.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in STEMS:
        raise unknown_name(f"{owner}: stem", kind, STEMS)
    if kind == "small":
        layer = {"kernel_size": (3, 3), "strides": (1, 1)}
    else:
        layer = {"kernel_size": (kernel_size, kernel_size), "strides": (2, 2)}
    x = conv(features=features, padding=symmetric_padding(layer["kernel_size"]), **layer, name="stem_conv")(x)
    x = act(norm(name="stem_norm")(x))
    if kind == "imagenet" and pool:
        x = max_pool(x, (3, 3), strides=(2, 2), padding=symmetric_padding((3, 3)))
    return x
