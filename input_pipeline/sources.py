"""Where the encoded images and their labels come from: prepared TFDS data sets, or a folder of images.

A source is random access, may be read by several threads, and can be sent to another process.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from arch.errors import unknown_name
from input_pipeline.decode import DECODING_ERRORS, BadRecord

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class Source(Protocol):
    """One split."""

    num_classes: int
    class_names: tuple[str, ...] | None

    def __len__(self) -> int:
        """Examples."""

    def read(self, index: int) -> tuple[bytes, int]:
        """The encoded image and its label; raises BadRecord where the record is broken."""

    def read_block(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        """What `read` gives for each, faster where the files can be read so; raises BadRecord where one is broken."""

    def describe(self, index: int) -> str:
        """The record's name for the log."""

    def fixed_shape(self, max_pixels: int | None) -> tuple[int, int] | None:
        """Height and width where all images share them and have no more than `max_pixels` in all."""

    def fingerprint(self) -> str | None:
        """Another one where the content is another; None where only reading it all would tell."""


def read_each(source: Source, indices: Sequence[int]) -> list[tuple[bytes, int] | BadRecord]:
    """What `source.read` gives for each index, or the error that it raises; as a block where no record is broken."""
    try:
        return list(source.read_block(indices))
    except BadRecord:
        return [_read_or_error(source, index) for index in indices]


def _read_or_error(source: Source, index: int) -> tuple[bytes, int] | BadRecord:
    try:
        return source.read(index)
    except BadRecord as error:
        return error


