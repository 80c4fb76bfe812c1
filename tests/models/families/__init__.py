"""The sizes, maps and smallest configurations of all networks, one file a family: ROWS, MAPS and CASES."""

import importlib
import pkgutil

from tests.models.families.row import Case, Maps, Row

_FAMILIES = [
    importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
    if module.name != "row"
]

ROWS: tuple[Row, ...] = tuple(row for family in _FAMILIES for row in family.ROWS)
CASES: tuple[Case, ...] = tuple(case for family in _FAMILIES for case in family.CASES)
MAPS: dict[str, Maps] = {name: maps for family in _FAMILIES for name, maps in family.MAPS.items()}
