import json
import pickle
import shutil

import numpy as np
import pytest

from input_pipeline.decode import BadRecord
from input_pipeline.sources import FolderSource, find_prepared, open_source, read_each


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


def fake_version(root, *parts):
    folder = root.joinpath(*parts)
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    return str(folder)


def test_a_missing_data_set_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        open_source("imagenet2012", str(tmp_path), "train")
    assert f"python scripts/prepare_data.py --name=imagenet2012 --data_dir={tmp_path}" in one_line(error)


def test_the_environment_and_the_home_folder_are_the_default(tmp_path, monkeypatch):
    expected = fake_version(tmp_path, "cifar10", "3.0.2")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    from input_pipeline.sources import data_dir

    assert find_prepared("cifar10", data_dir("")) == expected
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", "/home/someone")
    assert data_dir("") == "/home/someone/tensorflow_datasets"


def test_versions_and_configurations_are_found(tmp_path):
    old, new = fake_version(tmp_path, "set", "3.9.0"), fake_version(tmp_path, "set", "3.10.0")
    assert find_prepared("set", str(tmp_path)) == new
    assert find_prepared("set:3.9.0", str(tmp_path)) == old
    with pytest.raises(FileNotFoundError):
        find_prepared("set:1.0.0", str(tmp_path))
    only = fake_version(tmp_path, "other", "small", "1.0.0")
    assert find_prepared("other", str(tmp_path)) == find_prepared("other/small", str(tmp_path)) == only
    fake_version(tmp_path, "other", "large", "1.0.0")
    with pytest.raises(ValueError, match="other/large, other/small") as error:
        find_prepared("other", str(tmp_path))
    one_line(error)


def test_tfrecord_is_refused_with_the_command(digits_dir, tmp_path):
    shutil.copytree(f"{digits_dir}/digits/1.0.0", tmp_path / "mnist/3.0.1")
    info_path = tmp_path / "mnist/3.0.1/dataset_info.json"
    info = json.loads(info_path.read_text())
    info_path.write_text(json.dumps({**info, "name": "mnist", "fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="only array_record has random access") as error:
        open_source("mnist", str(tmp_path), "train")
    assert f"python scripts/prepare_data.py --name=mnist --data_dir={tmp_path}" in one_line(error)


@pytest.mark.parametrize("split", ["validation", "train[90%:", "train[2000:]", "train+nothing"])
def test_a_bad_split_is_refused(digits_dir, split):
    with pytest.raises(ValueError) as error:
        open_source("digits", digits_dir, split)
    assert "split" in one_line(error)


def test_slices_take_the_data_set_apart(digits_dir):
    first, second = open_source("digits", digits_dir, "train[:90%]"), open_source("digits", digits_dir, "train[90%:]")
    assert len(first) + len(second) == 1437 and len(second) == pytest.approx(143.7, abs=1)
    whole = open_source("digits", digits_dir, "train")
    assert first.read(len(first) - 1) == whole.read(len(first) - 1)
    assert second.read(0) == whole.read(len(first))


def test_a_tfds_source_survives_pickling(digits_dir):
    source = open_source("digits", digits_dir, "test")
    assert pickle.loads(pickle.dumps(source)).read(17) == source.read(17)


def test_a_block_is_what_its_records_are(digits_dir, image_folder):
    indices = np.array([7, 0, 3, 3])
    for source in (
        open_source("digits", digits_dir, "train"),
        open_source("synthetic", "", "train"),
        FolderSource(str(image_folder), "train"),
    ):
        expected = [source.read(int(index)) for index in indices]
        assert source.read_block(indices) == read_each(source, indices) == expected
        assert all(isinstance(encoded, bytes) and type(label) is int for encoded, label in source.read_block(indices))
        assert read_each(source, indices[:0]) == []


def test_a_record_that_cannot_be_read_does_not_take_its_block_along(image_folder):
    source = FolderSource(str(image_folder), "train")
    (image_folder / "train/cat/1.jpg").unlink()
    first, missing, last = read_each(source, [0, 1, 2])
    assert isinstance(missing, BadRecord) and "cat/1.jpg" in str(missing)
    assert [first, last] == [source.read(0), source.read(2)]


def test_folder_classes_are_those_of_train_sorted(image_folder):
    (image_folder / "train/.hidden").mkdir()
    (image_folder / "train/cat/notes.txt").write_text("not an image")
    train, val = FolderSource(str(image_folder), "train"), FolderSource(str(image_folder), "val")
    assert train.class_names == val.class_names == ("cat", "dog")
    assert [train.read(i)[1] for i in range(len(train))] == [0] * 6 + [1] * 5
    assert [val.read(i)[1] for i in range(len(val))] == [0] * 2 + [1] * 3
    assert val.describe(2).endswith("val/dog/0.jpg")
    assert val.read(2)[0] == (image_folder / "val/dog/0.jpg").read_bytes()


def test_fixed_shape_needs_images_of_one_size(image_folder, digits_dir):
    assert FolderSource(str(image_folder), "train").fixed_shape(None) is None
    source = open_source("digits", digits_dir, "train")
    assert source.fixed_shape(None) == (8, 8)
    assert source.fixed_shape(1437 * 64) == (8, 8)
    assert source.fixed_shape(1437 * 64 - 1) is None


def test_folder_errors_are_one_line(image_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder") as error:
        FolderSource("", "train")
    one_line(error)
    with pytest.raises(FileNotFoundError, match="no subfolder train") as error:
        FolderSource(str(tmp_path), "train")
    one_line(error)
    with pytest.raises(ValueError, match="did you mean 'val'") as error:
        FolderSource(str(image_folder), "vall")
    one_line(error)
    (image_folder / "val/horse").mkdir()
    with pytest.raises(ValueError, match="classes that train lacks: horse") as error:
        FolderSource(str(image_folder), "val")
    one_line(error)
    (tmp_path / "empty/train/cat").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="holds no images") as error:
        FolderSource(str(tmp_path / "empty"), "train")
    one_line(error)


def test_other_features_are_refused(tmp_path):
    import tensorflow_datasets as tfds

    class Plain(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"x": np.int64}))

        def _split_generators(self, dl_manager):
            return {"train": iter([(0, {"x": 1})])}

        def _generate_examples(self):
            raise NotImplementedError

    Plain(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    with pytest.raises(ValueError, match="needs the features image") as error:
        open_source("plain", str(tmp_path), "train")
    one_line(error)
