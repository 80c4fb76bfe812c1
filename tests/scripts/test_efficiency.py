"""The laboratory on small works: results, resumption, the page with its figures, agreement of runs, flags."""

import functools
import json

import jax
import jax.numpy as jnp
import pytest

from arch.efficiency import tables
from arch.efficiency.breakdown import KINDS
from arch.efficiency.complexity import abstract_variables, count
from arch.efficiency.operators import operators
from arch.efficiency.roofline import measure_peaks
from arch.models import MODELS, create
from scripts import _results, efficiency
from scripts.efficiency_studies import agreement, networks, parts, peers, prediction, structure, study
from scripts.efficiency_studies.study import Settings, Work

TIMING = {"ms": 2.0, "low_ms": 1.9, "high_ms": 2.1, "relative": 4.0, "is_noisy": False}


def column(measured, platform="cpu"):
    """A column of table 2, with these speeds."""
    published = [row[3] for row in tables.PUBLISHED["g2"][56].values()]
    rows = {
        name: {"published": p, "measured": m, "macs": 10**6, "deviation": 0.01, **TIMING}
        for name, p, m in zip(tables.GROUP_WIDTHS["cpu"], published, measured, strict=True)
    }
    return {"platform": platform, "size": 56, "channels": 64, "batch": 1, "rows": rows}


@pytest.fixture
def small(monkeypatch):
    """Two cells of one study; what was measured."""
    measured = []

    def works(settings):
        def measure(cell):
            measured.append(cell)
            return column([4.0, 3.0, 2.0, 1.0])

        return [Work("g2", cell, lambda cell=cell: measure(cell)) for cell in ("a", "b")]

    monkeypatch.setattr(efficiency, "STUDIES", {"g2": efficiency.Study(works, structure.lines)})
    return measured


def test_results_are_kept_and_not_measured_again(small, tmp_path, capsys):
    path = tmp_path / "results.jsonl"
    assert efficiency.main(["g2", f"--json={path}", "--filter=^a"]) == 0 and small == ["a"]
    assert efficiency.main(["all", f"--json={path}"]) == 0 and small == ["a", "b"]
    header, *records = _results.read(path)
    assert header["record"] == "efficiency_run" and header["versions"]["jax"] == jax.__version__
    assert [record["cell"] for record in records] == ["a", "b"]
    out = capsys.readouterr().out
    assert "1 of 2 are in" in out and "G2, widths of the CPU: Rank correlation 1.00 over 2 columns" in out
    assert efficiency.main(["g2", f"--json={path}", "--rounds=3"]) == 1
    assert "differs in pairs" in capsys.readouterr().err


def test_a_run_stops_in_time_and_when_it_is_interrupted(small, tmp_path, capsys, monkeypatch):
    clock = iter(range(0, 10**6, 90))
    monkeypatch.setattr(efficiency.time, "perf_counter", lambda: float(next(clock)))
    assert efficiency.main(["g2", f"--json={tmp_path / 'one.jsonl'}", "--minutes=2"]) == 0
    assert small == ["a"] and "2 minutes are over; 1 are left" in capsys.readouterr().out

    def interrupted(part):
        raise KeyboardInterrupt

    study = efficiency.STUDIES["g2"]._replace(lines=interrupted)
    monkeypatch.setattr(efficiency, "STUDIES", {"g2": study})
    assert efficiency.main(["g2", f"--json={tmp_path / 'two.jsonl'}"]) == 130
    assert len(_results.read(tmp_path / "two.jsonl")) == 2


def test_a_cell_that_fails_is_told_and_tried_again(monkeypatch, tmp_path, capsys):
    broken = {"a"}

    def works(settings):
        def measure(cell):
            if cell in broken:
                raise RuntimeError("no\ncompiler")
            return column([4.0, 3.0, 2.0, 1.0])

        return [Work("g2", cell, lambda cell=cell: measure(cell)) for cell in ("a", "b")]

    monkeypatch.setattr(efficiency, "STUDIES", {"g2": efficiency.Study(works, structure.lines)})
    path = tmp_path / "results.jsonl"
    assert efficiency.main(["g2", f"--json={path}"]) == 1
    assert capsys.readouterr().err == "efficiency: g2 a failed: RuntimeError: no compiler\n"
    assert [record["cell"] for record in _results.read(path)[1:]] == ["b"]
    broken.clear()
    assert efficiency.main(["g2", f"--json={path}"]) == 0
    assert [record["cell"] for record in _results.read(path)[1:]] == ["b", "a"]


