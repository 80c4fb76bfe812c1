"""Records transformer_layer.npz: torch's encoder layer of the Transformer, in float64.

    pip install torch==2.14.1
    python tests/goldens/record_transformer_layer.py

The layers are `pre` (norm_first) and `post`, of 2 heads and 8 features, on 3 examples of 5 tokens. Of each:

    LAYER/x, LAYER/out      input and output, [batch, tokens, features]
    LAYER/grad              of sum(out * sin(0, 1, 2, ...)) in the input
    LAYER/params/NAME       torch's tensors, and LAYER/grads/NAME their gradients
"""

import pathlib

import numpy as np
from fill import fill, normal

HEADS, FEATURES, MLP_FEATURES, SHAPE = 2, 8, 12, (3, 5, 8)


def main() -> None:
    """Runs both layers and writes the file beside this one."""
    import torch

    recorded = {"versions": f"torch {torch.__version__}"}
    for name in ("pre", "post"):
        layer = torch.nn.TransformerEncoderLayer(
            FEATURES, HEADS, MLP_FEATURES, dropout=0.0, activation="relu", batch_first=True, norm_first=name == "pre"
        ).double()
        with torch.no_grad():
            for key, value in layer.named_parameters():
                value.copy_(torch.from_numpy(fill(key, tuple(value.shape))))
        x = torch.from_numpy(normal("tokens", SHAPE)).requires_grad_()
        out = layer(x)
        (out * torch.sin(torch.arange(out.numel(), dtype=out.dtype)).reshape(out.shape)).sum().backward()
        recorded |= {
            f"{name}/x": x.detach().numpy(),
            f"{name}/out": out.detach().numpy(),
            f"{name}/grad": x.grad.numpy(),
        }
        for key, value in layer.named_parameters():
            recorded[f"{name}/params/{key}"] = value.detach().numpy()
            recorded[f"{name}/grads/{key}"] = value.grad.numpy()
    np.savez_compressed(pathlib.Path(__file__).with_name("transformer_layer.npz"), **recorded)


if __name__ == "__main__":
    main()
