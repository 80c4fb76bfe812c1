"""Every channel of a map moved by whole pixels of its own: first the rows, then the columns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclasses.dataclass(frozen=True)
class Shift:
    """out[i, j, c] = x[i + rows[c], j + columns[c], c], 0 outside; its transpose is the shift back.

    Attributes:
        rows: of each channel, in pixels.
        columns: likewise.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] to the same shape.

        Each of the two steps takes for every channel one of a few moved maps. The first writes the padding that the
        second reads: to pad x before would be one more pass over memory. The barriers keep what produces a map from
        being computed anew for every move.
        """
        height, width = x.shape[1:3]
        # Further than the map reaches, a shift leaves nothing; so padding is bounded by its size.
        rows, columns = (np.clip(each, -n, n) for each, n in ((self.rows, height), (self.columns, width)))
        x = lax.optimization_barrier(x)
        x = _choose({row: _moved_rows(x, row) for row in sorted(set(rows.tolist()))}, rows)
        if not np.any(columns):
            return x
        before, after = -min(columns.min(), 0), max(columns.max(), 0)
        zero = jnp.zeros((), x.dtype)
        x = lax.optimization_barrier(lax.pad(x, zero, ((0, 0, 0), (0, 0, 0), (int(before), int(after), 0), (0, 0, 0))))
        starts = {column: int(before) + column for column in sorted(set(columns.tolist()))}
        return _choose({column: x[:, :, start : start + width] for column, start in starts.items()}, columns)

    def transpose(self) -> "Shift":
        """The shift back."""
        return Shift(tuple(-row for row in self.rows), tuple(-column for column in self.columns))


def _moved_rows(x: jax.Array, row: int) -> jax.Array:
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (-row, row, 0), (0, 0, 0), (0, 0, 0)))


def _choose(moved: dict[int, jax.Array], moves: np.ndarray) -> jax.Array:
    """Of every channel the map that was moved as `moves` says."""
    (_, out), *others = moved.items()
    for move, each in others:
        out = jnp.where(jnp.asarray(moves == move), each, out)
    return out
