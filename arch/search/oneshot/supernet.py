"""One network that holds all cells of DARTS's space: every operation on every edge, each weighted (arXiv:1806.09055).

The weights of the operations, the mixture, are an argument of the network, not parameters: it is for the search to say
where they come from. Those of DARTS are a softmax of what it learns, `mixture_of`; where one operation has all of the
weight of its edge, and "none" that of the edges that are left out, the supernet is the network of that cell.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.cell_operations import OPERATIONS, CellOperation, PoolOperation
from arch.blocks.cells import TwoInputCell
from arch.blocks.head import classifier_head
from arch.blocks.stem import SMALL_STRIDES, bare_stem
from arch.errors import unknown_name
from arch.models.classification.darts import plan_cells
from arch.models.genotypes import DARTS_INPUTS, DARTS_OPERATIONS
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples

NONE = "none"  # the operation whose output is 0: its weight is one that the others of the edge do not have
MIXED_OPERATIONS = (NONE, *DARTS_OPERATIONS)
KINDS = ("normal", "reduction")  # of cells; each has a mixture, which all cells of the kind share

Mixture = Mapping[str, jax.Array]  # kind -> [edges, operations], the weights of the operations


def count_edges(num_nodes: int) -> int:
    """The edges of a cell whose nodes read all states before them: 2 of the first node, one more of each further."""
    return num_nodes * (num_nodes + 3) // 2


def mixture_of(alphas: Mixture) -> Mixture:
    """A softmax over the operations of every edge, section 2.2."""
    return {kind: jax.nn.softmax(rows, axis=-1) for kind, rows in alphas.items()}


class MixedOperation(CellOperation):
    """The sum of all operations, each times its weight: equation (2).

    In the search pooling is followed by a normalization, as the authors have it.

    Attributes:
        operations: names, of which "none" adds nothing.
    """

    operations: Sequence[str]

    @nn.compact
    def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
        """The mixture.

        Args:
            x: [batch, height, width, channels].
            weights: [operations].
        """
        parts = {"padding": self.padding, "conv": self.conv, "norm": self.norm, "act": self.act}
        outputs = []
        for name, weight in zip(self.operations, weights, strict=True):
            if name == NONE:
                continue
            make = OPERATIONS[name]
            out = make(features=self.features, strides=self.strides, **parts, name=name)(x)
            if make.func is PoolOperation:
                out = self.norm(name=f"{name}_norm")(out)
            outputs.append(weight.astype(out.dtype) * out)
        return sum(outputs[1:], outputs[0])


class MixedCell(TwoInputCell):
    """A cell in which every node is the sum of a mixed operation on each state before it: section 2.1.

    Attributes:
        num_nodes: each puts out its state.
        operations: as in `MixedOperation`.
        inputs, features, strides, padding, conv, norm, act: as in `TwoInputCell`.
    """

    num_nodes: int
    operations: Sequence[str]

    @nn.compact
    def __call__(self, current: jax.Array, previous: jax.Array, weights: jax.Array) -> jax.Array:
        """The cell's output.

        Args:
            current: as in `TwoInputCell.states`.
            previous: as in `TwoInputCell.states`.
            weights: [edges, operations]; edges node by node, of each in the order of the states.

        Returns:
            [batch, ceil(height / strides), ceil(width / strides), features * num_nodes].
        """
        states = self.states(current, previous)
        rows = iter(weights)
        make = functools.partial(MixedOperation, operations=self.operations)
        for number in range(1, self.num_nodes + 1):
            outputs = [
                self.make(make, self.strides_from(state), f"node{number}_state{state}")(x, next(rows))
                for state, x in enumerate(states)
            ]
            states.append(sum(outputs[1:], outputs[0]))
        return jnp.concatenate(states[2:], axis=-1)


class Supernet(nn.Module):
    """The network that DARTS searches in: Liu, Simonyan, Yang (ICLR 2019, arXiv:1806.09055), sections 2 and 3.1.

    The defaults are the paper's. The stem's normalization has a scale and a bias, the cells' have none: a scale would
    take the place of an operation's weight. Reduction cells are where `arch.models.classification.darts.DARTS` has
    them.

    Differs from the authors' program: odd sizes are halved upwards; the bias of the classifier begins at 0.

    Attributes:
        num_classes: outputs of the classifier.
        num_cells: in all, at least 3.
        features: channels of a state before the first reduction; each reduction doubles them.
        num_nodes: of a cell.
        operations: of every edge: "none" and names of `arch.blocks.cell_operations.OPERATIONS`.
        stem: of 3x3 to 3 * features: "small" (stride 1) or "stride2".
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields, among them use_scale and use_bias; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions and of the classifier; torch's by default.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 10
    num_cells: int = 8
    features: int = 16
    num_nodes: int = 4
    operations: Sequence[str] = MIXED_OPERATIONS
    stem: str = "small"
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    dtype: Dtype | None = None
    param_dtype: Dtype | None = None

    @property
    def mixture_shape(self) -> tuple[int, int]:
        """Edges and operations of a cell, either kind's."""
        return count_edges(self.num_nodes), len(self.operations)

    @nn.compact
    def __call__(self, x: jax.Array, mixture: Mixture, *, train: bool, examples: Examples | None = None) -> jax.Array:
        """The logits of images.

        Args:
            x: [batch, height, width, channels], floating point, normalized as the data asks.
            mixture: weights of the operations of each kind of cell, "normal" and "reduction", [edges, operations]; see
                `mixture_shape`.
            train: batch statistics, else running statistics.
            examples: weights, for the statistics, of the examples.

        Returns:
            [batch, num_classes], float32 or wider.

        Raises:
            ValueError: integer images; an unknown stem or operation; none but "none"; too few cells, features or nodes;
                a mixture of another shape.
        """
        self._check(mixture)
        dtypes = resolve_dtypes("Supernet", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = functools.partial(bind, self.norm, train=train, examples=examples, **layer)
        x = x.astype(dtypes.compute)
        x = bare_stem(x, owner="Supernet", kind=self.stem, features=3 * self.features, conv=conv)
        previous = x = norm()(name="stem_norm")(x)
        for name, kind, features in plan_cells(self.num_cells, self.features):
            cell = MixedCell(
                inputs=DARTS_INPUTS,
                features=features,
                strides=2 if kind == "reduction" else 1,
                padding="symmetric",
                conv=conv,
                norm=norm(use_scale=False, use_bias=False),
                act=self.act,
                num_nodes=self.num_nodes,
                operations=self.operations,
                name=name,
            )
            previous, x = x, cell(x, previous, mixture[kind])
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=0.0,
            train=train,
            examples=examples,
            kernel_init=self.kernel_init,
            dtypes=dtypes,
        )

    def _check(self, mixture: Mixture) -> None:
        """Refuses fields, and a mixture, that do not fit."""
        for name, value, least in (("num_cells", self.num_cells, 3), ("features", self.features, 2)):
            if value < least:
                raise ValueError(f"Supernet: {name}={value} must be at least {least}; raise it")
        if self.num_nodes < 1:
            raise ValueError(f"Supernet: num_nodes={self.num_nodes} must be at least 1; raise it")
        if self.stem not in SMALL_STRIDES:
            raise unknown_name("Supernet: stem", self.stem, SMALL_STRIDES)
        for name in self.operations:
            if name not in (NONE, *OPERATIONS):
                raise unknown_name("Supernet: operations", name, (NONE, *OPERATIONS))
        if len(set(self.operations)) < len(self.operations) or not set(self.operations) - {NONE}:
            raise ValueError(
                f"Supernet: operations={tuple(self.operations)} must be different ones, and not only {NONE!r}; change "
                "them"
            )
        shapes = {kind: jnp.shape(rows) for kind, rows in mixture.items()}
        if shapes != dict.fromkeys(KINDS, self.mixture_shape):
            raise ValueError(
                f"Supernet: mixture={shapes} must have {self.mixture_shape}, edges and operations, of each of "
                f"{' and '.join(KINDS)}; see mixture_shape"
            )
