"""The benchmark of operators, on a small case and, where torch is not installed, without peers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scripts import _results, bench_ops
from scripts.op_cases import CASES
from scripts.op_cases.case import OpCase, image, to_nchw, to_nhwc

DOUBLE = OpCase("double", "2x4x4x3", lambda random: (image(random, 2, 4, 4, 3),), lambda x: 2 * x, lambda x: x + x)


@pytest.fixture
def one_case(monkeypatch):
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # other tests have theirs
    monkeypatch.setattr(bench_ops, "CASES", (DOUBLE,))
    monkeypatch.setattr(bench_ops._timing, "has_torch", lambda package="torch": False)


def test_cases_have_names_of_their_own():
    assert len({(case.name, case.size) for case in CASES}) == len(CASES) > 20


@pytest.mark.slow
def test_cases_differentiate_inputs_that_they_have():
    for case in CASES:
        assert all(i in range(len(case.make(np.random.default_rng(0)))) for i in case.differentiated), case.name


def test_layouts_are_inverse():
    x = image(np.random.default_rng(0), 2, 3, 4, 5)
    assert to_nchw(x).shape == (2, 5, 3, 4)
    np.testing.assert_array_equal(to_nhwc(to_nchw(x)), x)
    np.testing.assert_array_equal(to_nchw(x[0]), x[0])


def test_a_run_is_logged_continued_and_printed(one_case, tmp_path, capsys, monkeypatch):
    path = tmp_path / "ops.jsonl"
    assert bench_ops.main([f"--json={path}", "--pairs=2"]) == 0
    header, row = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["record"] == "op_run" and (row["op"], row["size"]) == ("double", "2x4x4x3")
    assert row["forward"]["ms"]["ours"] > 0 and row["forward_backward"]["ms"]["ours"] > 0
    assert _results.op_line(row) in capsys.readouterr().out
    monkeypatch.setattr(bench_ops, "measure", lambda *args: pytest.fail("measured again"))
    assert bench_ops.main([f"--json={path}", "--pairs=2"]) == 0
    assert "1 of 1 are in" in capsys.readouterr().out

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_ops, "measure", interrupted)
    assert bench_ops.main([f"--json={tmp_path / 'other.jsonl'}", "--pairs=2"]) == 130


def test_gradients_are_those_of_the_inputs_named(one_case, monkeypatch):
    """What the timed function computes, not how long it takes."""
    called = []
    monkeypatch.setattr(bench_ops.latency, "jax_call", lambda fn, *args: called.append(fn(*args)))
    case = OpCase("product", "", lambda random: (), lambda x, i, y: x * y, None, differentiated=(2,))
    x, y, gradient = (image(np.random.default_rng(seed), 3) for seed in range(3))
    bench_ops.jax_call(case, (x, np.arange(3), y), gradient, "forward_backward", "float32")
    out, to_y = called[0]
    np.testing.assert_allclose(out, x * y, rtol=1e-6)
    np.testing.assert_allclose(to_y, gradient * x, rtol=1e-6)


def test_operators_that_differ_are_refused():
    ours = np.ones((2, 3))
    bench_ops._compare(DOUBLE, ours, ours + 1e-5, "float32")
    with pytest.raises(ValueError, match=r"^double: ours is 9.9e-03 off torch's, over 0.001; .*"):
        bench_ops._compare(DOUBLE, ours, ours + 1e-2, "float32")
    with pytest.raises(ValueError, match=r"^double: shape \(2, 3\) must be torch's \(3, 2\); .*"):
        bench_ops._compare(DOUBLE, ours, ours.T, "float32")
    with pytest.raises(ValueError, match=r"^double: ours is nan off"):
        bench_ops._compare(DOUBLE, ours * np.nan, ours, "float32")


def test_the_page_has_every_number(tmp_path):
    header = {"record": "op_run", "device": "a processor", "threads": 2, "versions": {"jax": "1.2"}}
    header |= {"dtype": "float32", "pairs": 20, "peers": ["torch"]}

    def part(ms, median, low, high):
        return {"ms": {"ours": ms}, "ratio": {"torch": {"median": median, "low": low, "high": high}}}

    rows = [
        {"record": "op", "op": "resize", "size": "8x8", "forward": part(2.0, 1.5, 1.0, 2.0)},
        {"record": "op", "op": "roi_pool", "size": "4x4", "forward": part(1.0, 0.6, None, None)},
    ]
    rows[0]["forward_backward"] = part(4.0, 6.0, 5.0, 7.0)
    source, page = tmp_path / "ops.jsonl", tmp_path / "performance.md"
    source.write_text("".join(json.dumps(record) + "\n" for record in (header, *rows)))
    assert bench_ops.main([f"--markdown={page}", f"--json={source}"]) == 0
    text = page.read_text()
    assert "| resize | 8x8 | 2 | 1.5 (1-2) | 4 | 6 (5-7) |" in text
    assert "| roi_pool | 4x4 | 1 | 0.6 (once) | - | - |" in text
    assert "- forward: at least torch's speed in 1 of 2; geometric mean of the ratios 0.95, least 0.60." in text


def test_wrong_flags_are_one_line(one_case, capsys):
    assert bench_ops.main(["--ops", "duoble"]) == 1
    assert capsys.readouterr().err == "bench_ops: --ops: unknown name 'duoble'; did you mean 'double'?\n"
    with pytest.raises(SystemExit):
        bench_ops.main(["--pairs=0"])
    assert capsys.readouterr().err.count("\n") == 1


def test_jax_inputs_keep_integers():
    floats, integers = bench_ops._jax_inputs((np.ones(2, np.float32), np.arange(2)), "bfloat16")
    assert floats.dtype == jnp.bfloat16 and jnp.issubdtype(integers.dtype, jnp.integer)
