"""What the benchmarks write: a log that can be continued, lines and means; and the flags that they share."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from scripts._timing import Ratio, geometric_mean, warning
from scripts.conv_shapes import KINDS

DIRECTIONS = {"forward": "forward", "forward_backward": "forward+backward"}
MODES = {"inference": "inference", "training": "training step"}
# torchvision's own definition in torch's two memory layouts: the faster of the two is the peer.
EAGER = ("torch", "torch_channels_last")


class Log:
    """A file of one JSON object a line: where and how it was measured, then a record for each measurement.

    Attributes:
        done: records that the file has, by the values of `key`.
    """

    def __init__(self, path: str | None, header: Mapping[str, Any], key: Sequence[str]) -> None:
        """Opens the file to go on, or makes it; nothing is written where there is no path.

        Raises:
            ValueError: a file that another run, or something else, wrote.
        """
        self.done: dict[tuple, dict] = {}
        self._path = Path(path) if path else None
        if self._path is None:
            return
        header = json.loads(json.dumps(header))
        records = read(self._path) if self._path.exists() else []
        differing = [name for name in header if records and records[0].get(name) != header[name]]
        if differing:
            raise ValueError(
                f"--json={path} must be of the same run, but differs in {', '.join(differing)}; name another"
            )
        self.done = {tuple(record[name] for name in key): record for record in records[1:]}
        # Written anew, because a line that was cut off would spoil the next.
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("".join(json.dumps(record) + "\n" for record in records or [header]))

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes a record at once."""
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(record) + "\n")


def read(path: Path) -> list[dict]:
    """The records of a file, header first; a last line that was cut off is left out.

    Raises:
        ValueError: a file that no benchmark wrote.
    """
    lines, records = path.read_text().splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if 1 < number == len(lines):
                break
            records.append(None)
    if any(not isinstance(record, dict) or "record" not in record for record in records):
        raise ValueError(f"--json={path} must hold the JSON lines of a benchmark; name another")
    return records


def describe(header: Mapping[str, Any]) -> str:
    """Where it was measured, and how."""
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    device = f"{header['device']}, {header['threads']} threads"
    decoder = f"{header['decoder']}, " if "decoder" in header else ""
    return f"{device}, {versions}, {decoder}{header['dtype']}, {header['pairs']} pairs"


def announce(header: Mapping[str, Any]) -> None:
    """Prints where and how it is measured, with a warning where the machine is not at rest."""
    print("\n".join(filter(None, (describe(header), warning()))), flush=True)


def conv_line(row: Mapping[str, Any]) -> str:
    """One convolution: of each direction the lowerings, our milliseconds and the ratios."""
    parts = [f"{row['shape']:20s} b{row['batch']:<3d}{row['class']:12s}"]
    for direction in DIRECTIONS:
        if direction in row:
            part = row[direction]
            parts.append(f"| {lowering_names(part)} {part['ms']['ours']:.3g} ms")
            parts += [f"{peer} {Ratio(**value)}" for peer, value in part["ratio"].items()]
    return " ".join(parts)


def lowering_names(part: Mapping[str, Any]) -> str:
    """What runs: one name where all parts of the gradient take the same path."""
    names = part["lowerings"]
    return names[0] if len(set(names)) == 1 else "/".join(names)


def class_means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Geometric means of the peers' time over ours, for each batch, class, direction and peer that was measured."""
    means = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        for kind in KINDS:
            for direction in DIRECTIONS:
                members = [row for row in rows if (row["batch"], row["class"]) == (batch, kind) and direction in row]
                for peer in dict.fromkeys(peer for row in members for peer in row[direction]["ratio"]):
                    ratios = {row["shape"]: Ratio(**row[direction]["ratio"][peer]) for row in members}
                    means.append({"batch": batch, "class": kind, "direction": direction, "peer": peer})
                    means[-1]["mean"] = geometric_mean(value.median for value in ratios.values())
                    means[-1]["shapes"] = len(ratios)
                    means[-1]["slower"] = {shape: str(value) for shape, value in ratios.items() if value.is_slower}
    return means


def conv_summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """The geometric means, and the shapes on which ours loses more than 5% beyond the spread."""
    lines = ["", "geometric means of the peer's time over ours; shapes where ours loses over 5% beyond the spread:"]
    for mean in class_means(rows):
        slower = ", ".join(f"{shape} {value}" for shape, value in mean["slower"].items())
        lines.append(
            f"  b{mean['batch']:<3d}{mean['class']:12s} {DIRECTIONS[mean['direction']]:17s} {mean['peer']:6s}"
            f"{mean['mean']:7.3g} over {mean['shapes']:3d}{': ' * bool(slower)}{slower}"
        )
    return "\n".join(lines)


