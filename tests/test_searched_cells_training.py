"""A searched cell trains by one flag of train.py, with paths that are dropped more and more."""

import json
import pathlib
import subprocess
import sys

import orbax.checkpoint as ocp
import pytest

from arch.models.genotypes import Cell, Genotype, Node

ROOT = pathlib.Path(__file__).parents[1]
CELL = Cell((Node((("sep_conv_3x3", 0), ("skip_connect", 1))), Node((("max_pool_3x3", 2), ("identity", 0)))), (2, 3))
SEARCHED = Genotype(CELL, CELL, ("previous", "current"))


@pytest.mark.slow
def test_a_genotype_trains_from_the_command_line(tmp_path):
    """Its JSON is kept with the run, which the same command finds finished; the checkpoint knows that it is over."""
    text = json.dumps(SEARCHED.to_json())
    command = [
        *(sys.executable, "train.py", "--config=configs/darts.py:smoke", f"--workdir={tmp_path / 'run'}"),
        f"--config.model.fields.genotype={text}",
        "--config.model.fields.drop_path_rate=0.3",
        "--config.model.fields.num_cells=3",
        "--config.model.fields.features=4",
    ]
    for _ in range(2):
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["model"]["fields"]["genotype"] == SEARCHED.to_json()
    with ocp.CheckpointManager((tmp_path / "run" / "checkpoints").absolute()) as manager:
        state = manager.restore(4, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]
    told = {name: value for name, value in state.items() if "progress" in name}
    assert [float(value) for value in told.values()] == [1.0]
