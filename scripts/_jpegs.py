"""A folder of photographs that nobody took, for timing where no data is at hand."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

NUM_CLASSES = 4
SHARED = 0.9  # correlation of two colour channels
CONTRAST = 45  # standard deviation of the grey levels around 128
QUALITY = 90  # at 500x375, with this contrast, 111 kB a file; those of ImageNet have 110


def write_folder(root: Path, count: int, size: tuple[int, int]) -> float:
    """Writes train/CLASS/*.jpg, the same for everyone.

    Every image is noise whose amplitude falls with one over the frequency, as that of photographs does: smooth areas,
    edges and texture.

    Args:
        root: an empty folder.
        count: images, NUM_CLASSES at least.
        size: width and height, pixels; every fourth image is turned by 90 degrees.

    Returns:
        Mean size of a file, bytes.
    """
    num_bytes = 0
    for i in range(count):
        folder = root / "train" / f"class{i % NUM_CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        width, height = size if i // NUM_CLASSES % 4 else size[::-1]
        encoded = _jpeg(np.random.default_rng(i), width, height)
        (folder / f"{i:05d}.jpg").write_bytes(encoded)
        num_bytes += len(encoded)
    return num_bytes / count


def _jpeg(rng: np.random.Generator, width: int, height: int) -> bytes:
    """One image, encoded with the usual halved chroma."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # no mean
    noise = rng.standard_normal((4, height, width), np.float32)
    fields = np.fft.irfft2(np.fft.rfft2(noise) / frequency.astype(np.float32), (height, width))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    pixels = 128 + CONTRAST * (SHARED**0.5 * fields[0] + (1 - SHARED) ** 0.5 * fields[1:])
    file = io.BytesIO()
    image = np.moveaxis(pixels, 0, -1).clip(0, 255).astype(np.uint8)
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
