"""Where trials are evaluated: here, in processes of this machine, or by Ray on several: `submit` and `close`."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any, Protocol

from arch.training.host import die_with


class Executor(Protocol):
    """What a search hands its jobs to; it has no more at a time than it was given workers."""

    def submit(self, function: Callable[..., Any], *args: Any) -> concurrent.futures.Future:
        """Calls a function of a module somewhere; where the worker died, the result raises."""

    def close(self) -> None:
        """Ends the workers; what they were at is lost."""


class InLine:
    """In this process, one after the other."""

    def submit(self, function: Callable[..., Any], *args: Any) -> concurrent.futures.Future:
        """Calls now; an exception is kept in the future, an interrupt is raised."""
        future: concurrent.futures.Future = concurrent.futures.Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing to end."""


class Processes:
    """Fresh processes of this machine, each a pool of one, so that one that dies takes nothing but its own trial along.

    Args:
      num_workers: trials at a time.
    """

    def __init__(self, num_workers: int):
        if num_workers < 1:
            raise ValueError(f"Processes: num_workers={num_workers} must be at least 1; one evaluates in turn")
        self._free: list[concurrent.futures.ProcessPoolExecutor] = []
        self._busy: dict[concurrent.futures.Future, concurrent.futures.ProcessPoolExecutor] = {}
        self._num_workers = num_workers

    def submit(self, function: Callable[..., Any], *args: Any) -> concurrent.futures.Future:
        """To a process that has nothing to do; waits for one where all are at work."""
        while len(self._busy) >= self._num_workers:
            concurrent.futures.wait(self._busy, return_when=concurrent.futures.FIRST_COMPLETED)
            self._collect()
        self._collect()
        while self._free:
            pool = self._free.pop()
            with contextlib.suppress(concurrent.futures.BrokenExecutor):  # it died while it had nothing to do
                return self._submit(pool, function, *args)
        return self._submit(self._start(), function, *args)

    def _submit(
        self, pool: concurrent.futures.ProcessPoolExecutor, function: Callable[..., Any], *args: Any
    ) -> concurrent.futures.Future:
        future = pool.submit(function, *args)
        self._busy[future] = pool
        return future

    def _collect(self) -> None:
        """Takes back the processes that have finished; those that have died are left."""
        for future in [future for future in self._busy if future.done()]:
            pool = self._busy.pop(future)
            if isinstance(future.exception(), concurrent.futures.BrokenExecutor):
                pool.shutdown(wait=False)
            else:
                self._free.append(pool)

    def _start(self) -> concurrent.futures.ProcessPoolExecutor:
        # Not a fork: JAX has threads.
        return concurrent.futures.ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
        )

    def close(self) -> None:
        """Ends all, at work or not."""
        for pool in [*self._free, *self._busy.values()]:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
        self._free.clear()
        self._busy.clear()


def _begin(parent: int) -> None:
    """In a new process of `Processes`, before anything is called there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all: what to do is for the search to say
    die_with(parent)


class Ray:
    """Tasks of a Ray cluster, for a search that outgrows one machine: `pip install 'arch-jax[search]'`.

    Args:
      address: of the cluster; None starts one on this machine, "auto" joins the one that there is.
      resources: that a task takes, as Ray has them: {"num_cpus": 2, "num_gpus": 1}.
      num_cpus: of a cluster that is started here; None is all of them.

    Raises:
      ValueError: Ray is not installed.
    """

    def __init__(
        self, address: str | None = None, resources: dict[str, float] | None = None, num_cpus: int | None = None
    ):
        try:
            import ray
        except ImportError as error:
            raise ValueError("Ray: the package ray is not installed; pip install 'arch-jax[search]'") from error
        self._ray, self._resources = ray, dict(resources or {})
        # Jobs and evaluations are small: the store of a cluster that is started here need not be.
        started = {} if address else {"num_cpus": num_cpus, "object_store_memory": 2**27, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, **started)

    def submit(self, function: Callable[..., Any], *args: Any) -> concurrent.futures.Future:
        """As one task, which is not tried again."""
        task = self._ray.remote(max_retries=0, **self._resources)(function)
        return task.remote(*args).future()

    def close(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        self._ray.shutdown()
