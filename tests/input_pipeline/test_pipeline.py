"""The door, and data that is held in memory."""

import logging
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import input_pipeline
from arch.optim.batches import Stage
from input_pipeline import in_memory
from input_pipeline.decode import open_image, to_array
from input_pipeline.sources import open_source

ROOT = Path(__file__).resolve().parents[2]


def create(data, **fields):
    sizes = {"seed": 0, "global_batch_size": 32, "eval_batch_size": 64, "local_device_count": 1}
    return input_pipeline.create(data, **{**sizes, **fields})


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def joined(hosts, key):
    """One value of the global batch, from the batches of all hosts at one step."""
    return np.concatenate([batch[key].reshape(-1, *batch[key].shape[2:]) for batch in hosts])


@pytest.fixture
def digits_config(data_config, digits_dir):
    def make(**fields):
        return data_config(**{"name": "digits", "dir": digits_dir, "image_size": 8, **fields})

    return make


def test_batches_have_the_promised_form(digits_config):
    pipeline = create(digits_config(val_split="train[90%:]", train_split="train[:90%]"), local_device_count=8)
    info = pipeline.info
    assert (info.num_train, info.num_val, info.num_test, info.num_classes) == (1293, 144, 360, 10)
    assert info.image_shape == info.eval_image_shape == (8, 8, 1)
    for batch in (next(pipeline.train(0)), next(pipeline.evaluation("val"))):
        per_device = batch["label"].shape[1]
        assert {key: value.dtype for key, value in batch.items()} == {
            "image": np.uint8,
            "label": np.int32,
            "weight": np.float32,
        }
        assert batch["image"].shape == (8, per_device, 8, 8, 1)
        assert batch["label"].shape == batch["weight"].shape == (8, per_device)


def test_an_epoch_holds_every_example_once(digits_config):
    source = open_source("digits", digits_config().dir, "train")
    records = [source.read(i) for i in range(len(source))]
    expected = sorted((to_array(open_image(encoded)).tobytes(), label) for encoded, label in records)
    batches = create(digits_config(), global_batch_size=479).train(0)  # 1437 = 3 x 479
    for _ in range(2):
        epoch = take(batches, 3)
        images, labels = (np.concatenate([batch[key][0] for batch in epoch]) for key in ("image", "label"))
        assert sorted((x.tobytes(), int(y)) for x, y in zip(images, labels, strict=True)) == expected
        assert all((batch["weight"] == 1).all() for batch in epoch)


def test_the_order_is_the_same_after_a_restart(digits_config):
    whole = take(create(digits_config()).train(0), 60)
    resumed = take(create(digits_config()).train(44), 16)  # an epoch ends within step 44
    for expected, actual in zip(whole[44:], resumed, strict=True):
        for key in expected:
            np.testing.assert_array_equal(actual[key], expected[key])
    other = next(create(digits_config(), seed=1).train(0))
    assert not np.array_equal(other["label"], whole[0]["label"])