@pytest.mark.parametrize("name", ["mobilenet_v2", "stn_classifier", "condensenet_74", "gunn_18"])
def test_values_to_be_timed_with_have_the_shapes_of_initial_ones(name, monkeypatch):
    """And no other programs are compiled for them than where the values matter."""
    model, x = create(name, num_classes=10), jnp.zeros((1, 32, 32, 3))
    compiled = []
    monkeypatch.setattr(jax, "jit", lambda init: compiled.append(name) or functools.partial(jax.eval_shape, init))
    found = study.timing_variables(functools.partial(model.init, train=False), x)
    expected = abstract_variables(model, x, train=False)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), found) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), expected
    )
    assert compiled == ([name] if name in ("stn_classifier", "condensenet_74") else [])


def test_the_sentence_names_what_the_device_disagrees_on():
    assert "orders them as published" in structure.sentence([column([4.0, 3.0, 2.0, 1.0])])
    told = structure.sentence([column([4.0, 8.0, 2.0, 1.0]), column([4.0, 6.0, 2.0, 1.0])])
    assert told == (
        "Rank correlation 0.80 over 2 columns, least 0.80. This device disagrees with what is published: g=2 is faster "
        "than g=1 in 2 of 2 columns (by up to 2.00x)."
    )
    noisy = column([4.0, 8.0, 2.0, 1.0])
    noisy["rows"]["g=2"] |= {"is_noisy": True}
    told = structure.sentence([noisy])
    assert "1 cells are too noisy to quote" in told and "orders them as published" in told
    for row in noisy["rows"].values():
        row["is_noisy"] = True
    assert structure.sentence([noisy]).startswith("Nothing can be said of the 1 columns; 4 cells are too noisy")


def records():
    """A record of every study."""
    model = {"batch": 1, "image_size": 224, "folded": True, "macs": 146 * 10**6, "images_per_s": 500.0, **TIMING}
    model |= {"compile_s": 3.0, "peak_bytes": 2**24, "source": "", "level": 140, "dtype": "float32"}
    whole = {"rows": {"whole": TIMING}}
    layer = {"layer": "conv", "kind": "conv 1x1", "macs": 10**6, "bytes": 10**5, "ms": 0.2, "limit_ms": 0.1}
    ratio = {"median": 1.5, "low": 1.4, "high": 1.6}
    members = {
        "g2": [column([4.0, 8.0, 2.0, 1.0])],
        "breakdown": [{"folded": True, "total_ms": 5.0, "shares": {kind: 1 / len(KINDS) for kind in KINDS},
                       **whole}],
        "roofline": [{"model": "net", "macs_per_s": 1e11, "bytes_per_s": 1e10,
                      "layers": [layer | {"bound": "memory", "reached": 0.5}], "untimed": 0, **whole}],
        "peers": [{"model": "resnet50", "batch": 1, "ms": {"ours": 2.0, "torch": 3.0, "torch_compile": 1.8},
                   "ratio": {"torch": ratio, "torch_compile": {"median": 0.9, "low": 0.8, "high": 0.95}},
                   "compile_s": {"ours": 2.0}, "rows": {"ours": TIMING}}],
        "predict": [{"space": "nets", "operators": 9, "error": 0.05, "scale": 1.1, "unscaled_error": 0.12,
                     "pairs_ms": [[1.0, 1.1], [2.0, 1.9]]}],
        "models": [model | {"family": family, "top1": top1, "published_cpu": speed, "images_per_s": images}
                   for family, top1, speed, images in (("A", 0.7, 8.0, 500.0), ("B", None, 9.0, 400.0))]
        + [model | {"family": "resnet18", "level": None, "top1": 0.69758, "is_noisy": True, "source": "a paper"}],
    }  # fmt: skip
    return [
        {"record": "cell", "study": name, "cell": f"{name} {number}", **part}
        for name, parts_ in members.items()
        for number, part in enumerate(parts_)
    ]


HEADER = {"record": "efficiency_run", "device": "a processor", "platform": "cpu", "threads": 2, "pairs": 10}
HEADER |= {"versions": {"jax": "1.2"}, "dtype": "float32"}


def write(path, header, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in (header, *records)))
    return path


