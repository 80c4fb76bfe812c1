import gzip
import importlib.util
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.decode import open_image, to_array
from input_pipeline.prepare import prepare, read_idx
from input_pipeline.sources import open_source

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "prepare_data.py"


def run(*args):
    result = subprocess.run([sys.executable, str(SCRIPT), *map(str, args)], capture_output=True, text=True)
    return result.returncode, result.stdout, result.stderr


@pytest.fixture
def idx_dir(tmp_path):
    """Four IDX files as MNIST's: 20 + 6 images, the test files not gzipped."""
    folder = tmp_path / "idx"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 20), ("t10k", 6)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        files = {
            f"{prefix}-images-idx3-ubyte": b"\0\0\x08\x03" + struct.pack(">3I", count, 28, 28) + images.tobytes(),
            f"{prefix}-labels-idx1-ubyte": b"\0\0\x08\x01" + struct.pack(">I", count) + labels.tobytes(),
        }
        for name, content in files.items():
            if prefix == "train":
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return folder


def test_idx_files_become_a_standard_tfds_data_set(idx_dir, tmp_path):
    import tensorflow_datasets as tfds

    root = tmp_path / "tfds"
    status, out, err = run("--name=fashion_mnist", f"--data_dir={root}", f"--idx_dir={idx_dir}")
    assert status == 0 and "is prepared" in out, err
    for split, prefix, count in (("train", "train", 20), ("test", "t10k", 6)):
        images, labels = read_idx(idx_dir, f"{prefix}-images-idx3-ubyte"), np.arange(count) % 10
        expected = sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))
        records = tfds.data_source("fashion_mnist", split=split, data_dir=str(root), download=False)
        assert sorted((record["image"][..., 0].tobytes(), int(record["label"])) for record in records) == expected
        source = open_source("fashion_mnist", str(root), split)
        assert source.class_names[9] == "Ankle boot" and source.fixed_shape(None) == (28, 28)
        own = (source.read(i) for i in range(count))
        assert sorted((to_array(open_image(encoded)).tobytes(), label) for encoded, label in own) == expected
    status, out, _ = run("--name=fashion_mnist", f"--data_dir={root}", f"--idx_dir={idx_dir}")
    assert status == 0 and "was already prepared" in out


def test_digits_are_prepared_from_the_command_line(tmp_path):
    status, out, err = run("--name=digits", f"--data_dir={tmp_path}")
    assert status == 0 and str(tmp_path / "digits/1.0.0") in out, err
    assert len(open_source("digits", str(tmp_path), "test")) == 360


def test_tfrecord_is_rewritten(digits_records, tmp_path):
    folder = tmp_path / "digits/1.0.0"
    digits_records(folder)
    assert prepare("digits", str(tmp_path)) == (folder, False)
    assert prepare("digits", str(tmp_path)) == (folder, True)
    rewritten, original = open_source("digits", str(tmp_path), "test"), digits_records.source
    assert [rewritten.read(i) for i in range(360)] == [original.read(i) for i in range(360)]


@pytest.fixture
def digits_records(tmp_path_factory):
    """Writes digits as TFDS does where TensorFlow is its writer: TFRecord shards."""
    from array_record.python.array_record_module import ArrayRecordReader

    root = tmp_path_factory.mktemp("original")
    prepared, _ = prepare("digits", str(root))

    def write(folder):
        shutil.copytree(prepared, folder)
        for shard in folder.glob("*.array_record-*"):
            reader = ArrayRecordReader(str(shard))
            with open(shard.with_name(shard.name.replace("array_record", "tfrecord")), "wb") as file:
                for record in reader.read_all():
                    file.write(struct.pack("<QI", len(record), 0) + record + struct.pack("<I", 0))
            reader.close()
            shard.unlink()
        info = json.loads((folder / "dataset_info.json").read_text())
        (folder / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))

    write.source = open_source("digits", str(root), "test")
    return write


def test_what_needs_tensorflow_says_so(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None if name == "tensorflow" else real(name))
    with pytest.raises(ImportError, match=r"pip install -e '.\[tfds-prepare\]'") as error:
        prepare("cifar10", str(tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(ImportError, match="--idx_dir"):
        prepare("mnist", str(tmp_path))


def test_errors_are_one_line(idx_dir, tmp_path):
    (idx_dir / "t10k-labels-idx1-ubyte").unlink()
    for args in (
        ("--name=mnist", f"--idx_dir={idx_dir}"),
        ("--name=cifar10", f"--idx_dir={idx_dir}"),
    ):
        status, _, err = run(*args, f"--data_dir={tmp_path / 'tfds'}")
        assert status == 1 and err.count("\n") == 1 and err.startswith("prepare_data: "), err


def test_a_cut_off_idx_file_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 10) + b"123")
    with pytest.raises(ValueError, match="not a whole IDX file"):
        read_idx(str(tmp_path), "x")