@pytest.mark.parametrize("process_count", [2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_hosts(digits_config, process_count):
    single = create(digits_config(), local_device_count=8)
    hosts = [
        create(digits_config(), local_device_count=8 // process_count, process_index=host, process_count=process_count)
        for host in range(process_count)
    ]
    pairs = [(single.train(43), [host.train(43) for host in hosts])]
    pairs.append((single.evaluation("test"), [host.evaluation("test") for host in hosts]))
    for expected, actual in pairs:
        for _ in range(5):
            parts = [next(iterator) for iterator in actual]
            batch = next(expected)
            for key in batch:
                np.testing.assert_array_equal(joined(parts, key), joined([batch], key))


@pytest.mark.parametrize("eval_batch_size", [360, 100, 7, 512])
def test_evaluation_counts_every_example_once(digits_config, eval_batch_size):
    pipeline = create(digits_config(), eval_batch_size=eval_batch_size)
    batches = list(pipeline.evaluation("test"))
    assert len(batches) == -(-360 // eval_batch_size)
    weight = joined(batches, "weight")
    assert weight.sum() == 360 and set(weight) <= {0, 1}
    source = open_source("digits", digits_config().dir, "test")
    np.testing.assert_array_equal(joined(batches, "label")[weight == 1], [source.read(i)[1] for i in range(360)])
    assert not joined(batches, "image")[weight == 0].any()
    assert len(list(pipeline.evaluation("test"))) == len(batches)  # afresh


def test_another_seed_is_another_order_of_the_same_examples(digits_config):
    """That of a pipeline made with the seed; streamed data have their seed in workers."""
    with create(digits_config()) as one, create(digits_config(), seed=5) as other:
        first, reseeded, expected = (next(p.train(3)) for p in (one, one.reseeded(5), other))
    assert all(np.array_equal(reseeded[name], expected[name]) for name in expected)
    assert not np.array_equal(reseeded["image"], first["image"])
    with (
        create(digits_config(in_memory="no")) as streamed,
        pytest.raises(ValueError, match="reseeded: the data are streamed"),
    ):
        streamed.reseeded(5)


def test_a_split_that_is_there_twice_is_decoded_once(digits_config, monkeypatch):
    loaded = []
    load = in_memory.load
    monkeypatch.setattr(in_memory, "load", lambda source, *rest: loaded.append(len(source)) or load(source, *rest))
    splits = {"train_split": "train[:100]", "val_split": "train[:100]", "test_split": "train[100:140]"}
    with create(digits_config(**splits)):
        assert sorted(loaded) == [40, 100]


def test_digits_are_enlarged_and_coloured_at_load(digits_config):
    plain = next(create(digits_config()).train(0))["image"][0]
    fields = {"image_size": 32, "num_channels": 3, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    large = next(create(digits_config(**fields)).train(0))["image"][0]
    assert large.shape == (32, 32, 32, 3)
    assert (large == large[..., :1]).all()
    # Bilinear by 4: the mean of the four pixels in the middle of a cell is the cell.
    centres = large[:, 1::4, 1::4, 0].astype(float) + large[:, 2::4, 2::4, 0]
    centres += large[:, 1::4, 2::4, 0].astype(float) + large[:, 2::4, 1::4, 0]
    inner = plain[:, 1:-1, 1:-1, 0].astype(float)
    assert np.corrcoef(centres[:, 1:-1, 1:-1].ravel(), inner.ravel())[0, 1] > 0.98


def test_random_resized_crops_start_from_the_images_own_pixels(digits_config):
    pipeline = create(digits_config(image_size=24, crop="random_resized"))
    assert pipeline.info.image_shape == (8, 8, 1) and pipeline.info.eval_image_shape == (24, 24, 1)
    batch = next(pipeline.train(0))
    keys = jax.random.split(jax.random.key(0), 32)
    augmented = jax.jit(pipeline.preprocess(True))(batch["image"][0], keys)
    evaluated = jax.jit(pipeline.preprocess(False))(next(pipeline.evaluation("test"))["image"][0], None)
    assert augmented.shape == (32, 24, 24, 1) and evaluated.shape == (64, 24, 24, 1)


def test_bad_records_keep_their_place_with_weight_0(data_config, broken_folder, caplog):
    fields = {"name": "folder", "dir": str(broken_folder), "val_split": "val", "test_split": "", "max_bad_records": 3}
    with caplog.at_level(logging.WARNING):
        pipeline = create(data_config(**fields), global_batch_size=11, eval_batch_size=4)
        batch = next(pipeline.train(0))
        evaluated = list(pipeline.evaluation("val"))
    assert batch["weight"].sum() == 9
    assert not batch["image"][batch["weight"] == 0].any()
    assert joined(evaluated, "weight").tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert len(pipeline.bad_records) == 3
    for name in ("train/cat/0.jpg", "train/dog/1.jpg", "val/dog/2.jpg"):
        assert sum(str(broken_folder / name) in record.getMessage() for record in caplog.records) == 1


def test_too_many_bad_records_stop_the_run(data_config, broken_folder):
    fields = {"name": "folder", "dir": str(broken_folder), "test_split": "", "max_bad_records": 1}
    with pytest.raises(ValueError, match=r"2 > data.max_bad_records=1; .*train/dog/1.jpg") as error:
        create(data_config(**fields))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop": "random_resize"}, "data.crop: unknown name 'random_resize'; did you mean 'random_resized'?"),
        ({"in_memory": "maybe"}, "data.in_memory: unknown name 'maybe'"),
        ({"mean": (0.5, 0.5, 0.5)}, "data.mean has 3 values for data.num_channels=1; give one per channel"),
        ({"std": (0.0,)}, r"data.std=\(0.0,\) must be above 0"),
        ({"num_channels": 2}, r"data.num_channels=2 must be 1 \(grey\) or 3 \(RGB\)"),
        ({"eval_crop_ratio": 1.5}, r"data.eval_crop_ratio=1.5 must be in \(0, 1\]"),
        ({"crop_area": (0.5, 0.1)}, "data.crop_area=.* must rise"),
        ({"train_split": ""}, "data.train_split is empty"),
        ({"test_split": "tset"}, "cannot read split 'tset'; its splits are test, train"),
    ],
)
def test_a_wrong_field_is_one_line(digits_config, fields, message):
    with pytest.raises(ValueError, match=message) as error:
        create(digits_config(**fields))
    assert "\n" not in str(error.value)


def test_indivisible_batches_and_missing_splits_are_one_line(digits_config):
    rule = "global_batch_size=30 must be a positive multiple of the 8 devices; choose a multiple of 8"
    with pytest.raises(ValueError, match=rule):
        create(digits_config(), global_batch_size=30, local_device_count=4, process_count=2)
    with pytest.raises(ValueError, match="eval_batch_size=30"):
        create(digits_config(), eval_batch_size=30, local_device_count=8)
    with pytest.raises(ValueError, match="no split 'val'"):
        create(digits_config()).evaluation("val")
    with pytest.raises(ValueError, match="seed=-1"):
        create(digits_config(), seed=-1)


def test_memory_is_chosen_by_size(digits_config):
    num_bytes = (1437 + 360) * 64
    kept = create(digits_config(memory_limit_bytes=num_bytes, flip=True))
    streamed = create(digits_config(memory_limit_bytes=num_bytes - 1, flip=True))
    images = np.zeros((1, 8, 8, 1), np.uint8)
    with pytest.raises(ValueError, match="keys"):  # the device augments what is in memory
        kept.preprocess(True)(images, None)
    streamed.preprocess(True)(images, None)


def test_importing_loads_no_data_library():
    heavy = "{'grain', 'tensorflow_datasets', 'tensorflow', 'ml_collections'}"
    code = f"import sys, input_pipeline; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_synthetic_images_need_no_files(data_config):
    for kept in ("yes", "no"):
        fields = {"name": "synthetic", "dir": "/nowhere", "image_size": 32, "in_memory": kept}
        with create(data_config(**fields)) as pipeline:
            assert (pipeline.info.num_train, pipeline.info.num_test, pipeline.info.num_classes) == (512, 128, 10)
            assert next(pipeline.train(0))["image"].shape == (1, 32, 32, 32, 1)
            labels = joined(list(pipeline.evaluation("test")), "label")
        np.testing.assert_array_equal(labels, np.arange(128) % 10)


def test_a_second_run_takes_what_the_first_decoded(digits_config, tmp_path, monkeypatch):
    monkeypatch.setattr(in_memory, "WORTH_KEEPING", 0.0)
    fields = {"cache_dir": str(tmp_path / "cache")}
    batches = next(create(digits_config(**fields)).evaluation("test"))
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2, "one of each split"
    monkeypatch.setattr(in_memory, "open_image", None)  # nothing is decoded any more
    again = next(create(digits_config(**fields)).evaluation("test"))
    jax.tree.map(np.testing.assert_array_equal, batches, again)
    monkeypatch.undo()
    monkeypatch.setattr(in_memory, "WORTH_KEEPING", 0.0)
    for change in ({"test_split": "test[:50%]"}, {"num_channels": 3, "mean": (0.5,) * 3, "std": (0.5,) * 3}):
        create(digits_config(**fields, **change))
    assert len(list((tmp_path / "cache").iterdir())) == 5, "another slice, and both splits in colour"


@pytest.mark.parametrize(
    "damage", [lambda file: file[:-100], lambda file: b"", lambda file: file.replace(b"\0", b"\1", 9)]
)
def test_a_damaged_cache_is_decoded_anew(digits_config, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(in_memory, "WORTH_KEEPING", 0.0)
    fields = {"cache_dir": str(tmp_path / "cache")}
    expected = next(create(digits_config(**fields)).evaluation("test"))
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(damage(file.read_bytes()))
    found = next(create(digits_config(**fields)).evaluation("test"))
    jax.tree.map(np.testing.assert_array_equal, expected, found)


def test_where_the_cache_cannot_be_written_the_log_says_so(digits_config, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(in_memory, "WORTH_KEEPING", 0.0)
    (tmp_path / "file").write_text("")
    create(digits_config(cache_dir=str(tmp_path / "file")))
    assert "data.cache_dir" in caplog.text and "not written" in caplog.text


def test_the_stages_cut_one_stream(digits_config):
    """Each example of the stream once, whatever the stages; and from any step on the same batches."""
    pipeline = create(digits_config(), local_device_count=2)
    stages = [Stage(0, 0, 32), Stage(3, 96, 64), Stage(5, 224, 128)]
    grown, plain = pipeline.train(0, stages), pipeline.train(0)
    batches = [next(grown) for _ in range(7)]
    assert [batch["label"].size for batch in batches] == [32, 32, 32, 64, 64, 128, 128]
    stream = np.concatenate([batch["image"].reshape(-1, 8, 8, 1) for batch in batches])
    expected = np.concatenate([next(plain)["image"].reshape(-1, 8, 8, 1) for _ in range(15)])
    np.testing.assert_array_equal(stream, expected)
    for step in (1, 3, 4, 6):
        np.testing.assert_array_equal(next(pipeline.train(step, stages))["image"], batches[step]["image"])
