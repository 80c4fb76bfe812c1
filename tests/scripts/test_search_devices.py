"""What the trials of a search compute on: asked of a process of its own, and refused where it is not enough."""

import pytest

from configs import cli
from configs.search import default
from scripts import _search_devices
from scripts._search_devices import Devices, check, find


def config(*, evaluator="train", variable="", **fields):
    made = cli.load_recipe("configs/search/fields.py:smoke")
    with made.unlocked():
        made.update(evaluator=evaluator, **fields)
        made.executor_fields = default.fields({"device_variable": variable} if variable else {})
    return made


def test_the_cpu_is_asked_for_here_and_what_may_be_an_accelerator_elsewhere(monkeypatch):
    """Both find the eight devices that these tests simulate; a process that fails says why in one line."""
    assert find() == Devices("cpu", 8)
    monkeypatch.setenv("JAX_PLATFORMS", "")
    assert find() == Devices("cpu", 8)
    monkeypatch.setenv("JAX_PLATFORMS", "no_such_platform")
    with pytest.raises(ValueError, match=r"^asking for devices ended with status 1: .*no_such_platform") as error:
        find()
    assert "\n" not in str(error.value)


def test_the_accelerator_comes_first_in_what_children_are_told(monkeypatch):
    """JAX takes the first; it lists the CPU first."""
    monkeypatch.setattr("jax.extend.backend.backends", lambda: {"cpu": None, "cuda": None})
    monkeypatch.setattr("jax.device_count", lambda: 2)
    said = []
    exec(_search_devices.ASK, {"print": lambda *words: said.extend(words)})
    assert said == ["cuda,cpu", 2]


@pytest.mark.parametrize(
    ("fields", "devices", "words"),
    [
        ({"executor": "processes", "num_parallel": 2}, Devices("tpu,cpu", 4), "num_parallel=2 must be 1 on a TPU"),
        (
            {"executor": "processes", "num_parallel": 3, "variable": "CUDA_VISIBLE_DEVICES"},
            Devices("cuda,cpu", 2),
            "num_parallel=3 must be at most the 2 devices of this machine, of which CUDA_VISIBLE_DEVICES gives each tr",
        ),
        ({}, Devices("cuda,cpu", 3), r"global_batch_size=\d+ of a trial must be a multiple of its 3 devices; set"),
    ],
)
def test_what_devices_cannot_do_is_one_line(fields, devices, words):
    with pytest.raises(ValueError, match=words) as error:
        check(config(**fields), devices, [{}])
    assert "\n" not in str(error.value)


def test_every_value_that_is_searched_can_be_split_over_the_devices():
    four, one = Devices("cuda,cpu", 4), Devices("cuda,cpu", 1)
    good, bad = [{"global_batch_size": 16, "eval_batch_size": 8}], [{"global_batch_size": 16, "num_micro_batches": 8}]
    check(config(), four, good)
    check(config(), one, good + bad)
    with pytest.raises(ValueError, match=r"=16 of a trial must be a multiple of its 4 devices x num_micro_batches=8;"):
        check(config(), four, good + bad)
    with pytest.raises(ValueError, match=r"eval_batch_size=6 of a trial must be a multiple of its 4 devices; set"):
        check(config(), four, [{"eval_batch_size": 6}])
    # Each trial has a device of its own.
    check(config(executor="processes", num_parallel=4, variable="CUDA_VISIBLE_DEVICES"), four, bad)
    check(config(evaluator="one_program"), four, bad)
