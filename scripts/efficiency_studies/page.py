"""docs/efficiency.md and its figures, written from the results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arch.efficiency import tables
from scripts import _results
from scripts._timing import Ratio
from scripts.efficiency_studies import figures, parts, structure

INTRODUCTION = """\
# What architectures cost

Made by `python scripts/efficiency.py page --json={source} --output={path}`, from results of
`python scripts/efficiency.py`. {where}, {rounds} rounds.

Times are medians over the rounds; **noisy** marks those whose quartiles are more than 10% of the median apart, or that
were measured once: they are not to be quoted. Published speeds are those of ShuffleNet v2 (arXiv:1807.11164): batches a
second of a GeForce GTX 1080 Ti, images a second of one thread of a Snapdragon 810.
"""


def write(path: str, source: str) -> None:
    """Writes the page, and figures beside it.

    Raises:
        ValueError: a file that scripts/efficiency.py did not write.
    """
    header, *records = _results.read(Path(source))
    if header["record"] != "efficiency_run":
        raise ValueError(f"page: --json={source} must be of scripts/efficiency.py; name another")
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(record["study"], []).append(record)
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    where = f"{header['device']}, {header['threads']} threads, {versions}, {header['dtype']}"
    sections = [INTRODUCTION.format(path=path, source=source, where=where, rounds=header["pairs"])]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    for study, section in SECTIONS.items():
        if study in found:
            sections.append(section(found[study]))
            sections += [f"![{name}]({name})\n" for name in figures.draw(study, found[study], path)]
    Path(path).write_text("\n".join(section.strip("\n") + "\n" for section in sections))


def _structure(records: Sequence[Mapping[str, Any]]) -> str:
    study = records[0]["study"]
    lines = [f"## {study.upper()}. {tables.TITLES[study]}", ""]
    for platform in tables.PLATFORMS:
        members = [record for record in records if record["platform"] == platform]
        for batch in sorted({record["batch"] for record in members}):
            own = [record for record in members if record["batch"] == batch]
            lines += [f"Widths of the {platform.upper()}'s columns, batch {batch}. {structure.sentence(own)}", ""]
            lines += [*_structure_table(own), ""]
    deviations = [abs(row["deviation"]) for record in records for row in record["rows"].values()]
    lines.append(f"Multiply-adds within a column differ by at most {max(deviations):.1%}.")
    return "\n".join(lines)


def _structure_table(records: Sequence[Mapping[str, Any]]) -> list[str]:
    titles = ["row"]
    for record in records:
        titles.append(f"{record['size']}x{record['size']} c={record['channels']}: published, measured")
    rows = []
    for row in records[0]["rows"]:
        cells = [record["rows"][row] for record in records]
        rows.append([row, *(f"{c['published']:g}, {c['measured']:.4g}{' **noisy**' * c['is_noisy']}" for c in cells)])
    rows.append(["*rank correlation*", *(f"{structure.correlation(record):.2f}" for record in records)])
    return table([*titles], rows)


def _breakdown(records: Sequence[Mapping[str, Any]]) -> str:
    kinds = list(records[0]["shares"])
    rows = [
        [record["cell"], f"{record['total_ms']:.4g}", *(f"{record['shares'][kind]:.1%}" for kind in kinds)]
        for record in records
    ]
    text = (
        "From a profile of the compiled program; a fused kernel counts as the first of these kinds that it has a part "
        "of. The paper's figure 2 has the same for its devices, as pies."
    )
    return "\n".join(["## Running time by kind of operator", "", text, "", *table(["network", "ms", *kinds], rows)])


def _roofline(records: Sequence[Mapping[str, Any]]) -> str:
    lines = ["## How far layers are from the limits of the device", ""]
    for record in records:
        rates = f"{record['macs_per_s'] / 1e9:.4g} GMACs/s, {record['bytes_per_s'] / 1e9:.4g} GB/s"
        rows = [
            [k["kind"], k["layers"], f"{k['ms']:.3g}", f"{k['limit_ms']:.3g}", k["bound"], f"{k['reached']:.0%}"]
            for k in parts.by_kind(record["layers"])
        ]
        titles = ["kind", "layers", "ms", "limit, ms", "bound", "reached, median"]
        lines += [f"{record['cell']}; measured rates: {rates}.", "", *table(titles, rows), ""]
    return "\n".join(lines)


def _peers(records: Sequence[Mapping[str, Any]]) -> str:
    peers = list(dict.fromkeys(peer for record in records for peer in record["ratio"]))
    rows = [
        [
            record["model"],
            record["batch"],
            f"{record['ms']['ours']:.4g}",
            *(str(Ratio(**record["ratio"][peer])) if peer in record["ratio"] else "-" for peer in peers),
            ", ".join(f"{name} {seconds:.3g} s" for name, seconds in record["compile_s"].items()),
        ]
        for record in records
    ]
    titles = ["network, folded", "batch", "ours, ms", *(f"{peer}: time over ours" for peer in peers), "compilation"]
    text = "In turn in one process; above 1 ours is faster. In brackets the quartiles."
    return "\n".join(["## Against other libraries", "", text, "", *table(titles, rows)])


def _predict(records: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            record["space"],
            record["operators"],
            len(record["pairs_ms"]),
            f"{record['error']:.1%}",
            f"{record['scale']:.2f}",
            f"{record['unscaled_error']:.1%}",
        ]
        for record in records
    ]
    titles = ["space", "operators", "networks predicted", "median error", "scale", "median error without it"]
    text = "Latencies of networks that the table of operators was not built from, predicted and measured."
    return "\n".join(["## Latency from a table of operators", "", text, "", *table(titles, rows)])


def _models(records: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            record["family"] if record["level"] is None else f"{record['family']} {record['level']}M",
            record["batch"],
            "yes" if record["folded"] else "no",
            f"{record['macs'] / 1e6:.1f}",
            "-" if record["top1"] is None else f"{record['top1']:.3f}",
            f"{record['ms']:.4g}{' **noisy**' * record['is_noisy']}",
            f"{record['images_per_s']:.4g}",
            f"{record['compile_s']:.3g}",
            "-" if record["peak_bytes"] is None else f"{record['peak_bytes'] / 2**20:.0f}",
        ]
        for record in records
    ]
    titles = ["network", "batch", "folded", "MMACs", "top-1", "ms", "images/s", "compilation, s", "memory, MiB"]
    text = (
        "Accuracies are published, not measured here: of the four complexities in table 8 of arXiv:1807.11164, of "
        "others with torchvision 0.29.1's IMAGENET1K_V1 weights. The Xceptions of four complexities are Chollet's, "
        "scaled in width; the accuracies are of the authors' own layout, which is not published."
    )
    return "\n".join(["## Networks", "", text, "", *table(titles, rows)])


def table(titles: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(map(str, row))} |" for row in (titles, ["---"] * len(titles), *rows)]


SECTIONS = {
    **dict.fromkeys(("g1", "g2", "g3", "g4"), _structure),
    "breakdown": _breakdown,
    "roofline": _roofline,
    "peers": _peers,
    "predict": _predict,
    "models": _models,
}