def data_dir(directory: str) -> str:
    """The folder of `data.dir`: itself, or TFDS's default where it is empty."""
    return os.path.expanduser(directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def open_source(name: str, directory: str, split: str) -> Source:
    """The source of one split.

    Args:
      name: digits, folder, synthetic, or a TFDS name such as mnist, my_set/my_config or my_set:1.0.0.
      directory: `data.dir` of the configuration.
      split: a TFDS slice such as "train[:90%]"; of a folder, the name of a subfolder.

    Raises:
      FileNotFoundError: the data set is not there; the message names the command that prepares it.
      ValueError: it is there and cannot be read, or has no such split.
    """
    if name == "folder":
        return FolderSource(directory, split)
    if name == "synthetic":
        from input_pipeline.synthetic import SyntheticSource

        return SyntheticSource(split)
    root = data_dir(directory)
    if name == "digits":
        from input_pipeline import digits

        return TfdsSource(name, str(digits.prepare(root)), split)
    return TfdsSource(name, find_prepared(name, root), split)


def find_prepared(name: str, root: str) -> str:
    """The folder of the newest (or the named) version of a prepared TFDS data set.

    Raises:
      FileNotFoundError: there is none.
      ValueError: the name fits several configurations.
    """
    base, _, version = name.partition(":")
    folder = Path(root) / base
    command = f"python scripts/prepare_data.py --name={name} --data_dir={root}"
    versions = _versions(folder)
    if not versions and folder.is_dir():
        configs = [child for child in sorted(folder.iterdir()) if _versions(child)]
        if len(configs) > 1:
            names = ", ".join(f"{base}/{config.name}" for config in configs)
            raise ValueError(f"data.name={name}: {folder} holds several configurations; choose one of {names}")
        if configs:
            versions = _versions(configs[0])
    if version:
        versions = [path for path in versions if path.name == version]
    if not versions:
        raise FileNotFoundError(f"data.name={name}: not found in data.dir={root}; prepare it: {command}")
    return str(versions[-1])


def _versions(folder: Path) -> list[Path]:
    """Prepared version folders, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    found = [path for path in found if (path / "dataset_info.json").exists()]
    return sorted(found, key=lambda path: tuple(map(int, path.name.split("."))))


class TfdsSource:
    """A split of a prepared TFDS data set with the features `image` and `label`, its images left encoded.

    Args:
      name: of the data set, for messages.
      directory: the version's folder, with dataset_info.json.
      split: a TFDS slice.
    """

    def __init__(self, name: str, directory: str, split: str):
        import tensorflow_datasets as tfds

        self._args = (name, directory, split)
        self._name, self._split = name, split
        builder = tfds.builder_from_directory(directory)
        self._check(builder)
        try:
            self._records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
            self._length = len(self._records)
        except (ValueError, AssertionError) as error:
            known = ", ".join(sorted(builder.info.splits))
            reason = f"data.name={name}: cannot read split {split!r}"
            raise ValueError(f"{reason}; its splits are {known}, and slices of them such as train[:90%]") from error
        if self._length == 0:
            raise ValueError(f"data.name={name}: split {split!r} is empty; choose a larger slice")
        label, shape = builder.info.features["label"], builder.info.features["image"].shape
        self.num_classes: int = label.num_classes
        self.class_names: tuple[str, ...] | None = tuple(label.names) if label.names else None
        self._fixed_shape = (shape[0], shape[1]) if shape[0] and shape[1] else None

    def _check(self, builder) -> None:
        """One line for what could not be read."""
        name, directory, _ = self._args
        file_format = builder.info.file_format
        root = Path(directory).parents[len(name.partition(":")[0].split("/"))]
        if file_format is not None and file_format.value != "array_record":
            command = f"python scripts/prepare_data.py --name={name} --data_dir={root}"
            rule = f"is prepared as {file_format.value}, and only array_record has random access"
            raise ValueError(f"data.name={name}: {directory} {rule}; rewrite it: {command}")
        features = builder.info.features
        missing = [key for key in ("image", "label") if key not in features]
        if missing or not hasattr(features["label"], "num_classes"):
            rule = "needs the features image (Image) and label (ClassLabel)"
            raise ValueError(f"data.name={name}: {rule}, but has {sorted(features)}; choose a classification data set")

    def __reduce__(self):
        return TfdsSource, self._args

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> tuple[bytes, int]:
        """The encoded image and its label; raises BadRecord where the record is broken."""
        return self._read(lambda: [self._records[int(index)]])[0]

    def read_block(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        """The same of several; a fifth of the time for each."""
        return self._read(lambda: self._records.__getitems__([int(index) for index in indices]))

    def _read(self, records: Callable[[], list[dict]]) -> list[tuple[bytes, int]]:
        try:
            return [(record["image"], int(record["label"])) for record in records()]
        except Exception as error:  # array_record and protobuf raise classes of their own
            raise BadRecord(f"{type(error).__name__}: {error}".splitlines()[0]) from error

    def describe(self, index: int) -> str:
        """Data set, split and the index in it."""
        return f"{self._name}, split {self._split}, record {index}"

    def fixed_shape(self, max_pixels: int | None) -> tuple[int, int] | None:
        """Height and width where the data set declares them and has no more than `max_pixels` in all."""
        shape = self._fixed_shape
        return shape if shape and _within(shape, len(self), max_pixels) else None

    def fingerprint(self) -> str | None:
        """The split, and the files of the data set with their sizes and times."""
        _, directory, split = self._args
        files = [(entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in os.scandir(directory)]
        return repr((os.path.realpath(directory), split, sorted(files)))


class FolderSource:
    """`directory/split/CLASS/*.jpg`; the classes, sorted by name, are those of `directory/train`.

    Args:
      directory: `data.dir`.
      split: the name of a subfolder.
    """

    def __init__(self, directory: str, split: str):
        owner = f"data.name=folder: data.dir={directory or '(empty)'}"
        root = Path(directory).expanduser()
        if not directory or not root.is_dir():
            raise FileNotFoundError(f"{owner} is not a folder; give --config.data.dir one with train/CLASS/*.jpg")
        splits = _subfolders(root)
        if "train" not in splits:
            raise FileNotFoundError(f"{owner} has no subfolder train; lay the images out as train/CLASS/*.jpg")
        if split not in splits:
            raise unknown_name(f"{owner}: split", split, splits)
        classes = _subfolders(root / "train")
        extra = sorted(set(_subfolders(root / split)) - set(classes))
        if extra:
            raise ValueError(
                f"{owner}: {split} has classes that train lacks: {', '.join(extra[:5])}; remove or add them"
            )
        self._files: list[str] = []
        self._labels: list[int] = []
        for label, name in enumerate(classes):
            files = _images(root / split / name)
            self._files += files
            self._labels += [label] * len(files)
        if not self._files:
            suffixes = ", ".join(IMAGE_SUFFIXES)
            raise FileNotFoundError(f"{owner}: {split} holds no images; expected {split}/CLASS/* with {suffixes}")
        self.num_classes = len(classes)
        self.class_names: tuple[str, ...] | None = tuple(classes)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> tuple[bytes, int]:
        """The file's bytes and the label of its folder; raises BadRecord where it cannot be read."""
        try:
            return Path(self._files[index]).read_bytes(), self._labels[index]
        except OSError as error:
            raise BadRecord(str(error)) from error

    def read_block(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        """A file after the other."""
        return [self.read(int(index)) for index in indices]

    def describe(self, index: int) -> str:
        """The file."""
        return self._files[index]

    def fixed_shape(self, max_pixels: int | None) -> tuple[int, int] | None:
        """Height and width where all images share them and have no more than `max_pixels` in all.

        Found from the headers of the files, up to the first that differs; broken ones are passed over.
        """
        shape = None
        for path in self._files:
            try:
                with Image.open(path) as image:
                    width, height = image.size
            except DECODING_ERRORS:
                continue
            if shape not in (None, (height, width)) or not _within((height, width), len(self), max_pixels):
                return None
            shape = (height, width)
        return shape

    def fingerprint(self) -> str | None:
        """None: the files are too many to look at."""
        return None


def _within(shape: tuple[int, int], count: int, max_pixels: int | None) -> bool:
    return max_pixels is None or shape[0] * shape[1] * count <= max_pixels


def _subfolders(folder: Path) -> list[str]:
    """Sorted names, hidden ones left out."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[str]:
    """Sorted paths of the images right under `folder`."""
    if not folder.is_dir():
        return []
    return sorted(entry.path for entry in os.scandir(folder) if entry.name.lower().endswith(IMAGE_SUFFIXES))
