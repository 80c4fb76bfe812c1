"""Decoding and augmentation on the host, for images that are streamed from disk."""

import numpy as np
from PIL import Image, ImageEnhance

from input_pipeline.decode import crop_and_resize, open_image, to_array
from input_pipeline.geometry import NUM_TRIES, center_box, random_box
from input_pipeline.settings import Augmentation

_NUM_COLORS = 3
# What one example uses: the tries' areas and aspects, a corner, the flip, the order and the factors of colour jitter.
NUM_UNIFORMS = 2 * NUM_TRIES + 2 + 1 + 2 * _NUM_COLORS


def train_image(encoded: bytes, settings: Augmentation, uniforms: np.ndarray) -> np.ndarray:
    """One training image, decoded and augmented: uint8 [image_size, image_size, num_channels].

    Args:
      encoded: the image file.
      settings: what to do.
      uniforms: [NUM_UNIFORMS] random numbers in [0, 1).

    Raises:
      BadRecord: it cannot be decoded.
    """
    tries, corner, mirrored, order, factors = np.split(uniforms, np.cumsum([2 * NUM_TRIES, 2, 1, _NUM_COLORS]))
    image = open_image(encoded)
    if settings.crop == "random_resized":
        box = random_box(*image.size, settings.crop_area, settings.crop_aspect, tries, corner)
    else:
        box = center_box(*image.size, settings.image_size, settings.eval_crop_ratio)
    image = crop_and_resize(image, box, (settings.image_size, settings.image_size), settings.num_channels)
    if settings.crop == "pad":
        image = pad_crop(image, settings.crop_padding, corner)
    if settings.flip and mirrored[0] < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if settings.color_jitter:
        image = color_jitter(image, settings.color_jitter, order, factors)
    return to_array(image)


def eval_image(encoded: bytes, settings: Augmentation) -> np.ndarray:
    """One image for evaluation, its centre: uint8 [image_size, image_size, num_channels]; raises BadRecord."""
    image = open_image(encoded)
    box = center_box(*image.size, settings.image_size, settings.eval_crop_ratio)
    return to_array(crop_and_resize(image, box, (settings.image_size, settings.image_size), settings.num_channels))


def pad_crop(image: Image.Image, padding: int, corner: np.ndarray) -> Image.Image:
    """Padded with black on every side, then cropped to its old size; corner: [2] uniforms, down and right."""
    top, left = (int(u * (2 * padding + 1)) - padding for u in corner)
    return image.crop((left, top, left + image.width, top + image.height))  # black outside


def color_jitter(image: Image.Image, strength: float, order: np.ndarray, factors: np.ndarray) -> Image.Image:
    """Brightness, contrast and saturation in random order, factors in [max(0, 1 - strength), 1 + strength].

    Of a grey image, brightness and contrast only. order, factors: [3] uniforms each.
    """
    enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    if image.mode == "L":
        enhancers.pop()
    low, high = max(0.0, 1 - strength), 1 + strength
    for i in np.argsort(order[: len(enhancers)]):
        image = enhancers[i](image).enhance(low + (high - low) * float(factors[i]))
    return image
