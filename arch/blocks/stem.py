"""The first layers of a network: from the image to the map that the stages work on."""

from collections.abc import Callable, Sequence

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
    more_features: Sequence[int] = (),
    strides: int = 2,
    padded: bool = True,
) -> jax.Array:
    """Convolution, normalization, activation and, for large images, pooling, with symmetric padding.

    Its layers `stem_conv` and `stem_norm`, and `stem_conv2`, `stem_norm2`, ... of a deeper stem, belong to the module
    that calls it, from its compact `__call__`.

    Args:
        x: [batch, height, width, channels].
        owner: the network, for the error.
        kind: "imagenet" is a convolution of `strides` and, with `pool`, a max pool 3x3 of stride 2; for images of 8 to
            64 pixels "small" is a 3x3 convolution of stride 1, and "stride2" one of stride 2, which makes all that
            follows four times cheaper.
        features: channels of the convolution.
        kernel_size: taps along height and width of the large stem's convolution; odd.
        pool: whether the large stem pools.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
        more_features: channels of each further convolution, 3x3 of stride 1, before the pool.
        strides: of the large stem's first convolution, in pixels.
        padded: the convolutions of the large stem pad; those of the small ones always do.

    Returns:
        [batch, height / stride, width / stride, channels of the last convolution]; the stride is
        `stem_stride(kind, pool, strides)`.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in STEMS:
        raise unknown_name(f"{owner}: stem", kind, STEMS)
    if kind in SMALL_STRIDES:
        layer = {"kernel_size": (3, 3), "strides": (SMALL_STRIDES[kind],) * 2}
    else:
        layer = {"kernel_size": (kernel_size, kernel_size), "strides": (strides, strides)}
    padded = padded or kind in SMALL_STRIDES
    padding = symmetric_padding(layer["kernel_size"]) if padded else "VALID"
    x = conv(features=features, padding=padding, **layer, name="stem_conv")(x)
    x = act(norm(name="stem_norm")(x))
    padding = symmetric_padding((3, 3)) if padded else "VALID"
    for number, more in enumerate(more_features, start=2):
        x = conv(features=more, kernel_size=(3, 3), padding=padding, name=f"stem_conv{number}")(x)
        x = act(norm(name=f"stem_norm{number}")(x))
    if kind == "imagenet" and pool:
        x = max_pool(x, (3, 3), strides=(2, 2), padding=symmetric_padding((3, 3)))
    return x


def stem_stride(kind: str, pool: bool, strides: int = 2) -> int:
    """Pixels of the image to a step of the map that `image_stem` returns."""
    return SMALL_STRIDES.get(kind, 2 * strides if pool else strides)


def bare_stem(x: jax.Array, *, owner: str, kind: str, features: int, conv: Callable[..., nn.Module]) -> jax.Array:
    """A 3x3 convolution alone with symmetric padding, where the units themselves begin with a normalization.

    Its layer `stem_conv` belongs to the module that calls it, from its compact `__call__`.

    Args:
        x: [batch, height, width, channels].
        owner: the network, for the error.
        kind: "imagenet" or "stride2" is of stride 2, "small" of stride 1.
        features: channels of the convolution.
        conv: makes a convolution from its fields.

    Returns:
        [batch, height / stride, width / stride, features]; the stride is `stem_stride(kind, pool=False)`.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in STEMS:
        raise unknown_name(f"{owner}: stem", kind, STEMS)
    strides = (stem_stride(kind, pool=False),) * 2
    padding = symmetric_padding((3, 3))
    return conv(features=features, kernel_size=(3, 3), strides=strides, padding=padding, name="stem_conv")(x)
