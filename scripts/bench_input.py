"""Times the input pipeline on the host, images per second and core, against torch's DataLoader with torchvision.

  python scripts/bench_input.py                                   # both cases, in this process, on one core
  python scripts/bench_input.py --cases streamed --workers=2 --images=2048 --pairs=5
  python scripts/bench_input.py --json=docs/input_cpu.jsonl       # goes on where it stopped
  python scripts/bench_input.py --markdown=docs/performance.md --json=ops.jsonl --json=input.jsonl

`streamed` decodes JPEG files (made for this, in a temporary folder: see _jpegs.py), crops at random, resizes to 224
pixels, bilinear and antialiased, and flips; `in_memory` makes shuffled batches of 60,000 arrays of 28x28. Both end with
uint8 batches, which the device normalizes; so do the peers, but for torch_v1_float, which is shown and not compared.
The fastest of the others is the one to beat. All take turns in one process, which is kept to --workers cores, at least
one; before they are timed their outputs are compared, on whole images. CPU time is measured, which other processes
hardly disturb; with workers, the time that passes from the first batch on.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout

from arch.training.host import prepare_host

if __name__ == "__main__":
    # Now, before there are threads, as train.py does; torch, in the same process, gains too.
    prepare_host()

import numpy as np
from PIL import Image, features

from scripts import _input_work, _jpegs, _report, _results, _timing
from scripts._input_work import Pass, Work

CASES = ("streamed", "in_memory")
IMAGE_SIZE = 224
MEMORY_SHAPE, MEMORY_CLASSES = (28, 28, 1), 10
TOLERANCE = 1.0  # grey levels that two peers differ by, mean over all pixels


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all is timed; 1: one line on stderr says why not; 130: interrupted, what is done is written."""
    args = _parse(argv)
    try:
        if args.markdown:
            _report.write(args.markdown, args.json, "bench_input.py")
            return 0
        with one_core_each(max(1, args.workers)):
            peers = ["torch"] if has_torch() else []
            fields = {name: getattr(args, name) for name in ("dtype", "pairs", "batch", "workers")}
            fields["threads_each"] = args.threads
            header = {"record": "input_run", **_timing.environment(), "decoder": decoder(), **fields, "peers": peers}
            log = _results.Log(*args.json[:1] or [None], header, key=("case", "size", "images"))
            _results.announce(header)
            return _run(args, log)
    except (ValueError, OSError) as error:
        return _results.complain("bench_input", error)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _results.Parser("bench_input", __doc__, dtypes=("uint8",))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--images", type=_results.positive, default=128, help="JPEG files, a pass over which is timed")
    parser.add_argument("--size", type=_size, default=(500, 375), metavar="WxH", help="of a file, pixels")
    parser.add_argument("--examples", type=_results.positive, default=60_000, help="arrays in memory")
    parser.add_argument("--batch", type=_results.positive, default=64, help="examples")
    parser.add_argument("--workers", type=int, default=0, help="processes of each peer; 0 works in this one")
    parser.add_argument("--threads", type=_results.positive, default=1, help="of ours, in each process")
    args = parser.parse(argv)
    for flag, count in (("images", args.images), ("examples", args.examples)):
        if count < args.batch:
            parser.error(f"--{flag}={count} must fill a batch; give --batch={args.batch} or more")
    return args


def _size(text: str) -> tuple[int, int]:
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text} must be width x height in pixels, such as 500x375")
    return int(sides[0]), int(sides[1])


@contextlib.contextmanager
def one_core_each(count: int) -> Iterator[None]:
    """Keeps this process and those that it starts to so many cores, where the system can do that.

    Raises:
        ValueError: there are fewer.
    """
    if count > _timing.num_threads():
        raise ValueError(f"--workers={count} must be at most the {_timing.num_threads()} cores; give fewer")
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def has_torch() -> bool:
    """torch and torchvision are installed; no device is asked for."""
    return all(importlib.util.find_spec(name) for name in ("torch", "torchvision"))


def decoder() -> str:
    """Pillow, and what it decodes with; Pillow-SIMD has a .post in its version."""
    turbo = features.version("libjpeg_turbo")
    return f"Pillow {Image.__version__} with " + (f"libjpeg-turbo {turbo}" if turbo else "libjpeg without SIMD")


