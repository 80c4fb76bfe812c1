"""The door to the recording scripts: what it refuses. What they record is compared in the tests of each operator."""

import pathlib

import pytest

from scripts import record_goldens

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"


def test_every_golden_has_its_script(capsys):
    assert record_goldens.main([]) == 0
    listed = capsys.readouterr().out.split()
    assert sorted(path.stem for path in GOLDENS.glob("*.npz")) == listed


def test_wrong_names_are_one_line(capsys):
    assert record_goldens.main(["shuflenet_v2"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("record_goldens: unknown name 'shuflenet_v2'; did you mean 'shufflenet_v2'")
    assert error.count("\n") == 1


def test_other_versions_record_nothing(monkeypatch, capsys):
    monkeypatch.setattr(record_goldens.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(record_goldens.importlib.metadata, "version", lambda name: "2.0.0+cpu")
    monkeypatch.setattr(record_goldens.importlib, "import_module", lambda name: pytest.fail("recorded"))
    assert record_goldens.main(["norms"]) == 1
    error = "record_goldens: torch=2.0.0+cpu must be 2.14.1; pip install torch==2.14.1\n"
    assert capsys.readouterr().err == error
