"""What trials and runs compute on: asked of a process of its own, and refused where it is not enough."""

import os

import pytest

from scripts import _devices
from scripts._devices import Devices, check_shares, find, promise


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
    exec(_devices.ASK, {"print": lambda *words: said.extend(words)})
    assert said == ["cuda,cpu", 2]


@pytest.mark.parametrize(
    ("count", "variable", "devices", "words"),
    [
        (2, "", Devices("tpu,cpu", 4), "--parallel=2 must be 1 on a TPU, which one process takes whole; set it to 1"),
        (
            3,
            "CUDA_VISIBLE_DEVICES",
            Devices("cuda,cpu", 2),
            "--parallel=3 must be at most the 2 devices of this machine, of which CUDA_VISIBLE_DEVICES gives each proc",
        ),
    ],
)
def test_more_processes_than_devices_are_one_line(count, variable, devices, words):
    with pytest.raises(ValueError, match=words) as error:
        check_shares("--parallel", count, variable, devices)
    assert "\n" not in str(error.value)
    check_shares("--parallel", count - 1, variable, devices)
    check_shares("--parallel", count, "", Devices("cuda,cpu", 1))  # share its memory


def test_children_are_told_what_was_found(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    promise(Devices("cuda,cpu", 2))
    assert os.environ["JAX_PLATFORMS"] == "cuda,cpu"
