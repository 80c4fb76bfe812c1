"""The networks of NAS-Bench-201 (Dong and Yang, ICLR 2020, arXiv:2001.00326): every cell of a small space, in one."""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.cell_operations import OPERATIONS, BottleneckOperation, CellOperation, PointwiseOperation
from arch.blocks.head import classifier_head, symmetric_uniform
from arch.blocks.stem import bare_stem, stem_stride
from arch.errors import unknown_name
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.pooling import avg_pool
from arch.ops.stochastic import Examples

# The five operations, with the authors' names for them; "none" is not to compute anything.
EDGE_OPERATIONS: Mapping[str, Callable[..., CellOperation] | None] = {
    "none": None,
    "skip_connect": OPERATIONS["skip_connect"],
    "nor_conv_1x1": functools.partial(PointwiseOperation),
    "nor_conv_3x3": functools.partial(BottleneckOperation, kernel_size=3, bottleneck_ratio=0.0),
    "avg_pool_3x3": OPERATIONS["avg_pool_3x3"],
}
NUM_NODES = 4
# (from, to) of every edge, in the order of a cell's text and of its choices.
EDGES = tuple((source, node) for node in range(1, NUM_NODES) for source in range(node))
# Number 9930 of the authors', one of the most accurate; 94.36% on CIFAR-10 in their log.
DEFAULT_CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


def cell_text(operations: Sequence[str]) -> str:
    """A cell as the authors write it, from the operations of its EDGES: "|none~0|+|none~0|none~1|+|...|"."""
    parts = {node: "" for node in range(1, NUM_NODES)}
    for operation, (source, node) in zip(operations, EDGES, strict=True):
        parts[node] += f"|{operation}~{source}"
    return "+".join(f"{part}|" for part in parts.values())


def cell_operations(text: str) -> tuple[str, ...]:
    """The operations of the EDGES of a cell that is written as by `cell_text`.

    Raises:
        ValueError: another form, an unknown operation.
    """
    operations = tuple(re.findall(r"\|([^|~+]*)~", text))
    for operation in operations:
        if operation not in EDGE_OPERATIONS:
            raise unknown_name("NASBench201: operation of the cell", operation, EDGE_OPERATIONS)
    if len(operations) != len(EDGES) or cell_text(operations) != text:
        raise ValueError(f"NASBench201: cell={text!r} must have the form of {DEFAULT_CELL}; write it so")
    return operations


class Edge(nn.Module):
    """One of several operations on a map [batch, height, width, channels], which keeps its shape.

    Attributes:
        operations: names of EDGE_OPERATIONS to choose from.
        branch: whether a traced choice is a branch of the program, or is selected from all that was computed.
        make: makes an operation from its entry there, its features and its name.
    """

    operations: Sequence[str]
    branch: bool
    make: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, choice: int | jax.Array) -> jax.Array:
        """What the chosen one makes of the map.

        Args:
            x: the map.
            choice: an index of `operations`. A traced one makes a program with the parameters of each of them; they
                have the names, and initial values, that a fixed choice gives to those of the one chosen.
        """
        if isinstance(choice, int):
            return _operation(self, x, self.operations[choice])
        if self.is_initializing() or not self.branch:
            return jax.lax.select_n(choice, *(_operation(self, x, name) for name in self.operations))
        branches = [functools.partial(_operation, name=name) for name in self.operations]
        return nn.switch(choice, branches, self, x)


def _operation(edge: Edge, x: jax.Array, name: str) -> jax.Array:
    kind = EDGE_OPERATIONS[name]
    return jnp.zeros_like(x) if kind is None else edge.make(kind, features=x.shape[-1], name=name)(x)


class ReductionUnit(nn.Module):
    """The residual unit between two stages, which halves the map, odd sizes upwards, and doubles the channels.

    Attributes:
        make: makes an operation from its entry in EDGE_OPERATIONS, its features, strides and name.
        conv: makes a convolution from its fields.
    """

    make: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kind, features = EDGE_OPERATIONS["nor_conv_3x3"], 2 * x.shape[-1]
        y = self.make(kind, features=features, strides=2, name="conv1")(x)
        y = self.make(kind, features=features, name="conv2")(y)
        x = avg_pool(x, 2, strides=2, padding="SAME", count_padding=False)
        return y + self.conv(features=features, kernel_size=(1, 1), name="shortcut_conv")(x)


