"""A folder belongs to one configuration and to one process at a time."""

import json

import pytest

from arch.training import workdir

DEFAULTS = {"seed": 0, "optimizer": {"name": "momentum"}}
CONFIG = {"seed": 0, "data": {"dir": "/a", "mean": (0.5,)}, "optimizer": {"name": "lars"}}


def changed(**fields):
    return CONFIG | fields


def test_a_new_folder_is_made_and_the_same_config_comes_back(tmp_path):
    folder = str(tmp_path / "a" / "b")
    workdir.check(folder, CONFIG, DEFAULTS)
    with workdir.claim(folder, CONFIG):
        pass
    assert json.loads((tmp_path / "a" / "b" / "config.json").read_text())["data"]["mean"] == [0.5]
    workdir.check(folder, CONFIG, DEFAULTS)


def test_another_config_is_refused_field_by_field(tmp_path):
    folder = str(tmp_path / "run")
    with workdir.claim(folder, CONFIG):
        pass
    other = changed(seed=1, optimizer={"name": "momentum"}, extra=2)
    with pytest.raises(ValueError, match="another config") as error:
        workdir.check(folder, other, DEFAULTS)
    for words in (
        "seed is 0 there and 1 here", 'optimizer.name is "lars" there and "momentum" here', "extra is null there and 2",
        f"--workdir={folder}-2",
    ):  # fmt: skip
        assert words in str(error.value)


def test_fields_that_do_not_change_the_result_are_free(tmp_path):
    with workdir.claim(str(tmp_path), CONFIG):
        pass
    workdir.check(str(tmp_path), changed(data={"dir": "/b", "mean": [0.5]}), DEFAULTS)


def test_evaluation_compares_the_network_only(tmp_path):
    with workdir.claim(str(tmp_path), CONFIG):
        pass
    workdir.check(str(tmp_path), changed(seed=1), DEFAULTS, only=("optimizer.",))
    with pytest.raises(ValueError, match=r"optimizer\.name is"):
        workdir.check(str(tmp_path), changed(optimizer={"name": "momentum"}), DEFAULTS, only=("optimizer.",))


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="is no run of this program"):
        workdir.check(str(tmp_path), CONFIG, DEFAULTS)


def test_a_folder_that_was_killed_while_it_was_made_is_ours(tmp_path):
    (tmp_path / "lock").write_text("")
    (tmp_path / "config.json.tmp").write_text("{")
    workdir.check(str(tmp_path), CONFIG, DEFAULTS)


def test_two_at_a_time_are_refused(tmp_path):
    second = pytest.raises(ValueError, match="in use by another process")
    with workdir.claim(str(tmp_path), CONFIG), second, workdir.claim(str(tmp_path), CONFIG):
        pass
    with workdir.claim(str(tmp_path), CONFIG):
        pass


def test_fresh_is_the_first_free_number(tmp_path):
    (tmp_path / "run-2").mkdir()
    assert workdir.fresh(str(tmp_path / "run")) == str(tmp_path / "run-3")


def test_the_identity_is_that_of_what_may_share_a_folder():
    same = changed(data={"dir": "/elsewhere", "mean": [0.5]})
    assert workdir.identity(same, DEFAULTS) == workdir.identity(CONFIG, DEFAULTS)
    others = [changed(seed=1), changed(data={"dir": "/a", "mean": (0.6,)}), changed(extra=None)]
    assert len({workdir.identity(config, DEFAULTS) for config in [CONFIG, *others]}) == 4


def test_a_field_added_since_the_run_began_counts_as_its_default(tmp_path):
    with workdir.claim(str(tmp_path), CONFIG):
        pass
    later = DEFAULTS | {"extra": {"size": 2, "shape": (1,)}}
    workdir.check(str(tmp_path), CONFIG | {"extra": later["extra"]}, later)
    with pytest.raises(ValueError, match=r"extra\.size is 2 there and 3 here"):
        workdir.check(str(tmp_path), CONFIG | {"extra": {"size": 3, "shape": (1,)}}, later)
    assert workdir.identity(CONFIG | {"extra": later["extra"]}, later) == workdir.identity(CONFIG, DEFAULTS)
    assert workdir.identity(CONFIG | {"extra": {"size": 3}}, later) != workdir.identity(CONFIG, DEFAULTS)


def test_a_bucket_is_no_folder():
    with pytest.raises(
        ValueError, match=r"--workdir=gs://bucket/run must be a folder that all hosts see, .* mount the bucket"
    ):
        workdir.check("gs://bucket/run", {}, {})
