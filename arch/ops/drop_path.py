"""Drop path: whole branches of a network left out at random, example by example."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from arch.ops.stochastic import Examples, example_keys, like_examples


def drop_path(x: jax.Array, key: jax.Array, rate: float | jax.Array, ids: jax.Array | None = None) -> jax.Array:
    """Zeroes an example's whole branch with probability `rate`, and scales the others by 1 / (1 - rate).

    y[n] = x[n] * kept[n] / (1 - rate), kept[n] ~ Bernoulli(1 - rate); to be added to a shortcut.

    Paper: Huang et al., Deep Networks with Stochastic Depth (arXiv:1603.09382), section 3.
    Parameters: none.
    MACs: 0, a product an element.
    Differs from the paper: it is drawn for each example, not for the batch, and scales in training, not in evaluation,
        as torchvision and timm have it. Not a number times zero is zero.

    Args:
        x: [batch, ...], floating point.
        key: a jax.random key, the same on every device.
        rate: in [0, 1]; an array, which a schedule may change without compiling anew, is not checked.
        ids: [batch], the examples' positions in the global batch; None stands for 0, 1, 2, ...

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: a number `rate` outside [0, 1].
    """
    _check_rate("drop_path", rate)
    if isinstance(rate, (int, float)) and rate == 0:
        return x
    kept_share = jnp.asarray(1.0 - rate, jnp.promote_types(x.dtype, jnp.float32))
    keep = jax.vmap(lambda each: jax.random.bernoulli(each, kept_share))(example_keys(key, _ids(ids, x)))
    # At rate 1 nothing is kept, and the divisor must not be zero: its derivative would be no number.
    divisor = jnp.where(kept_share > 0, kept_share, 1)
    return jnp.where(like_examples(keep, x), (x / divisor).astype(x.dtype), jnp.zeros_like(x))


class DropPath(nn.Module):
    """`drop_path` with its key from the rng stream "dropout"; the identity in evaluation.

    Attributes:
        rate: probability that an example's branch is zeroed, in [0, 1].
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        _check_rate("DropPath", self.rate)
        if not train or self.rate == 0.0:
            return x
        return drop_path(x, self.make_rng("dropout"), self.rate, None if examples is None else examples.id)


def join(inputs: Sequence[jax.Array], keep: jax.Array | None = None) -> jax.Array:
    """The mean of several paths over those that are kept.

    y[n] = sum over i of keep[n, i] * inputs[i][n] / sum over i of keep[n, i]; zeros where nothing is kept.

    Paper: Larsson et al., FractalNet (arXiv:1605.07648), sections 3 and 3.1.
    Parameters: none.
    MACs: 0, a sum an element of each input.

    Args:
        inputs: one or more of equal [batch, ...], floating point.
        keep: [batch, number of inputs], bool; None keeps all.

    Returns:
        [batch, ...], dtype of the inputs; the sum is kept in at least float32. What is not kept has no part in it, nor
        in the gradient, not even where it is no number.

    Raises:
        ValueError: no input; inputs of different shapes or dtypes; `keep` of another shape.
    """
    return _join("join", inputs, keep)


def local_drop_path(
    inputs: Sequence[jax.Array], key: jax.Array, rate: float, ids: jax.Array | None = None
) -> jax.Array:
    """The mean of several paths, of which each is dropped with probability `rate`, but never all.

    `join(inputs, keep)`, keep[n, i] ~ Bernoulli(1 - rate) independently; where none is left, one is kept, each with
    equal probability.

    Paper: Larsson et al., FractalNet (arXiv:1605.07648), section 3.1.
    Parameters: none.
    MACs: 0, a sum an element of each input.
    Differs from the paper: it is drawn for each example, not for the batch; ids that are all 0 draw for the batch.

    Args:
        inputs: one or more of equal [batch, ...], floating point.
        key: a jax.random key, the same on every device, another one at each join.
        rate: in [0, 1]; 0.15 in the paper.
        ids: [batch], the examples' positions in the global batch; None stands for 0, 1, 2, ...

    Returns:
        [batch, ...], dtype of the inputs.

    Raises:
        ValueError: rate outside [0, 1]; what `join` refuses.
    """
    _check_rate("local_drop_path", rate)
    _check_inputs("local_drop_path", inputs)
    return _join("local_drop_path", inputs, _local_keep(key, len(inputs), rate, _ids(ids, inputs[0])))


def sample_columns(key: jax.Array, num_columns: int, ids: jax.Array, global_ratio: float = 0.5) -> jax.Array:
    """The column that each example keeps to through a whole FractalNet, or -1 for local drop path.

    Paper: Larsson et al., FractalNet (arXiv:1605.07648), section 3.1.
    Parameters: none.
    MACs: 0.
    Differs from the paper: it is drawn for each example, not for the batch; ids that are all 0 draw for the batch.

    Args:
        key: a jax.random key, the same on every device.
        num_columns: of the network.
        ids: [batch], the examples' positions in the global batch.
        global_ratio: share of examples that keep to one column, in [0, 1]; the column is uniform.

    Returns:
        [batch] int32, from -1 to num_columns - 1.

    Raises:
        ValueError: no column; a ratio outside [0, 1].
    """
    if num_columns < 1:
        raise ValueError(f"sample_columns: num_columns={num_columns} must be at least 1; give those of the network")
    if not 0.0 <= global_ratio <= 1.0:
        raise ValueError(
            f"sample_columns: global_ratio={global_ratio} must lie in [0, 1]; it is the share that keeps to one column"
        )

    def sample(key: jax.Array) -> jax.Array:
        which, whether = jax.random.split(key)
        column = jax.random.randint(which, (), 0, num_columns, jnp.int32)
        return jnp.where(jax.random.bernoulli(whether, global_ratio), column, -1)

    return jax.vmap(sample)(example_keys(key, ids))


