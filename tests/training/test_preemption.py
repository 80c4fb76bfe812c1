"""One request to stop is remembered, the same one twice is one, and a second one acts at once."""

import os
import signal
import time

import pytest

from arch.training.preemption import StopRequest


@pytest.fixture
def stop(monkeypatch):
    monkeypatch.setattr(StopRequest, "SAME_SECONDS", 0.2)
    with StopRequest() as request:
        yield request


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_and_the_same_notice_twice_is_one(stop, number):
    assert not stop.at(0)
    for _ in range(3):
        os.kill(os.getpid(), number)
    assert stop.signal == number and stop.at(1)


def test_a_later_one_acts_at_once(stop):
    """As Ctrl-C does without all this."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.3)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.0)


def test_the_handlers_of_before_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest():
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
