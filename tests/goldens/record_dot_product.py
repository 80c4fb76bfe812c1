"""Records dot_product.npz: torch's scaled_dot_product_attention and MultiheadAttention, with gradients, in float64.

    pip install torch==2.14.1
    python tests/goldens/record_dot_product.py

Arrays of attention alone are stored in our layout, [batch, tokens, heads, features], the parameters of the layer as
torch has them; masks are True where a query sees a key. The scalar whose gradients are stored is sum(output * probe).
"""

import pathlib
from typing import Any

import numpy as np

BATCH, QUERIES, KEYS, HEADS, FEATURES, VALUE_FEATURES = 2, 4, 5, 2, 3, 2
EMBEDDING = 6


def attention_cases(random: np.random.RandomState) -> dict[str, dict[str, Any]]:
    """Inputs by name: random ones with and without masks, an edge of one key, and degenerate ones."""

    def inputs(queries: int = QUERIES, keys: int = KEYS, **more: Any) -> dict[str, Any]:
        sizes = {"query": (queries, FEATURES), "key": (keys, FEATURES), "value": (keys, VALUE_FEATURES)}
        arrays = {name: random.standard_normal((BATCH, count, HEADS, size)) for name, (count, size) in sizes.items()}
        return arrays | {"mask": None, "scale": None} | more

    mask = random.random_sample((BATCH, HEADS, QUERIES, KEYS)) < 0.5
    mask[..., 2] = True  # no row is empty
    without_keys = mask.copy()
    without_keys[0, 1, 2] = without_keys[1, :, 0] = False
    padding = np.ones((BATCH, 1, 1, KEYS), bool)
    padding[1, :, :, 3:] = False
    extreme, flat = inputs(), inputs(queries=1)
    return {
        "random": inputs(),
        "mask_and_scale": inputs(mask=mask, scale=0.3),
        "padding": inputs(mask=padding),
        "causal": inputs(KEYS, KEYS, mask=np.tril(np.ones((KEYS, KEYS), bool))),
        "row_without_keys": inputs(mask=without_keys),
        "one_key": inputs(keys=1),
        "zeros": {name: None if array is None else 0 * array for name, array in inputs().items()},
        "equal_keys": flat | {"key": np.ones_like(flat["key"])},
        "extreme": extreme | {"query": 100 * extreme["query"], "key": 100 * extreme["key"]},
    }


def record_attention(torch: Any, case: dict[str, Any], random: np.random.RandomState) -> dict[str, np.ndarray]:
    """Inputs, output and gradients of one case."""
    tensors = [torch.tensor(case[name]).transpose(1, 2).requires_grad_() for name in ("query", "key", "value")]
    mask = None if case["mask"] is None else torch.tensor(case["mask"])
    out = torch.nn.functional.scaled_dot_product_attention(*tensors, attn_mask=mask, scale=case["scale"])
    out = out.transpose(1, 2)
    probe = random.standard_normal(out.shape)
    gradients = torch.autograd.grad((out * torch.tensor(probe)).sum(), tensors)
    recorded = {name: value for name, value in case.items() if value is not None}
    recorded |= {"out": out.detach().numpy(), "probe": probe}
    names = ("grad_query", "grad_key", "grad_value")
    return recorded | {name: each.transpose(1, 2).numpy() for name, each in zip(names, gradients, strict=True)}


def record_layer(
    torch: Any, inputs: list[np.ndarray], mask: np.ndarray | None, bias: bool, random: np.random.RandomState
) -> dict[str, np.ndarray]:
    """Inputs, parameters, output and gradients of a layer; torch's masks are True where a query does not see a key."""
    layer = torch.nn.MultiheadAttention(EMBEDDING, HEADS, bias=bias, batch_first=True, dtype=torch.float64)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tensors = [torch.tensor(x).requires_grad_() for x in inputs]
    query, key, value = tensors * 3 if len(tensors) == 1 else tensors
    hidden = None if mask is None else torch.tensor(~mask)
    out, _ = layer(query, key, value, attn_mask=hidden, need_weights=False)
    probe = random.standard_normal(out.shape)
    (out * torch.tensor(probe)).sum().backward()
    recorded = {f"input{i}": x for i, x in enumerate(inputs)} | {"out": out.detach().numpy(), "probe": probe}
    recorded |= {} if mask is None else {"mask": mask}
    recorded |= {f"grad_input{i}": tensor.grad.numpy() for i, tensor in enumerate(tensors)}
    for name, parameter in layer.named_parameters():
        recorded |= {name: parameter.detach().numpy(), f"grad_{name}": parameter.grad.numpy()}
    return recorded


def main() -> None:
    """Runs attention and the layer, and writes the file beside this one."""
    import torch

    torch.manual_seed(0)
    random = np.random.RandomState(0)
    recorded = {"versions": f"torch {torch.__version__}"}
    for name, case in attention_cases(random).items():
        recorded |= {f"{name}/{key}": value for key, value in record_attention(torch, case, random).items()}

    def tokens(count: int) -> np.ndarray:
        return random.standard_normal((BATCH, count, EMBEDDING))

    causal = np.tril(np.ones((QUERIES, QUERIES), bool))
    layers = {
        "causal": ([tokens(QUERIES)], causal, True),
        "cross": ([tokens(QUERIES), tokens(KEYS), tokens(KEYS)], None, False),
    }
    for name, (inputs, mask, bias) in layers.items():
        layer = record_layer(torch, inputs, mask, bias, random)
        recorded |= {f"layer_{name}/{key}": value for key, value in layer.items()}
    np.savez_compressed(pathlib.Path(__file__).with_name("dot_product.npz"), **recorded)


if __name__ == "__main__":
    main()
