"""Data that is decoded as it is needed."""

import logging
import multiprocessing
import sys

import jax
import numpy as np
import pytest
from absl import flags

import input_pipeline


@pytest.fixture
def folder_config(data_config, image_folder):
    def make(**fields):
        defaults = {
            "name": "folder",
            "dir": str(image_folder),
            "val_split": "val",
            "test_split": "",
            "in_memory": "no",
            "num_channels": 3,
            "mean": (0.4, 0.5, 0.6),
            "std": (0.2, 0.2, 0.2),
            "crop": "random_resized",
            "flip": True,
            "color_jitter": 0.4,
            "num_threads": 2,
        }
        return data_config(**{**defaults, **fields})

    return make


def create(data, **fields):
    sizes = {"seed": 0, "global_batch_size": 8, "eval_batch_size": 4, "local_device_count": 1}
    return input_pipeline.create(data, **{**sizes, **fields})


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_batches_have_the_promised_form_and_repeat(folder_config):
    with create(folder_config(), local_device_count=4) as pipeline:
        first = take(pipeline.train(0), 6)
        again = take(pipeline.train(0), 6)
        resumed = take(pipeline.train(4), 2)
        assert pipeline.info.image_shape == (16, 16, 3)
    assert first[0].keys() == {"image", "label", "weight"}
    assert first[0]["image"].shape == (4, 2, 16, 16, 3) and first[0]["image"].dtype == np.uint8
    assert first[0]["label"].shape == (4, 2) and first[0]["label"].dtype == np.int32
    assert first[0]["weight"].dtype == np.float32 and (first[0]["weight"] == 1).all()
    assert all(type(value) is np.ndarray for value in first[0].values())
    assert_same(again, first)
    assert_same(resumed, first[4:])


def test_an_epoch_holds_every_example_once_and_its_augmentation_is_new(folder_config):
    with create(folder_config(), global_batch_size=11) as pipeline:
        epochs = take(pipeline.train(0), 2)
    for epoch in epochs:
        assert np.bincount(epoch["label"][0]).tolist() == [6, 5]
    means = [np.sort(epoch["image"][0].mean(axis=(1, 2, 3))) for epoch in epochs]
    assert not np.allclose(*means)


@pytest.mark.parametrize("process_count", [2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_hosts(folder_config, process_count):
    with create(folder_config()) as pipeline:
        expected = take(pipeline.train(1), 3), list(pipeline.evaluation("val"))
    parts = []
    for host in range(process_count):
        with create(folder_config(), process_index=host, process_count=process_count) as pipeline:
            parts.append((take(pipeline.train(1), 3), list(pipeline.evaluation("val"))))
    for kind in range(2):
        assert all(len(part[kind]) == len(expected[kind]) for part in parts)
        for step, batch in enumerate(expected[kind]):
            for key in batch:
                joined = np.concatenate([part[kind][step][key][0] for part in parts])
                np.testing.assert_array_equal(joined, batch[key][0])


def test_without_augmentation_memory_and_stream_agree(folder_config):
    plain = {"crop": "none", "flip": False, "color_jitter": 0.0, "eval_crop_ratio": 0.875}
    with create(folder_config(**plain)) as streamed, create(folder_config(**plain, in_memory="yes")) as kept:
        assert_same(take(streamed.train(3), 3), take(kept.train(3), 3))
        assert_same(list(streamed.evaluation("val")), list(kept.evaluation("val")))


def test_batches_of_many_chunks_agree_with_memory(data_config, digits_dir):
    # 150 examples are five chunks, the last of them short.
    fields = {"name": "digits", "dir": digits_dir, "image_size": 8, "num_threads": 4}
    sizes = {"global_batch_size": 150, "eval_batch_size": 150}
    with create(data_config(**fields, in_memory="no"), **sizes) as streamed:
        kept = create(data_config(**fields, in_memory="yes"), **sizes)
        assert_same(take(streamed.train(8), 3), take(kept.train(8), 3))
        assert_same(list(streamed.evaluation("test")), list(kept.evaluation("test")))


def test_the_device_only_normalizes(folder_config):
    with create(folder_config()) as pipeline:
        image = next(pipeline.train(0))["image"][0]
        x = jax.jit(pipeline.preprocess(True))(image, None)
    expected = (image / 255 - np.array([0.4, 0.5, 0.6])) / 0.2
    np.testing.assert_allclose(x, expected, atol=1e-5)


def test_bad_records_keep_their_place_with_weight_0(folder_config, broken_folder, caplog):
    with create(folder_config(max_bad_records=3), global_batch_size=11) as pipeline, caplog.at_level(logging.WARNING):
        epochs = take(pipeline.train(0), 3)
        evaluated = list(pipeline.evaluation("val"))
        assert len(pipeline.bad_records) == 3
    for epoch in epochs:
        assert epoch.keys() == {"image", "label", "weight"}
        assert epoch["weight"].sum() == 9
        assert not epoch["image"][epoch["weight"] == 0].any()
    weights = np.concatenate([batch["weight"][0] for batch in evaluated])
    assert weights.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    for name in ("train/cat/0.jpg", "train/dog/1.jpg", "val/dog/2.jpg"):
        assert sum(str(broken_folder / name) in record.getMessage() for record in caplog.records) == 1


def test_too_many_bad_records_stop_the_run(folder_config, broken_folder):
    pattern = r"bad records 2 > data.max_bad_records=1; .*\.jpg"
    with create(folder_config(max_bad_records=1)) as pipeline, pytest.raises(ValueError, match=pattern) as error:
        take(pipeline.train(0), 3)
    assert "\n" not in str(error.value)


def test_random_crops_of_many_sizes_cannot_be_kept_in_memory(folder_config):
    with pytest.raises(ValueError, match="images of one size"):
        create(folder_config(in_memory="yes"))
    assert create(folder_config(in_memory="auto")).info.image_shape == (16, 16, 3)


@pytest.mark.slow
def test_worker_processes_give_the_same_batches(folder_config, broken_folder):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(sys.argv[:1])
    with create(folder_config(max_bad_records=3)) as pipeline:
        expected = take(pipeline.train(5), 6), list(pipeline.evaluation("val"))
    with create(folder_config(max_bad_records=3, num_workers=2)) as pipeline:
        batches = pipeline.train(5)
        assert_same(take(batches, 6), expected[0])
        assert_same(list(pipeline.evaluation("val")), expected[1])
        assert len(pipeline.bad_records) == 3
    assert not multiprocessing.active_children()
