"""Writes docs/operators.md, one row an operator, from the docstrings and the catalogue of the tests; and its picture.

python scripts/document_operators.py                 # docs/operators.md
python scripts/document_operators.py --picture       # docs/operators.png too; needs scikit-learn and matplotlib
"""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from a checkout

from scripts import _operator_picture
from tests.catalogue import OPERATORS
from tests.catalogue.row import Operator

PAGE, PICTURE = ROOT / "docs" / "operators.md", ROOT / "docs" / "operators.png"
TITLES = ("lecture topic", "function", "module", "paper", "parameters", "MACs an image", "oracle")

INTRODUCTION = """\
# Operators

Made by `python scripts/document_operators.py --picture` from the docstrings, which say more: formula, shapes, dtypes,
errors, and where an operator differs from its paper. Arrays are [batch, height, width, channels]. MACs are those of
convolutions, matrix products and samples; biases, norms, activations and pooling are not counted. The oracle is what
the tests compare values and gradients with; beside it `tests/test_catalogue.py` proves for each that jit and vmap
change nothing, that bfloat16 stays, that gradients are finite at adverse inputs, and the laws that it keeps.

![what the spatial operators do to a photograph](operators.png)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page, and the picture where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", action="store_true", help="draw docs/operators.png too")
    args = parser.parse_args(argv)
    PAGE.write_text(page())
    print(PAGE.relative_to(ROOT))
    if args.picture:
        _operator_picture.draw(PICTURE)
        print(PICTURE.relative_to(ROOT))
    return 0


def page() -> str:
    """The text of docs/operators.md."""
    table = [TITLES, ["---"] * len(TITLES), *map(_cells, sorted(OPERATORS, key=_place))]
    return "\n".join([INTRODUCTION, *(f"| {' | '.join(row)} |" for row in table)]) + "\n"


def _place(operator: Operator) -> int:
    """Operators of one topic beside one another, in the order of the catalogue."""
    topics = [other.topic.partition(":")[0] for other in OPERATORS]
    return topics.index(operator.topic.partition(":")[0])


def _cells(operator: Operator) -> list[str]:
    described = (*operator.functions, *operator.modules)
    return [
        operator.topic,
        _names(operator.functions),
        _names(operator.modules),
        label("Paper", described),
        label("Parameters", (*operator.modules, *operator.functions)),
        label("MACs", described),
        operator.oracle.replace("|", "\\|"),
    ]


def _names(values: Sequence[Callable[..., Any]]) -> str:
    """Names, linked to the files that they are in."""
    paths = {value: f"../{value.__module__.replace('.', '/')}.py" for value in values}
    return ", ".join(f"[`{value.__name__}`]({path})" for value, path in paths.items()) or "-"


def label(name: str, described: Sequence[Callable[..., Any]]) -> str:
    """What the first of these docstrings that has the label says after it, in one line.

    Raises:
        ValueError: none has it.
    """
    for value in described:
        found = re.search(rf"^{name}: (.+?)(?=\n\n|\n[A-Z][A-Za-z ]+:|\Z)", inspect.getdoc(value) or "", re.M | re.S)
        if found:
            return " ".join(found[1].split()).removesuffix(".").replace("|", "\\|")
    raise ValueError(f"{described[0].__name__}: its docstring must have a line {name!r}; add it")


if __name__ == "__main__":
    sys.exit(main())
