"""The data of a search in one network: the training images of a recipe, in two halves."""

import dataclasses
from collections.abc import Iterator

import jax
import ml_collections
import numpy as np

import input_pipeline
from configs import cli
from input_pipeline.in_memory import MemoryReader
from input_pipeline.order import EvalOrder, TrainOrder, epoch_permutation
from input_pipeline.sources import open_source


@dataclasses.dataclass
class Half:
    """One of the two halves of the training images.

    Attributes:
      reader: of its images, which are held in memory.
      seed: of the order.
      batch_size: in training and evaluation.
    """

    reader: MemoryReader
    seed: int
    batch_size: int

    def __len__(self) -> int:
        return len(self.reader)

    def train(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches without end, from that of `start_step` on."""
        order = TrainOrder(self.seed, len(self.reader), self.batch_size)
        return self.reader.batches(order, (0, self.batch_size), start_step, None)

    def evaluation(self) -> Iterator[dict[str, np.ndarray]]:
        """Every image once; the last batch is filled up with images of weight 0."""
        order = EvalOrder(len(self.reader), self.batch_size)
        return self.reader.batches(order, (0, self.batch_size), 0, order.num_batches)


class Halves:
    """The training images of a recipe: one half for the weights of the supernet, the other for its architecture.

    Which half an image is in, the seed decides. Both are held in memory, as unaugmented uint8 of one size.

    Attributes:
      info: of the data, whose `num_train` counts both halves.
      weights: one half.
      alphas: the other.
      augment: (images, one key an example) -> float32 images, as the recipe trains.
      plain: (images, None) -> float32 images, as it evaluates.

    Args:
      config: `data` of configs/default.py; its other splits are not touched.
      seed: of the split and of the order in both halves.
      batch_size: of both.

    Raises:
      ValueError: images that do not fit into memory, are cropped at random sizes, or are too few.
    """

    def __init__(self, config: ml_collections.ConfigDict, *, seed: int, batch_size: int):
        config = self._readable(config)
        if seed < 0 or batch_size < 1:
            raise ValueError(
                f"config.seed={seed} must be at least 0, and config.global_batch_size={batch_size} at least 1"
            )
        with input_pipeline.create(
            config, seed=seed, global_batch_size=batch_size, eval_batch_size=batch_size, local_device_count=1
        ) as pipeline:
            parts = [jax.tree.map(lambda leaf: leaf[0], batch) for batch in pipeline.evaluation("val")]
            self.info = pipeline.info
            self.augment, self.plain = (pipeline.preprocess(train=train) for train in (True, False))
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        whole = arrays["weight"] > 0  # neither padding nor a bad record
        arrays = {name: array[whole] for name, array in arrays.items()}
        split_seed, *seeds = map(int, np.random.SeedSequence(seed).generate_state(3))
        order = epoch_permutation(split_seed, 0, int(whole.sum()))
        self.weights, self.alphas = (
            Half(MemoryReader(*(arrays[name][members] for name in ("image", "label", "weight"))), own_seed, batch_size)
            for members, own_seed in zip((order[: len(order) // 2], order[len(order) // 2 :]), seeds, strict=True)
        )
        if len(self.weights) < batch_size:
            raise ValueError(
                f"config.global_batch_size={batch_size} must be at most {len(self.weights)}, half of the "
                "training images; lower it"
            )

    @staticmethod
    def _readable(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
        """A config that reads the training images, all of them once, as evaluation does."""
        if config.crop == "random_resized":
            raise ValueError(
                "config.recipe: data.crop=random_resized keeps no images of one size, which a one-shot search needs; "
                "override it with pad"
            )
        count = len(open_source(config.name, config.dir, config.train_split))
        num_bytes = count * config.image_size**2 * config.num_channels
        if num_bytes > config.memory_limit_bytes:
            raise ValueError(
                f"config.recipe: {count} training images take {num_bytes} bytes of memory, more than "
                f"data.memory_limit_bytes={config.memory_limit_bytes}; override it, data.image_size or data.train_split"
            )
        fields = {"val_split": config.train_split, "test_split": "", "in_memory": "yes"}
        return cli.override(config, fields, "search")
