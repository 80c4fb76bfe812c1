"""Writing data sets to disk in the standard TFDS layout, as ArrayRecord: what scripts/prepare_data.py calls.

Neither the IDX files of the MNIST family nor a rewrite of TFRecord needs TensorFlow; TFDS's own builders do.
"""

import contextlib
import gzip
import importlib.util
import io
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from arch.errors import unknown_name
from input_pipeline.sources import data_dir as resolve_data_dir
from input_pipeline.sources import find_prepared

IDX_NAMES = ("fashion_mnist", "kmnist", "mnist")  # data sets that are published as four IDX files


def prepare(name: str, directory: str, idx_dir: str | None = None, manual_dir: str | None = None) -> tuple[Path, bool]:
    """Prepares a data set unless it is prepared already.

    Args:
      name: digits, or a TFDS name.
      directory: where to write; "" is TFDS's default.
      idx_dir: the folder with the four IDX files, of IDX_NAMES; they may be gzipped.
      manual_dir: the folder of files that the user has to download himself (ImageNet).

    Returns:
      The data set's folder, and whether it was there before.

    Raises:
      ValueError, FileNotFoundError, ImportError: in one line.
    """
    root = resolve_data_dir(directory)
    try:
        folder = Path(find_prepared(name, root))
    except FileNotFoundError:
        return _write(name, root, idx_dir, manual_dir), False
    info = json.loads((folder / "dataset_info.json").read_text())
    if info.get("fileFormat", "tfrecord") != "array_record":
        rewrite_as_array_record(folder)
        return folder, False
    return folder, True


def _write(name: str, root: str, idx_dir: str | None, manual_dir: str | None) -> Path:
    if name == "digits":
        from input_pipeline import digits

        return digits.prepare(root)
    if idx_dir is not None:
        return from_idx(name, root, idx_dir)
    if importlib.util.find_spec("tensorflow") is None:
        remedy = "pip install -e '.[tfds-prepare]'"
        if name in IDX_NAMES:
            remedy += ", or give its four IDX files by --idx_dir"
        raise ImportError(f"prepare_data: TFDS needs TensorFlow to prepare {name} (reading it does not): {remedy}")
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=root, file_format="array_record")
    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    builder.download_and_prepare(download_config=config)
    return Path(builder.data_dir)


@contextlib.contextmanager
def aside(target: Path) -> Iterator[str]:
    """A scratch folder beside `target`, removed at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix=".incomplete-", dir=target.parent)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish(written: str | os.PathLike, target: Path) -> None:
    """Renames a finished folder into place; where another process was first, its folder stays."""
    try:
        os.rename(written, target)
    except OSError:
        if not (target / "dataset_info.json").exists():
            raise


def from_idx(name: str, root: str, idx_dir: str) -> Path:
    """Writes a data set of the MNIST family from its four IDX files, with the features of the stock TFDS builder."""
    if name not in IDX_NAMES:
        raise unknown_name("prepare_data: --idx_dir with --name", name, IDX_NAMES)
    import tensorflow_datasets as tfds

    stock = tfds.builder_cls(name)
    arrays = {split: _read_split(idx_dir, prefix) for split, prefix in (("train", "train"), ("test", "t10k"))}

    class FromIdx(stock, skip_registration=True):
        """The stock builder with its download and its decoding, which need TensorFlow, replaced."""

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
            del dl_manager
            return {split: self._generate_examples(*pair) for split, pair in arrays.items()}

        def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict]]:
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                encoded = io.BytesIO()
                Image.fromarray(image).save(encoded, "png")
                encoded.seek(0)
                yield index, {"image": encoded, "label": int(label)}

    FromIdx.name = name  # of its files
    target = Path(root) / name / str(stock.VERSION)
    with aside(target) as scratch:
        builder = FromIdx(data_dir=scratch, file_format="array_record")
        builder.download_and_prepare()
        publish(builder.data_dir, target)
    return target


def _read_split(idx_dir: str, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 28, 28] and labels uint8 [n]."""
    images, labels = read_idx(idx_dir, f"{prefix}-images-idx3-ubyte"), read_idx(idx_dir, f"{prefix}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        shapes = f"images of shape {images.shape} and labels of shape {labels.shape}"
        raise ValueError(f"prepare_data: {idx_dir} has {prefix} {shapes}; take the four files from one data set")
    return images, labels


def read_idx(idx_dir: str, name: str) -> np.ndarray:
    """An IDX file of unsigned bytes, gzipped or not: magic 0, 0, 8, rank; big-endian sizes; the values."""
    candidates = [Path(idx_dir).expanduser() / (name + suffix) for suffix in (".gz", "")]
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        raise FileNotFoundError(
            f"prepare_data: {candidates[0]} is missing; --idx_dir needs the four original IDX files"
        )
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rank = raw[3] if raw[:3] == b"\x00\x00\x08" else 0
    shape = struct.unpack_from(f">{rank}I", raw, 4) if len(raw) >= 4 + 4 * rank else ()
    values = np.frombuffer(raw, np.uint8, offset=min(len(raw), 4 + 4 * rank))
    if rank == 0 or values.size != np.prod(shape):
        raise ValueError(f"prepare_data: {path} is not a whole IDX file of unsigned bytes; download it again")
    return values.reshape(shape)


def rewrite_as_array_record(folder: Path) -> None:
    """Rewrites the TFRecord shards of a prepared data set beside them; dataset_info.json changes last and at once.

    The records themselves stay as they are; the TFRecord files are left and may be deleted.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    info_path = folder / "dataset_info.json"
    info = json.loads(info_path.read_text())
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        rule = f"is in the format {info['fileFormat']}, and only tfrecord can be rewritten"
        raise ValueError(f"prepare_data: {folder} {rule}; prepare it anew in another --data_dir")
    shards = sorted(folder.glob("*.tfrecord-*-of-*"))
    if not shards:
        raise FileNotFoundError(f"prepare_data: {folder} has no TFRecord shards; prepare it anew in another --data_dir")
    for shard in shards:
        target = shard.with_name(shard.name.replace(".tfrecord-", ".array_record-"))
        partial = target.with_name(f".{target.name}.partial")
        writer = ArrayRecordWriter(str(partial), "group_size:1")
        for record in read_tfrecord(shard):
            writer.write(record)
        writer.close()
        partial.rename(target)
    info["fileFormat"] = "array_record"
    partial = info_path.with_suffix(".partial")
    partial.write_text(json.dumps(info, indent=2))
    partial.rename(info_path)


def read_tfrecord(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file: length uint64, its checksum uint32, the bytes, their checksum (not verified)."""
    with open(path, "rb") as file:
        while header := file.read(12):
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else -1
            record = file.read(max(0, length))
            if len(record) != length or len(file.read(4)) != 4:
                raise ValueError(f"prepare_data: {path} is cut off; copy or prepare it again")
            yield record
