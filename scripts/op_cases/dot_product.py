"""Attention of positions to one another, against torch: its own functions, and the non-local block in plain torch."""

import functools
from typing import Any

import jax
import numpy as np

from arch.attention.dot_product import MultiHeadAttention, dot_product_attention
from arch.attention.non_local import NonLocal
from scripts.op_cases.case import OpCase, image, to_nchw

HEADS = 8


def _attention_case(batch: int, tokens: int, features: int = 64) -> OpCase:
    def swap(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """torch has heads before tokens, and so has the array behind."""
        return tuple(np.ascontiguousarray(array.swapaxes(1, 2)) for array in arrays)

    def peer(query: Any, key: Any, value: Any) -> Any:
        import torch

        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    return OpCase(
        name="dot_product_attention",
        size=f"{batch}x{tokens}, {HEADS} heads of {features}",
        make=lambda random: tuple(image(random, batch, tokens, HEADS, features) for _ in range(3)),
        ours=dot_product_attention,
        peer=peer,
        to_peer=swap,
        from_peer=lambda out: swap(out)[0],
        differentiated=(0, 1, 2),
    )


def _layer_case(batch: int, tokens: int, features: int = 512) -> OpCase:
    """The inputs are x, kernel and bias of queries, keys and values side by side, and those of the output."""

    def make(random: np.random.Generator) -> tuple[np.ndarray, ...]:
        kernel, out_kernel = (features**-0.5 * image(random, features, n * features) for n in (3, 1))
        biases = image(random, 3 * features), image(random, features)
        return image(random, batch, tokens, features), kernel, biases[0], out_kernel, biases[1]

    def ours(x: jax.Array, kernel: jax.Array, bias: jax.Array, out_kernel: jax.Array, out_bias: jax.Array) -> jax.Array:
        heads = HEADS, features // HEADS
        params = {"out": {"kernel": out_kernel.reshape(*heads, features), "bias": out_bias}}
        for i, name in enumerate(("query", "key", "value")):
            part = slice(i * features, (i + 1) * features)
            params[name] = {"kernel": kernel[:, part].reshape(features, *heads), "bias": bias[part].reshape(heads)}
        return MultiHeadAttention(HEADS).apply({"params": params}, x)

    def to_peer(x: np.ndarray, *weights: np.ndarray) -> tuple[np.ndarray, ...]:
        return x, *(np.ascontiguousarray(weight.T) for weight in weights)

    def peer(x: Any, *weights: Any) -> Any:
        import torch

        names = "in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"
        named = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(_torch_layer(features), named, (x, x, x), {"need_weights": False})[0]

    return OpCase(
        name="MultiHeadAttention",
        size=f"{batch}x{tokens}x{features}, {HEADS} heads",
        make=make,
        ours=ours,
        peer=peer,
        to_peer=to_peer,
        from_peer=lambda out: out,
        differentiated=tuple(range(5)),
    )


@functools.cache
def _torch_layer(features: int) -> Any:
    """Made once: that takes longer than a percent of a call. In evaluation it may take torch's fast path."""
    import torch

    return torch.nn.MultiheadAttention(features, HEADS, batch_first=True, device="meta").eval()


def _non_local_case(form: str, batch: int, size: int, channels: int) -> OpCase:
    """The inputs are x and the kernels of theta, phi, g and out, with concatenation's between."""
    inner = channels // 2
    names = ["theta", "phi", "g", "out"]
    has_kernel = form == "concatenation"

    def make(random: np.random.Generator) -> tuple[np.ndarray, ...]:
        kernels = [channels**-0.5 * image(random, channels, inner) for _ in names[:3]]
        between = [image(random, 2 * inner) / inner] if has_kernel else []
        return image(random, batch, size, size, channels), *kernels, image(random, inner, channels), *between

    def ours(x: jax.Array, *kernels: jax.Array) -> jax.Array:
        zeros = {name: np.zeros(channels if name == "out" else inner, np.float32) for name in names}
        params = {
            name: {"kernel": kernel[None, None], "bias": zeros[name]}
            for name, kernel in zip(names, kernels[:4], strict=True)
        }
        params |= {"concat_kernel": kernels[4][:, None]} if has_kernel else {}
        return NonLocal(form).apply({"params": params}, x)

    def peer(x: Any, *kernels: Any) -> Any:
        import torch

        weights = [kernel.T[:, :, None, None] for kernel in kernels[:4]]
        theta, phi, g = (torch.nn.functional.conv2d(x, weight).flatten(2) for weight in weights[:3])
        if form == "concatenation":
            of_theta, of_phi = kernels[4].split(inner)
            logits = (of_theta @ theta)[:, :, None] + (of_phi @ phi)[:, None]
        else:
            logits = theta.transpose(1, 2) @ phi
        if form == "embedded_gaussian":
            pairs = (logits * inner**-0.5).softmax(-1)
        else:
            pairs = (logits.relu() if form == "concatenation" else logits) / logits.shape[-1]
        out = (g @ pairs.transpose(1, 2)).reshape(batch, inner, size, size)
        return x + torch.nn.functional.conv2d(out, weights[3])

    return OpCase(
        name="non_local",
        size=f"{form}, {batch}x{size}x{size}x{channels}",
        make=make,
        ours=ours,
        peer=peer,
        to_peer=lambda x, *kernels: (to_nchw(x), *kernels),
        differentiated=tuple(range(5 + has_kernel)),
    )


CASES: tuple[OpCase, ...] = (
    _attention_case(8, 196),
    _attention_case(8, 784),
    _layer_case(8, 196),
    *(_non_local_case(form, 8, 28, 256) for form in ("embedded_gaussian", "dot_product", "concatenation")),
)
