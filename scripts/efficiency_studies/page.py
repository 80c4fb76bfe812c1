"""docs/efficiency.md and its figures, written from the results."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arch.efficiency import tables
from scripts import _results
from scripts._timing import Ratio
from scripts.efficiency_studies import agreement, figures, networks, parts, peers, structure

WANTED_ERROR = 0.15  # of the predictor

INTRODUCTION = """\
# What architectures cost

Made by `python scripts/efficiency.py page {sources} --output={path}`, from results of `python scripts/efficiency.py`.
{where}, {rounds} rounds.

Times are medians over the rounds; **noisy** marks those whose quartiles are more than 10% of the median apart, or that
were measured once: they are not to be quoted. Published speeds are those of ShuffleNet v2 (arXiv:1807.11164): batches a
second of a GeForce GTX 1080 Ti, images a second of one thread of a Snapdragon 810. In the tables of its guidelines the
batch of the GPU is not told; it is read as 1, for with 8 some rows would need more arithmetic than that GPU has. What
else they leave open, and how it is read, is in `arch/efficiency/tables.py`.
"""


def write(path: str, source: str, again: str | None = None) -> None:
    """Writes the page, and figures beside it.

    Args:
        path: of the page.
        source: of the results.
        again: those of a second run, to say how far both agree.

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
    sources = " ".join(f"--json={name}" for name in (source, again) if name)
    sections = [INTRODUCTION.format(path=path, sources=sources, where=where, rounds=header["pairs"])]
    if again:
        told, *cells = agreement.report(source, again)[0].splitlines()
        cells = [f"- {cell.strip()}" for cell in cells]
        how = "Each is related to its run's reference kernel, the median of those timed in it and in its neighbours."
        text = f"A second run of the same command: {told}. {how}"
        sections.append("\n".join(["## Whether it repeats", "", text, *cells]))
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
    lines.append(
        f"Multiply-adds within a column differ from the first row's by at most {max(deviations):.1%}: the widths are "
        "the published ones, which are rounded to multiples of the first column's."
    )
    return "\n".join(lines)


def _structure_table(records: Sequence[Mapping[str, Any]]) -> list[str]:
    titles = ["row"]
    for record in records:
        titles.append(f"{record['size']}x{record['size']} c={record['channels']}: published, measured")
    rows = []
    for row in records[0]["rows"]:
        cells = [record["rows"][row] for record in records]
        rows.append([row, *(f"{c['published']:g}, {c['measured']:.4g}{' **noisy**' * c['is_noisy']}" for c in cells)])
    correlations = [structure.correlation(record) for record in records]
    rows.append(["*rank correlation*", *("-" if math.isnan(value) else f"{value:.2f}" for value in correlations)])
    return table([*titles], rows)


def _breakdown(records: Sequence[Mapping[str, Any]]) -> str:
    kinds = list(records[0]["shares"])
    rows = []
    for record in records:
        whole, shares = record["rows"]["whole"], [f"{record['shares'][kind]:.1%}" for kind in kinds]
        rows.append([record["cell"], _milliseconds(whole), f"{record['total_ms']:.4g}", *shares])
    text = (
        "From a profile of the compiled program, of the call of median length; a fused kernel counts as the first of "
        "these kinds that it has a part of. Beside it the time without a profile. The paper's figure 2 has such shares "
        "for its devices, as pies, without reductions as a kind of their own."
    )
    titles = ["network", "ms", "ms, profiled", *kinds]
    return "\n".join(["## Running time by kind of operator", "", text, "", *table(titles, rows)])


def _roofline(records: Sequence[Mapping[str, Any]]) -> str:
    text = (
        "A layer cannot take less than its multiply-adds at the rate of a large matrix product, nor than its bytes at "
        "the rate of a large copy; *reached* is that limit over its time, the median over the layers of a kind. More "
        "than 100% is possible: arrays that stay in a cache are faster than memory, and Winograd's convolutions need "
        "fewer multiplications. Layers that multiply, from one profiled call."
    )
    lines = ["## How far layers are from the limits of the device", "", text, ""]
    for record in records:
        rates = f"{record['macs_per_s'] / 1e9:.4g} GMACs/s, {record['bytes_per_s'] / 1e9:.4g} GB/s"
        rows = [
            [k["kind"], k["layers"], f"{k['ms']:.3g}", f"{k['limit_ms']:.3g}", k["bound"], f"{k['reached']:.0%}"]
            for k in parts.by_kind(record["layers"])
        ]
        titles = ["kind", "layers", "ms", "limit, ms", "bound", "reached, median"]
        whole = f"{record['cell']}, {_milliseconds(record['rows']['whole'])} ms in all"
        untimed = f"; {record['untimed']} layers are not in the profile" if record["untimed"] else ""
        lines += [f"{whole}; measured rates: {rates}{untimed}.", "", *table(titles, rows), ""]
    return "\n".join(lines)


