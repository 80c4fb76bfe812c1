"""A search in one network, as a person runs it: its data, its files, stopped, resumed and misused."""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from flax import linen as nn

from arch import models
from arch.models.genotypes import DARTS_OPERATIONS, from_json
from arch.norm.batch import BatchNorm
from arch.ops.activation import ACTIVATIONS
from arch.search.oneshot.derive import derive, entropy, histogram
from arch.training.checkpoint import Checkpointer
from arch.training.logbook import read_rows
from configs import cli
from configs.search import darts
from scripts._search_halves import Halves
from scripts._search_oneshot import Run

ROOT = pathlib.Path(__file__).parents[2]
NUM_STEPS = 8  # two of them are an epoch


def command(workdir, *flags):
    config = ("--config=configs/search/darts.py:smoke", f"--config.num_steps={NUM_STEPS}")
    return [sys.executable, "scripts/search.py", *config, f"--workdir={workdir}", *flags]


def run(workdir, *flags):
    return subprocess.run(command(workdir, *flags), cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a search that nobody stopped."""
    workdir = tmp_path_factory.mktemp("oneshot") / "run"
    result = run(workdir)
    assert result.returncode == 0, result.stderr
    assert "256 images for the weights, 256 for the architecture; 2 edges of 3 operations a cell" in result.stderr
    assert f"step {NUM_STEPS}/{NUM_STEPS}, epoch 4.00" in result.stderr and "ETA" in result.stderr
    return workdir


def rows(workdir):
    return [
        {name: value for name, value in row.items() if name not in ("time", "seconds")}
        for row in read_rows(workdir / "metrics.jsonl")
    ]


def last_checkpoint(workdir):
    """The SHA-256 of the state after the last step."""
    found = json.loads((workdir / "checkpoints" / str(NUM_STEPS) / "meta" / "metadata").read_text())
    assert found["step"] == NUM_STEPS
    return found["sha256"]


@pytest.mark.slow
def test_a_search_says_every_epoch_what_it_would_derive_and_ends_with_a_recipe(finished):
    found = rows(finished)
    assert [row["step"] for row in found] == [2, 4, 6, 8] and [row["epoch"] for row in found] == [1, 2, 3, 4]
    kept = json.loads((finished / "alphas.json").read_text())
    alphas = {kind: np.float32(kept[kind]) for kind in ("normal", "reduction")}
    assert kept["operations"] == ["none", "skip_connect", "max_pool_3x3"]
    genotype = derive(alphas, kept["operations"])
    assert from_json(kept["genotype"]) == from_json(found[-1]["genotype"]) == genotype
    for kind, counts in histogram(genotype, kept["operations"]).items():
        assert {name: found[-1][f"operations/{kind}/{name}"] for name in counts} == counts
        assert sum(counts.values()) == 2  # of one node
        assert found[-1][f"alphas/{kind}_entropy"] == pytest.approx(entropy(alphas[kind]), abs=1e-9)
    assert all(0 <= row["val/accuracy"] <= 1 and row["val/loss"] > 0 for row in found)
    assert len({row["alphas/normal_entropy"] for row in found}) == 4  # they move
    # Half a cosine from 0.025 to 0.001; a row has the rate of its last step.
    rates = [0.001 + 0.024 * (1 + np.cos(np.pi * (row["step"] - 1) / NUM_STEPS)) / 2 for row in found]
    np.testing.assert_allclose([row["train/learning_rate"] for row in found], rates, rtol=1e-5)
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    recipe = cli.load_recipe(str(finished / "best.py"))
    assert recipe.data.name == "synthetic" and recipe.data.image_size == 8
    assert models.from_config(recipe.model, 10).genotype == json.dumps(genotype.to_json())


@pytest.mark.slow
def test_the_same_command_again_does_nothing_and_another_config_is_refused(finished):
    before = os.stat(finished / "checkpoints" / str(NUM_STEPS)).st_mtime
    result = run(finished)
    assert result.returncode == 0 and f"finished already: checkpoint of step {NUM_STEPS}" in result.stderr
    assert os.stat(finished / "checkpoints" / str(NUM_STEPS)).st_mtime == before and len(rows(finished)) == 4
    result = run(finished, "--config.seed=1")
    assert result.returncode == 2 and "holds a run of another config: seed is 0 there and 1 here" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_stopped_it_goes_on_to_the_same(finished, tmp_path, number, status):
    workdir = tmp_path / "run"
    process = subprocess.Popen(command(workdir), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 600
    while not (workdir / "checkpoints" / "2").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(number)
    _, log = process.communicate(timeout=300)
    assert process.returncode == status, log
    assert (f"stopped by {number.name} at step" in log) == (number != signal.SIGKILL)
    assert not (workdir / "best.py").exists()
    assert run(workdir).returncode == 0
    assert rows(workdir) == rows(finished) and last_checkpoint(workdir) == last_checkpoint(finished)
    for name in ("alphas.json", "best.py"):
        assert (workdir / name).read_text() == (finished / name).read_text()


@pytest.mark.slow
def test_what_is_not_finite_is_one_line(tmp_path):
    result = run(tmp_path / "run", "--config.oneshot.learning_rate=1e30")
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if "error:" in line]
    assert "the loss or a gradient was not finite at step" in line and "lower config.oneshot.learning_rate" in line
    assert "Traceback" not in result.stderr
    checkpoints = Checkpointer(str(tmp_path / "run" / "checkpoints"), read_only=True)
    assert (checkpoints.latest_step() or 0) < NUM_STEPS
    checkpoints.close()


def smoke(**fields):
    config = darts.get_config("smoke")
    config.update_from_flattened_dict(fields)
    return config


def recipe_of(config, **overrides):
    return cli.override(cli.load_recipe(config.recipe), {**config.overrides.to_dict(), **overrides}, "test")


def halves(seed=0, **data):
    overrides = {f"data.{name}": value for name, value in data.items()}
    return Halves(recipe_of(smoke(), **overrides).data, seed=seed, batch_size=96)


def images(batches):
    return [image.tobytes() for batch in batches for image, weight in zip(batch["image"], batch["weight"], strict=True)
            if weight]  # fmt: skip


@pytest.fixture(scope="module")
def split():
    """Of seed 0, and of seed 1."""
    return [halves(seed) for seed in (0, 1)]


def test_every_image_is_in_one_half_which_the_seed_decides(split):
    first, other = split
    members = [[set(images(half.evaluation())) for half in (each.weights, each.alphas)] for each in split]
    assert [len(half) for half in members[0]] == [256, 256] and not members[0][0] & members[0][1]
    assert members[0][0] | members[0][1] == members[1][0] | members[1][1]
    assert 64 < len(members[0][0] & members[1][0]) < 192  # 128 by chance
    again = halves(0)
    assert images(again.weights.evaluation()) == images(first.weights.evaluation())
    assert first.info.num_train == 512 and len(other.alphas) == 256


def test_training_sees_every_image_of_its_half_once_an_epoch_and_starts_anywhere(split):
    for half in (split[0].weights, split[0].alphas):
        batches = list(itertools.islice(half.train(0), 8))  # 768 images, three epochs
        assert all(batch["image"].shape == (96, 8, 8, 1) for batch in batches)
        stream = images(batches)
        for epoch in range(3):
            assert set(stream[256 * epoch : 256 * (epoch + 1)]) == set(images(half.evaluation()))
        assert stream[:256] != stream[256:512]
        assert images(itertools.islice(half.train(3), 2)) == stream[3 * 96 : 5 * 96]
    places = [images(itertools.islice(half.train(0), 3))[:256] for half in (split[0].weights, split[0].alphas)]
    own = [images(half.evaluation()) for half in (split[0].weights, split[0].alphas)]
    orders = [[stay.index(image) for image in place] for stay, place in zip(own, places, strict=True)]
    assert orders[0] != orders[1]  # or the same two images would always meet


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"crop": "random_resized"}, "data.crop=random_resized keeps no images of one size"),
        ({"memory_limit_bytes": 1000}, "512 training images take 32768 bytes of memory, more than data.memory_limit_b"),
        ({"name": "synthetic", "train_split": "trai"}, "did you mean 'train'"),
    ],
)
def test_data_that_cannot_be_split_is_refused(data, words):
    with pytest.raises(ValueError, match=words):
        halves(**data)


@pytest.mark.parametrize(
    ("fields", "overrides", "words"),
    [
        ({"oneshot.order": "secnd"}, {}, "Settings: order: unknown name 'secnd'; did you mean 'second'"),
        ({"global_batch_size": 257}, {}, "config.global_batch_size=257 must be at most 256, half of the training"),
        ({"global_batch_size": 0}, {}, "config.global_batch_size=0 at least 1"),
        ({"num_steps": 0, "num_epochs": 0.0}, {}, r"config.num_epochs=0\.0 must be above 0, or set config.num_steps"),
        ({"supernet.num_cells": 2}, {}, "Supernet: num_cells=2 must be at least 3"),
        (
            {"supernet.operations": ("none", "skip")},
            {},
            "Supernet: operations: unknown name 'skip'; did you mean 'skip_",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(fields, overrides, words):
    config = smoke(**fields)
    with pytest.raises(ValueError, match=words) as error:
        Run(config, recipe_of(config, **overrides))
    assert "\n" not in str(error.value)


def test_layers_are_those_of_the_recipe_which_gets_the_cells():
    overrides = {"model.fields.act": "swish", "model.norm.fields.momentum": 0.5}
    config = smoke()
    with config.unlocked():
        for name, value in overrides.items():
            config.overrides[name] = value
        config.supernet.act = "relu"
    with pytest.raises(ValueError, match=r"config\.supernet\.act is that of the network; set it by config\.overrides"):
        Run(config, recipe_of(config))
    with config.unlocked():
        del config.supernet["act"]
    model = Run(config, recipe_of(config)).model
    assert model.act is ACTIVATIONS["swish"] and model.norm().momentum == 0.5
    plain = Run(smoke(), recipe_of(smoke())).model
    assert plain.act is nn.relu and plain.norm().momentum == BatchNorm.momentum


def test_a_recipe_whose_network_has_no_cells_is_refused():
    config = smoke(recipe="configs/shufflenet_v2.py:smoke")
    with pytest.raises(ValueError, match="fields of shufflenet_v2_x0_5: unknown name 'genotype'"):
        Run(config, recipe_of(config))


def test_the_papers_search():
    """Appendix A.1.1 of arXiv:1806.09055, and sections 3.1 and 2.1 for the supernet."""
    config = darts.get_config("cifar10")
    assert config.is_locked and config.num_epochs == 50 and config.global_batch_size == 64
    assert config.supernet.to_dict() == {
        "num_cells": 8, "features": 16, "num_nodes": 4, "stem": "small", "operations": ("none", *DARTS_OPERATIONS),
    }  # fmt: skip
    assert config.oneshot.to_dict() == {
        "order": "second", "unrolled_momentum": True, "radius": 0.01, "learning_rate": 0.025,
        "end_learning_rate": 0.001, "momentum": 0.9, "weight_decay": 3e-4, "grad_clip_norm": 5.0,
        "alpha_learning_rate": 3e-4, "alpha_betas": (0.5, 0.999), "alpha_weight_decay": 1e-3,
    }  # fmt: skip
    recipe = recipe_of(config)
    assert (recipe.model.name, recipe.data.name, recipe.data.train_split) == ("cifar_darts_v2", "cifar10", "train")


def test_the_arguments_of_the_recipe():
    for order in ("first", "second", "finite_difference"):
        config = darts.get_config(f"order={order}")
        assert config.oneshot.order == order and recipe_of(config).data.name == "fashion_mnist"
    with pytest.raises(ValueError, match=r"configs/search/darts\.py: order=third must be one of first, second, finite"):
        darts.get_config("order=third")
    with pytest.raises(ValueError, match="order=first is of strategy=gradient; leave one out"):
        darts.get_config("order=first,strategy=random")
