"""Measures what architectures really cost on this device, beside what is published.

  python scripts/efficiency.py all                  # every study, a choice of cells: 45 minutes on two cores
  python scripts/efficiency.py all --full           # everything
  python scripts/efficiency.py g2 peers --rounds=20 --filter='56x56|batch 1'
  python scripts/efficiency.py agree --json=one.jsonl --json=two.jsonl       # exit status 1 where they do not
  python scripts/efficiency.py page --json=one.jsonl --json=two.jsonl        # docs/efficiency.md and its figures, of
                                                                             # the first, and how far both agree

Studies: g1 to g4, the structure tables of ShuffleNet v2; breakdown, the time by kind of operator; roofline, each layer
beside the limits of the device; peers, against torch; predict, latencies from a table of operators; models, networks of
40 to 500 million multiply-adds, and of every other family. Results are kept in --json, a line a record: what it has is
not measured again, and the same command goes on after an interruption. What fails is told, left out, and tried again
by the same command.
"""

import argparse
import functools
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout

from arch.training.host import prepare_host

if __name__ == "__main__":
    # Now, before JAX has threads; torch, in the same process, gains too.
    prepare_host()

from scripts import _results, _timing
from scripts.efficiency_studies import agreement, networks, page, parts, peers, prediction, structure
from scripts.efficiency_studies.study import Settings, Work

ALL_MINUTES = 43
RESULTS = "runs/efficiency.jsonl"
PAGE = "docs/efficiency.md"


class Study(NamedTuple):
    """A study of STUDIES: its works, and the lines of a record for the terminal."""

    works: Callable[[Settings], list[Work]]
    lines: Callable[[Mapping[str, Any]], list[str]]


STUDIES = {
    **{table: Study(functools.partial(structure.works, table), structure.lines) for table in ("g1", "g2", "g3", "g4")},
    "breakdown": Study(parts.breakdown_works, parts.breakdown_lines),
    "roofline": Study(parts.roofline_works, parts.roofline_lines),
    "peers": Study(peers.works, peers.lines),
    "predict": Study(prediction.works, prediction.lines),
    "models": Study(networks.works, networks.lines),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1: a line on stderr says why not; 2: wrong flags; 130: interrupted, what is done is kept."""
    args = _parse(argv)
    try:
        if args.studies == ["page"]:
            page.write(args.output, *args.json)
            return 0
        if args.studies == ["agree"]:
            text, is_met = agreement.report(*args.json)
            print(text)
            return 0 if is_met else 1
        settings = Settings(rounds=args.rounds, is_full=args.full)
        header = {"record": "efficiency_run", **_timing.environment(), "dtype": "float32", "pairs": args.rounds}
        header["versions"] |= peers.onnx_version()
        log = _results.Log(args.json[0], header, key=("study", "cell"))
        _results.announce(header)
        names = list(STUDIES) if "all" in args.studies else args.studies
        works = [work for name in names for work in STUDIES[name].works(settings) if args.filter.search(work.cell)]
        return _run(works, log, args.json[0], args.minutes)
    except (ValueError, OSError) as error:
        return _results.complain("efficiency", error)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _results.LineParser("efficiency", __doc__)
    choices = (*STUDIES, "all", "page", "agree")
    parser.add_argument("studies", nargs="+", choices=choices, metavar="STUDY", help=", ".join(choices))
    parser.add_argument("--full", action="store_true", help="every batch size, every network")
    parser.add_argument("--rounds", type=_results.positive, default=10, help="in each of which all peers are timed")
    parser.add_argument("--minutes", type=_results.positive, help=f"begins nothing after; {ALL_MINUTES} for all")
    parser.add_argument("--filter", type=_expression, default="", help="regular expression: cells with a match")
    parser.add_argument("--json", action="append", default=[], help=f"the results; {RESULTS}")
    parser.add_argument("--output", default=PAGE, help=f"what page writes; {PAGE}")
    args = parser.parse_args(argv)
    args.json = args.json or [RESULTS]
    for alone in ("page", "agree"):
        if alone in args.studies and args.studies != [alone]:
            parser.error(f"{alone} must be the only study; run it apart")
    times = {"agree": (2,), "page": (1, 2)}.get(args.studies[0], (1,))
    if len(args.json) not in times:
        counts = " or ".join(("once", "twice")[number - 1] for number in times)
        parser.error(f"--json must be given {counts}; name the results")
    if args.minutes is None and "all" in args.studies and not args.full:
        args.minutes = ALL_MINUTES
    return args


def _expression(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text} must be a regular expression: {error}; escape it") from None


def _run(works: Sequence[Work], log: _results.Log, path: str, minutes: float | None) -> int:
    """Measures what the log does not have, and prints each record."""
    todo = [work for work in works if (work.study, work.cell) not in log.done]
    num_failed = 0
    if len(todo) < len(works):
        print(f"{len(works) - len(todo)} of {len(works)} are in {path} already", flush=True)
    start = time.perf_counter()
    try:
        for number, work in enumerate(todo, start=1):
            if minutes is not None and time.perf_counter() - start > 60 * minutes:
                left = len(todo) - number + 1
                print(f"{minutes:g} minutes are over; {left} are left: the same command goes on with them", flush=True)
                break
            before = time.perf_counter()
            try:
                part = {"record": "cell", "study": work.study, "cell": work.cell, **work.measure()}
            except Exception as error:  # of this network, or a peer's: the others can still be measured
                num_failed += 1
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                print(f"efficiency: {work.study} {work.cell} failed: {reason}", file=sys.stderr, flush=True)
                continue
            log.append(part)
            log.done[work.study, work.cell] = part
            took = _results.clock(time.perf_counter() - before)
            print(f"{number:3d}/{len(todo)} {work.study} {work.cell} [took {took}]", flush=True)
            print("\n".join(STUDIES[work.study].lines(part)), flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    _conclude(log.done.values())
    if num_failed:
        print(f"{num_failed} of {len(todo)} failed; the same command tries them again", flush=True)
    return 1 if num_failed else 0


def _conclude(records: Sequence[Mapping[str, Any]]) -> None:
    """What the structure tables say of the guidelines."""
    for table in ("g1", "g2", "g3", "g4"):
        for platform in ("gpu", "cpu"):
            found = [part for part in records if part["study"] == table and part["platform"] == platform]
            if found:
                print(f"{table.upper()}, widths of the {platform.upper()}: {structure.sentence(found)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
