"""What the trials of a search compute on, asked before the first one: the search itself is on the CPU."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections

from scripts._search_cost import configure, last_line

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


def check(config: ml_collections.ConfigDict, devices: Devices, tried: Sequence[Mapping[str, Any]]) -> None:
    """That so many trials at a time can have them, and that batches can be split over those of one.

    Args:
      config: of a search whose trials are processes of this machine.
      devices: of it.
      tried: fields of trials.

    Raises:
      ValueError: they cannot.
    """
    variable = config.executor_fields.get("device_variable", "") if config.executor == "processes" else ""
    if config.executor == "processes" and config.num_parallel > 1 and not variable and "tpu" in devices.platforms:
        raise ValueError(
            f"config.num_parallel={config.num_parallel} must be 1 on a TPU, which one process takes whole; set it to 1"
        )
    if variable and config.num_parallel > devices.count:
        raise ValueError(
            f"config.num_parallel={config.num_parallel} must be at most the {devices.count} devices of this machine, "
            f"of which {variable} gives each trial one; lower it"
        )
    if config.evaluator != "train":  # others take one device
        return
    count = 1 if variable else devices.count
    for fields in tried:
        one = configure(config.recipe, {**config.overrides.to_dict(), **fields})
        for name, parts in (("global_batch_size", one.num_micro_batches), ("eval_batch_size", 1)):
            if one[name] % (count * parts):
                raise ValueError(
                    f"config: {name}={one[name]} of a trial must be a multiple of its {count} devices"
                    f"{f' x num_micro_batches={parts}' if parts > 1 else ''}; set config.overrides.{name}, or "
                    "config.executor_fields.device_variable=CUDA_VISIBLE_DEVICES, one device a trial"
                )
