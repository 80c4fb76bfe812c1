import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from arch.models import MODELS, create
from arch.norm.fold import foldable
from arch.ops.conv import Conv
from scripts import _results, bench_models


class Tiny(nn.Module):
    """A network with all that the script asks of one."""

    conv: Callable[..., nn.Module] = Conv

    @nn.compact
    def __call__(self, x, *, train):
        x = self.conv(4, kernel_size=(3, 3), padding=((1, 1), (1, 1)), name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(bench_models.NUM_CLASSES)(x.mean((1, 2)))


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3, use_bias=False, name="dense")(x)


@pytest.fixture
def tiny_network(monkeypatch):
    asked = []
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # other tests have theirs
    monkeypatch.setattr(bench_models, "create", lambda name, **fields: asked.append((name, fields)) or Tiny())
    return asked


def run(*flags):
    return bench_models.main(["--pairs=2", "--batch=2", "--image_size=8", "--models=mobilenet_v2", *flags])


def test_the_networks_are_there():
    assert set(bench_models.NETWORKS) <= set(MODELS)
    for name, fields in bench_models.NETWORKS.items():
        assert create(name, num_classes=1000, dtype=jnp.float32, **fields).clone(conv=nn.Conv).conv is nn.Conv


def test_a_training_step_is_momentum_on_the_cross_entropy(x64):
    rng = np.random.default_rng(0)
    x, labels, kernel = rng.standard_normal((5, 4)), np.array([0, 1, 2, 2, 1]), rng.standard_normal((4, 3))
    step = jax.jit(bench_models.training_step(Linear(), optax.sgd(0.1, 0.9)))
    params = {"dense": {"kernel": jnp.asarray(kernel)}}
    state, velocity = ({"params": params}, optax.sgd(0.1, 0.9).init(params)), 0.0
    for _ in range(3):
        state, loss = step(state, x, labels)
        exponentials = np.exp(x @ kernel)
        probabilities = exponentials / exponentials.sum(1, keepdims=True)
        np.testing.assert_allclose(loss, -np.log(probabilities[np.arange(5), labels]).mean(), rtol=1e-12)
        velocity = 0.9 * velocity + x.T @ (probabilities - np.eye(3)[labels]) / 5
        kernel = kernel - 0.1 * velocity
        np.testing.assert_allclose(state[0]["params"]["dense"]["kernel"], kernel, rtol=1e-12)


def test_a_run_is_logged_continued_and_printed(tiny_network, tmp_path, capsys, monkeypatch):
    path = tmp_path / "models.jsonl"
    flags = (f"--json={path}", "--peers", "flax")
    assert run(*flags) == 0
    header, row = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["record"] == "model_run" and header["peers"] == ["flax"]
    assert (row["model"], row["batch"], row["image_size"]) == ("mobilenet_v2", 2, 8)
    for mode in ("inference", "training"):
        assert set(row[mode]["ms"]) == set(row[mode]["compile_s"]) == {"ours", "flax"}
        assert 0 < row[mode]["ratio"]["flax"]["low"] <= row[mode]["ratio"]["flax"]["high"]
    assert _results.model_line(row) in capsys.readouterr().out
    assert tiny_network == [("mobilenet_v2", {"num_classes": 1000, "dtype": np.dtype("float32")})]
    assert run(*flags) == 0 and len(tiny_network) == 1
    assert "[from " in capsys.readouterr().out

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_models, "measure", interrupted)
    assert run(*flags, "--models=resnet50") == 130 and len(_results.read(path)) == 2


def test_the_page_has_every_number(tmp_path):
    header = {"record": "model_run", "device": "a processor", "threads": 2, "versions": {"jax": "1.2"}}
    header |= {"dtype": "float32", "pairs": 20}
    ratios = {"flax": (5.0, None), "torch": (1.5, 1.6), "torch_channels_last": (1.25, 1.3)}
    part = {
        "compile_s": {"ours": 3.0, "flax": 2.5},
        "ms": {"ours": 20.0, "flax": 100.0, "torch": 30.0, "torch_channels_last": 25.0},
        "ratio": {name: {"median": m, "low": None if h is None else 1.0, "high": h} for name, (m, h) in ratios.items()},
    }
    assert _results.eager_ratio(part)[0] == "torch_channels_last"
    assert _results.eager_ratio({**part, "ratio": {"flax": part["ratio"]["flax"]}}) is None
    row = {"record": "model", "model": "resnet50", "batch": 8, "image_size": 224, "training": part}
    source, page = tmp_path / "models.jsonl", tmp_path / "docs" / "performance.md"
    source.write_text(f"{json.dumps(header)}\n{json.dumps(row)}\n")
    assert bench_models.main([f"--markdown={page}", f"--json={source}"]) == 0
    text = page.read_text()
    assert "### Training step\n" in text and "### Inference" not in text
    assert "| resnet50 | 8 | 224 | 20 | 5 (once) | 1.5 (1-1.6) | 1.25 (1-1.3) |" in text
    assert "| **1.25** (torch_channels_last) | 3 | 2.5 |" in text
    assert "python scripts/bench_models.py --markdown=" in text


def test_wrong_flags_are_one_line(capsys):
    for flags in (["--models", "resnet51"], ["--image_size=0"], ["--batch"], ["--markdown=x.md"]):
        with pytest.raises(SystemExit) as exit_:
            bench_models.main(flags)
        err = capsys.readouterr().err
        assert exit_.value.code == 2 and err.count("\n") == 1 and err.startswith("bench_models: "), err


def test_a_folded_network_computes_what_it_did_and_is_timed_in_inference_alone(tiny_network, tmp_path, capsys):
    path = tmp_path / "models.jsonl"
    assert run("--folded", "--peers", f"--json={path}") == 0
    row = json.loads(path.read_text().splitlines()[-1])
    assert set(row["inference"]["ms"]) == {"ours", "folded"} and set(row["training"]["ms"]) == {"ours"}
    assert set(row["inference"]["compile_s"]) == {"ours", "folded"}
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 3), dtype=np.float32)
    variables = Tiny().init(jax.random.key(0), images, train=False)
    assert len(foldable(Tiny(), variables, images, train=False)) == 1
