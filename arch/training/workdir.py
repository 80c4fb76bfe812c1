"""A run's folder belongs to one configuration: the same command resumes it, another one is refused."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

# How a run is carried out, not what it computes: these may change when a run is resumed.
FREE_FIELDS = frozenset(
    {
        "compilation_cache_dir",
        "data.cache_dir",
        "data.dir",
        "data.max_bad_records",
        "data.num_threads",
        "data.num_workers",
        "profile_steps",
        "progress_every_seconds",
        # of a search
        "executor",
        "executor_fields",
        "num_trials",
        "table",
    }
)


def check_place(workdir: str) -> None:
    """Does nothing where this is a path.

    Raises:
      ValueError: it is a URL, as of a bucket.
    """
    if "://" in workdir:
        raise ValueError(
            f"--workdir={workdir} must be a folder that all hosts see, and no URL; mount the bucket, with gcsfuse say"
        )


def check(workdir: str, config: dict[str, Any], defaults: dict[str, Any], *, only: tuple[str, ...] = ("",)) -> None:
    """Does nothing where the folder is new, or holds a run of this configuration.

    Args:
      config: nested dict of JSON values.
      defaults: likewise; the values of fields that did not exist yet when the run began.
      only: prefixes of the fields that must agree, for evaluation; training compares all but FREE_FIELDS.

    Raises:
      ValueError: the folder is of another configuration (which fields differ), holds other things, or is a URL.
    """
    check_place(workdir)
    folder = pathlib.Path(workdir)
    path = folder / "config.json"
    if not path.exists():
        if folder.is_dir() and any(child.name not in ("lock", "config.json.tmp") for child in folder.iterdir()):
            raise ValueError(
                f"--workdir={workdir} is not empty and holds no config.json, so it is no run of this program; "
                f"use --workdir={fresh(workdir)}"
            )
        return
    here, usual = _as_read_back(config), _as_read_back(defaults)
    there = dict(_leaves(usual)) | dict(_leaves(json.loads(path.read_text())))
    lines = [line for line in _differences(there, dict(_leaves(here))) if line.startswith(only)]
    if lines:
        raise ValueError(
            f"--workdir={workdir} holds a run of another config: {'; '.join(lines)}. "
            f"Go on with that config, or start afresh with --workdir={fresh(workdir)}"
        )


def identity(config: dict[str, Any], defaults: dict[str, Any]) -> str:
    """The same for configurations whose runs compute the same, whatever their FREE_FIELDS.

    It is made of what differs from the defaults, so that a field added later, at its default, does not change it.
    """
    here, usual = dict(_leaves(_as_read_back(config))), dict(_leaves(_as_read_back(defaults)))
    kept = {
        name: value
        for name, value in here.items()
        if not _is_free(name) and not (name in usual and usual[name] == value)
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def claim(workdir: str, config: dict[str, Any]) -> Iterator[None]:
    """Makes the folder and its `config.json`, and keeps a second process out of it.

    The system lifts the lock when the process ends, however it ends.

    Raises:
      ValueError: another process is at work there.
    """
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"--workdir={workdir} is in use by another process; wait for it, or use --workdir={fresh(workdir)}"
            ) from None
        except OSError:
            pass  # a file system without locks
        if not (folder / "config.json").exists():
            write_atomically(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
        yield


def fresh(workdir: str) -> str:
    """The first of `workdir-2`, `workdir-3`, ... that does not exist."""
    number = 2
    while os.path.exists(f"{workdir.rstrip('/')}-{number}"):
        number += 1
    return f"{workdir.rstrip('/')}-{number}"


def write_atomically(path: pathlib.Path, text: str) -> None:
    """The file is the old one or the new one, whenever the process dies."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    lines = []
    for name in sorted(there.keys() | here.keys()):
        if not _is_free(name) and there.get(name) != here.get(name):
            lines.append(f"{name} is {json.dumps(there.get(name))} there and {json.dumps(here.get(name))} here")
    return lines


def _is_free(name: str) -> bool:
    """Whether a field, or a group that it is in, is of FREE_FIELDS."""
    return any(f"{name}.".startswith(f"{free}.") for free in FREE_FIELDS)


def _as_read_back(config: dict[str, Any]) -> dict[str, Any]:
    """Tuples become lists."""
    return json.loads(json.dumps(config))


def _leaves(tree: dict[str, Any], prefix: str = ""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
