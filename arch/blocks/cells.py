"""The cell of a searched network: its inputs brought to one shape, its nodes, its output."""

from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from arch.blocks.cell_operations import OPERATIONS, CellOperation, FactorizedReduction, PointwiseOperation
from arch.errors import unknown_name
from arch.ops.drop_path import drop_path
from arch.ops.stochastic import Examples


class NodePlan(Protocol):
    """What is asked of a node: `arch.models.genotypes.Node` has it."""

    edges: Sequence[tuple[str, int]]
    combine: str


class CellPlan(Protocol):
    """What is asked of a cell: `arch.models.genotypes.Cell` has it."""

    nodes: Sequence[NodePlan]
    concat: Sequence[int]


class TwoInputCell(nn.Module):
    """What the cells of NASNet's and DARTS's spaces have in common: two inputs, which become states 0 and 1.

    They are the outputs of the last two cells, brought to `features` channels by an activation, a 1x1 convolution and a
    normalization, or, if the older one is larger, by a `FactorizedReduction`. Where there is no older one, the other
    takes its place as it is.

    Attributes:
        inputs: what states 0 and 1 are: "current" and "previous", in either order.
        features: channels of each state.
        strides: 1, or 2 for a reduction cell, where operations that read states 0 and 1 have it.
        padding: "SAME" or "symmetric", of all windows; as in `CellOperation`.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    inputs: Sequence[str]
    features: int
    strides: int
    padding: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    def states(self, current: jax.Array, previous: jax.Array | None) -> list[jax.Array]:
        """States 0 and 1; its layers `current` and `previous` or `previous_halved` belong to the cell.

        Args:
            current: [batch, height, width, channels], what the cell before put out.
            previous: what the one before that put out, of the same size or of twice that; None where there is none.
        """
        given = {
            "current": self.make(PointwiseOperation, 1, "current")(current),
            "previous": current if previous is None else self._align(previous, current),
        }
        return [given[name] for name in self.inputs]

    def make(self, operation: Callable[..., CellOperation], strides: int, name: str, **fields) -> CellOperation:
        """An operation of the cell's width and parts."""
        parts = {"padding": self.padding, "conv": self.conv, "norm": self.norm, "act": self.act}
        return operation(features=self.features, strides=strides, **parts, **fields, name=name)

    def strides_from(self, state: int) -> int:
        """Of an operation that reads this state."""
        return self.strides if state < len(self.inputs) else 1

    def _align(self, previous: jax.Array, current: jax.Array) -> jax.Array:
        """The older input, at the size of the other."""
        if previous.shape[1:3] == current.shape[1:3]:
            return self.make(PointwiseOperation, 1, "previous")(previous)
        return self.make(FactorizedReduction, 2, "previous_halved")(previous)


class SearchedCell(TwoInputCell):
    """A cell of NASNet (arXiv:1707.07012), section 3, AmoebaNet, PNASNet or DARTS (arXiv:1806.09055), section 2.1.

    The states that are put out are joined along the channels; one of another shape is brought to that of the nodes
    before, without activation.

    Attributes:
        plan: the nodes, each the sum, or the concatenation, of its operations, and the states to put out.
        inputs, features, strides, padding, conv, norm, act: as in `TwoInputCell`.
    """

    plan: CellPlan

    @nn.compact
    def __call__(
        self,
        current: jax.Array,
        previous: jax.Array | None,
        *,
        train: bool,
        drop_path_rate: jax.Array | None = None,
        examples: Examples | None = None,
    ) -> jax.Array:
        """The cell's output.

        Args:
            current: as in `TwoInputCell.states`.
            previous: as in `TwoInputCell.states`.
            train: whether paths are dropped.
            drop_path_rate: probability that an operation, other than an identity, is dropped; None drops none.
            examples: ids, for drop path, of the batch's examples.

        Returns:
            [batch, ceil(height / strides), ceil(width / strides), features * number of states put out].
        """
        states = self.states(current, previous)
        ids = None if examples is None else examples.id
        for number, node in enumerate(self.plan.nodes, start=1):
            outputs = []
            for place, (operation, state) in enumerate(node.edges, start=1):
                if operation not in OPERATIONS:
                    raise unknown_name("SearchedCell: operation", operation, OPERATIONS)
                strides = self.strides_from(state)
                out = self.make(OPERATIONS[operation], strides, f"node{number}_edge{place}")(states[state])
                if train and drop_path_rate is not None and not _is_identity(operation, strides):
                    out = drop_path(out, self.make_rng("dropout"), drop_path_rate, ids)
                outputs.append(out)
            states.append(sum(outputs[1:], outputs[0]) if node.combine == "add" else jnp.concatenate(outputs, axis=-1))
        size = tuple(-(-pixels // self.strides) for pixels in current.shape[1:3])
        return jnp.concatenate([self._project(states[state], size, state) for state in self.plan.concat], axis=-1)

    def _project(self, x: jax.Array, size: tuple[int, int], state: int) -> jax.Array:
        """A state as it is put out."""
        name = f"output{state}"
        if x.shape[1:3] != size:
            return self.make(FactorizedReduction, 2, name, use_act=False)(x)
        if x.shape[-1] != self.features:
            return self.make(PointwiseOperation, 1, name, use_act=False)(x)
        return x


def _is_identity(operation: str, strides: int) -> bool:
    """Such paths are never dropped: NASNet's identities, strided or not, and DARTS's where they are none."""
    return operation == "identity" or (operation == "skip_connect" and strides == 1)
