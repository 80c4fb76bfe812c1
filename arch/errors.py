"""The wording of errors that several packages share."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


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


def check_map(owner: str, x: jax.Array, name: str = "x") -> None:
    """Refuses what is not a batch of maps, [batch, height, width, channels], floating point."""
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{owner}: {name}={x.dtype}{list(x.shape)} must be floating point NHWC; convert it")


def named_factory(owner: str, factories: Mapping[str, Any], name: str, fields: Mapping[str, Any]) -> Callable:
    """`factories[name]`, a partial of a linen module, once its name and the fields to be set are known to exist.

    Raises:
      ValueError: a name that is not in `factories`, or a field that the module does not have.
    """
    if name not in factories:
        raise unknown_name(owner, name, factories)
    known = {field.name for field in dataclasses.fields(factories[name].func)} - {"parent", "name"}
    for field in fields:
        if field not in known:
            raise unknown_name(f"{owner}: fields of {name}", field, known)
    return factories[name]
