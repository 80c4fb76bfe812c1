"""Images that are made, not read: for smoke tests and for timing where no data is at hand."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from arch.errors import unknown_name

SPLIT_SIZES = {"train": 512, "val": 128, "test": 128}


class SyntheticSource:
    """32x32 RGB images of ten classes: noise around a grey level of the class. The same for everyone.

    Args:
      split: train (512 images), val or test (128 each).
    """

    num_classes = 10
    class_names = None

    def __init__(self, split: str):
        if split not in SPLIT_SIZES:
            raise unknown_name("data.name=synthetic: split", split, SPLIT_SIZES)
        self._split = split

    def __len__(self) -> int:
        return SPLIT_SIZES[self._split]

    def read(self, index: int) -> tuple[bytes, int]:
        """A PNG and its label."""
        label = index % self.num_classes
        rng = np.random.default_rng([list(SPLIT_SIZES).index(self._split), index])
        pixels = rng.normal(25 * label + 16, 20, (32, 32, 3)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue(), label

    def read_block(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        """One after the other."""
        return [self.read(int(index)) for index in indices]

    def describe(self, index: int) -> str:
        """The split and the index in it."""
        return f"synthetic, split {self._split}, record {index}"

    def fixed_shape(self, max_pixels: int | None) -> tuple[int, int] | None:
        """(32, 32), unless they are more than `max_pixels` in all."""
        return (32, 32) if max_pixels is None or 32 * 32 * len(self) <= max_pixels else None

    def fingerprint(self) -> str | None:
        """None: it is made faster than read."""
        return None
