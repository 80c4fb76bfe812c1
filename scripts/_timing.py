"""What the benchmarks share beside arch.efficiency.latency: ratios with their spread, torch as a peer, versions."""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax

from arch.efficiency.latency import Call, device_name, num_threads


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


def environment() -> dict[str, Any]:
    """Device and versions."""
    packages = [name for name in ("jax", "flax", "torch", "torchvision") if importlib.util.find_spec(name) is not None]
    return {
        "device": device_name(),
        "platform": jax.default_backend(),
        "threads": num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def warning(platform: str | None = None) -> str | None:
    """Why the numbers would be worth nothing; None where nothing is known against them.

    Args:
        platform: that computes; None asks JAX, which takes it.

    torch's threads wait for one another by spinning: beside another process that took both cores, ShuffleNet v2 took
    130 ms and at times 1.5 s instead of 11.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < 0.5 or (platform or jax.default_backend()) != "cpu":
        return None
    return f"warning: load average {load:.1f}; beside other processes every time is wrong, and torch's up to 100-fold"
