"""The figures of docs/efficiency.md."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arch.efficiency.breakdown import KINDS

COLORS = dict(zip(KINDS, ("#4c72b0", "#8172b3", "#c44e52", "#dd8452", "#55a868", "#937860"), strict=True))


def draw(study: str, records: Sequence[Mapping[str, Any]], page: str) -> list[str]:
    """Draws the figures of a study beside the page; their file names."""
    drawers = {"breakdown": _breakdown, "roofline": _roofline, "predict": _predict, "models": _models}
    if study not in drawers:
        return []
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = drawers[study](pyplot, records)
    if figure is None:
        return []
    path = Path(page).with_name(f"{Path(page).stem}_{study}.png")
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return [path.name]


def _breakdown(pyplot: Any, records: Sequence[Mapping[str, Any]]) -> Any:
    """A pie for each network at each batch, as the lecture has them."""
    shown = [record for record in records if record["folded"]]
    if not shown:
        return None
    figure, axes = pyplot.subplots(1, len(shown), figsize=(3.2 * len(shown), 3.6), squeeze=False)
    for axis, record in zip(axes[0], shown, strict=True):
        shares = [record["shares"][kind] for kind in KINDS]
        labels = [f"{share:.0%}" if share >= 0.03 else "" for share in shares]
        axis.pie(shares, labels=labels, colors=[COLORS[kind] for kind in KINDS], startangle=90, counterclock=False)
        axis.set_title(f"{record['cell'].removesuffix(' folded')}\n{record['total_ms']:.3g} ms", fontsize=9)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=COLORS[kind]) for kind in KINDS]
    figure.legend(handles, KINDS, loc="lower center", ncols=len(KINDS), frameon=False, fontsize=8)
    return figure


def _roofline(pyplot: Any, records: Sequence[Mapping[str, Any]]) -> Any:
    """Multiply-adds a second against multiply-adds a byte, a point a layer, under the roof."""
    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    peaks, seen = records[-1], []
    for record in records:
        intensities = [row["macs"] / row["bytes"] for row in record["layers"]]
        rates = [row["macs"] / row["ms"] / 1e6 for row in record["layers"]]
        axis.scatter(intensities, rates, s=14, alpha=0.7, label=record["model"])
        seen += intensities
    ridge = peaks["macs_per_s"] / peaks["bytes_per_s"]
    points = [min([*seen, ridge]) / 2, ridge, 2 * max([*seen, ridge])]
    roof = [min(x * peaks["bytes_per_s"], peaks["macs_per_s"]) / 1e9 for x in points]
    axis.plot(points, roof, color="black", linewidth=1, label="measured limits")
    axis.set(xscale="log", yscale="log", xlabel="multiply-adds a byte", ylabel="10⁹ multiply-adds a second")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def _predict(pyplot: Any, records: Sequence[Mapping[str, Any]]) -> Any:
    """Predicted against measured latency."""
    figure, axis = pyplot.subplots(figsize=(4.8, 4.5))
    for record in records:
        predicted, measured = zip(*record["pairs_ms"], strict=True)
        axis.scatter(measured, predicted, s=18, label=f"{record['space']}, median error {record['error']:.1%}")
    top = 1.05 * max(value for record in records for pair in record["pairs_ms"] for value in pair)
    axis.plot([0, top], [0, top], color="black", linewidth=0.8)
    axis.fill_between([0, top], [0, 0.85 * top], [0, 1.15 * top], color="black", alpha=0.08, label="within 15%")
    axis.set(xlabel="measured, ms", ylabel="predicted, ms", xlim=(0, top), ylim=(0, top))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper left")
    return figure


def _models(pyplot: Any, records: Sequence[Mapping[str, Any]]) -> Any:
    """Published accuracy against multiply-adds, and against the time of one image here."""
    shown = [
        record
        for record in records
        if (record["batch"], record["folded"], record["dtype"]) == (1, True, "float32") and record["top1"] is not None
    ]
    if not shown:
        return None
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5.5), sharey=True)
    families: dict[str, list[Mapping[str, Any]]] = {}
    for record in shown:
        families.setdefault(record["family"] if record["level"] else "others", []).append(record)
    for axis, value, label in (
        (axes[0], lambda record: record["macs"] / 1e6, "million multiply-adds"),
        (axes[1], lambda record: record["ms"], "ms, one image, norms folded"),
    ):
        for family, members in families.items():
            members = sorted(members, key=value)
            style = {"linestyle": "none", "color": "grey"} if family == "others" else {}
            accuracies = [100 * member["top1"] for member in members]
            axis.plot(
                [value(member) for member in members], accuracies, marker="o", markersize=4, label=family, **style
            )
        axis.set(xscale="log", xlabel=label)
        _label(figure, axis, {m["family"]: (value(m), 100 * m["top1"]) for m in families.get("others", ())})
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("published top-1 accuracy, %")
    axes[0].legend(fontsize=8, loc="lower right")
    return figure


def _label(figure: Any, axis: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Writes names beside points, each at the nearest place where it covers no other name and no point, if any."""
    figure.draw_without_rendering()  # scales are final
    dots = [spot for line in axis.lines for spot in axis.transData.transform(line.get_xydata())]
    taken: list[Any] = []
    for name, point in sorted(points.items(), key=lambda item: -item[1][1]):
        for distance, up, side in itertools.product(range(0, 120, 4), (1, -1), (-1, 1)):
            place = {"xytext": (4 * side, up * distance), "textcoords": "offset points"}
            text = axis.annotate(name, point, fontsize=6, va="center", ha="right" if side < 0 else "left", **place)
            box = text.get_window_extent()
            covers = any(box.overlaps(other) for other in taken) or any(box.contains(*dot) for dot in dots)
            if not covers and axis.bbox.x0 < box.x0 and box.x1 < axis.bbox.x1:
                taken.append(box)
                axis.annotate("", point, arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "grey"}, **place)
                break
            text.remove()
