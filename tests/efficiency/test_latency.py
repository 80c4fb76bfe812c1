"""Times against an injected clock, and statistics against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.efficiency import latency
from arch.efficiency.latency import Timing, build, interleave, measure, summarize


class Clock:
    """A clock that only the calls move on; it keeps their order."""

    def __init__(self, monkeypatch):
        self.now, self.order = 0.0, []
        monkeypatch.setattr(latency.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(latency.time, "sleep", lambda seconds: None)

    def call(self, name, cost):
        def call(times):
            self.now += times * (cost(len(self.order)) if callable(cost) else cost)
            self.order.append((name, times))

        return call


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_on_an_accelerator_calls_are_queued_unless_each_is_to_be_waited_for(monkeypatch):
    """On a CPU both wait for each."""
    program, waits = build(jnp.sin, jnp.zeros(3)), []
    monkeypatch.setattr(jax, "block_until_ready", waits.append)
    for platform, queued in (("gpu", 1), ("cpu", 4)):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        for call, expected in ((program.call, queued), (program.waiting_call, 4)):
            waits.clear()
            call(3)
            assert len(waits) == expected


def test_on_an_accelerator_the_first_call_is_not_timed(clock, monkeypatch):
    """There it loads libraries: here for a minute, after which it would be left at that."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    call = clock.call("ours", lambda number: 0.02 if number else 60.0)
    assert interleave({"ours": call}, pairs=3, once_s=2.0)["ours"] == pytest.approx([0.02] * 3)


def test_peers_take_turns(clock):
    costs = {"ours": 0.004, "fast": 0.02, "slow": 3.0}
    seconds = interleave({name: clock.call(name, costs[name]) for name in costs}, pairs=20, once_s=2.0)
    assert {name: len(samples) for name, samples in seconds.items()} == {"ours": 20, "fast": 20, "slow": 1}
    for name, samples in seconds.items():
        assert samples == pytest.approx([costs[name]] * len(samples))
    assert clock.order.count(("slow", 1)) == 1
    # Eight of our calls last the 30 ms of a sample; one that is not timed goes before each, and every second round goes
    # backwards.
    ours, fast = [("ours", 1), ("ours", 8)], [("fast", 1), ("fast", 2)]
    assert clock.order[-8:] == [*ours, *fast, *fast, *ours]


def test_a_machine_that_slows_down_for_a_while_leaves_the_relation_to_the_reference(clock):
    """Of 40 rounds, half are three times as slow for all: the median time moves, the relation does not."""

    def slow(calls):
        return 3.0 if calls > 80 else 1.0

    calls = {"work": clock.call("work", lambda n: 0.04 * slow(n))}
    found = measure(calls, rounds=40, reference=clock.call("reference", lambda n: 0.02 * slow(n)))["work"]
    assert found.relative == pytest.approx(2.0, rel=1e-6)
    assert found.is_noisy and found.high_s == pytest.approx(0.12)


def test_quartiles_and_their_verdict():
    samples = [5.0, 1.0, 2.0, 3.0, 4.0]
    found = summarize(samples, [1.0, 1.0, 1.0, 1.0, 2.0])
    assert (found.low_s, found.median_s, found.high_s) == tuple(np.quantile(samples, [0.25, 0.5, 0.75]))
    assert found.relative == 2.0 and found.spread == pytest.approx(2 / 3) and found.is_noisy
    assert not summarize([1.0, 1.01, 1.02, 0.99]).is_noisy
    once = summarize([2.0], [0.5, 0.25, 0.25])
    assert once == Timing(2.0, relative=8.0) and math.isnan(once.spread) and once.is_noisy


def test_a_program_says_what_it_plans_in_memory():
    """x and y are 4 MB each, and so is the sum of them that the product needs and the result."""
    x = jnp.ones((1024, 1024))
    program = build(lambda x, y: (x + y) @ (x - y), x, x + 1)
    megabytes = program.peak_bytes / 2**22
    assert 3 <= megabytes <= 6 and program.compile_s > 0
    np.testing.assert_allclose(program.compiled(*program.args)[0, 0], -3 * 1024)


def test_a_call_is_waited_for():
    """A hundred times the work takes about a hundred times as long: within a factor of ten, not at once."""
    x = jnp.ones((256, 256))

    def repeated(times):
        return build(lambda x: jax.lax.fori_loop(0, times, lambda _, y: y @ x / 256, x), x).call

    found = measure({"few": repeated(10), "many": repeated(1000)}, rounds=3)
    assert 10 < found["many"].median_s / found["few"].median_s < 1000


def test_the_name_of_the_reference_is_taken():
    with pytest.raises(ValueError, match=r"^measure: calls must not have the name 'reference'; rename it$"):
        measure({"reference": lambda times: None}, rounds=1)


def test_the_reference_is_a_product_and_the_device_has_a_name():
    latency.reference_call()(2)
    assert latency.device_name() and latency.num_threads() >= 1
