"""The progress line and its arithmetic."""

import logging

import pytest

from arch.optim import batches
from arch.training import progress
from arch.training.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_rate_and_eta(clock, caplog):
    caplog.set_level(logging.INFO)
    bar = Progress(batches.constant(1280, 100, 32), 10, every_seconds=5)
    bar.show(11)
    assert "step 11/100, epoch 0.28, compiling, ETA unknown" in caplog.text
    bar.begin_window(11)
    clock[0] += 4
    assert bar.end_window(19, loss=0.5) == 8 * 32 / 4
    assert not bar.due()
    clock[0] += 2  # an evaluation: in the ETA, not in the rate
    assert bar.due()
    bar.show(19)
    assert "step 19/100, epoch 0.47, loss 0.5000, 64 images/s, ETA 1:01" in caplog.text  # 6 s for 8 steps, 81 to go
    bar.begin_window(19)
    assert bar.end_window(19, loss=0.5) is None


def test_a_growing_batch_counts_by_its_images(clock, caplog):
    caplog.set_level(logging.INFO)
    plan = batches.BatchPlan(640, 30, (batches.Stage(0, 0, 32), batches.Stage(20, 640, 64)))
    bar = Progress(plan, 0, every_seconds=5)
    bar.begin_window(10)
    clock[0] += 5
    assert bar.end_window(25, loss=0.5) == (10 * 32 + 5 * 64) / 5
    bar.show(25)
    assert "step 25/30, epoch 1.50, loss 0.5000, 128 images/s, ETA 0:02" in caplog.text  # 5 x 64 images to go


def test_duration():
    assert [duration(s) for s in (0, 61.4, 3600, 90061)] == ["0:00", "1:01", "1:00:00", "25:01:01"]