def model_line(row: Mapping[str, Any]) -> str:
    """One network: of each mode our milliseconds, seconds of compilation, and the ratios."""
    parts = [f"{row['model']:20s} b{row['batch']:<3d}{row['image_size']} px"]
    for mode in MODES:
        if mode in row:
            part = row[mode]
            compiled = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in part["compile_s"].items())
            ratios = [f"{peer} {Ratio(**value)}" for peer, value in part["ratio"].items()]
            parts.append(f"| {MODES[mode]} {part['ms']['ours']:.4g} ms {' '.join(ratios)} (compilation: {compiled})")
    return " ".join(parts)


def op_line(row: Mapping[str, Any]) -> str:
    """One operator: of each direction our milliseconds and the ratio."""
    parts = [f"{row['op']:28s} {row['size']:40s}"]
    for direction, title in DIRECTIONS.items():
        if direction in row:
            ratios = [f"{peer} {Ratio(**value)}" for peer, value in row[direction]["ratio"].items()]
            parts.append(f"| {title} {row[direction]['ms']['ours']:.3g} ms {' '.join(ratios)}")
    return " ".join(parts)


def optim_line(row: Mapping[str, Any]) -> str:
    """One optimiser: milliseconds of an update, the share of the step, and the ratio to optax."""
    share = f"{row['ms']['ours']:.3g} ms an update, {100 * row['share']:.2g}% of a step of {row['step_ms']:.4g} ms"
    return f"{row['model']:20s} {row['optimizer']:13s} {share} | optax {Ratio(**row['ratio']['optax'])}"


def input_line(row: Mapping[str, Any]) -> str:
    """One input pipeline: images per second and core of each peer, and the ratios."""
    parts = [f"{row['case']:10s} {row['size']} ours {1e3 / row['ms']['ours']:.4g} images/s a core"]
    for peer, value in row["ratio"].items():
        parts.append(f"{peer} {1e3 / row['ms'][peer]:.4g}, {Ratio(**value)}")
    best = fastest_input(row)
    return " | ".join([*parts, *([f"to beat: {best}"] if best else [])])


def fastest_input(row: Mapping[str, Any]) -> str | None:
    """The fastest of the peers that end with uint8, as ours does; None where there is none."""
    peers = [peer for peer in row["ratio"] if not peer.endswith("float")]
    return min(peers, key=lambda peer: row["ms"][peer], default=None)


def eager_ratio(part: Mapping[str, Any]) -> tuple[str, Ratio] | None:
    """The faster layout of torch eager, and its ratio; None where torch was not measured."""
    layouts = [name for name in EAGER if name in part["ratio"]]
    if not layouts:
        return None
    best = min(layouts, key=lambda name: part["ms"][name])
    return best, Ratio(**part["ratio"][best])


def clock(seconds: float) -> str:
    """1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


class LineParser(argparse.ArgumentParser):
    """Flags of which a wrong one is told in one line."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


class Parser(LineParser):
    """The flags of all benchmarks."""

    def __init__(self, prog: str, description: str, dtypes: Sequence[str] = ("float32", "bfloat16")) -> None:
        super().__init__(prog, description)
        self.add_argument("--dtype", choices=dtypes, default=dtypes[0])
        self.add_argument("--pairs", type=positive, default=20, help="rounds, in each of which every peer is timed")
        self.add_argument("--json", action="append", default=[], help="a line a measurement; what it has is not timed")
        self.add_argument("--markdown", help="write this file from the --json files, any number, and time nothing")

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The flags; exits with status 2 and one line where they do not fit."""
        args = self.parse_args(argv)
        if args.markdown and not args.json:
            self.error("--markdown needs the results of a run; add --json=FILE")
        if not args.markdown and len(args.json) > 1:
            self.error(f"--json={args.json[1]} must be the only one without --markdown; leave one")
        return args


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 1 on")
    return int(text)


def complain(owner: str, error: BaseException) -> int:
    """One line on stderr; the exit status."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    print(lines[0] if lines[0].startswith(owner) else f"{owner}: {lines[0]}", file=sys.stderr)
    return 1
