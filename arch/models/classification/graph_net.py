"""Networks of any graph of convolutions, such as hill climbing with network morphisms makes (arXiv:1711.04528)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.conv_unit import ConvUnit
from arch.blocks.head import classifier_head
from arch.models.graphs import IMAGE, LAYERS, NASH, Graph, Node, resolve
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.pooling import max_pool
from arch.ops.stochastic import Examples


class GraphNet(nn.Module):
    """The network of a graph: convolution, normalization and activation a layer, pools, joins, and a linear layer.

    A layer's parameters lie under the name of its node, `NAME/conv` and `NAME/norm`; the weight of a blend is
    `NAME/weight`. So a graph with one node more has the others' parameters where they were.

    Convolutions pad "SAME": kernels of even size one pixel more behind than before.

    Initial values: convolutions from a truncated N(0, 2 / fan-in), classifier weights from N(0, 0.01), its bias 0,
    norms at scale 1 and bias 0, blends at 1, which is their first input.

    Attributes:
        num_classes: outputs of the classifier.
        graph: an `arch.models.graphs.Graph`, its JSON, that as text, or the channels of a chain such as "16,32,64".
        dropout_rate: before the classifier.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions.
        features_only: returns maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    graph: Graph | Mapping[str, Any] | str = NASH
    dropout_rate: float = 0.0
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
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
            width / stride, channels]}, the last map of each stride.

        Raises:
            ValueError: integer images; images that pooling leaves nothing of; a graph that is none.
        """
        graph = resolve(self.graph)
        dtypes = resolve_dtypes("GraphNet", x, self.dtype, self.param_dtype)
        _check_size(x, max(graph.strides.values()))
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        layers = {
            "conv": functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer),
            "norm": bind(self.norm, train=train, examples=examples, **layer),
        }
        maps, features_at = {IMAGE: x.astype(dtypes.compute)}, {}
        for node in graph.nodes:
            x = self._node(node, [maps[name] for name in node.inputs], layers, dtypes.param)
            maps[node.name] = features_at[graph.strides[node.name]] = x
        if self.features_only:
            return features_at
        if graph.head == "flatten":
            x = x.reshape(x.shape[0], 1, 1, -1)  # one pixel, whose mean is itself
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=nn.initializers.normal(0.01),
            dtypes=dtypes,
        )

    def _node(
        self, node: Node, inputs: list[jax.Array], layers: Mapping[str, Callable], param_dtype: Dtype
    ) -> jax.Array:
        """What a node makes of what it reads; from the compact `__call__`."""
        x = inputs[0]
        if node.kind in LAYERS:
            layers = dict(layers)
            if node.kind == "depthwise":
                layers["conv"] = functools.partial(layers["conv"], feature_group_count=x.shape[-1])
            return ConvUnit(
                node.features or x.shape[-1],
                strides=1,
                kernel_size=node.kernel_size,
                padding="SAME",
                act=self.act,
                **layers,
                name=node.name,
            )(x)
        if node.kind == "max_pool":
            return max_pool(x, (2, 2), strides=(2, 2), padding="VALID")
        if node.kind == "concat":
            return jnp.concatenate(inputs, axis=-1)
        if node.kind == "blend":
            return Blend(param_dtype, name=node.name)(*inputs)
        return sum(inputs[1:], start=x)


class Blend(nn.Module):
    """w a + (1 - w) b, with a learned scalar w that starts at 1.

    Attributes:
        param_dtype: of the parameter `weight`.
    """

    param_dtype: Dtype

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Maps two arrays of one shape to one."""
        weight = self.param("weight", nn.initializers.ones, (), self.param_dtype).astype(first.dtype)
        return weight * first + (1 - weight) * second


def _check_size(x: jax.Array, smallest: int) -> None:
    if x.ndim == 4 and min(x.shape[1:3]) < smallest:
        raise ValueError(
            f"GraphNet: height={x.shape[1]} and width={x.shape[2]} must be at least {smallest}, or pooling leaves "
            "nothing; give larger images, or a graph of fewer pools"
        )
