"""The door to the data: `create` opens a data set and gives batches for training and evaluation."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from arch.errors import unknown_name
from input_pipeline import augment_device, in_memory
from input_pipeline.bad_records import BadRecords
from input_pipeline.order import EvalOrder, TrainOrder, host_block
from input_pipeline.settings import Augmentation
from input_pipeline.sources import Source, open_source

Batch = dict[str, np.ndarray]
IN_MEMORY = ("auto", "yes", "no")


@dataclasses.dataclass(frozen=True)
class Info:
    """What is known of the data.

    Attributes:
      name: `data.name`.
      num_classes: labels are in [0, num_classes).
      class_names: where the data set has them.
      image_shape: [height, width, channels] of the uint8 images in training batches.
      eval_image_shape: the same, of evaluation batches.
      num_train: examples of the training split, over all hosts.
      num_val: the same; 0 where there is no such split.
      num_test: the same.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...] | None
    image_shape: tuple[int, int, int]
    eval_image_shape: tuple[int, int, int]
    num_train: int
    num_val: int
    num_test: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """How global batches are cut: over hosts, then over the devices of a host.

    Attributes:
      train_batch_size: global.
      eval_batch_size: global.
      local_device_count: the same on all hosts.
      process_index: of this host.
      process_count: hosts.
    """

    train_batch_size: int
    eval_batch_size: int
    local_device_count: int
    process_index: int
    process_count: int

    def __post_init__(self):
        num_devices = self.local_device_count * self.process_count
        for name, size in (("global_batch_size", self.train_batch_size), ("eval_batch_size", self.eval_batch_size)):
            if size < 1 or size % num_devices:
                remedy = f"choose a multiple of {num_devices}"
                raise ValueError(f"{name}={size} must be a positive multiple of the {num_devices} devices; {remedy}")

    def block(self, batch_size: int) -> tuple[int, int]:
        """First position and end of this host in a global batch."""
        return host_block(batch_size, self.process_index, self.process_count)

    def split_devices(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """[host_batch, ...] to [local_devices, per_device, ...]."""
        for batch in batches:
            yield {key: value.reshape(self.local_device_count, -1, *value.shape[1:]) for key, value in batch.items()}


class Reader(Protocol):
    """What serves one split."""

    image_shape: tuple[int, int, int]
    augments_on_device: bool

    def __len__(self) -> int:
        """Examples, over all hosts."""

    def batches(
        self, order: TrainOrder | EvalOrder, block: tuple[int, int], start_step: int, stop_step: int | None
    ) -> Iterator[Batch]:
        """The block (first position, end) of the global batches start_step..stop_step; None has no end."""

    def close(self) -> None:
        """Ends worker processes."""


class Pipeline:
    """Batches of one data set for this host; made by `create`.

    A batch is a dict of arrays: image uint8 [local_devices, per_device, height, width, channels], label int32
    [local_devices, per_device] and weight float32 [local_devices, per_device], which is 0 for padding and for records
    that cannot be decoded. Example i of device d, counted over all hosts, is at position d * per_device + i of the
    global batch.

    Attributes:
      info: an Info.
      bad_records: the records met so far that cannot be decoded; its length counts them.
    """

    def __init__(
        self,
        info: Info,
        readers: dict[str, Reader],
        augmentation: Augmentation,
        layout: Layout,
        seed: int,
        bad: BadRecords,
    ):
        self.info, self.bad_records = info, bad
        self._readers, self._augmentation, self._layout, self._seed = readers, augmentation, layout, seed

    def train(self, start_step: int, stages: Sequence[tuple[int, int, int]] | None = None) -> Iterator[Batch]:
        """Batches without end; the first is that of `start_step`, at once whatever the step.

        Args:
          start_step: 0 or above.
          stages: (first step, examples before it, global batch size) of each batch size, the first at step 0, see
            `arch.optim.batches.Stage`; None keeps to one, that of `create`.
        """
        stages = stages or [(0, 0, self._layout.train_batch_size)]
        ends = [first_step for first_step, _, _ in stages[1:]] + [None]
        for (first_step, first_example, batch_size), end in zip(stages, ends, strict=True):
            if end is None or start_step < end:
                order = TrainOrder(self._seed, self.info.num_train, batch_size, first_step, first_example)
                block, begin = self._layout.block(batch_size), max(start_step, first_step)
                yield from self._layout.split_devices(self._readers["train"].batches(order, block, begin, end))

    def evaluation(self, split: str) -> Iterator[Batch]:
        """Every example of "val" or "test" once; the same number of batches on all hosts."""
        if split not in self._readers or split == "train":
            given = [name for name in ("val", "test") if name in self._readers]
            raise ValueError(f"evaluation: no split {split!r}; data.val_split and data.test_split give {given}")
        order = EvalOrder(len(self._readers[split]), self._layout.eval_batch_size)
        block = self._layout.block(self._layout.eval_batch_size)
        return self._layout.split_devices(self._readers[split].batches(order, block, 0, order.num_batches))

    def preprocess(self, train: bool) -> Callable[[jax.Array, jax.Array | None], jax.Array]:
        """A pure function of uint8 images [batch, height, width, channels] and keys, one PRNG key an example.

        It gives float32 [batch, image_size, image_size, channels], augmented where the host has not done it and
        normalized. Keys may be None where `train` is False.
        """
        on_device = train and self._readers["train"].augments_on_device
        return device_preprocess(self._augmentation, augment=on_device)

    def reseeded(self, seed: int) -> "Pipeline":
        """The same examples in the order of another seed; they are decoded once for both.

        Raises:
          ValueError: data that are streamed, whose workers have a seed.
        """
        if not self._readers["train"].augments_on_device:
            raise ValueError("reseeded: the data are streamed, not in memory; raise data.memory_limit_bytes")
        return Pipeline(self.info, self._readers, self._augmentation, self._layout, seed, self.bad_records)

    def close(self) -> None:
        """Ends worker processes."""
        for reader in self._readers.values():
            reader.close()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def device_preprocess(
    augmentation: Augmentation, *, augment: bool
) -> Callable[[jax.Array, jax.Array | None], jax.Array]:
    """The function of `Pipeline.preprocess`; with `augment`, crop, flip and jitter as configured."""
    mean, std = (np.asarray(value, np.float32) for value in (augmentation.mean, augmentation.std))
    functions = augment_device.augmentations(augmentation) if augment else []

    def augment_one(image: jax.Array, key: jax.Array) -> jax.Array:
        for i, function in enumerate(functions):
            image = function(image, jax.random.fold_in(key, i))
        return image

    def preprocess(images: jax.Array, keys: jax.Array | None) -> jax.Array:
        x = images.astype(jnp.float32) / 255
        if functions:
            if keys is None:
                raise ValueError("preprocess: training images are augmented and need keys; pass one key an example")
            x = jax.vmap(augment_one)(x, keys)
        return (x - mean) / std

    return preprocess


def create(
    config_data: Any,
    *,
    seed: int,
    global_batch_size: int,
    eval_batch_size: int,
    local_device_count: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Pipeline:
    """Opens the data set of `config.data`; digits are prepared on first use.

    Args:
      config_data: `config.data` of configs/default.py.
      seed: of the order and of augmentation on the host, >= 0.
      global_batch_size: examples a step over all hosts and devices.
      eval_batch_size: examples an evaluation step, likewise; 0 takes global_batch_size.
      local_device_count: devices of this host, the same on every host.
      process_index: of this host.
      process_count: hosts.

    Raises:
      FileNotFoundError: the data set is not there; the message names the command that prepares it.
      ValueError: a field is wrong, in one line.
    """
    if seed < 0:
        raise ValueError(f"seed={seed} must not be negative; choose one from 0 up")
    layout = Layout(
        global_batch_size, eval_batch_size or global_batch_size, local_device_count, process_index, process_count
    )
    augmentation = Augmentation.from_config(config_data)
    names = {"train": config_data.train_split, "val": config_data.val_split, "test": config_data.test_split}
    if not names["train"]:
        raise ValueError("data.train_split is empty; name a split, such as train")
    sources = {split: open_source(config_data.name, config_data.dir, split) for split in names.values() if split}
    splits = {key: sources[split] for key, split in names.items() if split}
    bad = BadRecords(config_data.max_bad_records)
    readers = _open_readers(config_data, augmentation, splits, seed, bad)
    info = Info(
        name=config_data.name,
        num_classes=splits["train"].num_classes,
        class_names=splits["train"].class_names,
        image_shape=readers["train"].image_shape,
        eval_image_shape=(augmentation.image_size, augmentation.image_size, augmentation.num_channels),
        **{f"num_{key}": len(splits[key]) if key in splits else 0 for key in names},
    )
    return Pipeline(info, readers, augmentation, layout, seed, bad)


def _open_readers(
    data: Any, augmentation: Augmentation, splits: dict[str, Source], seed: int, bad: BadRecords
) -> dict[str, Reader]:
    """One for every split: all in memory, or all streamed."""
    if _fits_memory(data, augmentation, splits):
        # A random crop is taken from the image itself; every other crop starts from the centred square.
        random_crops = augmentation.crop == "random_resized"

        @functools.cache  # two splits may be the same images
        def load(source: Source, own_size: bool) -> Reader:
            return in_memory.load(source, augmentation, own_size, data.num_threads, bad, data.cache_dir)

        return {key: load(source, key == "train" and random_crops) for key, source in splits.items()}
    from input_pipeline.streamed import StreamReader  # Grain is slow to import

    return {
        key: StreamReader(
            source,
            augmentation,
            seed=seed if key == "train" else None,
            bad=bad,
            num_workers=data.num_workers,
            num_threads=data.num_threads,
        )
        for key, source in splits.items()
    }


def _fits_memory(data: Any, augmentation: Augmentation, splits: dict[str, Source]) -> bool:
    """Whether to hold all splits in memory, by `data.in_memory` and `data.memory_limit_bytes`."""
    if data.in_memory not in IN_MEMORY:
        raise unknown_name("data.in_memory", data.in_memory, IN_MEMORY)
    if data.in_memory == "no":
        return False
    limit = data.memory_limit_bytes if data.in_memory == "auto" else None
    resized = augmentation.image_size**2 * augmentation.num_channels
    num_bytes = resized * sum(len(source) for key, source in splits.items() if key != "train")
    if augmentation.crop != "random_resized":
        num_bytes += resized * len(splits["train"])
    else:
        pixels_limit = None if limit is None else (limit - num_bytes) // augmentation.num_channels
        shape = splits["train"].fixed_shape(pixels_limit)
        if shape is None and limit is None:
            remedy = "--config.data.in_memory=no streams them"
            raise ValueError(f"data.in_memory=yes with crop=random_resized needs images of one size; {remedy}")
        if shape is None:
            return False
    return limit is None or num_bytes <= limit