def global_drop_path(inputs: Sequence[jax.Array], columns: Sequence[int], column: jax.Array) -> jax.Array:
    """Of several paths, the one that belongs to the column to which an example keeps.

    y[n] = inputs[i][n] where columns[i] = column[n]. Where no input belongs to that column it is the mean of all: then
    the result lies on no path that is alive, or the example keeps to no column.

    Paper: Larsson et al., FractalNet (arXiv:1605.07648), section 3.1.
    Parameters: none.
    MACs: 0, a sum an element of each input.

    Args:
        inputs: one or more of equal [batch, ...], floating point.
        columns: the column of each input, from 0; no two are equal.
        column: [batch] integers, as `sample_columns` draws them, once for a whole network.

    Returns:
        [batch, ...], dtype of the inputs.

    Raises:
        ValueError: columns that do not name another one for each input; what `join` refuses.
    """
    _check_inputs("global_drop_path", inputs)
    _check_columns("global_drop_path", columns, len(inputs))
    alive = _global_keep(columns, column)
    return _join("global_drop_path", inputs, alive | ~alive.any(1, keepdims=True))


class FractalJoin(nn.Module):
    """A join of FractalNet: global drop path for examples with a column; for others local, and in evaluation the mean.

    The key of the local one comes from the rng stream "dropout".

    Attributes:
        rate: probability that local drop path drops an input, in [0, 1].
    """

    rate: float = 0.15

    @nn.compact
    def __call__(
        self,
        inputs: Sequence[jax.Array],
        *,
        train: bool,
        columns: Sequence[int] | None = None,
        column: jax.Array | None = None,
        examples: Examples | None = None,
    ) -> jax.Array:
        """Maps inputs of equal [batch, ...] to one.

        Args:
            inputs: the paths.
            train: local drop path, else none. A column is kept to in evaluation too, so that it can be tried alone.
            columns: the column of each input, from 0; needed with `column`.
            column: [batch], as `sample_columns` draws them; None stands for -1, local drop path.
            examples: ids of the examples.
        """
        _check_rate("FractalJoin", self.rate)
        _check_inputs("FractalJoin", inputs)
        batch, num_inputs = inputs[0].shape[0], len(inputs)
        keep = None
        if train and self.rate > 0.0:
            ids = _ids(None if examples is None else examples.id, inputs[0])
            keep = _local_keep(self.make_rng("dropout"), num_inputs, self.rate, ids)
        if column is not None:
            _check_columns("FractalJoin", () if columns is None else columns, num_inputs)
            alive = _global_keep(columns, column)
            keep = jnp.ones((batch, num_inputs), bool) if keep is None else keep
            keep = jnp.where(alive.any(1, keepdims=True), alive, keep)
        return _join("FractalJoin", inputs, keep)


def _join(owner: str, inputs: Sequence[jax.Array], keep: jax.Array | None) -> jax.Array:
    _check_inputs(owner, inputs)
    dtype = inputs[0].dtype
    wide = [x.astype(jnp.promote_types(dtype, jnp.float32)) for x in inputs]
    if keep is None:
        return (sum(wide[1:], wide[0]) / len(wide)).astype(dtype)
    if keep.shape != (inputs[0].shape[0], len(inputs)):
        raise ValueError(
            f"{owner}: keep of shape {keep.shape} must have a row for each of {inputs[0].shape[0]} examples and a "
            f"column for each of {len(inputs)} inputs; give [batch, number of inputs]"
        )
    kept = [jnp.where(like_examples(keep[:, i], x), x, jnp.zeros_like(x)) for i, x in enumerate(wide)]
    count = jnp.maximum(keep.sum(1), 1).astype(kept[0].dtype)
    return (sum(kept[1:], kept[0]) / like_examples(count, kept[0])).astype(dtype)


def _local_keep(key: jax.Array, num_inputs: int, rate: float, ids: jax.Array) -> jax.Array:
    """[batch, num_inputs], at least one true in each row."""

    def keep(key: jax.Array) -> jax.Array:
        numbers = jax.random.uniform(key, (num_inputs,))
        # The largest is above the rate unless none is; and each is the largest equally often.
        return (numbers >= rate) | (jnp.arange(num_inputs) == jnp.argmax(numbers))

    return jax.vmap(keep)(example_keys(key, ids))


def _global_keep(columns: Sequence[int], column: jax.Array) -> jax.Array:
    """[batch, inputs], true for the input that belongs to the example's column."""
    return jnp.asarray(column)[:, None] == jnp.asarray(columns, jnp.int32)


def _ids(ids: jax.Array | None, x: jax.Array) -> jax.Array:
    return jnp.arange(x.shape[0]) if ids is None else ids


def _check_rate(owner: str, rate: float | jax.Array) -> None:
    if isinstance(rate, (int, float, np.generic)) and not 0.0 <= rate <= 1.0:
        raise ValueError(f"{owner}: rate={rate} must lie in [0, 1]; it is the share of paths that are dropped")


def _check_inputs(owner: str, inputs: Sequence[jax.Array]) -> None:
    if len({(x.shape, x.dtype) for x in inputs}) != 1:
        kinds = ", ".join(f"{x.dtype}{list(x.shape)}" for x in inputs) or "none"
        raise ValueError(f"{owner}: inputs must be one or more of one shape and dtype, not {kinds}; convert them")


def _check_columns(owner: str, columns: Sequence[int], num_inputs: int) -> None:
    if len(set(columns)) != num_inputs or len(columns) != num_inputs:
        raise ValueError(
            f"{owner}: columns={tuple(columns)} must name another column for each of {num_inputs} inputs; give as many"
        )