def test_the_page_has_every_number_and_its_figures(tmp_path):
    source, page = write(tmp_path / "r.jsonl", HEADER, records()), tmp_path / "docs" / "efficiency.md"
    assert efficiency.main(["page", f"--json={source}", f"--output={page}"]) == 0
    text = page.read_text()
    assert "a processor, 2 threads, jax 1.2, float32, 10 rounds" in text
    assert "| g=2 | 35, 8 |" in text and "| *rank correlation* | 0.80 |" in text and "by at most 1.0%" in text
    assert "g=2 is faster than g=1 in 1 of 1 columns (by up to 2.00x)" in text
    assert "| conv 1x1 | 1 | 0.2 | 0.1 | memory | 50% |" in text and "100 GMACs/s, 10 GB/s" in text
    assert "| resnet50 | 1 | 2 | 1.5 (1.4-1.6) | 0.9 (0.8-0.95) | torch_compile, 0.9 | ours 2 s |" in text
    assert "in 0 of 1 cells; slower in resnet50 at batch 1 0.9 (0.8-0.95) of torch_compile. It is at least as" in text
    assert " fast as torch in 1, torch_compile in 0 of them." in text
    assert (
        "reached in 1 of 1 spaces" in text
        and "The speeds of 2 networks of these sizes rank as on the authors' CPU" in text
    )
    assert "correlation of -1.00" in text and "a paper: resnet18" in text and "Whether it repeats" not in text
    assert "| nets | 9 | 2 | 5.0% | 1.10 | 12.0% |" in text
    assert (
        "| A 140M | float32 | 1 | yes | 146.0 | 0.700 | 2 | 500 | 3 | 16 |" in text and "| resnet18 | float32 |" in text
    )
    assert "2 **noisy**" in text
    drawn = {path.name for path in page.parent.glob("*.png")}
    assert drawn == {f"efficiency_{study}.png" for study in ("breakdown", "roofline", "predict", "models")}
    assert all(f"]({name})" in text for name in drawn)


def test_agreement_is_told_after_normalising(tmp_path):
    """On a machine half as fast one row takes 1.25 times as long as its reference says; another is too noisy."""

    def run(name, slower, is_noisy):
        part = column([4.0, 3.0, 2.0, 1.0])
        for timing in part["rows"].values():
            timing["ms"] *= slower
        if slower > 1:
            part["rows"]["g=2"] |= {"ms": 2.0 * slower * 1.25, "relative": 5.0}
        part["rows"]["g=4"] |= {"is_noisy": is_noisy}
        return str(write(tmp_path / name, HEADER, [{"record": "cell", "study": "g2", "cell": "x", **part}]))

    first, second = run("a.jsonl", 1.0, False), run("b.jsonl", 2.0, True)
    text, is_met = agreement.report(first, second)
    told = text.splitlines()
    assert told[0].startswith("4 cells in common; 1 are too noisy to quote") and not is_met
    assert "of the other 3, 2 agree within 10% (66.7%): fewer than the 90%" in told[0]
    assert told[1:] == ["  g2 x g=2: 1.25 times as long"]
    assert efficiency.main(["agree", f"--json={first}", f"--json={second}"]) == 1
    assert efficiency.main(["agree", f"--json={first}", f"--json={first}"]) == 0
    page = tmp_path / "page.md"
    assert efficiency.main(["page", f"--json={first}", f"--json={second}", f"--output={page}"]) == 0
    assert "## Whether it repeats" in page.read_text() and "- g2 x g=2: 1.25 times as long" in page.read_text()
    other = write(tmp_path / "c.jsonl", {**HEADER, "device": "another"}, [])
    with pytest.raises(ValueError, match=r"^agree: [^\n]*must be of a processor[^\n]*$"):
        agreement.report(run("a.jsonl", 1.0, False), str(other))


def test_works_have_names_of_their_own(monkeypatch):
    monkeypatch.setattr(peers._timing, "has_torch", lambda package="torch": True)
    for is_full in (False, True):
        settings = Settings(rounds=2, is_full=is_full)
        works = [work for study in efficiency.STUDIES.values() for work in study.works(settings)]
        assert len({(work.study, work.cell) for work in works}) == len(works)
    named = {name for name, _ in networks.LEVELS.values()}
    assert set(networks.OTHERS) | named <= set(MODELS) and len(set(networks.OTHERS)) == len(networks.OTHERS)
    # In full, every network is measured.
    cells = {work.cell for work in networks.works(Settings(rounds=2, is_full=True))}
    assert all(f"{name} batch 1 folded" in cells for name in set(MODELS) - named)


