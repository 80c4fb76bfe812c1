"""Which rectangle of an image is kept: arithmetic shared by the host's and the device's augmentation."""

import math
from typing import NamedTuple

import numpy as np

NUM_TRIES = 10  # of random_box, as torchvision's


class Box(NamedTuple):
    """A rectangle of the original image in pixels, which may be fractional."""

    left: float
    top: float
    width: float
    height: float


def center_box(width: int, height: int, image_size: int, crop_ratio: float) -> Box:
    """The box of "resize the shorter side to image_size / crop_ratio, then crop the centre", as torchvision rounds it.

    Args:
      width: of the original, pixels.
      height: of the original, pixels.
      image_size: of the square result, pixels.
      crop_ratio: in (0, 1].
    """
    resized = max(image_size, round(image_size / crop_ratio))
    if width <= height:
        resized_width, resized_height = resized, int(resized * height / width)
    else:
        resized_width, resized_height = int(resized * width / height), resized
    left, top = round((resized_width - image_size) / 2), round((resized_height - image_size) / 2)
    scale_x, scale_y = width / resized_width, height / resized_height
    return Box(left * scale_x, top * scale_y, image_size * scale_x, image_size * scale_y)


def random_box(
    width: int,
    height: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    tries: np.ndarray,
    corner: np.ndarray,
) -> Box:
    """A random rectangle (torchvision's RandomResizedCrop.get_params): the first of ten tries that fits.

    Where none fits, the largest centred rectangle whose aspect is allowed.

    Args:
      width: of the image, pixels.
      height: of the image, pixels.
      area: smallest and largest share of the image's area, in (0, 1].
      aspect: smallest and largest width / height.
      tries: [20] uniforms, an area and an aspect a try.
      corner: [2] uniforms, down and right.
    """
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for uniform_area, uniform_aspect in tries.reshape(-1, 2).tolist():
        pixels = width * height * (area[0] + (area[1] - area[0]) * uniform_area)
        ratio = math.exp(low + (high - low) * uniform_aspect)
        box_width, box_height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = int(corner[0] * (height - box_height + 1)), int(corner[1] * (width - box_width + 1))
            return Box(left, top, box_width, box_height)
    box_width, box_height = fallback_size(width, height, aspect)
    return Box((width - box_width) // 2, (height - box_height) // 2, box_width, box_height)


def fallback_size(width: int, height: int, aspect: tuple[float, float]) -> tuple[int, int]:
    """Width and height of the largest rectangle in an image whose aspect, width / height, is allowed."""
    if width / height < aspect[0]:
        return width, max(1, round(width / aspect[0]))
    if width / height > aspect[1]:
        return max(1, round(height * aspect[1])), height
    return width, height
