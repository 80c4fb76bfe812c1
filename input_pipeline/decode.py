"""Encoded images to pixels, with Pillow; of a JPEG, no more is decoded than the crop needs."""

import io
import math
import struct

import numpy as np
from PIL import Image

from input_pipeline import jpeg
from input_pipeline.geometry import Box

_WORTH_CUTTING = 0.95  # of a JPEG's rows; to cut it off below them, its header is read again

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

    A JPEG is decoded at the smallest of 1/8, 1/4, 1/2 and 1 at which the box is still no smaller than `size`, and only
    down to the end of the box. Pillow resizes tall images in another order of rows and columns, so that the result may
    differ by 1 from that of the whole file.

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
        right, bottom = (box.left + box.width) * scale, (box.top + box.height) * scale
        if image.format == "JPEG":
            # The filter reaches half a pixel of the result below the box, the decoder's smoothing two pixels further.
            reach = math.ceil(bottom + max(1.0, box.height * scale / height) / 2) + 2
            image = _first_rows(image, math.ceil(reach / scale), full_height, round(1 / scale))
        image = _convert(image, num_channels)  # decodes
    except DECODING_ERRORS as error:
        raise BadRecord(_reason(error)) from error
    scaled = (box.left * scale, box.top * scale, min(right, image.width), min(bottom, image.height))
    if scaled == (0, 0, width, height) and image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR, box=scaled)


def _first_rows(image: Image.Image, num_rows: int, full_height: int, reduction: int) -> Image.Image:
    """A JPEG image that ends below its first rows, or itself where that saves little.

    Args:
      image: from `open_image`, perhaps at a reduced scale.
      num_rows: pixels of the original.
      full_height: likewise.
      reduction: 1, 2, 4 or 8, of the scale.
    """
    if num_rows > _WORTH_CUTTING * full_height:
        return image
    encoded = jpeg.first_rows(image.fp.getvalue(), num_rows)
    if encoded is None:
        return image
    shorter = Image.open(io.BytesIO(encoded), formats=["JPEG"])
    shorter.decodermaxblock = len(encoded)  # the decoder gets it whole, not in pieces that are joined
    shorter.draft(None, (max(1, shorter.width // reduction), max(1, shorter.height // reduction)))
    return shorter


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
    mode = "L" if num_channels == 1 else "RGB"
    if image.mode == mode:
        image.load()  # convert() would copy it
        return image
    return image.convert(mode)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