def _run(args: argparse.Namespace, log: _results.Log) -> int:
    """Times what the log does not have, a line a case."""
    fields = {"batch_size": args.batch, "num_workers": args.workers, "num_threads": args.threads}
    if not has_torch():
        print("torch or torchvision is not installed: ours alone", flush=True)
    for case in args.cases:
        measure = measure_streamed if case == "streamed" else measure_in_memory
        count = args.images if case == "streamed" else args.examples
        size = [*args.size, 3] if case == "streamed" else list(MEMORY_SHAPE)
        key = (case, "x".join(map(str, size)), count)
        row = log.done.get(key)
        source = args.json[0] if row else "measured"
        if row is None:
            row = {"record": "input", "case": case, "size": key[1], "images": count, **measure(args, fields)}
            log.append(row)
        print(f"{_results.input_line(row)} [{source}]", flush=True)
    return 0


def measure_streamed(args: argparse.Namespace, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of JPEG files: their mean size, milliseconds an image and core, and ratios."""
    work = Work(image_size=IMAGE_SIZE, **fields)
    with tempfile.TemporaryDirectory() as folder:
        num_bytes = _jpegs.write_folder(Path(folder), args.images, args.size)

        def peers(work: Work) -> dict[str, Pass]:
            passes = {"ours": _input_work.streamed(Path(folder), work)}
            if has_torch():
                from scripts import _input_torch

                passes |= _input_torch.streamed_peers(Path(folder), work)
            return passes

        plain = peers(work.without_chance())
        _compare({name: one for name, one in plain.items() if not name.endswith("float")})
        return {"file_bytes": round(num_bytes), **timed(peers(work), args.pairs, args.workers)}


def measure_in_memory(args: argparse.Namespace, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of arrays: milliseconds an image and core, and ratios; without processes, which none of these needs."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (args.examples, *MEMORY_SHAPE), dtype=np.uint8)
    labels = random.integers(0, MEMORY_CLASSES, args.examples).astype(np.int32)

    def peers(work: Work) -> dict[str, Pass]:
        passes = {"ours": _input_work.in_memory(images, labels, work)}
        if has_torch():
            from scripts import _input_torch

            passes |= _input_torch.memory_peers(images, labels, work)
        return passes

    work = dataclasses.replace(Work(image_size=MEMORY_SHAPE[0], **fields), num_workers=0)
    _compare(peers(work.without_chance()))
    return timed(peers(work), args.pairs, 0)


def _compare(passes: Mapping[str, Pass]) -> None:
    """The first batch of each, in which nothing is left to chance.

    Raises:
        ValueError: they differ.
    """
    batches = {}
    for name, one_pass in passes.items():
        with contextlib.closing(one_pass()) as batch:
            images, labels = next(batch)
        batches[name] = images.astype(np.float64), np.asarray(labels)
    images, labels = batches.pop("ours")
    for name, (theirs, their_labels) in batches.items():
        if theirs.shape != images.shape or not np.array_equal(labels, their_labels):
            raise ValueError(f"{name}: shape {theirs.shape} and labels must be our {images.shape}; compare equal work")
        error = np.abs(theirs - images).mean()
        if not error <= TOLERANCE:
            raise ValueError(f"{name}: {error:.2f} grey levels off ours, over {TOLERANCE}; compare equal work")


def timed(passes: Mapping[str, Pass], pairs: int, num_workers: int) -> dict[str, Any]:
    """Milliseconds an image and core, medians over the rounds, and ratios to ours; in turn, every second backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for name in passes:
        _seconds_per_image(passes[name], num_workers)  # once before anything counts
    for turn in range(pairs):
        for name in list(passes)[:: 1 if turn % 2 == 0 else -1]:
            seconds[name].append(_seconds_per_image(passes[name], num_workers) * max(1, num_workers))
    return _timing.compare(seconds)


def _seconds_per_image(one_pass: Pass, num_workers: int) -> float:
    """CPU time of a pass in this process; of processes the time from the first batch on: they outlive a pass."""
    clock = time.perf_counter if num_workers else time.process_time
    start, count = clock(), 0
    for number, (_, labels) in enumerate(one_pass()):
        if num_workers and number == 0:
            start = clock()
        else:
            count += len(labels)
    if not count:
        raise ValueError("--images must be more than one batch, since the first is not timed; give more")
    return (clock() - start) / count


if __name__ == "__main__":
    sys.exit(main())
