"""docs/performance.md, written from the results of the benchmarks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts._results import (
    DIRECTIONS,
    MODES,
    class_means,
    describe,
    eager_ratio,
    fastest_input,
    lowering_names,
    read,
)
from scripts._timing import Ratio, geometric_mean

INTRODUCTION = """\
# Performance

Made by `python scripts/{script} --markdown={path} {sources}`.

A ratio is the peer's time over ours, so above 1 ours is faster: the median over the pairs, in brackets its quartiles;
"once" where a call was too slow to repeat. Peers take turns in one process, with the same number of threads.
Milliseconds are medians.
"""


def write(path: str, sources: Sequence[str], script: str) -> None:
    """Writes the tables of the result files; `performance_notes.md` beside the page, if there, ends it word for word.

    Raises:
        ValueError: a file that no benchmark wrote.
    """
    flags = " ".join(f"--json={source}" for source in sources)
    sections = [INTRODUCTION.format(script=script, path=path, sources=flags)]
    for source in sources:
        header, *rows = read(Path(source))
        if header["record"] not in _SECTIONS:
            raise ValueError(f"--json={source} must start with the header of a benchmark; name another")
        sections.append(_SECTIONS[header["record"]](header, rows))
    notes = Path(path).with_name("performance_notes.md")
    if notes.exists():
        sections.append(notes.read_text())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("\n".join(section.strip("\n") + "\n" for section in sections))


def _conv_section(header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    means = class_means(rows)
    columns = list(dict.fromkeys((mean["direction"], mean["peer"]) for mean in means))
    cells: dict[tuple, dict] = {}
    for mean in means:
        cells.setdefault((mean["class"], mean["batch"]), {})[mean["direction"], mean["peer"]] = mean
    titles = [f"{DIRECTIONS[direction]}, {peer}" for direction, peer in columns]
    table = [
        [kind, batch, max(mean["shapes"] for mean in row.values())]
        + [f"{row[column]['mean']:.2f}" if column in row else "-" for column in columns]
        for (kind, batch), row in cells.items()
    ]
    shapes = [_conv_row(row, columns) for row in rows]
    directions = list(dict.fromkeys(direction for direction, _ in columns))
    shape_titles = []
    for direction in directions:
        peers = [peer for name, peer in columns if name == direction]
        shape_titles += [f"{DIRECTIONS[direction]}: lowering", "ms", *peers]
    return "\n".join(
        [
            f"## Convolutions, {header['dtype']}, {header['device']}",
            "",
            f"{describe(header)}; implementation {header['implementation']}.",
            "",
            "Geometric means of the ratios:",
            "",
            *_table(["class", "batch", "shapes", *titles], table),
            "",
            *_slower(means),
            "Every shape; its name is input size x in_features > features, k taps, s stride, d dilation, g groups:",
            "",
            *_table(["shape", "batch", "class", *shape_titles], shapes),
        ]
    )


def _conv_row(row: Mapping[str, Any], columns: Sequence[tuple[str, str]]) -> list[Any]:
    cells = [f"`{row['shape']}`", row["batch"], row["class"]]
    for direction in dict.fromkeys(direction for direction, _ in columns):
        part = row.get(direction)
        cells += [lowering_names(part), f"{part['ms']['ours']:.3g}"] if part else ["-", "-"]
        for _, peer in (column for column in columns if column[0] == direction):
            cells.append(str(Ratio(**part["ratio"][peer])) if part and peer in part["ratio"] else "-")
    return cells


def _slower(means: Sequence[Mapping[str, Any]]) -> list[str]:
    """A list of the shapes on which ours loses, if there are any."""
    lines = [
        f"- {mean['class']}, batch {mean['batch']}, {DIRECTIONS[mean['direction']]}, {mean['peer']}: "
        + ", ".join(f"`{shape}` {value}" for shape, value in mean["slower"].items())
        for mean in means
        if mean["slower"]
    ]
    return ["Slower than a peer by more than 5% beyond the spread:", "", *lines, ""] if lines else []


def _op_section(header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"## Operators, {header['dtype']}, {header['device']}", "", f"{describe(header)}.", ""]
    measured = [
        (row, direction, row[direction]["ratio"]["torch"]["median"])
        for row in rows
        for direction in DIRECTIONS
        if "torch" in row.get(direction, {}).get("ratio", {})
    ]
    for direction, title in DIRECTIONS.items():
        medians = [median for _, of, median in measured if of == direction]
        if medians:
            level = sum(median >= 1 for median in medians)
            lines.append(
                f"- {title}: at least torch's speed in {level} of {len(medians)}; geometric mean of the ratios "
                f"{geometric_mean(medians):.2f}, least {min(medians):.2f}."
            )
    titles = ["operator", "size"]
    for title in DIRECTIONS.values():
        titles += [f"{title}: ms", "torch"]
    table = [[row["op"], row["size"], *_op_cells(row)] for row in rows]
    return "\n".join([*lines, "", *_table(titles, table)])


def _op_cells(row: Mapping[str, Any]) -> list[str]:
    cells = []
    for direction in DIRECTIONS:
        part = row.get(direction)
        cells.append(f"{part['ms']['ours']:.3g}" if part else "-")
        cells.append(str(Ratio(**part["ratio"]["torch"])) if part and "torch" in part["ratio"] else "-")
    return cells


def _model_section(header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"## Networks, {header['dtype']}, {header['device']}", "", f"{describe(header)}.", ""]
    for mode, title in MODES.items():
        members = [row for row in rows if mode in row]
        peers = list(dict.fromkeys(peer for row in members for peer in row[mode]["ratio"]))
        compiled = list(dict.fromkeys(name for row in members for name in row[mode]["compile_s"]))
        if not members:
            continue
        titles = ["network", "batch", "pixels", "ours, ms", *peers, "torch eager, the faster"]
        table = [_model_row(row, mode, peers, compiled) for row in members]
        lines += [f"### {title[0].upper()}{title[1:]}", ""]
        lines += _table([*titles, *(f"compilation of {name}, s" for name in compiled)], table)
        lines.append("")
    return "\n".join(lines)


def _model_row(row: Mapping[str, Any], mode: str, peers: Sequence[str], compiled: Sequence[str]) -> list[Any]:
    part, eager = row[mode], eager_ratio(row[mode])
    ratios = [str(Ratio(**part["ratio"][peer])) if peer in part["ratio"] else "-" for peer in peers]
    seconds = [f"{part['compile_s'][name]:.3g}" if name in part["compile_s"] else "-" for name in compiled]
    best = f"**{eager[1].median:.2f}** ({eager[0]})" if eager else "-"
    return [row["model"], row["batch"], row["image_size"], f"{part['ms']['ours']:.4g}", *ratios, best, *seconds]


def _optim_section(header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    titles = ["network", "parameters", "optimiser", "ms an update", "of the step", "ms a step", "optax"]
    table = [
        [
            row["model"],
            f"{row['num_params']:,}",
            row["optimizer"],
            f"{row['ms']['ours']:.3g}",
            f"{100 * row['share']:.2g}%",
            f"{row['step_ms']:.4g}",
            str(Ratio(**row["ratio"]["optax"])),
        ]
        for row in rows
    ]
    size = f"{header['batch']} images of {header['image_size']} pixels"
    lines = [f"## Optimisers, {header['device']}", "", f"{describe(header)}; steps of {size}.", ""]
    return "\n".join([*lines, *_table(titles, table)])


def _input_section(header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    where = f"{header['workers']} worker processes" if header["workers"] else "in this process, on one core"
    lines = [f"## Input, {header['device']}", "", f"{describe(header)}; batches of {header['batch']}, {where}.", ""]
    for row in rows:
        files = f" from JPEG files of {row['file_bytes'] / 1e3:.0f} kB" if "file_bytes" in row else ""
        lines += [f"### {row['case']}, {row['images']} images of {row['size']}{files}", ""]
        best = fastest_input(row)
        table = [
            [
                f"**{peer}**" if peer == best else peer,
                f"{1e3 / ms:.4g}",
                str(Ratio(**row["ratio"][peer])) if peer in row["ratio"] else "-",
            ]
            for peer, ms in row["ms"].items()
        ]
        lines += [*_table(["pipeline", "images/s a core", "its time over ours"], table), ""]
    return "\n".join(lines)


def _table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (titles, ["---"] * len(titles), *rows)]


_SECTIONS = {
    "conv_run": _conv_section,
    "input_run": _input_section,
    "model_run": _model_section,
    "op_run": _op_section,
    "optim_run": _optim_section,
}
