"""Checkpoints: whole or not there, verified, the best kept, broken ones passed over."""

import contextlib
import os

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging as absl_logging
from orbax.checkpoint._src.checkpointers import async_checkpointer

from arch.training.checkpoint import Checkpointer, digest, flatten, is_news, to_devices, to_host, unflatten


def state(seed=0):
    rng = np.random.default_rng(seed)
    params = {"conv": {"kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32)}, "bias": rng.normal(size=4)}
    return {"params": params, "opt": optax.sgd(0.1, momentum=0.9).init(params), "ema": None, "step": np.int32(seed)}


def saved(directory, values, **options):
    """Saves steps 1, 2, ... with these validation accuracies; None was not validated."""
    checkpoints = Checkpointer(directory, **options)
    for step, value in enumerate(values, start=1):
        checkpoints.save(step, state(step), None if value is None else {"val/accuracy": value, "train/loss": 1.0})
    checkpoints.close()


def restore(directory, template, *, best=False, **options):
    with contextlib.closing(Checkpointer(directory, **options)) as checkpoints:
        return checkpoints.restore(template, best=best)


def steps(directory):
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())


def assert_is(found, seed):
    step, restored = found
    assert step == seed
    assert digest(flatten(restored)) == digest(flatten(state(seed)))
    assert restored["ema"] is None
    assert isinstance(restored["opt"][0], optax.TraceState)


def test_round_trip_keeps_structure_dtypes_and_bits(tmp_path):
    saved(tmp_path, [None])
    assert_is(restore(tmp_path, state(0)), 1)


def test_it_is_read_without_knowing_what_it_is_of(tmp_path):
    """The newest, or the best; a broken one is passed over as in `restore`."""
    saved(tmp_path, [0.9, 0.1, 0.2], track_best=True)
    for options, seed in (({}, 3), ({"best": True}, 1)):
        with contextlib.closing(Checkpointer(tmp_path, track_best=True, read_only=True)) as checkpoints:
            step, flat = checkpoints.read(**options)
        assert step == seed and digest(flat) == digest(flatten(state(seed)))
        np.testing.assert_array_equal(flat["params/conv/kernel"], state(seed)["params"]["conv"]["kernel"])
    with contextlib.closing(Checkpointer(tmp_path / "new")) as checkpoints:
        assert checkpoints.read() is None


def test_nothing_to_restore(tmp_path):
    assert restore(tmp_path / "new", state(0)) is None


def test_the_two_newest_and_the_best_are_kept_also_over_a_restart(tmp_path):
    saved(tmp_path, [0.1, 0.9, 0.2, None, 0.3], track_best=True)
    assert steps(tmp_path) == [2, 4, 5]
    checkpoints = Checkpointer(tmp_path, track_best=True)
    for step in (6, 7, 8):
        checkpoints.save(step, state(step), {"val/accuracy": 0.5})
    checkpoints.close()
    assert steps(tmp_path) == [2, 7, 8]
    assert_is(restore(tmp_path, state(0), best=True, track_best=True), 2)
    assert_is(restore(tmp_path, state(0), track_best=True), 8)


def test_without_validation_the_newest_is_the_best(tmp_path):
    saved(tmp_path, [None, None, None])
    assert steps(tmp_path) == [2, 3]
    assert_is(restore(tmp_path, state(0), best=True, track_best=True, read_only=True), 3)


def data_files(directory):
    return [p for p in directory.rglob("*") if p.is_file() and p.parent.name == "d"]


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_bits(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_bits, os.remove])
def test_a_broken_newest_falls_back_and_can_be_saved_again(tmp_path, damage, caplog):
    saved(tmp_path, [None, None])
    for path in data_files(tmp_path / "2"):
        damage(path)
    checkpoints = Checkpointer(tmp_path)
    assert_is(checkpoints.restore(state(0)), 1)
    assert f"checkpoint {tmp_path / '2'} is broken" in caplog.text
    checkpoints.save(2, state(2))
    checkpoints.close()
    assert_is(restore(tmp_path, state(0)), 2)


