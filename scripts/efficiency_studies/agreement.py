"""Whether two runs on one machine say the same."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scripts import _results

TOLERANCE = 0.1
WANTED = 0.9  # of the cells that can be quoted


def report(first: str, second: str) -> tuple[str, bool]:
    """How many cells of two result files agree, after each is related to the reference kernel of its own run.

    A cell that one of the runs calls too noisy to quote is counted apart.

    Returns:
        What to say, and whether WANTED agree.

    Raises:
        ValueError: files of another device, or without a cell in common.
    """
    headers, runs = [], []
    for path in (first, second):
        header, *records = _results.read(Path(path))
        headers.append(header)
        runs.append(_related(records))
    if headers[0].get("device") != headers[1].get("device"):
        raise ValueError(
            f"agree: {second} must be of {headers[0].get('device')}, as {first} is; run both on one device"
        )
    common = [name for name in runs[0] if name in runs[1]]
    if not common:
        raise ValueError(f"agree: {first} and {second} must have cells in common; run the same studies")
    quoted = [name for name in common if not any(run[name].is_noisy for run in runs)]
    differing = {
        name: ratio
        for name in quoted
        if abs(math.log(ratio := runs[1][name].times / runs[0][name].times)) > math.log1p(TOLERANCE)
    }
    agreeing = len(quoted) - len(differing)
    is_met = bool(quoted) and agreeing >= WANTED * len(quoted)
    lines = [
        f"{len(common)} cells in common; {len(common) - len(quoted)} are too noisy to quote in one of the runs; of the "
        f"other {len(quoted)}, {agreeing} agree within {TOLERANCE:.0%}"
        + (f" ({agreeing / len(quoted):.1%}): " if quoted else ": ")
        + ("as many as" if is_met else "fewer than")
        + f" the {WANTED:.0%} that two runs should have"
    ]
    lines += [f"  {name}: {ratio:.2f} times as long" for name, ratio in differing.items()]
    return "\n".join(lines), is_met


class _Related(NamedTuple):
    """A timing: how many times as long as the reference kernel, and whether it is too noisy to quote."""

    times: float
    is_noisy: bool


def _related(records: Sequence[Mapping[str, Any]]) -> dict[str, _Related]:
    """The timings of a run by name, related to the reference around them.

    The reference was timed beside every cell, and is as noisy as they are, where the speed of the machine changes over
    minutes: it is the median of the cell's own and of those of the cells before and after it.
    """
    cells = [rows for record in records if (rows := dict(_timings(record)))]
    own = [statistics.median(timing["ms"] / timing["relative"] for timing in rows.values()) for rows in cells]
    found = {}
    for number, rows in enumerate(cells):
        reference = statistics.median(own[max(0, number - 1) : number + 2])
        found |= {name: _Related(timing["ms"] / reference, timing["is_noisy"]) for name, timing in rows.items()}
    return found


def _timings(record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The timings of a record that are related to the reference, by name."""
    name = f"{record['study']} {record['cell']}"
    if "relative" in record:
        yield name, record
    for row, timing in record.get("rows", {}).items():
        yield f"{name} {row}", timing
