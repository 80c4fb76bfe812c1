"""The wording of errors that several packages share."""

import difflib
from collections.abc import Iterable


def unknown_name(owner: str, value: str, choices: Iterable[str]) -> ValueError:
    """ValueError, to be raised, for a name that is not one of `choices`; it lists the close matches, else all.

    >>> raise unknown_name("arch.norm.create", "batchnorm", NORMS)
    ValueError: arch.norm.create: unknown name 'batchnorm'; did you mean 'batch_norm'?
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(str(value), choices, n=3, cutoff=0.5)
    if close:
        hint = "did you mean " + " or ".join(map(repr, close)) + "?"
    else:
        hint = "one of " + ", ".join(choices)
    return ValueError(f"{owner}: unknown name {value!r}; {hint}")
