"""What the trials of a search and the runs of a sweep compute on; those who start them are on the CPU themselves."""

import os
import sys
from typing import NamedTuple

import jax

from scripts._child import last_line

# With the CPU last: JAX fails where it cannot have a platform that JAX_PLATFORMS names, and takes the first of them.
ASK = """
import jax
from jax.extend import backend
print(",".join(sorted(backend.backends(), key="cpu".__eq__)), jax.device_count())
"""


class Devices(NamedTuple):
    """Of this machine, for one process.

    Attributes:
      platforms: as JAX_PLATFORMS names them; the first is that which JAX takes.
      count: of its devices.
    """

    platforms: str
    count: int


def find() -> Devices:
    """Asks a process of its own, which has them for that long.

    Raises:
      ValueError: that process failed; with the last line that it wrote.
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu":  # which is nobody's alone
        return Devices("cpu", jax.local_device_count(backend="cpu"))
    try:
        platforms, count = last_line([sys.executable, "-c", ASK], "asking for devices").split()
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return Devices(platforms, int(count))


def promise(devices: Devices) -> None:
    """Tells the processes that are started from here on: one that cannot have them fails.

    Else, as where another process has a TPU, it would take the CPU without a word.
    """
    os.environ["JAX_PLATFORMS"] = devices.platforms


def check_shares(owner: str, count: int, variable: str, devices: Devices) -> None:
    """That so many processes at a time can have them.

    Args:
      owner: of the count, such as --parallel.
      count: processes at a time.
      variable: of the environment, that gives each one; "": each has all.
      devices: of this machine.

    Raises:
      ValueError: they cannot.
    """
    if count > 1 and not variable and devices.platforms.startswith("tpu"):
        raise ValueError(f"{owner}={count} must be 1 on a TPU, which one process takes whole; set it to 1")
    if variable and count > devices.count:
        raise ValueError(
            f"{owner}={count} must be at most the {devices.count} devices of this machine, of which {variable} gives "
            "each process one; lower it"
        )
