"""The noise scale against all batches there are, against stationary SGD, and measured on gradients of known noise."""

import itertools

import numpy as np
import pytest

from arch.optim.noise_scale import Phase, gradient_noise, increase_batch, noise_scale

NUM_EXAMPLES = 50_000


@pytest.mark.parametrize("size", range(1, 9))
def test_the_variance_of_a_batchs_mean_is_what_the_noise_scale_has(size):
    """Over all batches of 8 examples: S^2 (N / B - 1) / N, the noise scale at rate 1 times S^2 / N."""
    values = np.random.default_rng(0).normal(size=8)
    means = [np.mean(batch) for batch in itertools.combinations(values, size)]
    expected = noise_scale(1.0, 0.0, 8, size) * np.var(values, ddof=1) / 8
    assert np.var(means) == pytest.approx(expected, abs=1e-15)


def test_equal_noise_scales_give_equal_stationary_variances():
    """Heavy-ball SGD on h w^2 / 2 with gradient noise of variance s^2 / B, solved as an AR(2) process; as the rate goes
    to 0 the variance is proportional to rate / (B (1 - m)), so it is equal where the approximate noise scale is."""

    def stationary(rate, m, batch, h=1.0, s=1.0):
        a, b = 1 + m - rate * h, -m  # w_t = a w_{t-1} + b w_{t-2} + rate * noise
        gain = (1 - b) / ((1 + b) * ((1 - b) ** 2 - a**2))
        return rate**2 * s**2 / batch * gain

    cases = [(1e-5, 0.9, 128), (5e-5, 0.9, 640), (1e-5, 0.98, 640), (1e-4, 0.0, 128)]
    scales = [noise_scale(*case[:2], NUM_EXAMPLES, case[2], exact=False) for case in cases]
    assert scales == pytest.approx([scales[0]] * 4, rel=1e-12)
    variances = [stationary(*case) for case in cases]
    assert variances == pytest.approx([variances[0]] * 4, rel=1e-3)


def test_exact_and_approximate():
    """The whole split has no noise; at batch 128 of 50,000 the two differ by 128 parts in 50,000."""
    assert noise_scale(0.1, 0.9, NUM_EXAMPLES, NUM_EXAMPLES) == 0
    exact, approximate = (noise_scale(0.1, 0.9, NUM_EXAMPLES, 128, exact=e) for e in (True, False))
    assert approximate == pytest.approx(0.1 * NUM_EXAMPLES / 128 / 0.1)
    assert exact / approximate == pytest.approx(1 - 128 / NUM_EXAMPLES)


def test_the_batch_grows_where_the_rate_would_fall():
    """Smith et al., section 5.1: rate 0.1 of batch 128, by 5 at epochs 60, 120 and 160; up to 5,120 images."""
    decay = [Phase(epoch, 0.1 / 5**index, 128) for index, epoch in enumerate((0.0, 60.0, 120.0, 160.0))]
    grown = increase_batch(decay, max_batch_size=5120)
    assert [phase.start_epoch for phase in grown] == [0.0, 60.0, 120.0, 160.0]
    assert [phase.global_batch_size for phase in grown] == [128, 640, 3200, 5120]
    assert [phase.learning_rate for phase in grown] == pytest.approx([0.1, 0.1, 0.1, 0.1 / 125 * 40])
    for before, after in zip(decay, grown, strict=True):
        old, new = (
            [
                noise_scale(phase.learning_rate, 0.9, NUM_EXAMPLES, phase.global_batch_size, exact=exact)
                for exact in (0, 1)
            ]
            for phase in (before, after)
        )
        assert new[0] == pytest.approx(old[0], rel=1e-12)
        shares = [1 - phase.global_batch_size / NUM_EXAMPLES for phase in (before, after)]
        assert new[1] / old[1] == pytest.approx(shares[1] / shares[0], rel=1e-12)


def test_gradient_noise_is_unbiased():
    """Gradients of examples with a known mean and covariance, in 4 parts of 8."""
    random = np.random.default_rng(0)
    mean, deviations = np.array([0.3, -0.2, 0.1, 0.0]), np.array([1.0, 0.5, 2.0, 0.1])
    parts = (mean + deviations * random.normal(size=(40_000, 4, 8, 4))).mean(2)
    small = np.square(parts).sum(-1).mean(1)
    large = np.square(parts.mean(1)).sum(-1)
    found = gradient_noise(small.mean(), large.mean(), 8, 32)
    # Four standard errors of the means of 40,000 estimates.
    estimates = (32 * large - 8 * small) / 24
    assert float(found.squared_norm) == pytest.approx(0.14, abs=4 * estimates.std() / 200)
    traces = (small - large) / (1 / 8 - 1 / 32)
    assert float(found.trace) == pytest.approx(5.26, abs=4 * traces.std() / 200)
    assert float(found.scale()) == pytest.approx(5.26 / 0.14, rel=0.1)


def test_gradient_noise_of_equal_gradients_is_none():
    found = gradient_noise(2.0, 2.0, 8, 32)
    assert (float(found.squared_norm), float(found.trace)) == (2.0, 0.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: noise_scale(0.1, 1.0, 10, 2), r"noise_scale: momentum=1.0 must be in \[0, 1\)"),
        (lambda: increase_batch([], 8), "increase_batch: the first phase's batch of None must be from 1 to max_batch"),
        (lambda: increase_batch([Phase(0.0, 0.1, 16)], 8), "increase_batch: the first phase's batch of 16 must be"),
        (
            lambda: increase_batch([Phase(0.0, 0.1, 8), Phase(1.0, 0.2, 8)], 16),
            r"increase_batch: learning_rate=\[0.1, 0.2\] must not rise, nor reach 0",
        ),
        (lambda: gradient_noise(1.0, 1.0, 8, 8), "gradient_noise: small_batch_size=8 must be above 0 and below large"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        call()
