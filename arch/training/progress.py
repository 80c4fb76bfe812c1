"""How far a run is: a bar on a terminal, a line every few seconds elsewhere, nothing on other hosts."""

import logging
import sys
import time

import jax

from arch.optim.batches import BatchPlan

logger = logging.getLogger(__name__)


class Progress:
    """Says step, epoch, loss, images/s and the time that is left.

    Args:
      plan: of the whole run.
      start_step: of this process.
      every_seconds: between two lines, where there is no terminal.
    """

    def __init__(self, plan: BatchPlan, start_step: int, *, every_seconds: float):
        self._plan = plan
        self._every = every_seconds
        self._start = self._window = None  # (seconds, images) where the run and the present window began
        self._numbers = "compiling"
        self._shown = time.perf_counter()
        self._bar = None
        if jax.process_index() == 0 and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=plan.num_steps, initial=start_step, unit="step", dynamic_ncols=True)

    def begin_window(self, step: int) -> None:
        """From here on training is timed; call with idle devices: after compiling, evaluating, saving."""
        self._window = (time.perf_counter(), self._plan.examples_before(step))
        self._start = self._start or self._window

    def end_window(self, step: int, loss: float) -> float | None:
        """Images a second since the window began, None for an empty one; the devices have finished `step`."""
        rate, images = None, self._plan.examples_before(step)
        if self._window is not None and images > self._window[1]:
            rate = (images - self._window[1]) / (time.perf_counter() - self._window[0])
        self._numbers = f"loss {loss:.4f}" + ("" if rate is None else f", {rate:,.0f} images/s")
        return rate

    def due(self) -> bool:
        """Whether it is time for a line."""
        return jax.process_index() == 0 and time.perf_counter() - self._shown > (0.5 if self._bar else self._every)

    def show(self, step: int) -> None:
        """Prints now."""
        self._shown = time.perf_counter()
        epoch = self._plan.epoch(step)
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(f"epoch {epoch:.2f}, {self._numbers}")
        elif jax.process_index() == 0:
            text = f"step {step}/{self._plan.num_steps}, epoch {epoch:.2f}, {self._numbers}, ETA {self._eta(step)}"
            logger.info(text)

    def _eta(self, step: int) -> str:
        images = self._plan.examples_before(step)
        if self._start is None or images <= self._start[1]:
            return "unknown"
        seconds, first = self._start
        left = self._plan.examples_before(self._plan.num_steps) - images
        return duration((time.perf_counter() - seconds) / (images - first) * left)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
