"""All networks that network morphisms make of a first one (Elsken et al., arXiv:1711.04528)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import linen as nn

from arch.errors import unknown_name
from arch.models.graphs import LAYERS, NASH, Graph, resolve
from arch.search import morphism
from arch.search.widening import FORMS


class GraphSpace:
    """Graphs from a start on, each from the one before by a morphism; within a number of parameters and multiply-adds.

    There is no end to it, and no encoding of a fixed length: it is for strategies that change what there is.

    Args:
      start: a graph, as in `arch.models.graphs.resolve`.
      sample_changes: `sample` gives the start after 0 to so many random morphisms, each number as often.
      field: the name under which an architecture is written as {field: text}.
      image_shape: height, width and channels, for costs; of the head "flatten", what it is trained with.
      num_classes: outputs of the classifier, for costs.
      max_params: largest number of parameters; 0: any.
      max_macs: largest number of multiply-adds of an image; 0: any.
      kernel_sizes: of new convolutions.
      factors: by which convolutions are widened.
      forms: of widening: "copy", Net2Net's, or "zero", NASH's.
      uneven: in [0, 1), how unevenly copies share the weights of what they replace; see `arch.search.morphism`.
      act: the activation of the network: not all morphisms apply to every one.

    Raises:
      ValueError: a start that is no graph, or costs more than there may be; a value out of range; an unknown name.
    """

    choices: tuple[int, ...] = ()
    size = math.inf

    def __init__(
        self,
        start: Graph | Mapping[str, Any] | str = NASH,
        *,
        sample_changes: int = 0,
        field: str = "model.fields.graph",
        image_shape: Sequence[int] = (32, 32, 3),
        num_classes: int = 10,
        max_params: int = 0,
        max_macs: int = 0,
        kernel_sizes: Sequence[int] = (3, 5),
        factors: Sequence[int] = (2, 4),
        forms: Sequence[str] = FORMS,
        uneven: float = 0.5,
        act: morphism.Activation = nn.relu,
    ):
        for name, value, is_right, rule in (
            ("sample_changes", sample_changes, sample_changes >= 0, "must not be negative; 0 samples the start"),
            ("kernel_sizes", kernel_sizes, _are_from(1, kernel_sizes), "must be whole numbers from 1 up; name some"),
            ("factors", factors, _are_from(2, factors), "must be whole numbers from 2 up; name some"),
            ("forms", forms, len(forms) > 0, f"must be one or more of {', '.join(FORMS)}; name some"),
            ("uneven", uneven, 0 <= uneven < 1, "must be in [0, 1); 0.5 is usual"),
            ("act", act, callable(act), "must be a function; arch.ops.activation has many"),
        ):
            if not is_right:
                raise ValueError(f"GraphSpace: {name}={value} {rule}")
        for form in forms:
            if form not in FORMS:
                raise unknown_name("GraphSpace: forms", form, FORMS)
        self.start, self._field, self._sample_changes = resolve(start), field, sample_changes
        self._image_shape, self._num_classes = tuple(image_shape), num_classes
        self._max_params, self._max_macs = max_params, max_macs
        self._options = {"kernel_sizes": kernel_sizes, "factors": factors, "forms": forms, "uneven": uneven, "act": act}
        if not self._fits(self.start):
            params, macs = self.cost(self.start)
            raise ValueError(
                f"GraphSpace: the start has params={params} and macs={macs}, which must be at most max_params="
                f"{max_params} and max_macs={max_macs}; raise them"
            )

    def cost(self, graph: Graph) -> tuple[int, int]:
        """Parameters, and multiply-adds of an image: what `arch.efficiency.complexity.count` finds, without tracing.

        Near a limit a draw looks at nearly all that there is to draw.
        """
        height, width, image_channels = self._image_shape
        params = macs = 0
        for node in graph.nodes:
            stride, channels = graph.strides[node.name], graph.channels[node.name]
            if node.kind in LAYERS:
                read = graph.channels[node.inputs[0]] or image_channels
                weights = node.kernel_size**2 * channels * (read if node.kind == "conv" else 1)
                params += weights + 2 * channels
                macs += (height // stride) * (width // stride) * weights
            params += node.kind == "blend"
        pixels = (height // stride) * (width // stride) if graph.head == "flatten" else 1
        rows = pixels * channels
        return params + (rows + 1) * self._num_classes, macs + rows * self._num_classes

    def _fits(self, graph: Graph) -> bool:
        if not (self._max_params or self._max_macs):
            return True
        params, macs = self.cost(graph)
        return params <= (self._max_params or params) and macs <= (self._max_macs or macs)

    def sample(self, rng: np.random.Generator) -> Graph:
        """The start, or with `sample_changes` what random morphisms make of it."""
        graph = self.start
        if self._sample_changes:
            for _ in range(rng.integers(self._sample_changes + 1)):
                graph = self.mutate(rng, graph)
        return graph

    def morph(self, rng: np.random.Generator, architecture: Graph) -> tuple[Graph, dict[str, Any] | None]:
        """The graph after a random morphism, and the morphism; None and no change where all would cost too much."""
        change = morphism.draw(rng, architecture, accept=self._fits, **self._options)
        return (architecture, None) if change is None else (morphism.grow(architecture, change), change)

    def mutate(self, rng: np.random.Generator, architecture: Graph) -> Graph:
        """The graph after a random morphism."""
        return self.morph(rng, architecture)[0]

    def encode(self, architecture: Graph) -> tuple[int, ...]:
        """Refused: graphs have no encoding."""
        raise ValueError("GraphSpace: a graph has no code of fixed length; take hill climbing, evolution or random")

    def decode(self, code: Sequence[int]) -> Graph:
        """Refused: graphs have no encoding."""
        raise ValueError("GraphSpace: a graph has no code of fixed length; take hill climbing, evolution or random")

    def to_json(self, architecture: Graph) -> dict[str, str]:
        """{field: the graph as text}, what a flag of train.py sets."""
        return {self._field: architecture.to_text()}

    def from_json(self, values: Mapping[str, str]) -> Graph:
        """The graph, checked."""
        if set(values) != {self._field}:
            raise ValueError(f"GraphSpace: {dict(values)} must have the field {self._field} alone; see to_json")
        return resolve(values[self._field])


def _are_from(least: int, values: Sequence[int]) -> bool:
    """Whether these are whole numbers, one at least, and none below."""
    return len(values) > 0 and all(type(value) is int and value >= least for value in values)
