"""The latency of a network from a table of measured operators, for use in search.

Every distinct operator of a search space (`arch.efficiency.operators`) is measured once; a network of the space takes
as long as the sum of its operators. Nothing is interpolated: an operator that was not measured is told.
"""

import collections
import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arch.efficiency.latency import Call, build, device_name, measure
from arch.efficiency.operators import Operator, operators


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Seconds of operators on one device.

    Attributes:
        device: their device.
        seconds: of one operator, by its key, without what every call costs.
        call_s: what a call costs that computes nothing; calibrated, what a network takes beside its operators.
        scale: what an operator takes within a network, over what it takes alone; see `calibrate`.
        error: median relative error on networks that were not calibrated with; None where none was tried.
    """

    device: str
    seconds: Mapping[str, float]
    call_s: float
    scale: float = 1.0
    error: float | None = None

    def predict(self, fn: Callable[..., Any], *args: Any) -> float:
        """Seconds of `fn(*args)`; shapes are enough.

        Raises:
            ValueError: an operator that was not measured.
        """
        found = collections.Counter(operator.key for operator in operators(fn, *args))
        missing = [key for key in found if key not in self.seconds]
        if missing:
            raise ValueError(
                f"LatencyTable: {len(missing)} of {len(found)} operators were not measured on {self.device}, such as "
                f"{missing[0]}; measure a network of the space that has them"
            )
        return self.call_s + self.scale * sum(self.seconds[key] * times for key, times in found.items())

    def calibrate(self, pairs: Sequence[tuple[float, float]]) -> "LatencyTable":
        """The table with the line through (predicted, measured) seconds of networks: what sums miss or count twice.

        It has the least squares of relative errors; where it would fall, or begin below 0, it goes through 0. Of a
        single network it is the scale alone.
        """
        predicted, measured = np.asarray(pairs, float).T
        sums = (predicted - self.call_s) / self.scale
        if len(pairs) == 1:
            return dataclasses.replace(self, scale=float((measured[0] - self.call_s) / sums[0]))
        rows = np.stack([1 / measured, sums / measured], 1)
        (call_s, scale), *_ = np.linalg.lstsq(rows, np.ones(len(pairs)))
        if min(call_s, scale) < 0:
            call_s, scale = 0.0, rows[:, 1].sum() / (rows[:, 1] ** 2).sum()
        return dataclasses.replace(self, call_s=float(call_s), scale=float(scale))

    def with_error(self, pairs: Sequence[tuple[float, float]]) -> "LatencyTable":
        """The table with its error on (predicted, measured) seconds of networks that it was not made from."""
        errors = [abs(predicted / measured - 1) for predicted, measured in pairs]
        return dataclasses.replace(self, error=statistics.median(errors))

    def save(self, path: str | Path) -> None:
        """Writes it as JSON; the file is the old one or the new one, whenever the process dies."""
        temporary = Path(f"{path}.tmp")
        temporary.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "LatencyTable":
        """Reads what `save` wrote.

        Raises:
            ValueError: a file of something else, or of another device.
        """
        try:
            table = cls(**json.loads(Path(path).read_text()))
        except (json.JSONDecodeError, TypeError):
            raise ValueError(f"LatencyTable: {path} must be a table that save wrote; name another") from None
        if table.device != device_name():
            raise ValueError(f"LatencyTable: {path} is of {table.device}, and this is {device_name()}; measure here")
        return table


def measure_operators(
    found: Sequence[Operator], *, rounds: int = 10, known: Mapping[str, float] | None = None
) -> LatencyTable:
    """Measures each distinct operator once, in turn with a call that computes nothing.

    Args:
        found: of the networks of a search space, in any number.
        rounds: in which each is timed.
        known: seconds by key that need not be measured again.
    """
    seconds = dict(known or {})
    scalar = jnp.zeros(())
    # Each call is waited for: in a queue an operator hides behind the start of the next, and takes as long as nothing.
    nothing = build(lambda x: x + 1, scalar).waiting_call
    call_s = measure({"nothing": nothing}, rounds=rounds)["nothing"].median_s
    for operator in {operator.key: operator for operator in found if operator.key not in seconds}.values():
        timings = measure({"operator": _call(operator), "nothing": nothing}, rounds=rounds)
        seconds[operator.key] = max(0.0, timings["operator"].median_s - timings["nothing"].median_s)
    return LatencyTable(device_name(), seconds, call_s)


def _call(operator: Operator) -> Call:
    inputs = [_example(shape) for shape in operator.inputs]
    return build(operator.fn, *inputs).waiting_call


def _example(shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Not zeros, which some multiply faster than other numbers."""
    return (
        jnp.full(shape.shape, 0.5, shape.dtype)
        if jnp.issubdtype(shape.dtype, jnp.floating)
        else jnp.zeros(shape.shape, shape.dtype)
    )
