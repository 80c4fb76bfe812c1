"""Where trials are evaluated: here, one by one or together, in processes of this machine, or by Ray on several."""

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from arch.training.host import die_with, share_cores, share_devices

# By a terminal, and by a scheduler; workers ignore them, and end by a signal that nobody else sends.
SENT_TO_ALL = (signal.SIGINT, signal.SIGTERM)
END = signal.SIGUSR2


class Executor(Protocol):
    """What a search hands its jobs to; it has no more at a time than it was given workers."""

    def submit(self, function: Callable[..., Any], *args: Any) -> Future:
        """Calls a function of a module somewhere; where the worker died, the result raises."""

    def wait(self, futures: Collection[Future], timeout: float | None) -> set[Future]:
        """Those that are done, after so many seconds; None waits until one is."""

    def close(self) -> None:
        """Ends the workers; what they were at is lost."""


def wait_for_one(futures: Collection[Future], timeout: float | None) -> set[Future]:
    """`Executor.wait` of futures that become done by themselves."""
    return concurrent.futures.wait(futures, timeout=timeout, return_when=concurrent.futures.FIRST_COMPLETED).done


class InLine:
    """In this process, one after the other."""

    wait = staticmethod(wait_for_one)

    def submit(self, function: Callable[..., Any], *args: Any) -> Future:
        """Calls now; an exception is kept in the future, an interrupt is raised."""
        future: Future = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing to end."""


class Together:
    """In this process, all that are waited for by one call: many small candidates that share a device.

    What it is given is called as `function.together([args, ...])` and gives as many results, in their order; where that
    raises, all have failed.
    """

    def __init__(self):
        self._waiting: list[tuple[Future, Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, function: Callable[..., Any], *args: Any) -> Future:
        """Keeps the call until a result is waited for."""
        future: Future = Future()
        self._waiting.append((future, function, args))
        return future

    def wait(self, futures: Collection[Future], timeout: float | None) -> set[Future]:
        """Calls, where nothing is done yet and it may take as long as it needs."""
        if timeout is None and not any(future.done() for future in futures):
            self._call()
        return {future for future in futures if future.done()}

    def _call(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            results = waiting[0][1].together([args for _, _, args in waiting])
            for (future, _, _), result in zip(waiting, results, strict=True):
                future.set_result(result)
        except Exception as error:
            for future, _, _ in waiting:
                if not future.done():
                    future.set_exception(error)

    def close(self) -> None:
        """Nothing to end."""


@dataclasses.dataclass(eq=False)
class _Worker:
    """A process, and which of the devices it sees."""

    pool: concurrent.futures.ProcessPoolExecutor
    number: int


class Processes:
    """Fresh processes of this machine, each a pool of one, so that one that dies takes nothing but its own trial along.

    The cores are shared out: XLA has as many threads as it sees cores, and threads of all processes on all of them wait
    for one another.

    Args:
      num_workers: trials at a time.
      device_variable: such as CUDA_VISIBLE_DEVICES, see `share_devices`. "": all workers see all devices.
    """

    wait = staticmethod(wait_for_one)

    def __init__(self, num_workers: int, device_variable: str = ""):
        if num_workers < 1:
            raise ValueError(f"Processes: num_workers={num_workers} must be at least 1; one evaluates in turn")
        self._devices = share_devices(num_workers, device_variable)
        self._cores = share_cores(num_workers)
        self._free: list[_Worker] = []
        self._busy: dict[Future, _Worker] = {}
        self._num_workers = num_workers

    def submit(self, function: Callable[..., Any], *args: Any) -> Future:
        """To a process that has nothing to do; waits for one where all are at work."""
        while len(self._busy) >= self._num_workers:
            self.wait(self._busy, None)
            self._collect()
        self._collect()
        while self._free:
            worker = self._free.pop()
            with contextlib.suppress(concurrent.futures.BrokenExecutor):  # it died while it had nothing to do
                return self._hand(worker, function, *args)
        return self._hand(self._start(), function, *args)

    def _hand(self, worker: _Worker, function: Callable[..., Any], *args: Any) -> Future:
        # The first call starts the process, which waits with these signals until it knows that they are not for it.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, SENT_TO_ALL)
        try:
            future = worker.pool.submit(function, *args)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        self._busy[future] = worker
        return future

    def _collect(self) -> None:
        """Takes back the processes that have finished; those that have died are left."""
        for future in [future for future in self._busy if future.done()]:
            worker = self._busy.pop(future)
            if isinstance(future.exception(), concurrent.futures.BrokenExecutor):
                worker.pool.shutdown(wait=False)
            else:
                self._free.append(worker)

    def _start(self) -> _Worker:
        taken = {worker.number for worker in [*self._free, *self._busy.values()]}
        number = next(number for number in range(self._num_workers) if number not in taken)
        pool = concurrent.futures.ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),  # not a fork: JAX has threads
            initializer=_begin,
            initargs=(os.getpid(), self._devices[number], self._cores[number]),
        )
        return _Worker(pool, number)

    def close(self) -> None:
        """Ends all, at work or not."""
        workers = [*self._free, *self._busy.values()]
        for worker in workers:
            for process in list((worker.pool._processes or {}).values()):
                with contextlib.suppress(ProcessLookupError):  # it has died
                    os.kill(process.pid, END)
        for worker in workers:
            worker.pool.shutdown(wait=True, cancel_futures=True)
        self._free.clear()
        self._busy.clear()


def _begin(parent: int, environment: Mapping[str, str], cores: frozenset[int]) -> None:
    """In a new process of `Processes`, before anything is called there."""
    for number in SENT_TO_ALL:  # what to do is for the search to say
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SENT_TO_ALL)
    os.environ.update(environment)
    if cores:
        os.sched_setaffinity(0, cores)
    die_with(parent)


def _call(function: Callable[..., Any], *args: Any) -> Any:
    """For Ray, which takes functions alone, and no other things that can be called."""
    return function(*args)


class Ray:
    """Tasks of a Ray cluster, for a search that outgrows one machine: `pip install 'arch-jax[search]'`.

    Args:
      address: of the cluster; None starts one on this machine, "auto" joins the one that there is.
      resources: that a task takes, as Ray has them: {"num_cpus": 2, "num_gpus": 1}. Where the cluster has GPUs, it must
        have num_gpus: tasks that do not ask for one see all GPUs of their machine.
      num_cpus: of a cluster that is started here; None is all of them.

    Raises:
      ValueError: Ray is not installed; GPUs that `resources` says nothing of.
    """

    wait = staticmethod(wait_for_one)

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
        ray.init(address=address or "local", log_to_driver=False, **started)  # None might join another one
        if ray.cluster_resources().get("GPU") and "num_gpus" not in self._resources:
            self.close()
            raise ValueError("Ray: resources must say how many of the cluster's GPUs a task takes; add num_gpus, say 1")

    def submit(self, function: Callable[..., Any], *args: Any) -> Future:
        """As one task, which is not tried again."""
        task = self._ray.remote(max_retries=0, **self._resources)(_call)
        return task.remote(function, *args).future()

    def close(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        self._ray.shutdown()
