"""Fields of networks on a command line: --field=NAME=VALUE."""

from collections.abc import Iterable
from typing import Any

from arch import norm
from configs.cli import literal


def parse(texts: Iterable[str]) -> dict[str, Any]:
    """The fields: a value is a Python literal, true or false, or else a text, a norm is given by its name.

    Raises:
        ValueError: one line.
    """
    return dict(map(_parse, texts))


def _parse(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--field={text} must be NAME=VALUE")
    if name == "norm":
        return name, norm.create(value)
    return name, literal(value)