def _peers(records: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(peer for record in records for peer in record["ratio"]))
    rows = []
    for record in records:
        best, ratio = peers.fastest(record)
        compilation = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in record["compile_s"].items())
        rows.append(
            [
                record["model"],
                record["batch"],
                _milliseconds(record["rows"]["ours"]),
                *(str(Ratio(**record["ratio"][peer])) if peer in record["ratio"] else "-" for peer in names),
                f"{best}, {ratio.median:.3g}",
                compilation,
            ]
        )
    titles = ["network, folded", "batch", "ours, ms", *(f"{peer}: time over ours" for peer in names), "fastest peer"]
    text = (
        "In turn in one process, with equal threads; above 1 ours is faster. In brackets the quartiles. Ours has its "
        "norms folded, and so have torch_folded, torch_compile (by freezing) and ONNX Runtime; torch is eager, in both "
        f"memory layouts, and folds nothing. {peers.sentence(records)}"
    )
    return "\n".join(["## Against other libraries", "", text, "", *table([*titles, "compilation"], rows)])


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
    met = [record["space"] for record in records if record["error"] <= WANTED_ERROR]
    text = (
        "Latencies of networks that the table of operators was not built from, predicted and measured; the scale is "
        f"fitted to those that it was built from. Median errors of at most {WANTED_ERROR:.0%} were wanted, and are "
        f"reached in {len(met)} of {len(records)} spaces."
    )
    return "\n".join(["## Latency from a table of operators", "", text, "", *table(titles, rows)])


def _models(records: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            record["family"] if record["level"] is None else f"{record['family']} {record['level']}M",
            record["dtype"],
            record["batch"],
            "yes" if record["folded"] else "no",
            f"{record['macs'] / 1e6:.1f}",
            "-" if record["top1"] is None else f"{record['top1']:.3f}",
            _milliseconds(record),
            f"{record['images_per_s']:.4g}",
            f"{record['compile_s']:.3g}",
            "-" if record["peak_bytes"] is None else f"{record['peak_bytes'] / 2**20:.0f}",
        ]
        for record in records
    ]
    titles = ["network", "dtype", "batch", "folded", "MMACs", "top-1", "ms", "images/s", "compilation, s", "MiB"]
    text = (
        "Accuracies are published, not measured here; memory is what the compiler plans. The Xceptions of 40 to 500 "
        "million multiply-adds are Chollet's, scaled in width; the accuracies and speeds published for these sizes are "
        "of the authors' own layout, which is not. The smallest MobileNets v2 are 0.27 and 0.56 wide here, with the "
        "published number of multiply-adds; their accuracies are of 0.15 and 0.6. 500M stands for 524 to 591."
    )
    lines = ["## Networks", "", text, ""]
    for device, where in (("gpu", "GPU at batch 8"), ("cpu", "CPU at batch 1")):
        value, count = networks.speed_correlation(records, device)
        if not math.isnan(value):
            lines.append(
                f"The speeds of {count} networks of these sizes rank as on the authors' {where} with a correlation of "
                f"{value:.2f}."
            )
    sources: dict[str, list[str]] = {}
    for record in records:
        if record["source"] is not None and record["level"] is None:
            sources.setdefault(record["source"], []).append(record["family"])
    told = [f"{source}: {', '.join(names)}" for source, names in sources.items()]
    lines += ["", f"Accuracies of sizes: {networks.TABLE_8}. Of others: {'; '.join(told)}.", "", *table(titles, rows)]
    return "\n".join(lines)


def _milliseconds(timing: Mapping[str, Any]) -> str:
    return f"{timing['ms']:.4g}{' **noisy**' * timing['is_noisy']}"


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
