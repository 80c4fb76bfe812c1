"""scripts/convert_weights.py: there and back, and what it refuses."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models
from arch.weights import files
from arch.weights.convert import to_ours, to_torch
from arch.weights.names import senet, shufflenet_v2
from scripts import convert_weights

ROOT = pathlib.Path(__file__).parents[2]


def run(capsys, *arguments):
    try:
        status = convert_weights.main(list(map(str, arguments)))
    except SystemExit as error:
        status = error.code
    return status, *capsys.readouterr()


def variables_of(model):
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(np.float32), shapes)


def test_there_and_back(tmp_path, capsys):
    """Seven classes; the library's network is the variant that its table says."""
    model = models.create("shufflenet_v2_x0_5", num_classes=7, variant="torchvision")
    variables = variables_of(model)
    state = to_torch(model, variables, shufflenet_v2.torchvision)
    theirs, ours, back = (tmp_path / f"{name}.safetensors" for name in ("theirs", "ours", "back"))
    files.write(str(theirs), {**state, "conv1.1.num_batches_tracked": np.int64(5)}, {})
    status, out, err = run(capsys, theirs, ours, "--model=shufflenet_v2_x0_5")
    assert (status, err) == (0, "") and out == f"{ours}: {len(state)} tensors of shufflenet_v2_x0_5, 7 classes\n"
    found = files.read(str(ours))
    assert found.keys() == to_ours(variables).keys()
    for name, value in to_ours(variables).items():
        np.testing.assert_array_equal(found[name], value)
    assert run(capsys, ours, back, "--model=shufflenet_v2_x0_5", "--to=torch")[0] == 0
    again = files.read(str(back))
    assert again.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(again[name], value)


def test_a_checkpoint_of_torch_and_fields(tmp_path, capsys):
    """Gates are 1x1 convolutions there: they are again, on the way back."""
    fields = {"stage_sizes": (1, 1, 1, 1), "num_classes": 3}
    model = models.create("se_resnet50", stride_at="second", pool="symmetric", **fields)
    state = to_torch(model, variables_of(model), senet.timm_seresnet, r"\.se\.fc\d\.weight$")
    assert state["layer1.0.se.fc1.weight"].shape == (16, 256, 1, 1)
    path, ours, back = (tmp_path / f"{name}.safetensors" for name in ("theirs", "ours", "back"))
    files.write(str(path), state, {})
    options = ["--model=se_resnet50", "--source=timm/seresnet50", "--field=stage_sizes=(1,1,1,1)"]
    assert run(capsys, path, ours, *options)[0] == 0
    assert run(capsys, ours, back, *options, "--to=torch")[0] == 0
    again = files.read(str(back))
    assert {name: value.shape for name, value in again.items()} == {name: value.shape for name, value in state.items()}


def test_the_list(capsys):
    status, out, _ = run(capsys, "--list")
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["resnet50", "torchvision/resnet50"] in lines and ["resnet50", "timm/resnet50"] in lines
    assert ["inception_v3", "torchvision/inception_v3", "with", "norm.epsilon=0.001"] in lines


@pytest.fixture
def tiny(tmp_path):
    """A file of one tensor that is no network's."""
    path = tmp_path / "tiny.safetensors"
    files.write(str(path), {"weight": np.zeros(3, np.float32)}, {})
    return path


def test_what_is_wrong_is_one_line(tiny, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    pickled = ROOT / "tests/goldens/pth_archive.pth"
    for arguments, error in (
        ([tiny, out], "give a file to read, one to write, and --model=NAME; or --list"),
        ([tiny, out, "--model=resnet5"], "arch.weights: unknown name 'resnet5'; did you mean "),
        ([tiny, out, "--model=fractalnet_20"], "arch.weights: neither torchvision nor timm has fractalnet_20; "),
        ([tiny, out, "--model=resnet50"], f"{tiny}: not the weights of resnet50; there is no classifier fc.weight"),
        ([pickled, out, "--model=resnet50"], f"{pickled}: not the weights of resnet50; there is no classifier"),
        ([tmp_path / "none.pth", out, "--model=resnet50"], "[Errno 2] No such file or directory: "),
        ([tiny, out, "--model=resnet50", "--to=onnx"], "argument --to: invalid choice: 'onnx'"),
        ([tiny, out, "--model=resnet50", "--source=timm/resnet51"], "arch.weights: sources of resnet50: unknown name"),
    ):
        status, stdout, err = run(capsys, *arguments)
        assert (status, stdout, err.count("\n")) == (2, "", 1), err
        assert err.startswith(f"convert_weights: {error}"), err
    assert not out.exists()


def test_it_runs_as_a_program(tiny):
    command = [sys.executable, "scripts/convert_weights.py", str(tiny), "x.pth", "--model=resnet50"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("convert_weights: ")
