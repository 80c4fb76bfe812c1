import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch.models import create
from arch.ops._lowerings import primitives
from arch.ops.conv import Conv
from scripts import _report, _results, _timing, bench_conv
from scripts.conv_shapes import KINDS, NETWORKS, network, parse, suite

# Published multiply-adds of all convolutions: measured on torchvision, timm and the authors' code, or in the papers.
PUBLISHED_MACS = {
    "shufflenet_v1_g1": 142_502_976,
    "shufflenet_v1_g2": 140_036_512,
    "shufflenet_v1_g3": 136_500_672,
    "shufflenet_v1_g4": 133_251_776,
    "shufflenet_v1_g8": 136_829_952,
    "shufflenet_v2_x0_5": 39_452_448,
    "shufflenet_v2_x1_0": 144_790_296,
    "shufflenet_v2_x1_5": 297_946_656,
    "shufflenet_v2_x2_0": 588_735_000,
    "mobilenet_v1": 567_716_352,
    "mobilenet_v2": 299_494_272,
    "resnet50": 4_087_136_256,
    "resnext50_32x4d": 4_228_431_872,
    "xception": 8_355_355_496,
    # Published with the classifier, which keeps half of 2064 and 2096 inputs.
    "condensenet_g4": 516_640_576 - 1032 * 1000,
    "condensenet_g8": 261_545_792 - 1032 * 1000,
    "drn_a_50": 19_079_364_608 - 2048 * 1000,
    "drn_c_26": 16_971_239_424,
    "drn_d_54": 28_486_832_128,
    "drn_d_22": 13_034_229_760,
}
TINY = "6x4>4k3g4 5x4>6k1 6x4>4k3s2g2"


@pytest.fixture
def tiny_suite(monkeypatch):
    shapes = tuple(parse(word)[0] for word in TINY.split())
    monkeypatch.setattr(bench_conv, "suite", lambda name: shapes)
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # other tests have theirs


def run(*flags):
    return bench_conv.main(["--pairs=2", "--batch=2", *flags])


def test_the_tables_add_up_to_the_published_costs():
    found = {name: sum(shape.macs * count for shape, count in network(name).items()) for name in NETWORKS}
    assert found == PUBLISHED_MACS


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v2", "resnext50_32x4d"])
def test_the_tables_have_the_convolutions_of_the_networks(name):
    model = create(name)
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    found = {}
    for eqn in jax.make_jaxpr(functools.partial(model.apply, train=False))(variables, x).jaxpr.eqns:
        if eqn.primitive.name in primitives.NAMES:
            geometry, (_, out_features) = eqn.params["geometry"], eqn.invars[1].aval.shape[2:]
            key = (geometry.input_size[0], eqn.invars[0].aval.shape[3], out_features, geometry.kernel_size[0])
            key += (geometry.strides[0], geometry.kernel_dilation[0], geometry.groups, geometry.padding[0][0])
            found[key] = found.get(key, 0) + 1
    fields = ("size", "in_features", "features", "taps", "stride", "dilation", "groups", "padding")
    assert found == {tuple(getattr(s, f) for f in fields): count for s, count in network(name).items()}


def test_suites():
    quick, full = suite("quick"), suite("full")
    assert len(quick) == len(set(quick)) == 40 and set(quick) < set(full)
    assert len(full) == len(set(full)) == len({shape.name for shape in full})
    assert {shape.kind for shape in quick} == set(KINDS)
    assert min(sum(shape.kind == kind for shape in quick) for kind in KINDS) >= 6
    every = {parse(word)[0] for table in NETWORKS.values() for word in table.split()}
    assert set(full) == every
    work = bench_conv.select("full", "", (8, 32))
    assert len(work) == len(set(work)) == 2 * len(full)
    assert bench_conv.BATCHES == {"quick": (8,), "full": (8, 32)}


@pytest.mark.parametrize(
    ("word", "kind", "out_size", "kernel", "macs"),
    [
        ("224x3>64k7s2", "dense", 112, (7, 7, 3, 64), 118_013_952),
        ("28x256>256k3d2", "dense", 28, (3, 3, 256, 256), 462_422_016),
        ("299x3>32k3s2p0", "dense", 149, (3, 3, 3, 32), 19_181_664),
        ("56x256>512k1s2", "1x1", 28, (1, 1, 256, 512), 102_760_448),
        ("3*28x240>60k1g3", "grouped 1x1", 28, (1, 1, 80, 60), 3_763_200),
        ("14x512>512k3g32", "grouped KxK", 14, (3, 3, 16, 512), 14_450_688),
        ("56x58>58k3s2g58", "depthwise", 28, (3, 3, 1, 58), 409_248),
    ],
)
def test_a_word_is_a_convolution(word, kind, out_size, kernel, macs):
    shape, count = parse(word)
    assert (shape.kind, shape.out_size, shape.kernel_shape, shape.macs) == (kind, out_size, kernel, macs)
    assert count == (3 if "*" in word else 1) and word.endswith(shape.name) and "*" not in shape.name


