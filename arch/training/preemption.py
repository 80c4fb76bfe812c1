"""A polite request to stop: SIGTERM from a scheduler, Ctrl-C from a person, the preemption notice of a cluster."""

import os
import signal
import time
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Remembers that the run shall stop, so that it can save first.

    Install after `jax.distributed.initialize`, which takes SIGTERM for itself: on several hosts JAX spreads the notice
    and all agree on the step. A second signal acts at once, as it would have without this; within the first second it
    is taken for the same one, which a scheduler sends to every process and a launcher hands on.
    """

    SAME_SECONDS = 1.0

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._asked = 0.0  # when, by time.monotonic
        self._previous = {}

    def __enter__(self) -> "StopRequest":
        signals = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else ()
        self._previous = {number: signal.signal(number, self._remember) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            if time.monotonic() - self._asked < self.SAME_SECONDS:
                return
            self.__exit__()
            signal.raise_signal(number)
            return
        self.signal, self._asked = signal.Signals(number), time.monotonic()
        os.write(2, b"\nstopping as soon as the state can be saved; once more stops at once\n")

    def at(self, step: int) -> bool:
        """Whether to stop before this step; every host calls it at every step and gets the same answer."""
        if jax.process_count() == 1:
            return self.signal is not None
        if multihost_utils.reached_preemption_sync_point(step):
            self.signal = signal.SIGTERM
            return True
        return False
