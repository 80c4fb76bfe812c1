"""How long compiled functions take: timed in turn, with their spread; compilation and memory apart.

Calls are warmed up, waited for, and timed in blocks, in turn with what they are compared with, so that what slows the
machine for a while slows all of them alike.
"""

import dataclasses
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

# Runs a work so many times, and returns when all of it is done.
Call = Callable[[int], None]

BLOCK_S = 0.03  # calls in a row that make one sample, at least
PAUSE_S = 0.02  # before a sample, on a CPU
MAX_CALLS = 100  # in one sample
NOISY = 0.1  # a spread above this share of the median is too noisy to quote
REFERENCE = "reference"  # the name that `measure` gives the reference kernel
REFERENCE_SHAPE = (56 * 56, 128)  # pixels, channels
REFERENCE_LAYERS = 6


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one call, over samples.

    Attributes:
        median_s: over the samples.
        low_s: first quartile; None of a call that was timed once.
        high_s: third quartile; likewise.
        relative: times as long as the reference kernel, the median over the rounds; None where there was none.
    """

    median_s: float
    low_s: float | None = None
    high_s: float | None = None
    relative: float | None = None

    @property
    def spread(self) -> float:
        """The interquartile range, as a share of the median; not a number of a call that was timed once."""
        return math.nan if self.low_s is None or self.high_s is None else (self.high_s - self.low_s) / self.median_s

    @property
    def is_noisy(self) -> bool:
        """Too noisy to quote: the quartiles are more than NOISY of the median apart, or there is one sample alone."""
        return not self.spread <= NOISY


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function, with the arrays that it is called on.

    Attributes:
        compiled: the executable.
        args: its arguments, on the device.
        compile_s: seconds of tracing, lowering and compilation.
        peak_bytes: of arguments, results, temporary arrays and code, as the compiler plans them; None where it does not
            say.
    """

    compiled: jax.stages.Compiled
    args: Sequence[Any]
    compile_s: float
    peak_bytes: int | None

    @property
    def call(self) -> Call:
        """To be timed."""
        return jax_call(self.compiled, *self.args)

    @property
    def waiting_call(self) -> Call:
        """Likewise, waited for each time on any device: what starting and waiting take can be subtracted from it."""
        return jax_call(self.compiled, *self.args, waits=True)


def build(fn: Callable[..., Any], *args: Any) -> Program:
    """Compiles `fn(*args)`, and says what that took and what memory it plans."""
    start = time.perf_counter()
    compiled = jax.jit(fn).lower(*args).compile()
    compile_s = time.perf_counter() - start
    return Program(compiled, args, compile_s, _peak_bytes(compiled))


def _peak_bytes(compiled: jax.stages.Compiled) -> int | None:
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    parts = ("argument", "output", "temp", "generated_code")
    return sum(getattr(stats, f"{part}_size_in_bytes") for part in parts) - stats.alias_size_in_bytes


def measure(
    calls: Mapping[str, Call], *, rounds: int, once_s: float = 10.0, reference: Call | None = None
) -> dict[str, Timing]:
    """The time of one call of each, by name.

    Args:
        calls: by name, compiled already.
        rounds: in each of which every one is timed.
        once_s: one whose first call takes longer is left at that, in seconds.
        reference: a call that takes its turn among them, to which the others are related: see `reference_call`.

    Raises:
        ValueError: a call that has the name of the reference.
    """
    if REFERENCE in calls:
        raise ValueError(f"measure: calls must not have the name {REFERENCE!r}; rename it")
    taken = interleave({**calls, **({REFERENCE: reference} if reference else {})}, pairs=rounds, once_s=once_s)
    return {name: summarize(taken[name], taken.get(REFERENCE)) for name in calls}


def summarize(samples: Sequence[float], reference: Sequence[float] | None = None) -> Timing:
    """Median and quartiles of samples, in seconds; related to those of a reference from the same rounds."""
    relative = None
    if reference:
        if len(samples) == len(reference):
            relative = statistics.median(s / r for s, r in zip(samples, reference, strict=True))
        else:
            relative = statistics.median(samples) / statistics.median(reference)
    if len(samples) < 2:
        return Timing(samples[0], relative=relative)
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(median, low, high, relative)


def reference_call() -> Call:
    """REFERENCE_LAYERS of 1x1 convolutions with ReLU: what is related to it can be compared between runs of a machine.

    As networks do, it multiplies and goes through memory. A product alone does not slow down as they do when others use
    the machine: related to one of 512 x 512, 57% of 159 convolutions were within 10% of themselves in a second run;
    related to another convolution, 94%.
    """
    x, kernel = jnp.full(REFERENCE_SHAPE, 0.5), jnp.full(REFERENCE_SHAPE[1:] * 2, 2 / REFERENCE_SHAPE[1])

    def layers(x: jax.Array, kernel: jax.Array) -> jax.Array:
        for _ in range(REFERENCE_LAYERS):
            x = jax.nn.relu(x @ kernel - 0.5)
        return x

    return build(layers, x, kernel).call


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
        if jax.default_backend() != "cpu":
            call(1)  # which loads libraries there, and tries their algorithms, for seconds
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


def jax_call(fn: Callable[..., Any], *args: Any, waits: bool | None = None) -> Call:
    """Calls a compiled function on arrays that are on the device already.

    Args:
        fn: compiled.
        *args: its arguments.
        waits: for each call; None does so on a CPU, and queues the calls of a block on an accelerator, as torch does.
    """
    waits = jax.default_backend() == "cpu" if waits is None else waits

    def call(times: int) -> None:
        out = None
        for _ in range(times):
            out = fn(*args)
            if waits:
                jax.block_until_ready(out)
        jax.block_until_ready(out)

    return call


def num_threads() -> int:
    """Cores that this process may use: XLA takes them all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name() -> str:
    """What JAX computes on; of a CPU, the name of the processor with the widest vectors that it has."""
    return _cpu_name() if jax.default_backend() == "cpu" else jax.devices()[0].device_kind


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    fields = [line.partition(":") for line in cpuinfo.read_text().splitlines()] if cpuinfo.exists() else []
    names = [value.strip() for field, _, value in fields if field.strip() == "model name"]
    flags = {flag for field, _, value in fields if field.strip() == "flags" for flag in value.split()}
    vectors = [name for name in ("avx512f", "avx2") if name in flags]
    return " ".join([names[0] if names else platform.machine(), *vectors[:1]])
