"""Cross-entropy and metrics against float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.training import losses, metrics


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_formula(label_smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 10)) * 5, rng.integers(0, 10, 6)
    expected = []
    for row, label in zip(logits, labels, strict=True):
        log_probability = row - np.log(np.exp(row).sum())
        target = np.full(10, label_smoothing / 10)
        target[label] += 1 - label_smoothing
        expected.append(-(target * log_probability).sum())
    got = losses.cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), label_smoothing=label_smoothing)
    np.testing.assert_allclose(got, expected, rtol=2e-6)


def test_cross_entropy_of_bfloat16_logits_is_float32_and_of_float64_is_float64(x64):
    labels = jnp.zeros(2, jnp.int32)
    assert losses.cross_entropy(jnp.zeros((2, 3), jnp.bfloat16), labels).dtype == jnp.float32
    assert losses.cross_entropy(jnp.zeros((2, 3), jnp.float64), labels).dtype == jnp.float64


def batch(count=37, num_classes=12, seed=1):
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, 6, (count, num_classes)).astype(np.float32)  # many ties
    labels = rng.integers(0, num_classes, count)
    weight = rng.integers(0, 2, count).astype(np.float32)
    return logits, labels, weight, rng.random(count).astype(np.float32)


def test_metrics_count_only_examples_with_weight():
    logits, labels, weight, loss = batch()
    update = metrics.measure(metrics.metrics_class(12), *map(jnp.asarray, (loss, logits, labels, weight)))
    got = metrics.compute(update)
    kept = np.flatnonzero(weight)
    order = [np.argsort(-logits[i], kind="stable").tolist().index(labels[i]) for i in kept]
    assert got["loss"] == pytest.approx(loss[kept].mean(), rel=1e-6)
    assert got["accuracy"] == pytest.approx(np.mean([rank < 1 for rank in order]), rel=1e-6)
    assert got["top5_accuracy"] == pytest.approx(np.mean([rank < 5 for rank in order]), rel=1e-6)


def test_metrics_of_a_nan_loss_of_weight_zero_stay_finite():
    cls = metrics.metrics_class(2)
    update = metrics.measure(
        cls, jnp.array([jnp.nan, 1.0]), jnp.zeros((2, 2)), jnp.zeros(2, jnp.int32), jnp.array([0.0, 1.0])
    )
    assert metrics.compute(update)["loss"] == 1.0


def test_nan_logits_are_wrong():
    arrays = jnp.ones(2), jnp.full((2, 10), jnp.nan), jnp.array([0, 9]), jnp.ones(2)
    got = metrics.compute(metrics.measure(metrics.metrics_class(10), *arrays))
    assert (got["accuracy"], got["top5_accuracy"]) == (0.0, 0.0)


def test_metrics_of_parts_add_up_to_the_whole():
    cls = metrics.metrics_class(12)
    arrays = [jnp.asarray(a) for a in (lambda b: (b[3], b[0], b[1], b[2]))(batch())]
    whole = metrics.compute(metrics.measure(cls, *arrays))
    total = metrics.zeros(cls, jnp.float32)
    for part in (slice(0, 5), slice(5, 30), slice(30, 37)):
        total = total.merge(metrics.measure(cls, *(a[part] for a in arrays)))
    assert metrics.compute(total) == pytest.approx(whole, rel=1e-6)


def test_top5_needs_ten_classes():
    shape = jax.eval_shape(lambda: metrics.zeros(metrics.metrics_class(9), jnp.float32))
    assert not hasattr(shape, "top5_accuracy")
    assert hasattr(metrics.zeros(metrics.metrics_class(10), jnp.float32), "top5_accuracy")
