"""The four structure tables: published speeds beside those of this device."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from arch.efficiency.latency import build, measure
from arch.efficiency.ranks import rank_correlation, reversals
from arch.efficiency.tables import Cell, cells, deviations
from scripts.efficiency_studies.study import Settings, Work, record, timing_variables

UNITS = {"gpu": "batches/s", "cpu": "images/s"}


def works(table: str, settings: Settings) -> list[Work]:
    """A piece of work for each column, whose rows are measured in turn.

    All columns at batch 1, as published; in the full run those of the GPU also at 8, which fills larger devices.
    """
    columns: dict[tuple, list[Cell]] = {}
    for cell in cells(table):
        columns.setdefault(cell.column, []).append(cell)
    found = []
    for (_, platform, size, channels), column in columns.items():
        for batch in (1, 8) if settings.is_full and platform == "gpu" else (1,):
            name = f"{platform} {size}x{size} c={channels} batch {batch}"
            found.append(Work(table, name, lambda column=column, batch=batch: _measure(column, batch, settings)))
    return found


def _measure(column: Sequence[Cell], batch: int, settings: Settings) -> dict[str, Any]:
    found = deviations(column)
    programs = {}
    for cell in column:
        module, x = cell.module(), jnp.full(cell.input_shape(batch), 0.5)
        programs[cell.row] = build(module.apply, timing_variables(module.init, x), x)
    calls = {row: program.call for row, program in programs.items()}
    timings = measure(calls, rounds=settings.rounds, once_s=settings.once_s, reference=settings.reference)
    rows = {
        cell.row: {
            "published": cell.published,
            "measured": 1 / timings[cell.row].median_s,
            "macs": cell.macs * batch,
            "deviation": found[cell.row],
            **record(timings[cell.row], programs[cell.row]),
        }
        for cell in column
    }
    jax.clear_caches()
    first = column[0]
    return {"platform": first.platform, "size": first.size, "channels": first.channels, "batch": batch, "rows": rows}


def quoted(part: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The rows of a column that are not too noisy."""
    return {row: values for row, values in part["rows"].items() if not values["is_noisy"]}


def correlation(part: Mapping[str, Any]) -> float:
    """Of the ranks of a column's quoted rows, published and measured; not a number where fewer than two are left."""
    rows = quoted(part).values()
    if len(rows) < 2:
        return math.nan
    return rank_correlation([row["published"] for row in rows], [row["measured"] for row in rows])


def sentence(parts: Sequence[Mapping[str, Any]]) -> str:
    """Whether this device agrees with the guideline, in plain words."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for part in parts:
        published, measured = ({row: v[key] for row, v in quoted(part).items()} for key in ("published", "measured"))
        for faster, slower, ratio in reversals(published, measured, tolerance=0.05):
            pairs.setdefault((faster, slower), []).append(ratio)
    correlations = [value for value in map(correlation, parts) if not math.isnan(value)]
    noisy = sum(values["is_noisy"] for part in parts for values in part["rows"].values())
    left_out = f"; {noisy} cells are too noisy to quote, and left out" if noisy else ""
    if not correlations:
        return f"Nothing can be said of the {len(parts)} columns{left_out}."
    start = (
        f"Rank correlation {statistics.mean(correlations):.2f} over {len(correlations)} columns, least "
        f"{min(correlations):.2f}{left_out}"
    )
    if not pairs:
        return f"{start}: wherever rows differ by more than 5%, this device orders them as published."
    told = [
        f"{faster} is faster than {slower} in {len(ratios)} of {len(parts)} columns (by up to {max(ratios):.2f}x)"
        for (faster, slower), ratios in sorted(pairs.items(), key=lambda pair: -len(pair[1]))
    ]
    return f"{start}. This device disagrees with what is published: {'; '.join(told)}."


def lines(part: Mapping[str, Any]) -> list[str]:
    """A column, for the terminal."""
    unit = UNITS[part["platform"]]
    found = [f"  published and measured {unit}, rank correlation {correlation(part):.2f}"]
    for row, values in part["rows"].items():
        noisy = " (too noisy to quote)" if values["is_noisy"] else ""
        found.append(
            f"  {row:26s}{values['published']:>8g}{values['measured']:>10.4g}  {values['ms']:.4g} ms{noisy}  "
            f"{values['macs'] / 1e6:.1f}M MACs ({values['deviation']:+.1%})"
        )
    return found
