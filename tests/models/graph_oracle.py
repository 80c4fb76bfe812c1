"""What a graph computes and costs, written again in NumPy from the definitions: no Flax, no XLA, nothing compiled."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from arch.models.graphs import Graph


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def conv(x: np.ndarray, kernel: np.ndarray, depthwise: bool = False) -> np.ndarray:
    """Stride 1, SAME: (k - 1) // 2 pixels of zeros before, k // 2 behind."""
    size = len(kernel)
    before, behind = (size - 1) // 2, size // 2
    padded = np.pad(x, ((0, 0), (before, behind), (before, behind), (0, 0)))
    height, width = x.shape[1:3]
    total = 0.0
    for i in range(size):
        for j in range(size):
            taps = padded[:, i : i + height, j : j + width]
            total = total + (taps * kernel[i, j, 0] if depthwise else taps @ kernel[i, j])
    return total


def maps(
    graph: Graph,
    variables: Mapping[str, Any],
    x: np.ndarray,
    *,
    train: bool = False,
    act: Callable[[np.ndarray], np.ndarray] = relu,
    epsilon: float = 1e-5,
) -> dict[str, np.ndarray]:
    """The map of every node; in training normalized by the batch."""
    found = {"image": x}
    for node in graph.nodes:
        inputs = [found[name] for name in node.inputs]
        if node.kind in ("conv", "depthwise"):
            layer = variables["params"][node.name]
            y = conv(inputs[0], np.asarray(layer["conv"]["kernel"]), node.kind == "depthwise")
            stats = variables["batch_stats"][node.name]["norm"]
            mean = y.mean((0, 1, 2)) if train else stats["mean"]
            var = y.var((0, 1, 2)) if train else stats["var"]
            found[node.name] = act((y - mean) / np.sqrt(var + epsilon) * layer["norm"]["scale"] + layer["norm"]["bias"])
        elif node.kind == "max_pool":
            (y,) = inputs
            height, width = (size - size % 2 for size in y.shape[1:3])
            y = y[:, :height, :width]
            corners = [y[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
            found[node.name] = np.max(corners, axis=0)
        elif node.kind == "concat":
            found[node.name] = np.concatenate(inputs, axis=-1)
        elif node.kind == "blend":
            weight = np.asarray(variables["params"][node.name]["weight"])
            found[node.name] = weight * inputs[0] + (1 - weight) * inputs[1]
        else:
            found[node.name] = sum(inputs)
    return found


def logits(graph: Graph, variables: Mapping[str, Any], x: np.ndarray, **options: Any) -> np.ndarray:
    """[batch, classes]; options as in `maps`."""
    y = maps(graph, variables, x, **options)[graph.nodes[-1].name]
    y = y.reshape(len(y), -1) if graph.head == "flatten" else y.mean((1, 2))
    head = variables["params"]["classifier"]
    return y @ np.asarray(head["kernel"]) + np.asarray(head["bias"])


def cost(graph: Graph, image_shape: tuple[int, int, int], num_classes: int) -> tuple[int, int]:
    """Parameters, and multiply-adds of convolutions and of the linear layer on one image."""
    height, width, channels = image_shape
    shapes, params, macs = {"image": (height, width, channels)}, 0, 0
    for node in graph.nodes:
        read = [shapes[name] for name in node.inputs]
        height, width, channels = read[0]
        if node.kind == "conv":
            weights = node.kernel_size**2 * channels * node.features
            channels = node.features
        elif node.kind == "depthwise":
            weights = node.kernel_size**2 * channels
        else:
            weights = 0
        macs += height * width * weights
        params += weights + (2 * channels if weights else 0) + (node.kind == "blend")
        if node.kind == "max_pool":
            height, width = height // 2, width // 2
        if node.kind == "concat":
            channels = sum(shape[2] for shape in read)
        shapes[node.name] = height, width, channels
    rows = channels * (height * width if graph.head == "flatten" else 1)
    return params + (rows + 1) * num_classes, macs + rows * num_classes
