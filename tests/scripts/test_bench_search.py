"""scripts/bench_search.py: all arms evaluate the same candidates, and come to the same."""

import pytest

from scripts import _results, bench_search


@pytest.mark.slow
def test_programs_alone_and_together_come_to_what_train_py_comes_to(tmp_path, capsys):
    path = tmp_path / "results.jsonl"
    flags = ["--recipe=smoke", "--cells=1", "--rounds=1", f"--json={path}"]
    assert bench_search.main(flags) == 0, capsys.readouterr().err
    header, *records = _results.read(path)
    assert header["record"] == "search_run" and [record["arm"] for record in records] == list(bench_search.ARMS)
    for record in records:
        assert len(record["accuracies"]) == 2 and record["seconds"] > 0
        assert record["accuracies"] == pytest.approx(records[0]["accuracies"], abs=0.02), record["arm"]
    before = path.read_text()
    assert bench_search.main(flags) == 0 and path.read_text() == before  # goes on from what is there


def test_arms_are_compared_with_the_fastest():
    seconds = {"one": (2.0, 4.0, 3.0), "alone": (9.0, 7.0, 8.0)}
    parts = [{"arm": arm, "seconds": value} for arm, values in seconds.items() for value in values]
    assert bench_search.summary(parts).splitlines() == [
        "one: 3.0 s (2.0 to 4.0), 1.00 times as long as one",
        "alone: 8.0 s (7.0 to 9.0), 2.67 times as long as one",
    ]
