"""Normalizations in training, with the ReLU that follows them in a network."""

import functools
from typing import Any

import jax
import numpy as np

from arch.norm.batch import BatchNorm
from arch.norm.group import GroupNorm
from scripts.op_cases.case import OpCase, image, to_nchw


def _inputs(size: int, channels: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
    """x, scale and bias."""
    scale = random.uniform(0.5, 1.5, channels).astype(np.float32)
    return 2.0 * image(random, 8, size, size, channels) + 0.5, scale, image(random, channels)


def _to_peer(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, ...]:
    return to_nchw(x), scale, bias


def _batch_norm(size: int, channels: int) -> OpCase:
    statistics = {"mean": np.zeros(channels, np.float32), "var": np.ones(channels, np.float32)}

    def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": statistics}
        return jax.nn.relu(BatchNorm(dtype=x.dtype).apply(variables, x, train=True, mutable=["batch_stats"])[0])

    def peer(x: Any, scale: Any, bias: Any) -> Any:
        import torch

        mean, var = torch.zeros_like(scale), torch.ones_like(scale)
        return torch.nn.functional.batch_norm(x, mean, var, scale, bias, training=True, momentum=0.1).relu()

    return _case("batch_norm", f"8x{size}x{size}x{channels}, with ReLU", size, channels, ours, peer)


def _group_norm(size: int, channels: int, num_groups: int) -> OpCase:
    def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        layer = GroupNorm(num_groups, dtype=x.dtype)
        return jax.nn.relu(layer.apply({"params": {"scale": scale, "bias": bias}}, x, train=True))

    def peer(x: Any, scale: Any, bias: Any) -> Any:
        import torch

        return torch.nn.functional.group_norm(x, num_groups, scale, bias, eps=1e-5).relu()

    return _case(
        "group_norm", f"8x{size}x{size}x{channels}, {num_groups} groups, with ReLU", size, channels, ours, peer
    )


def _case(name: str, words: str, size: int, channels: int, ours: Any, peer: Any) -> OpCase:
    return OpCase(
        name=name,
        size=words,
        make=functools.partial(_inputs, size, channels),
        ours=ours,
        peer=peer,
        to_peer=_to_peer,
        differentiated=(0, 1, 2),
    )


CASES: tuple[OpCase, ...] = (
    _batch_norm(56, 116),
    _batch_norm(112, 24),
    _batch_norm(14, 464),
    _group_norm(56, 116, 29),
    _group_norm(56, 64, 32),
)
