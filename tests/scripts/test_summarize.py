"""scripts/summarize.py: its tables against numbers worked out by hand, and what it refuses."""

import json
import pathlib
import subprocess
import sys

import pytest

from scripts import summarize

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ["--size=28", "--classes=10", "--field=width_multiplier=0.25", "--field=stem=small"]


def run(capsys, *arguments):
    try:
        status = summarize.main(arguments)
    except SystemExit as error:
        status = error.code
    return status, *capsys.readouterr()


def test_a_row_a_network(capsys):
    """The integers are those of tests/models: 25,557,032 parameters, 4,089,184,256 multiply-adds."""
    status, out, _ = run(capsys, "resnet50", "mobilenet_v2")
    assert status == 0
    header, blank, titles, rule, *rows = out.splitlines()
    assert (header, blank) == ("224 x 224 pixels, 1000 classes", "")
    assert titles.split("  ")[0] == "network" and set(rule) == {"-", " "}
    assert rows[0].split()[:7] == ["resnet50", "25.56M", "53.12k", "4.089G", "4.087G", "2.048M", "0"]
    assert rows[1].split()[:5] == ["mobilenet_v2", "3.505M", "34.11k", "300.8M", "299.5M"]
    assert rows[0].split()[8] == "11.11M"
    # Numbers end in one column.
    assert len({len(row) for row in (titles, rule, *rows)}) == 1


def test_layers(capsys):
    status, out, _ = run(capsys, "mobilenet_v2", "--layers", *SMALL)
    assert status == 0
    lines = out.partition("\nmobilenet_v2\n\n")[2].splitlines()
    cells = {line.split("  ")[0]: [cell.strip() for cell in line.split("  ") if cell][1:] for line in lines}
    assert cells["stem_conv"] == ["conv 3x3", "28 x 28 x 8", "216", f"{28 * 28 * 216:,}"]
    assert cells["stem_norm"] == ["norm", "28 x 28 x 8", "16", "0"]
    assert cells["classifier"] == ["linear", "10", "12,810", "12,800"]
    assert any(kind == "depthwise 3x3/2" for kind, *_ in cells.values())
    status, out, _ = run(capsys, "mobilenet_v2", "--json", *SMALL)
    record = json.loads(out)
    assert cells["total"] == [f"{record['params']:,}", f"{record['macs']:,}"]


def test_json_has_every_number_and_layer(capsys):
    status, out, _ = run(capsys, "resnet50", "shufflenet_v2_x0_5", "--json", "--layers")
    assert status == 0
    first, second = map(json.loads, out.splitlines())
    assert (first["name"], first["params"], first["macs"], first["activations"]) == (
        "resnet50", 25_557_032, 4_089_184_256, 11_114_984,
    )  # fmt: skip
    assert (second["params"], second["conv_macs"], second["linear_macs"]) == (1_366_792, 39_452_448, 1_024_000)
    for record in (first, second):
        assert sum(layer["params"] for layer in record["layers"]) == record["params"]
        assert sum(sum(layer["macs"].values()) for layer in record["layers"]) == record["macs"]
        assert sum(layer["activations"] for layer in record["layers"]) == record["activations"]
    assert first["layers"][-1]["path"] == "classifier"


def test_fields_reach_the_network(capsys):
    plain, grouped = (
        json.loads(run(capsys, "resnet50", "--json", "--size=32", *extra)[1])
        for extra in ([], ["--field=norm=group_norm"])
    )
    assert (plain["batch_stats"], grouped["batch_stats"]) == (53_120, 0)
    assert plain["params"] == grouped["params"] == 25_557_032


@pytest.mark.parametrize(
    "arguments,error",
    [
        (["resnet5"], "arch.models.create: unknown name 'resnet5'; did you mean "),
        (["resnet50", "--field=stage_size=3"], "arch.models.create: fields of resnet50: unknown name 'stage_size'; "),
        (["resnet50", "--field=stem"], "--field=stem must be NAME=VALUE"),
        (["resnet50", "--field=norm=batchnorm"], "arch.norm.create: unknown name 'batchnorm'; did you mean "),
        (["resnet50", "--field=stage_sizes=3"], "ResNet: stage_sizes=3 must be a sequence"),
        (["resnet50", "--size=0"], "argument --size: 0 must be a whole number from 1 on"),
        ([], "the following arguments are required: NAME"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, arguments, error):
    status, out, err = run(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"summarize: {error}")


def test_it_runs_as_a_program():
    command = [sys.executable, "scripts/summarize.py", "shuflenet_v2_x1_0"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and "did you mean 'shufflenet_v2_x1_0'" in result.stderr