class NASBench201(nn.Module):
    """Three stages of one cell, between which residual units halve the map.

    A cell has four nodes, of which the first is its input and the last its output; each node is the sum of the
    operations on the six edges from the nodes before it. After the last stage: normalization, activation, classifier.

    Differs from the authors' program: odd sizes are halved upwards. Initial values: those of ResNet, convolutions from
    N(0, 2 / fan-out), classifier weights and bias from U(-1, 1) / sqrt(fan-in), norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        cell: as the authors write it, see `cell_text`, or, for a program of many cells, int32 [6], traced or not: for
            each of EDGES an index of `operations`.
        operations: names of EDGE_OPERATIONS; what such a cell chooses from.
        branch: whether the program of a traced cell branches, and computes on each edge what was chosen alone, or
            computes all and selects, as it has to under vmap, where a branch has no finite gradient.
        stage_sizes: cells of each stage.
        features: channels of the first stage; each further one has twice those of the one before it.
        stem: a 3x3 convolution, "small" (stride 1, the paper's) or "stride2" or "imagenet" (stride 2), normalized.
        dropout_rate: before the classifier; the authors use none.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions.
        features_only: returns maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    cell: str | jax.Array = DEFAULT_CELL
    operations: Sequence[str] = tuple(EDGE_OPERATIONS)
    branch: bool = True
    stage_sizes: Sequence[int] = (5, 5, 5)
    features: int = 16
    stem: str = "small"
    dropout_rate: float = 0.0
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    features_only: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, examples: Examples | None = None
    ) -> jax.Array | dict[int, jax.Array]:
        """The logits of images.

        Args:
            x: [batch, height, width, channels], floating point, normalized as the data asks.
            train: batch statistics and dropout, else running statistics and none.
            examples: weights, for the statistics, and ids, for dropout, of the examples.

        Returns:
            [batch, num_classes], float32 or wider; with features_only {stride: [batch, height / stride,
            width / stride, features]}, the last map of each stride, from the stem's on.

        Raises:
            ValueError: integer images; an unknown stem or operation; a cell of another form; no stage.
        """
        choices, operations = self._check()
        dtypes = resolve_dtypes("NASBench201", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)

        def make(kind: Callable[..., nn.Module], *, features: int, name: str, strides: int = 1) -> nn.Module:
            fields = {"strides": strides, "padding": "symmetric", "conv": conv, "norm": norm, "act": self.act}
            return kind(features=features, **fields, name=name)

        x = bare_stem(x.astype(dtypes.compute), owner="NASBench201", kind=self.stem, features=self.features, conv=conv)
        x, stride, features_at = norm(name="stem_norm")(x), stem_stride(self.stem, pool=False), {}
        for stage, size in enumerate(self.stage_sizes, start=1):
            if stage > 1:
                x, stride = ReductionUnit(make, conv, name=f"reduction{stage - 1}")(x), 2 * stride
            for number in range(1, size + 1):
                nodes = [x]
                for node in range(1, NUM_NODES):
                    edges = [
                        Edge(operations, self.branch, make, name=f"stage{stage}_cell{number}_edge{source}{node}")(
                            nodes[source], choices[EDGES.index((source, node))]
                        )
                        for source in range(node)
                    ]
                    nodes.append(sum(edges[1:], edges[0]))
                x = nodes[-1]
            features_at[stride] = x
        x = features_at[stride] = self.act(norm(name="final_norm")(x))
        if self.features_only:
            return features_at
        uniform = symmetric_uniform(1 / math.sqrt(x.shape[-1]))
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=uniform,
            bias_init=uniform,
            dtypes=dtypes,
        )

    def _check(self) -> tuple[Sequence[int | jax.Array], tuple[str, ...]]:
        """The choice on each edge, and what it chooses from."""
        if not self.stage_sizes or self.features < 1:
            raise ValueError(
                f"NASBench201: stage_sizes={self.stage_sizes} must not be empty, and features={self.features} at least "
                "1; change them"
            )
        operations = tuple(self.operations)
        for operation in operations:
            if operation not in EDGE_OPERATIONS:
                raise unknown_name("NASBench201: operations", operation, EDGE_OPERATIONS)
        if isinstance(self.cell, str):
            operations = tuple(EDGE_OPERATIONS)
            return [operations.index(name) for name in cell_operations(self.cell)], operations
        if jnp.shape(self.cell) != (len(EDGES),):
            raise ValueError(
                f"NASBench201: cell of shape {jnp.shape(self.cell)} must be ({len(EDGES)},), a choice for each edge"
            )
        return list(self.cell), operations
