"""Augmentation on the device of images that are held in memory: pure functions of one image and its key.

Images here are float [height, width, channels] with values in [0, 1]; `jax.vmap` maps them over a batch, every example
with its own key, so that nothing depends on how the batch is laid over devices.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from input_pipeline.geometry import NUM_TRIES, fallback_size
from input_pipeline.settings import Augmentation


def flip(image: jax.Array, key: jax.Array) -> jax.Array:
    """Mirrored left-right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def pad_crop(image: jax.Array, key: jax.Array, padding: int) -> jax.Array:
    """Padded with `padding` black pixels on every side, then cropped to its old size at random."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)


def random_box(
    key: jax.Array, shape: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """A random rectangle: top, left, height, width in pixels (torchvision's RandomResizedCrop.get_params).

    The ten tries are drawn at once and the first that fits is taken; where none fits, the largest centred rectangle
    whose aspect is allowed.

    Args:
      key: of this example.
      shape: height and width of the image.
      area: smallest and largest share of the image's area, in (0, 1].
      aspect: smallest and largest width / height.
    """
    height, width = shape
    key_area, key_aspect, key_corner = jax.random.split(key, 3)
    areas = height * width * jax.random.uniform(key_area, (NUM_TRIES,), minval=area[0], maxval=area[1])
    log_aspect = (math.log(aspect[0]), math.log(aspect[1]))
    aspects = jnp.exp(jax.random.uniform(key_aspect, (NUM_TRIES,), minval=log_aspect[0], maxval=log_aspect[1]))
    widths, heights = jnp.round(jnp.sqrt(areas * aspects)), jnp.round(jnp.sqrt(areas / aspects))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first, found = jnp.argmax(fits), jnp.any(fits)

    fallback_width, fallback_height = fallback_size(width, height, aspect)
    box_width = jnp.where(found, widths[first], fallback_width)
    box_height = jnp.where(found, heights[first], fallback_height)
    corner = jax.random.uniform(key_corner, (2,))
    top = jnp.where(found, jnp.floor(corner[0] * (height - box_height + 1)), (height - fallback_height) // 2)
    left = jnp.where(found, jnp.floor(corner[1] * (width - box_width + 1)), (width - fallback_width) // 2)
    return top, left, box_height, box_width


def random_resized_crop(
    image: jax.Array, key: jax.Array, image_size: int, area: tuple[float, float], aspect: tuple[float, float]
) -> jax.Array:
    """A random rectangle resized to [image_size, image_size, channels], bilinear and antialiased."""
    top, left, height, width = random_box(key, image.shape[:2], area, aspect)
    scale = jnp.stack([image_size / height, image_size / width])
    shape = (image_size, image_size, image.shape[2])
    translation = -jnp.stack([top, left]) * scale
    return jax.image.scale_and_translate(image, shape, (0, 1), scale, translation, method="bilinear", antialias=True)


def grey(image: jax.Array) -> jax.Array:
    """ITU-R 601 luma, [height, width, 1]."""
    if image.shape[2] == 1:
        return image
    weights = jnp.array([0.299, 0.587, 0.114], image.dtype)
    return jnp.sum(image * weights, axis=2, keepdims=True)  # not a matmul, which accelerators round to bfloat16


def brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blended with black: factor 0 is black, 1 the image."""
    return jnp.clip(factor * image, 0, 1)


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blended with the mean grey of the whole image."""
    return jnp.clip(factor * image + (1 - factor) * jnp.mean(grey(image)), 0, 1)


def saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blended with its own grey."""
    return jnp.clip(factor * image + (1 - factor) * grey(image), 0, 1)


def color_jitter(image: jax.Array, key: jax.Array, strength: float) -> jax.Array:
    """Brightness, contrast and saturation in random order, each by a factor in [max(0, 1 - strength), 1 + strength].

    Of a grey image, brightness and contrast only: its saturation is nothing to change.
    """
    functions = [brightness, contrast] if image.shape[2] == 1 else [brightness, contrast, saturation]
    key_order, key_factors = jax.random.split(key)
    order = jax.random.permutation(key_order, len(functions))
    factors = jax.random.uniform(key_factors, (len(functions),), minval=max(0.0, 1 - strength), maxval=1 + strength)
    for i in range(len(functions)):
        image = jax.lax.switch(order[i], functions, image, factors[order[i]])
    return image


def augmentations(settings: Augmentation) -> list[Callable[[jax.Array, jax.Array], jax.Array]]:
    """The functions of (image, key) that `settings` asks for, in order."""
    functions: list[Callable[[jax.Array, jax.Array], jax.Array]] = []
    if settings.crop == "pad":
        functions.append(functools.partial(pad_crop, padding=settings.crop_padding))
    elif settings.crop == "random_resized":
        functions.append(
            functools.partial(
                random_resized_crop,
                image_size=settings.image_size,
                area=settings.crop_area,
                aspect=settings.crop_aspect,
            )
        )
    if settings.flip:
        functions.append(flip)
    if settings.color_jitter:
        functions.append(functools.partial(color_jitter, strength=settings.color_jitter))
    return functions
