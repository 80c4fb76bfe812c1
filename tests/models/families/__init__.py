"""The sizes, maps and smallest configurations of all networks, one file a family: ROWS, MAPS and CASES."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.models.families.row import Case, Maps, Row

FAMILIES = [
    importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
    if module.name != "row"
]

ROWS: tuple[Row, ...] = tuple(row for family in FAMILIES for row in family.ROWS)
CASES: tuple[Case, ...] = tuple(case for family in FAMILIES for case in family.CASES)
MAPS: dict[str, Maps] = {name: maps for family in FAMILIES for name, maps in family.MAPS.items()}


def one_fast_each(members: str, argument: str, label: Callable[[Any], str] = str) -> pytest.MarkDecorator:
    """Parametrizes by the rows, maps or cases of all families: the first of each is fast, the others are slow.

    Args:
        members: "ROWS", "MAPS" or "CASES".
        argument: of the test.
        label: what its name says of a member.
    """

    def params(family: Iterable[Any]) -> Iterable[Any]:
        for index, member in enumerate(family):
            yield pytest.param(member, id=label(member), marks=pytest.mark.slow if index else ())

    return pytest.mark.parametrize(
        argument, [param for family in FAMILIES for param in params(getattr(family, members))]
    )
