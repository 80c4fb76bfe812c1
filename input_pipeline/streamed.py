"""Data that does not fit in memory: read, decoded and augmented by Grain's threads and worker processes.

The element of the Grain data set is a chunk of a batch, named by its number in the stream alone: a pure function of
(seed, step, positions), so that any number of workers gives the same batches and resuming starts a new range.
"""

import itertools
import signal
from collections.abc import Iterator

import grain
import numpy as np

from input_pipeline import augment_host
from input_pipeline.bad_records import BadRecords
from input_pipeline.decode import BadRecord
from input_pipeline.order import EvalOrder, TrainOrder, augmentation_uniforms
from input_pipeline.settings import Augmentation
from input_pipeline.sources import Source, read_each

_CHUNK = 32  # examples an element; enough that its overhead is small, few enough that a batch uses all threads
_ENDLESS = 2**48  # steps
_MIN_SHARED_BYTES = 2**16


class _LoadChunk:
    """Chunk number -> its part of a batch, plus `bad`: the index of each record that is bad, else -1.

    A plain class, not a closure: it is sent to worker processes.
    """

    def __init__(
        self,
        source: Source,
        augmentation: Augmentation,
        seed: int | None,
        order: TrainOrder | EvalOrder,
        bounds: list[int],
    ):
        self._source, self._augmentation, self._seed = source, augmentation, seed
        self._order, self._bounds = order, bounds

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        step, chunk = divmod(int(number), len(self._bounds) - 1)
        start, stop = self._bounds[chunk], self._bounds[chunk + 1]
        size, count = self._augmentation.image_size, stop - start
        indices = self._order.indices(step, start, stop)
        out = {
            "image": np.empty((count, size, size, self._augmentation.num_channels), np.uint8),
            "label": np.zeros(count, np.int32),
            "weight": np.zeros(count, np.float32),
            "bad": np.full(count, -1, np.int64),
        }
        present = np.flatnonzero(indices >= 0)
        for i, record in zip(present, read_each(self._source, indices[present]), strict=True):
            try:
                if isinstance(record, BadRecord):
                    raise record
                encoded, out["label"][i] = record
                out["image"][i] = self._image(encoded, step, start + int(i))
                out["weight"][i] = 1
            except BadRecord:
                out["bad"][i] = indices[i]
        out["image"][out["weight"] == 0] = 0
        return out

    def _image(self, encoded: bytes, step: int, position: int) -> np.ndarray:
        if self._seed is None:
            return augment_host.eval_image(encoded, self._augmentation)
        uniforms = augmentation_uniforms(self._seed, step, position, augment_host.NUM_UNIFORMS)
        return augment_host.train_image(encoded, self._augmentation, uniforms)


def _ignore_signals(worker_index: int, worker_count: int) -> None:
    """Ctrl-C goes to the whole process group: the main process saves first, and then ends its workers itself."""
    del worker_index, worker_count
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class StreamReader:
    """Batches of a split, decoded as they are needed.

    Args:
      source: the split.
      augmentation: what to do with an image.
      seed: of augmentation; None crops the centre, for evaluation.
      bad: told about the records that cannot be decoded.
      num_workers: processes; 0 works in threads of this one.
      num_threads: of each process.
    """

    augments_on_device = False

    def __init__(
        self,
        source: Source,
        augmentation: Augmentation,
        *,
        seed: int | None,
        bad: BadRecords,
        num_workers: int,
        num_threads: int,
    ):
        self._source, self._augmentation, self._seed, self._bad = source, augmentation, seed, bad
        self._num_workers, self._num_threads = num_workers, num_threads
        self._open: list[grain.DatasetIterator] = []
        self.image_shape = (augmentation.image_size, augmentation.image_size, augmentation.num_channels)

    def __len__(self) -> int:
        return len(self._source)

    def batches(
        self, order: TrainOrder | EvalOrder, block: tuple[int, int], start_step: int, stop_step: int | None
    ) -> Iterator[dict[str, np.ndarray]]:
        """The block (first position, end) of the global batches start_step..stop_step; None has no end."""
        bounds = [*range(block[0], block[1], _CHUNK), block[1]]
        num_chunks = len(bounds) - 1
        stop_step = start_step + _ENDLESS if stop_step is None else stop_step
        numbers = grain.MapDataset.range(start_step * num_chunks, stop_step * num_chunks)
        load = _LoadChunk(self._source, self._augmentation, self._seed, order, bounds)
        # Work for every thread, and two batches ahead over all workers.
        ahead = max(self._num_threads, -(-2 * num_chunks // max(1, self._num_workers)))
        read_options = grain.ReadOptions(self._num_threads, ahead)
        chunks = numbers.map(load).to_iter_dataset(read_options)
        if self._num_workers:
            options = grain.MultiprocessingOptions(self._num_workers, per_worker_buffer_size=2)
            chunks = chunks.mp_prefetch(options, worker_init_fn=_ignore_signals)
            # Images travel through shared memory, labels and weights with the message that names it.
            options = grain.experimental.DatasetOptions(min_shm_size=_MIN_SHARED_BYTES)
            chunks = grain.experimental.WithOptionsIterDataset(chunks, options)
        return self._assemble(chunks, num_chunks)

    def _assemble(self, dataset: grain.IterDataset, num_chunks: int) -> Iterator[dict[str, np.ndarray]]:
        """Joins the chunks of each batch; workers start with the first batch that is asked for."""
        chunks = iter(dataset)
        self._open.append(chunks)
        try:
            while parts := list(itertools.islice(chunks, num_chunks)):
                # asarray: Grain's shared arrays are a subclass that must not leave this place.
                batch = {key: np.concatenate([np.asarray(part[key]) for part in parts]) for key in parts[0]}
                del parts
                for index in np.unique(batch.pop("bad")):
                    if index >= 0:
                        self._note_bad(int(index))
                yield batch
        finally:
            chunks.close()
            if chunks in self._open:
                self._open.remove(chunks)

    def _note_bad(self, index: int) -> None:
        name = self._source.describe(index)
        if name in self._bad.names:
            return
        try:  # once more, for the reason: the worker that met it may be another process
            augment_host.eval_image(self._source.read(index)[0], self._augmentation)
        except BadRecord as error:
            self._bad.add(name, str(error))
        else:
            self._bad.add(name, "could be read only at the second try")

    def close(self) -> None:
        """Ends the worker processes of the iterators that are still open."""
        for chunks in self._open:
            chunks.close()
        self._open.clear()
