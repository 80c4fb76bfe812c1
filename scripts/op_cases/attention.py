"""Channel attention, against torchvision."""

import functools
from typing import Any

import numpy as np

from arch.attention.channel import squeeze_excite
from scripts.op_cases.case import OpCase, image, to_nchw


def _squeeze_excite_case(batch: int, size: int, channels: int, reduction: int = 16) -> OpCase:
    def make(random: np.random.Generator) -> tuple[np.ndarray, ...]:
        reduced = channels // reduction
        kernels = 0.1 * image(random, channels, reduced), 0.1 * image(random, reduced, channels)
        return image(random, batch, size, size, channels), *kernels, image(random, reduced), image(random, channels)

    return OpCase(
        name="squeeze_excite",
        size=f"{batch}x{size}x{size}x{channels}, reduction {reduction}",
        make=make,
        ours=squeeze_excite,
        peer=_torchvision_squeeze_excite,
        to_peer=_to_torchvision,
        differentiated=(0, 1, 2, 3, 4),
    )


def _to_torchvision(x: np.ndarray, *weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """Kernels become those of 1x1 convolutions, [features, in_features, 1, 1]."""
    return to_nchw(x), *(w.T[:, :, None, None].copy() if w.ndim == 2 else w for w in weights)


def _torchvision_squeeze_excite(x: Any, reduce_kernel: Any, expand_kernel: Any, *biases: Any) -> Any:
    import torch

    layer = _torchvision_layer(x.shape[1], reduce_kernel.shape[0])
    names = ("fc1.weight", "fc2.weight", "fc1.bias", "fc2.bias")
    weights = dict(zip(names, (reduce_kernel, expand_kernel, *biases), strict=True))
    return torch.func.functional_call(layer, weights, x)


@functools.cache  # to draw its weights takes longer than to apply it
def _torchvision_layer(channels: int, reduced: int) -> Any:
    import torchvision

    return torchvision.ops.SqueezeExcitation(channels, reduced)


CASES: tuple[OpCase, ...] = (_squeeze_excite_case(8, 56, 256), _squeeze_excite_case(8, 28, 256))
