"""Groups of consecutive devices of a mapped axis, with nothing but `psum`.

`axis_index_groups` raises under `vmap` and under `shard_map` with check_vma=True; a table with a row for each group, in
which a device fills its own, works under all of them, and is known to be the same on all devices.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def count_groups(owner: str, axis_name: str | None, device_group_size: int | None) -> int:
    """How many groups of so many devices the axis has; one where no size is given.

    Raises:
        ValueError: a size that does not divide the devices of the axis, or without an axis.
    """
    if device_group_size is None:
        return 1
    if axis_name is None:
        raise ValueError(f"{owner}: device_group_size={device_group_size} needs an axis_name; name the mapped axis")
    num_devices = lax.axis_size(axis_name)
    if device_group_size < 1 or num_devices % device_group_size:
        raise ValueError(
            f"{owner}: device_group_size={device_group_size} must divide the {num_devices} devices of axis "
            f"{axis_name!r}; choose a divisor"
        )
    return num_devices // device_group_size


def psum_rows(row: jax.Array, num_groups: int, axis_name: str | None) -> jax.Array:
    """[num_groups, ...], the sums of `row` [...] over the devices of each group; one collective.

    With as many groups as devices these are the rows of all devices; without an axis it is the only one.
    """
    if axis_name is None:
        return row[None]
    rows = jnp.broadcast_to(row, (num_groups, *row.shape))
    return lax.psum(rows if num_groups == 1 else jnp.where(_is_own(rows, axis_name), rows, 0.0), axis_name)


def own_group(groups: Any, axis_name: str | None) -> Any:
    """Of arrays [groups, ...] those of this device's group."""

    def pick(rows: jax.Array) -> jax.Array:
        # A single group is taken as it is, so that it stays known to be the same on all devices.
        return rows[0] if len(rows) == 1 else jnp.where(_is_own(rows, axis_name), rows, jnp.zeros_like(rows)).sum(0)

    return jax.tree.map(pick, groups)


def _is_own(rows: jax.Array, axis_name: str) -> jax.Array:
    """Which of the groups' rows is that of this device; with as many axes as `rows`."""
    own = lax.axis_index(axis_name) // (lax.axis_size(axis_name) // len(rows))
    return (jnp.arange(len(rows)) == own).reshape(-1, *[1] * (rows.ndim - 1))
