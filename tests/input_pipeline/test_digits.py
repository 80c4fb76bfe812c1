import sys
import threading

import numpy as np
import pytest
from sklearn.datasets import load_digits

from input_pipeline import digits
from input_pipeline.decode import open_image, to_array
from input_pipeline.sources import open_source


def test_the_split_is_disjoint_whole_and_stratified():
    test = set(digits.TEST_INDICES)
    assert len(digits.TEST_INDICES) == len(test) == 360
    assert test <= set(range(1797))
    target = load_digits().target
    assert len(target) == 1797
    all_counts, test_counts = np.bincount(target), np.bincount(target[sorted(test)])
    assert np.abs(test_counts - 0.2 * all_counts).max() <= 1


def test_counts_are_scaled_to_the_whole_range():
    values = np.arange(17)
    expected = [(value * 255 + 8) // 16 for value in range(17)]  # rounded to the nearest; 8 * 255 / 16 = 127.5
    actual = digits.pixels(values)
    assert actual.dtype == np.uint8
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(("split", "count"), [("train", 1437), ("test", 360)])
def test_the_prepared_files_hold_the_images(digits_dir, split, count):
    source = open_source("digits", digits_dir, split)
    assert len(source) == count and source.num_classes == 10
    assert source.class_names == tuple("0123456789")
    data = load_digits()
    scaled = np.floor(data.images * 255 / 16 + 0.5).astype(np.uint8)
    known = {(image.tobytes(), int(label)) for image, label in zip(scaled, data.target, strict=True)}
    test = set(digits.TEST_INDICES)
    expected = sorted(
        (scaled[i].tobytes(), int(data.target[i])) for i in range(1797) if (i in test) == (split == "test")
    )
    records = [source.read(i) for i in range(count)]
    pairs = sorted((to_array(open_image(encoded)).tobytes(), label) for encoded, label in records)
    assert set(pairs) <= known
    assert pairs == expected


def test_several_processes_may_prepare_at_once(tmp_path):
    # Threads stand for processes: both find nothing, write aside and rename.
    errors = []

    def prepare():
        try:
            digits.prepare(str(tmp_path))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(open_source("digits", str(tmp_path), "train")) == 1437
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_tensorflow_is_not_loaded(digits_dir):
    open_source("digits", digits_dir, "train").read(0)
    assert "tensorflow" not in sys.modules
