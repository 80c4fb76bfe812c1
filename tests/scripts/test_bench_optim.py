"""A small run of the benchmark of optimisers, its page, and what it compares."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scripts import bench_optim


def run(*flags):
    return bench_optim.main(["--pairs=2", "--batch=2", "--image_size=32", "--models=cifar_resnet20", *flags])


@pytest.mark.parametrize("name", ["sgd", "lars optax"])
def test_a_peer_computes_the_same(name):
    rng = np.random.default_rng(0)
    params = {
        "conv": {"kernel": jnp.asarray(rng.normal(size=(4, 3)))},
        "norm": {"scale": jnp.asarray(rng.normal(size=4))},
    }
    found = []
    for make in bench_optim.OPTIMIZERS[name]:
        tx, weights = make(), params
        state = tx.init(weights)
        for step in range(1, 4):
            gradient = jax.tree.map(lambda w, s=step: jnp.sin(s * w), weights)
            updates, state = tx.update(gradient, state, weights)
            weights = optax.apply_updates(weights, updates)
        found.append(weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *found)


@pytest.mark.slow
def test_a_run_is_kept_goes_on_and_becomes_a_page(tmp_path, capsys):
    path = tmp_path / "optim.jsonl"
    assert run(f"--json={path}") == 0
    header, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["record"] == "optim_run" and [row["optimizer"] for row in rows] == list(bench_optim.OPTIMIZERS)
    for row in rows:
        assert row["share"] > 0 and row["ratio"]["optax"]["median"] > 0
        assert row["num_params"] == 269_722 + 65 * 990  # of 10 classes, and 990 more
    before = path.read_text()
    assert run(f"--json={path}") == 0
    assert path.read_text() == before
    page = tmp_path / "performance.md"
    assert bench_optim.main([f"--json={path}", f"--markdown={page}"]) == 0
    assert "| cifar_resnet20 |" in page.read_text() and "## Optimisers" in page.read_text()
    capsys.readouterr()


def test_a_wrong_flag_is_one_line(capsys):
    with pytest.raises(SystemExit):
        bench_optim.main(["--batch=0"])
    assert "--batch" in capsys.readouterr().err.splitlines()[-1]