@pytest.mark.parametrize("family,level", networks.PUBLISHED)
def test_networks_have_the_published_multiply_adds(family, level):
    """Within 5%: the paper rounds; Xception is scaled, and so are the small MobileNets, whose channels differ."""
    name, fields = networks.LEVELS.get((family, level), (None, {}))
    model = create("xception", **networks.xception_fields(level)) if family == "Xception" else create(name, **fields)
    assert count(model, train=False).macs == pytest.approx(1e6 * networks.PUBLISHED[family, level][0], rel=0.05)


@pytest.mark.slow
def test_a_space_is_covered_by_the_networks_that_its_table_is_from():
    """By tracing: whatever is drawn has no other operators."""
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    for space in prediction.SPACES.values():
        covering, drawn = space()

        def keys(model):
            apply = functools.partial(model.apply, train=False)
            return {operator.key for operator in operators(apply, abstract_variables(model, x, train=False), x)}

        known = set().union(*map(keys, covering))
        for _ in range(2):
            assert keys(next(drawn)) <= known


@pytest.fixture
def small_networks(monkeypatch):
    """Every network at 32 pixels, and rates from small arrays."""
    real = study.network
    small = functools.partial(measure_peaks, matrix_sizes=(128,), copy_bytes=2**20)
    for module in (parts, prediction):
        monkeypatch.setattr(module, "network", lambda *args, **fields: real(*args, **{**fields, "image_size": 32}))
    monkeypatch.setattr(parts, "measure_peaks", small)
    monkeypatch.setattr(prediction, "NUM_NETWORKS", {False: 2})
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # other tests have theirs


@pytest.mark.slow
def test_every_study_measures(small_networks):
    """A cell of each, in two rounds."""
    settings = Settings(rounds=2)
    part = structure.works("g3", settings)[-1].measure()
    assert len(part["rows"]) == 5 and all(row["measured"] > 0 and row["relative"] > 0 for row in part["rows"].values())
    assert structure.lines(part)
    part = networks._measure_other("shiftresnet20_e3", settings)
    assert part["image_size"] == 32 and part["ms"] > 0 and part["peak_bytes"] > 4 * 190_000 and networks.lines(part)
    part = parts._break_down("shufflenet_v1_g3", 1, True, settings)
    assert sum(part["shares"].values()) == pytest.approx(1) and part["shares"]["shuffle"] > 0
    assert parts.breakdown_lines(part)
    part = parts._roof("shufflenet_v2_x1_0", settings)
    assert part["macs_per_s"] > 0 and {row["kind"] for row in part["layers"]} >= {"conv 1x1", "depthwise 3x3"}
    assert len(parts.roofline_lines(part)) == 1 + len(part["layers"]) and parts.by_kind(part["layers"])
    part = prediction._predict("ShuffleNet v2", settings)
    assert len(part["pairs_ms"]) == 2 and all(value > 0 for pair in part["pairs_ms"] for value in pair)
    assert part["operators"] == len(part["seconds"]) > 10 and prediction.lines(part)


def test_wrong_flags_are_one_line(tmp_path, capsys):
    for flags, status, said in (
        (["g5"], 2, "invalid choice"),
        (["g1", "page"], 2, "page must be the only study"),
        (["agree", "--json=a"], 2, "--json must be given twice"),
        (["g1", "--json=a", "--json=b"], 2, "--json must be given once"),
        (["g1", "--filter=("], 2, "must be a regular expression"),
        (["g1", "--rounds=0"], 2, "must be a whole number from 1 on"),
        (["page", f"--json={tmp_path / 'none'}"], 1, "No such file"),
    ):
        try:
            found = efficiency.main(flags)
        except SystemExit as exit_:
            found = exit_.code
        err = capsys.readouterr().err
        assert found == status and err.count("\n") == 1 and err.startswith("efficiency: ") and said in err, (flags, err)


def test_the_reference_is_that_of_a_cell_and_of_its_neighbours():
    """A reference of 1, 8 and 1.1 ms beside three cells of 2 ms each: that of the second was disturbed."""
    cells = [
        {"study": "models", "cell": str(number), "ms": 2.0, "relative": 2.0 / reference, "is_noisy": False}
        for number, reference in enumerate((1.0, 8.0, 1.1))
    ]
    found = agreement._related([cells[0], {"study": "peers", "cell": "of others"}, *cells[1:]])
    assert found["models 1"].times == pytest.approx(2.0 / 1.1)
    assert found["models 0"].times == pytest.approx(2.0 / 4.5) and found["models 2"].times == pytest.approx(2.0 / 4.55)
