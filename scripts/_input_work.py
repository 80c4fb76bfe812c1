"""What every peer of `bench_input.py` does, and our own input pipeline doing it."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from input_pipeline.bad_records import BadRecords
from input_pipeline.in_memory import MemoryReader
from input_pipeline.order import EvalOrder, TrainOrder
from input_pipeline.settings import Augmentation
from input_pipeline.sources import FolderSource
from input_pipeline.streamed import StreamReader

# Once over the data: uint8 images [batch, height, width, channels] and labels [batch].
Pass = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class Work:
    """What is done to every image, and how batches are made.

    Attributes:
        image_size: height and width of the result, pixels.
        batch_size: examples.
        num_workers: processes; 0 works in this one.
        num_threads: of ours, in each process.
        crop_area: smallest and largest share of the image's area.
        crop_aspect: smallest and largest width / height.
        flip_rate: share of the images that are mirrored, 1/2 or 0.
        is_shuffled: or in the order of the data.
        mean: per channel, of values in [0, 1]; only for floats.
        std: likewise.
    """

    image_size: int
    batch_size: int
    num_workers: int = 0
    num_threads: int = 1
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_rate: float = 0.5
    is_shuffled: bool = True
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def without_chance(self) -> "Work":
        """The same on whole images in order, so that what comes out can be compared.

        A rectangle as large as the image fits at its own aspect alone: all tries fail, and the whole is taken.
        """
        fixed = {"crop_area": (1.0, 1.0), "crop_aspect": (0.01, 100.0), "flip_rate": 0.0, "is_shuffled": False}
        return dataclasses.replace(self, **fixed)


def streamed(root: Path, work: Work) -> Pass:
    """Our decoding and augmentation of root/train/CLASS/*.jpg."""
    augmentation = Augmentation(
        image_size=work.image_size,
        num_channels=3,
        mean=work.mean,
        std=work.std,
        crop="random_resized",
        crop_padding=0,
        crop_area=work.crop_area,
        crop_aspect=work.crop_aspect,
        flip=work.flip_rate > 0,
        color_jitter=0.0,
        eval_crop_ratio=1.0,
    )
    threads = {"num_workers": work.num_workers, "num_threads": work.num_threads}
    reader = StreamReader(FolderSource(str(root), "train"), augmentation, seed=0, bad=BadRecords(0), **threads)
    return _passes(reader, work)


def in_memory(images: np.ndarray, labels: np.ndarray, work: Work) -> Pass:
    """Our batches of arrays, uint8 [num_examples, height, width, channels] and int32 [num_examples]."""
    return _passes(MemoryReader(images, labels, np.ones(len(labels), np.float32)), work)


def _passes(reader: StreamReader | MemoryReader, work: Work) -> Pass:
    """Epoch after epoch, each in an order of its own; what does not fill a batch is left out."""
    num_steps, epochs = len(reader) // work.batch_size, itertools.count()

    def one_pass() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if work.is_shuffled:
            order = TrainOrder(next(epochs), len(reader), work.batch_size)
        else:
            order = EvalOrder(len(reader), work.batch_size)
        for batch in reader.batches(order, (0, work.batch_size), 0, num_steps):
            yield batch["image"], batch["label"]

    return one_pass
