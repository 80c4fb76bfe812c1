"""The blocks of FractalNet: columns of convolutions, of different lengths, joined wherever they end together."""

from collections.abc import Callable

import jax
from flax import linen as nn

from arch.errors import unknown_name
from arch.ops.conv import symmetric_padding
from arch.ops.drop_path import FractalJoin
from arch.ops.pooling import max_pool
from arch.ops.stochastic import Dropout, Examples

POOLS = ("before_join", "after_join")


class FractalUnit(nn.Module):
    """3x3 convolution, dropout, normalization, activation.

    Attributes:
        features: output channels.
        dropout_rate: between convolution and normalization, in [0, 1].
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    dropout_rate: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height, width, features]."""
        x = self.conv(features=self.features, kernel_size=(3, 3), padding=symmetric_padding((3, 3)), name="conv")(x)
        x = Dropout(self.dropout_rate, name="dropout")(x, train=train, examples=examples)
        return self.act(self.norm(name="norm")(x))


class FractalBlock(nn.Module):
    """A block of FractalNet (arXiv:1605.07648), section 3 and figure 1, and the max pooling 2x2 at its end.

    f_1(z) = unit(z), f_C+1(z) = join(f_C(f_C(z)), unit(z)), where joins that meet are one. Unrolled: column c has 2^c
    units, and wherever columns end together they are joined, and all go on from there.

    Attributes:
        features: output channels of every unit.
        num_columns: C, 1 or more.
        only_column: leaves out all columns but this one, which is then a plain chain of units; None keeps them all.
        drop_path_rate: of local drop path at the joins, in [0, 1].
        dropout_rate: in the units, in [0, 1].
        pool: "before_join" pools each column before the last join, "after_join" pools what that join puts out.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    num_columns: int
    only_column: int | None
    drop_path_rate: float
    dropout_rate: float
    pool: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, column: jax.Array | None = None, examples: Examples | None = None
    ) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height // 2, width // 2, features].

        Args:
            x: the maps.
            train: drop path and dropout, else none.
            column: [batch] integers, the column that each example keeps to, or -1; None stands for -1.
            examples: ids of the examples.

        Raises:
            ValueError: no column, or one that is not there; maps of less than 2x2 pixels; an unknown pool.
        """
        columns = self._columns()
        if self.pool not in POOLS:
            raise unknown_name("FractalBlock: pool", self.pool, POOLS)
        if min(x.shape[1:3]) < 2:
            raise ValueError(
                f"FractalBlock: maps of {x.shape[1]}x{x.shape[2]} pixels must have 2x2 to be pooled; take larger "
                "images, or fewer blocks"
            )
        length = 2 ** (self.num_columns - 1)
        starts, joined = dict.fromkeys(columns, x), x
        for step in range(1, length + 1):
            ending = [c for c in columns if step % (length >> c) == 0]
            if not ending:
                continue  # a column alone, in the middle of a unit
            outs = [self._unit(c, step // (length >> c))(starts[c], train=train, examples=examples) for c in ending]
            if step == length and self.pool == "before_join":
                outs = [_pool(out) for out in outs]
            joined = outs[0]
            if len(outs) > 1:
                join = FractalJoin(self.drop_path_rate, name=f"join{step}")
                joined = join(outs, train=train, columns=ending, column=column, examples=examples)
            starts |= dict.fromkeys(ending, joined)
        return _pool(joined) if self.pool == "after_join" else joined

    def _unit(self, column: int, number: int) -> FractalUnit:
        return FractalUnit(
            features=self.features,
            dropout_rate=self.dropout_rate,
            conv=self.conv,
            norm=self.norm,
            act=self.act,
            name=f"column{column}_unit{number}",
        )

    def _columns(self) -> list[int]:
        if self.num_columns < 1:
            raise ValueError(f"FractalBlock: num_columns={self.num_columns} must be at least 1; 1 is a plain network")
        if self.only_column is None:
            return list(range(self.num_columns))
        if not 0 <= self.only_column < self.num_columns:
            raise ValueError(
                f"FractalBlock: only_column={self.only_column} must be one of 0 to {self.num_columns - 1}; choose one, "
                "or None for all"
            )
        return [self.only_column]


def _pool(x: jax.Array) -> jax.Array:
    return max_pool(x, (2, 2), strides=(2, 2), padding="VALID")