def test_a_word_that_is_none_is_one_line():
    with pytest.raises(ValueError, match=r"^parse: '28x58' must be a convolution such as [^\n]*$"):
        parse("28x58")


def test_ratios_and_means():
    ratio = _timing.ratio([2.0, 6.0, 20.0, 8.0, 50.0], [1.0, 2.0, 5.0, 1.0, 10.0])  # 2, 3, 4, 8, 5
    assert (ratio.low, ratio.median, ratio.high) == (3, 4, 5) and str(ratio) == "4 (3-5)"
    once = _timing.ratio([6.0], [1.0, 2.0, 3.0])
    assert once == _timing.Ratio(3.0) and str(once) == "3 (once)"
    assert _timing.Ratio(0.9, 0.8, 0.94).is_slower and not _timing.Ratio(0.9, 0.8, 0.96).is_slower
    assert _timing.geometric_mean([1, 10, 100]) == pytest.approx(10) and math.isnan(_timing.geometric_mean([]))


def test_what_is_timed_is_the_convolution_and_both_gradients():
    shape = parse("5x4>6k1")[0]
    x, kernel, gradient = bench_conv.example(shape, 2)
    expected = (
        np.einsum("bhwi,io->bhwo", x, kernel[0, 0]),
        np.einsum("bhwo,io->bhwi", gradient, kernel[0, 0]),
        np.einsum("bhwi,bhwo->io", x, gradient)[None, None],
    )
    for conv in (Conv, nn.Conv):
        functions = bench_conv._functions(shape, "float32", conv)
        np.testing.assert_allclose(functions["forward"](x, kernel), expected[0], rtol=1e-5, atol=1e-5)
        for got, want in zip(functions["forward_backward"](x, kernel, gradient), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_lowerings_are_named():
    shape = parse("6x4>4k3g4")[0]
    for name in ("reference", "depthwise", "grouped"):
        found = bench_conv.lowerings(shape, 2, "float32", functools.partial(Conv, implementation=name))
        assert found == {"forward": [name], "forward_backward": [name] * 3}


def test_a_run_is_logged_continued_and_printed(tiny_suite, tmp_path, capsys, monkeypatch):
    path = tmp_path / "conv.jsonl"
    assert run("--filter=k3", f"--json={path}", "--peers", "flax") == 0
    out = capsys.readouterr().out
    header, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["dtype"] == "float32" and header["peers"] == ["flax"] and header["versions"]["jax"] == jax.__version__
    assert [(row["shape"], row["batch"], row["class"]) for row in rows] == [
        ("6x4>4k3g4", 2, "depthwise"),
        ("6x4>4k3s2g2", 2, "grouped KxK"),
    ]
    for row in rows:
        for direction in ("forward", "forward_backward"):
            part = row[direction]
            assert set(part["ms"]) == {"ours", "flax"} and set(part["ratio"]) == {"flax"}
            assert 0 < part["ratio"]["flax"]["low"] <= part["ratio"]["flax"]["median"] <= part["ratio"]["flax"]["high"]
        assert _results.conv_line(row) in out
    assert len(re.findall(r"depthwise +forward(?:\+backward)? +flax", out)) == 2

    with path.open("a") as file:
        file.write('{"record": "conv", "sha')  # killed while writing
    real, timed = bench_conv.measure, []
    monkeypatch.setattr(bench_conv, "measure", lambda shape, *args: timed.append(shape.name) or real(shape, *args))
    assert run(f"--json={path}", "--peers", "flax") == 0
    assert timed == ["5x4>6k1"] and _results.read(path)[1:3] == rows and len(_results.read(path)) == 4
    assert run(f"--json={path}", "--peers", "flax") == 0 and len(timed) == 1

    capsys.readouterr()
    assert run(f"--json={path}", "--peers", "flax", "--dtype=bfloat16") == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "differs in dtype" in err and str(path) in err


def test_a_machine_that_is_not_at_rest_is_told(monkeypatch):
    monkeypatch.setattr(_timing.os, "getloadavg", lambda: (1.7, 0.0, 0.0))
    assert "load average 1.7" in _timing.warning() and "\n" not in _timing.warning()
    monkeypatch.setattr(_timing.os, "getloadavg", lambda: (0.2, 3.0, 3.0))
    assert _timing.warning() is None


def test_an_interrupted_run_keeps_what_it_has(tiny_suite, tmp_path, capsys, monkeypatch):
    real, path = bench_conv.measure, tmp_path / "conv.jsonl"

    def interrupted(shape, *args):
        if shape.name == "5x4>6k1":
            raise KeyboardInterrupt
        return real(shape, *args)

    monkeypatch.setattr(bench_conv, "measure", interrupted)
    assert run(f"--json={path}", "--peers", "flax", "--directions", "forward") == 130
    assert len(_results.read(path)) == 2 and "interrupted" in capsys.readouterr().out


def part(median, **fields):
    ratio = {"median": median, "low": median * 0.9, "high": median * 1.02}
    return {"lowerings": ["matmul"], "ms": {"ours": 1.5, "flax": 3.0}, "ratio": {"flax": ratio | fields}}


def test_the_page_has_every_number_and_the_notes(tmp_path):
    header = {"record": "conv_run", "device": "a processor", "threads": 2, "versions": {"jax": "1.2"}}
    header |= {"dtype": "float32", "pairs": 20, "implementation": "auto"}
    rows = [
        {"record": "conv", "shape": name, "class": "1x1", "batch": 8, "forward": part(median)}
        for name, median in (("5x4>6k1", 0.5), ("7x4>6k1", 8.0))
    ]
    rows[1]["forward"] = part(8.0, low=None, high=None)
    source, page = tmp_path / "conv.jsonl", tmp_path / "docs" / "performance.md"
    source.write_text("".join(json.dumps(record) + "\n" for record in (header, *rows)))
    page.parent.mkdir()
    page.with_name("performance_notes.md").write_text("## Why\n\n| as | it is |\n")
    assert bench_conv.main([f"--markdown={page}", f"--json={source}", f"--json={source}"]) == 0
    text = page.read_text()
    assert text.count("| 1x1 | 8 | 2 | 2.00 |") == 2  # the square root of 0.5 * 8
    assert "| `5x4>6k1` | 8 | 1x1 | matmul | 1.5 | 0.5 (0.45-0.51) |" in text
    assert "| `7x4>6k1` | 8 | 1x1 | matmul | 1.5 | 8 (once) |" in text
    assert "- 1x1, batch 8, forward, flax: `5x4>6k1` 0.5 (0.45-0.51)\n" in text
    assert "a processor, 2 threads, jax 1.2, float32, 20 pairs; implementation auto." in text
    assert text.endswith("\n\n## Why\n\n| as | it is |\n") and f"--json={source} --json={source}`" in text


def test_wrong_flags_and_files_are_one_line(tmp_path, capsys):
    broken = tmp_path / "broken.jsonl"
    broken.write_text("not JSON\n")
    for flags, status, said in (
        (["--sweet=quick"], 2, "unrecognized arguments: --sweet=quick"),
        (["--suite=slow"], 2, "--suite"),
        (["--pairs=0"], 2, "must be a whole number from 1 on"),
        (["--json=a", "--json=b"], 2, "--json=b must be the only one"),
        (["--markdown=a.md"], 2, "--json=FILE"),
        (["--filter=nothing"], 1, "--filter=nothing must match"),
        (["--filter=("], 1, "must be a regular expression"),
        ([f"--json={broken}"], 1, "must hold the JSON lines of a benchmark"),
        ([f"--json={tmp_path / 'none'}", "--markdown=a.md"], 1, "No such file"),
    ):
        try:
            found = bench_conv.main(flags)
        except SystemExit as exit_:
            found = exit_.code
        err = capsys.readouterr().err
        assert found == status and err.count("\n") == 1 and err.startswith("bench_conv: ") and said in err, (flags, err)
    assert broken.read_text() == "not JSON\n"


def test_files_of_something_else_make_no_page(tmp_path):
    source = tmp_path / "x.jsonl"
    source.write_text('{"record": "conv"}\n')
    with pytest.raises(ValueError, match="must start with the header of a benchmark"):
        _report.write(str(tmp_path / "x.md"), [str(source)], "bench_conv.py")
