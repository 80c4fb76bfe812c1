"""Grids of overrides, for the `get_sweep()` of the files beside this one, which scripts/sweep.py runs.

A grid is a list of points; a point is a dict from the dotted path of a field to its value, as in
`{"optimizer.momentum": 0.8, "model.norm.fields.num_groups": 4}`. Small grids make larger ones:

    grid.product(
        grid.point({"num_epochs": 5.0}),
        grid.zip(grid.each("global_batch_size", (64, 128)), grid.each("schedule.warmup_epochs", (0.0, 1.0))),
        grid.chain(grid.point({"optimizer.name": "lars"}), grid.each("optimizer.momentum", (0.8, 0.9))),
        grid.each("seed", range(3)),
    )
"""

import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

Point = dict[str, Any]
Grid = list[Point]


def point(overrides: Mapping[str, Any]) -> Grid:
    """The grid of one point."""
    return [dict(overrides)]


def each(field: str, values: Iterable[Any]) -> Grid:
    """A point for each value of a field."""
    return [{field: value} for value in values]


def product(*grids: Grid) -> Grid:
    """Every combination of a point of each grid; the last grid varies fastest.

    Raises:
      ValueError: two grids set the same field.
    """
    return [_merge("product", points) for points in itertools.product(*grids)]


def zip(*grids: Grid) -> Grid:
    """The first points of all grids as one, the second ones, and so on.

    Raises:
      ValueError: grids of different lengths, or that set the same field.
    """
    lengths = [len(grid) for grid in grids]
    if len(set(lengths)) > 1:
        raise ValueError(f"grid.zip: grids of {', '.join(map(str, lengths))} points must be of one length; pad or cut")
    return list(map(lambda *points: _merge("zip", points), *grids)) if grids else []


def chain(*grids: Grid) -> Grid:
    """The points of all grids, one grid after the other; a point that came before is left out."""
    points: Grid = []
    for candidate in itertools.chain(*grids):
        if candidate not in points:
            points.append(candidate)
    return points


def _merge(owner: str, points: Iterable[Point]) -> Point:
    return functools.reduce(functools.partial(_join, owner), points, {})


def _join(owner: str, left: Point, right: Point) -> Point:
    if both := sorted(left.keys() & right.keys()):
        raise ValueError(f"grid.{owner}: {', '.join(both)} must be set by one of the grids, not by two; drop one")
    return left | right
