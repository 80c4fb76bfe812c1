"""A data configuration to change, and small data sets on disk."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import default


@pytest.fixture
def data_config(tmp_path):
    """make(**fields) -> config.data with these fields changed; grey, 16 pixels, without augmentation."""

    def make(**fields):
        data = default.get_config().data.copy_and_resolve_references()
        data.unlock()
        small = {
            "dir": str(tmp_path),
            "cache_dir": "",
            "image_size": 16,
            "num_channels": 1,
            "mean": (0.5,),
            "std": (0.25,),
        }
        for name, value in {**small, "eval_crop_ratio": 1.0, **fields}.items():
            assert name in data, name
            data[name] = value
        return data

    return make


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """A data directory in which digits are prepared once."""
    from input_pipeline import digits

    root = tmp_path_factory.mktemp("tfds")
    digits.prepare(str(root))
    return str(root)


def _smooth_image(seed: int, width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _encode(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=95)
    return file.getvalue()


@pytest.fixture
def smooth_image():
    """(seed, width, height) -> a colour image without sharp edges, so that JPEG and resizing keep it."""
    return _smooth_image


@pytest.fixture
def encode():
    """(image, "png" or "jpeg") -> the bytes of the file."""
    return _encode


@pytest.fixture
def image_folder(tmp_path):
    """train: 11 images of two classes and of several sizes; val: 5."""
    root = tmp_path / "images"
    for split, counts in (("train", (6, 5)), ("val", (2, 3))):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = _smooth_image(len(split) * 100 + count * 10 + i, 40 + 3 * i, 36 + i)
                (root / split / name / f"{i}.jpg").write_bytes(_encode(image, "jpeg"))
    return root


@pytest.fixture
def broken_folder(image_folder) -> Path:
    """The same with two broken files in train (one cut off, one no image) and one in val."""
    whole = (image_folder / "train/cat/0.jpg").read_bytes()
    (image_folder / "train/cat/0.jpg").write_bytes(whole[: len(whole) // 2])
    (image_folder / "train/dog/1.jpg").write_bytes(b"no image at all")
    (image_folder / "val/dog/2.jpg").write_bytes(b"")
    return image_folder
