"""Data that fits: every example decoded once, and batches served whole."""

import concurrent.futures
import itertools
import logging
import time
from collections.abc import Iterator

import numpy as np

from input_pipeline import cache
from input_pipeline.bad_records import BadRecords
from input_pipeline.decode import BadRecord, crop_and_resize, open_image, to_array
from input_pipeline.geometry import Box, center_box
from input_pipeline.order import EvalOrder, TrainOrder
from input_pipeline.settings import Augmentation
from input_pipeline.sources import Source, read_each

logger = logging.getLogger(__name__)

_CHUNK = 256  # examples a thread takes at a time
WORTH_KEEPING = 2.0  # seconds; what is decoded faster is not written to the cache


class MemoryReader:
    """A split as arrays; a batch is one gather.

    Args:
      images: uint8 [num_examples, height, width, channels]; black where the record is bad.
      labels: int32 [num_examples].
      weights: float32 [num_examples], 0 where the record is bad.
    """

    augments_on_device = True

    def __init__(self, images: np.ndarray, labels: np.ndarray, weights: np.ndarray):
        self._images, self._labels, self._weights = images, labels, weights
        self.image_shape: tuple[int, int, int] = images.shape[1:]

    def __len__(self) -> int:
        return len(self._labels)

    def batches(
        self, order: TrainOrder | EvalOrder, block: tuple[int, int], start_step: int, stop_step: int | None
    ) -> Iterator[dict[str, np.ndarray]]:
        """The block (first position, end) of the global batches start_step..stop_step; None has no end."""
        steps = itertools.count(start_step) if stop_step is None else range(start_step, stop_step)
        return (self._gather(order.indices(step, *block)) for step in steps)

    def _gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at `indices`, int64 [batch]; -1 gives padding of weight 0."""
        arrays = {"image": self._images, "label": self._labels, "weight": self._weights}
        # Faster than indexing, and -1 takes the first example.
        batch = {key: np.take(array, indices, axis=0, mode="clip") for key, array in arrays.items()}
        padding = indices < 0
        if padding.any():
            for value in batch.values():
                value[padding] = 0
        return batch

    def close(self) -> None:
        """Nothing to end."""


def load(
    source: Source, augmentation: Augmentation, own_size: bool, num_threads: int, bad: BadRecords, cache_dir: str = ""
) -> MemoryReader:
    """Decodes all of a split, or takes it from the cache.

    Args:
      source: the split.
      augmentation: gives image_size, eval_crop_ratio and num_channels.
      own_size: keep the images' own size, which they must share; else resize and crop the centre as evaluation does.
      num_threads: that decode.
      bad: told about the records that cannot be decoded.
      cache_dir: where decoded splits are kept, see cache.py; "" keeps none, and one with bad records is not kept.

    Raises:
      ValueError: more bad records than allowed.
    """
    image_size = augmentation.image_size
    shape = source.fixed_shape(None) if own_size else (image_size, image_size)
    count = len(source)
    weights = np.ones(count, np.float32)
    decoding = {"shape": shape, "num_channels": augmentation.num_channels}
    if not own_size:
        decoding["eval_crop_ratio"] = augmentation.eval_crop_ratio
    kept = cache.path_of(cache_dir, source, decoding)
    if kept is not None and (arrays := cache.read(kept)) is not None:
        return MemoryReader(*arrays, weights)
    images = np.zeros((count, *shape, augmentation.num_channels), np.uint8)
    labels = np.zeros(count, np.int32)

    def decode(index: int, record: tuple[bytes, int] | BadRecord) -> str | None:
        """Why the record is bad, or None."""
        try:
            if isinstance(record, BadRecord):
                raise record
            encoded, labels[index] = record
            image = open_image(encoded)
            if own_size:
                box = Box(0, 0, *image.size)
            else:
                box = center_box(*image.size, image_size, augmentation.eval_crop_ratio)
            images[index] = to_array(crop_and_resize(image, box, shape, augmentation.num_channels))
        except BadRecord as error:
            weights[index] = 0
            return str(error)
        return None

    def decode_chunk(start: int) -> list[str | None]:
        indices = range(start, min(start + _CHUNK, count))
        return [decode(*pair) for pair in zip(indices, read_each(source, indices), strict=True)]

    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(max(1, num_threads)) as pool:
        reasons = itertools.chain.from_iterable(pool.map(decode_chunk, range(0, count, _CHUNK)))
        for index, reason in enumerate(reasons):
            if reason is not None:
                bad.add(source.describe(index), reason)
    seconds = time.monotonic() - started
    logger.info("input_pipeline: decoded %d images into memory in %.1f s", count, seconds)
    if kept is not None and seconds >= WORTH_KEEPING and weights.all():
        cache.write(kept, images, labels)
    return MemoryReader(images, labels, weights)