def test_content_that_is_not_what_was_saved_is_noticed(tmp_path):
    """A checkpoint that reads without complaint, but differs: the digest of another one."""
    saved(tmp_path, [None, None])
    meta = next((tmp_path / "1" / "meta").glob("metadata"))
    (tmp_path / "2" / "meta" / "metadata").write_bytes(meta.read_bytes())
    assert_is(restore(tmp_path, state(0)), 1)


def test_another_network_is_an_error_that_keeps_the_checkpoint(tmp_path):
    saved(tmp_path, [None])
    other = state(0)
    other["params"]["bias"] = np.zeros(5)
    with pytest.raises(ValueError, match=r"1 leaves differ \(params/bias"):
        restore(tmp_path, other)
    assert steps(tmp_path) == [1]


def test_a_step_that_was_saved_before_its_evaluation_can_become_the_best(tmp_path):
    """A stop during an evaluation saves; the resumed run evaluates and saves the same step."""
    saved(tmp_path, [0.5, None], track_best=True)
    checkpoints = Checkpointer(tmp_path, track_best=True)
    checkpoints.save(2, state(2), {"val/accuracy": 0.9})
    checkpoints.save(2, state(2))
    for step in (3, 4, 5):
        checkpoints.save(step, state(step), {"val/accuracy": 0.6})
    checkpoints.close()
    assert_is(restore(tmp_path, state(0), best=True, track_best=True), 2)


def test_all_broken_is_an_error(tmp_path):
    saved(tmp_path, [None, None])
    for path in data_files(tmp_path):
        truncate(path)
    with pytest.raises(ValueError, match="none of the 2 checkpoints"):
        restore(tmp_path, state(0))
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("filtered", [True, False])
def test_a_save_that_fails_in_the_background_is_told_once(tmp_path, monkeypatch, caplog, filtered):
    """By what is raised. Orbax logs it too, with a traceback, which may come after the line of who lost a host."""
    commit = async_checkpointer._background_wait_for_commit_futures

    def fail(*args, **options):
        commit(*args, **options)
        raise OSError("No space left on device")

    monkeypatch.setattr(async_checkpointer, "_background_wait_for_commit_futures", fail)
    log = absl_logging.get_absl_logger()
    log.addHandler(caplog.handler)
    if filtered:
        log.addFilter(is_news)
    try:
        checkpointer = Checkpointer(str(tmp_path))
        checkpointer.save(1, state())
        with pytest.raises(OSError, match="No space left"):
            checkpointer.close()
    finally:
        log.removeFilter(is_news)
        log.removeHandler(caplog.handler)
    # Of absl's only: asyncio logs what an earlier test's broken checkpoint has left, whenever that is collected.
    assert any(record.exc_info for record in caplog.records if record.name == log.name) is not filtered


def test_leftovers_of_a_killed_save_are_removed(tmp_path):
    saved(tmp_path, [None])
    leftover = tmp_path / "2.orbax-checkpoint-tmp-77"
    leftover.mkdir()
    assert_is(restore(tmp_path, state(0)), 1)
    assert not leftover.exists()


def test_reading_only_changes_nothing(tmp_path):
    saved(tmp_path, [None, None])
    for path in data_files(tmp_path / "2"):
        truncate(path)
    (tmp_path / "3.orbax-checkpoint-tmp-77").mkdir()
    assert_is(restore(tmp_path, state(0), read_only=True), 1)
    assert (tmp_path / "2").exists() and (tmp_path / "3.orbax-checkpoint-tmp-77").exists()


def test_flatten_and_back():
    tree = state(3)
    flat = flatten(tree)
    assert "params/conv/kernel" in flat
    assert digest(flatten(unflatten(dict(reversed(flat.items())), tree))) == digest(flat)


def test_digest_sees_bits_dtypes_and_names():
    base = {"a": np.zeros(2, np.float32)}
    others = [{"a": np.array([0.0, -0.0], np.float32)}, {"a": np.zeros(2, np.int32)}, {"b": np.zeros(2, np.float32)}]
    assert len({digest(flat) for flat in [base, *others]}) == 4


def test_to_devices_and_back():
    tree = {"a": jnp.arange(3.0), "b": np.int32(4)}
    there = to_devices(tree)
    assert there["a"].shape[1:] == (3,)
    back = to_host(there)
    np.testing.assert_array_equal(back["a"], [0, 1, 2])
    assert back["b"] == 4 and isinstance(back["a"], np.ndarray)
