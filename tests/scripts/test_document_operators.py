"""docs/operators.md is what the docstrings say, and its picture is what the operators do."""

import pytest

from scripts import _operator_picture, document_operators
from tests.catalogue import OPERATORS


def test_the_page_is_up_to_date():
    """`python scripts/document_operators.py` writes it."""
    assert document_operators.PAGE.read_text() == document_operators.page()


def test_every_operator_has_its_row():
    page = document_operators.page()
    for operator in OPERATORS:
        for value in (*operator.functions, *operator.modules):
            assert f"[`{value.__name__}`](../{value.__module__.replace('.', '/')}.py)" in page


def test_labels_end_where_the_next_begins():
    def documented():
        """One line.

        Paper: A. Author (arXiv:0000.00000),
            section 1.
        Parameters: kernel [a | b].
        MACs: 0.

        Args:
            x: nothing.
        """

    assert document_operators.label("Paper", [documented]) == "A. Author (arXiv:0000.00000), section 1"
    assert document_operators.label("Parameters", [documented]) == "kernel [a \\| b]"
    assert document_operators.label("MACs", [documented]) == "0"
    with pytest.raises(ValueError, match=r"^documented: its docstring must have a line 'Oracle'; add it$"):
        document_operators.label("Oracle", [documented])


@pytest.mark.slow
def test_the_picture_is_drawn(tmp_path):
    path = tmp_path / "operators.png"
    _operator_picture.draw(path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 100_000
