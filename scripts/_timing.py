"""What the benchmarks share: peers timed in turn in one process, ratios with their spread, device and versions."""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

# Runs a peer's work so many times, and returns when all of it is done.
Call = Callable[[int], None]

BLOCK_S = 0.01  # calls in a row that make one sample, at least
PAUSE_S = 0.02  # before a sample, on a CPU
MAX_CALLS = 100  # in one sample


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A peer's time over ours: above 1, ours is faster.

    Attributes:
        median: over the pairs.
        low: first quartile; None where one of the two was timed once.
        high: third quartile; likewise.
    """

    median: float
    low: float | None = None
    high: float | None = None

    @property
    def is_slower(self) -> bool:
        """Ours loses more than 5%, beyond the spread."""
        return (self.median if self.high is None else self.high) < 0.95

    def __str__(self) -> str:
        spread = "once" if self.low is None else f"{self.low:.3g}-{self.high:.3g}"
        return f"{self.median:.3g} ({spread})"


def interleave(calls: Mapping[str, Call], *, pairs: int, once_s: float) -> dict[str, list[float]]:
    """Seconds of one call, sample by sample, for each peer.

    Peers take turns, every second round backwards; a sample is a block of calls that lasts at least BLOCK_S. On a CPU
    each block has a pause and a call that is not timed before it: idle threads of torch spin for milliseconds after its
    last call, and in blocks without a pause a depthwise convolution of ours took 1.4 to 2 times as long beside torch as
    alone (28x28x58 on two cores, 0.35 to 0.65 ms); with both, each peer was as fast beside the other as alone.

    Args:
        calls: peers by name, compiled already.
        pairs: rounds.
        once_s: a peer whose first call takes longer is left at that.
    """
    seconds, sizes = {}, {}
    for name, call in calls.items():
        seconds[name] = [_timed(call, 1)]
        if seconds[name][0] <= once_s:
            again = min(_timed(call, 1) for _ in range(2))
            sizes[name] = min(MAX_CALLS, max(1, math.ceil(BLOCK_S / again)))
            seconds[name] = []
    spins = jax.default_backend() == "cpu" and len(calls) > 1
    for turn in range(pairs):
        for name in list(sizes)[:: 1 if turn % 2 == 0 else -1]:
            if spins:
                time.sleep(PAUSE_S)
            calls[name](1)
            seconds[name].append(_timed(calls[name], sizes[name]))
    return seconds


def _timed(call: Call, times: int) -> float:
    """Seconds of one of so many calls in a row."""
    start = time.perf_counter()
    call(times)
    return (time.perf_counter() - start) / times


def ratio(peer: Sequence[float], ours: Sequence[float]) -> Ratio:
    """Of samples taken in the same rounds; of the medians where one of the two was timed once."""
    if min(len(peer), len(ours)) < 2:
        return Ratio(statistics.median(peer) / statistics.median(ours))
    pairs = [p / o for p, o in zip(peer, ours, strict=True)]
    low, median, high = statistics.quantiles(pairs, n=4, method="inclusive")
    return Ratio(median, low, high)


def compare(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Of every peer the median milliseconds, and of all but "ours" the ratio to ours."""
    peers = {name: samples for name, samples in seconds.items() if name != "ours"}
    return {
        "ms": {name: 1e3 * statistics.median(samples) for name, samples in seconds.items()},
        "ratio": {name: dataclasses.asdict(ratio(samples, seconds["ours"])) for name, samples in peers.items()},
    }


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive numbers; not a number where there are none."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def jax_call(fn: Callable[..., Any], *args: Any) -> Call:
    """Calls a compiled function on arrays that are on the device already.

    On a CPU each call is waited for; on an accelerator the calls of a block are queued, as those of torch are.
    """
    waits = jax.default_backend() == "cpu"

    def call(times: int) -> None:
        out = None
        for _ in range(times):
            out = fn(*args)
            if waits:
                jax.block_until_ready(out)
        jax.block_until_ready(out)

    return call


def torch_call(fn: Callable[[], Any]) -> Call:
    """Calls a torch function; what it has queued on a GPU is waited for at the end."""
    torch = load_torch()

    def call(times: int) -> None:
        for _ in range(times):
            fn()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return call


def load_torch() -> ModuleType:
    """torch with as many threads as XLA has, and with cuDNN free to try its algorithms."""
    import torch

    torch.set_num_threads(num_threads())
    torch.backends.cudnn.benchmark = True
    return torch


def torch_device() -> str:
    """The device that torch computes on."""
    return "cuda" if load_torch().cuda.is_available() else "cpu"


def has_torch(package: str = "torch") -> bool:
    """The package of torch can be a peer: it is installed, and torch sees the device that JAX sees."""
    if importlib.util.find_spec(package) is None:
        return False
    return jax.default_backend() == {"cuda": "gpu", "cpu": "cpu"}[torch_device()]


def num_threads() -> int:
    """Cores that this process may use: XLA takes them all, and torch is given as many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """Device and versions."""
    packages = [name for name in ("jax", "flax", "torch", "torchvision") if importlib.util.find_spec(name) is not None]
    platform_name = jax.default_backend()
    return {
        "device": _cpu_name() if platform_name == "cpu" else jax.devices()[0].device_kind,
        "platform": platform_name,
        "threads": num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def warning() -> str | None:
    """Why the numbers would be worth nothing; None where nothing is known against them.

    torch's threads wait for one another by spinning: beside another process that took both cores, ShuffleNet v2 took
    130 ms and at times 1.5 s instead of 11.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if jax.default_backend() != "cpu" or load < 0.5:
        return None
    return f"warning: load average {load:.1f}; beside other processes every time is wrong, and torch's up to 100-fold"


def _cpu_name() -> str:
    """The name of the processor, with the widest vectors that it has."""
    cpuinfo = Path("/proc/cpuinfo")
    fields = [line.partition(":") for line in cpuinfo.read_text().splitlines()] if cpuinfo.exists() else []
    names = [value.strip() for field, _, value in fields if field.strip() == "model name"]
    flags = {flag for field, _, value in fields if field.strip() == "flags" for flag in value.split()}
    vectors = [name for name in ("avx512f", "avx2") if name in flags]
    return " ".join([names[0] if names else platform.machine(), *vectors[:1]])
