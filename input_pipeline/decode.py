"""Encoded images to pixels, with Pillow; JPEG is decoded at a reduced scale where the crop allows it."""

import io
import math
import struct

import numpy as np
from PIL import Image

from input_pipeline.geometry import Box

# What Pillow raises on broken data, format by format.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


class BadRecord(Exception):
    """A record that cannot be decoded; the message is the reason."""


def open_image(encoded: bytes) -> Image.Image:
    """The image, its pixels not decoded yet; raises BadRecord."""
    try:
        return Image.open(io.BytesIO(encoded))
    except DECODING_ERRORS as error:
        raise BadRecord(_reason(error)) from error


def crop_and_resize(image: Image.Image, box: Box, size: tuple[int, int], num_channels: int) -> Image.Image:
    """Decodes `box` of an opened image and resizes it to `size` (height, width), bilinear and antialiased.

    A JPEG is decoded at the smallest of 1/8, 1/4, 1/2 and 1 at which the box is still no smaller than `size`.

    Args:
      image: from `open_image`; it is used up.
      box: what to keep, in pixels of the original.
      size: height and width of the result.
      num_channels: 1 or 3; images of the other kind are converted.

    Raises:
      BadRecord: the pixels cannot be decoded.
    """
    height, width = size
    full_width, full_height = image.size
    try:
        # draft() picks the smallest scale that gives at least the requested size; other formats ignore it.
        wanted = (math.ceil(full_width * width / box.width), math.ceil(full_height * height / box.height))
        drafted = image.draft(None, wanted)
        # The exact scale: the decoder rounds the size up where the scale does not divide it.
        scale = drafted[1][2] / full_width if drafted else 1.0
        image = _convert(image, num_channels)  # decodes
    except DECODING_ERRORS as error:
        raise BadRecord(_reason(error)) from error
    right, bottom = (box.left + box.width) * scale, (box.top + box.height) * scale
    scaled = (box.left * scale, box.top * scale, min(right, image.width), min(bottom, image.height))
    if scaled == (0, 0, width, height) and image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR, box=scaled)


def to_array(image: Image.Image) -> np.ndarray:
    """uint8 [height, width, 1 or 3]."""
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def _convert(image: Image.Image, num_channels: int) -> Image.Image:
    """To 8-bit grey or RGB."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    return image.convert("L" if num_channels == 1 else "RGB")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
