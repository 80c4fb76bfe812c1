"""Records attention_channel.npz: torchvision's SqueezeExcitation and, from torch's layers, the one with batch norms.

    pip install torch==2.14.1 torchvision==0.29.1
    python tests/goldens/record_attention_channel.py

Output and gradients in float64. Arrays are stored in our layout, [batch, height, width, channels], kernels as
[1, 1, in_features, features]. The scalar whose gradients are stored is sum(output * probe); those of the weights lie
one after the other, by name.
"""

import pathlib

import numpy as np

CHANNELS, REDUCED = 6, 3
SHAPES = {"odd": (4, 3, 5), "one_pixel": (3, 1, 1)}
LAYERS = ("fc1", "fc2")


def main() -> None:
    """Runs the layers and writes the file beside this one."""
    import torch
    import torchvision
    from torch import nn

    random = np.random.RandomState(0)
    weights = {
        "fc1/kernel": random.standard_normal((1, 1, CHANNELS, REDUCED)),
        "fc1/bias": random.standard_normal(REDUCED),
        "fc2/kernel": random.standard_normal((1, 1, REDUCED, CHANNELS)),
        "fc2/bias": random.standard_normal(CHANNELS),
        "norm1/scale": np.exp(random.standard_normal(REDUCED)),
        "norm1/bias": random.standard_normal(REDUCED),
        "norm2/scale": np.exp(random.standard_normal(CHANNELS)),
        "norm2/bias": random.standard_normal(CHANNELS),
    }
    recorded = dict(versions=f"torch {torch.__version__}, torchvision {torchvision.__version__}", **weights)

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = (
                nn.Conv2d(CHANNELS, REDUCED, 1, bias=False),
                nn.Conv2d(REDUCED, CHANNELS, 1, bias=False),
            )
            self.norm1, self.norm2 = nn.BatchNorm2d(REDUCED, eps=1e-5), nn.BatchNorm2d(CHANNELS, eps=1e-5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.norm1(self.fc1(x.mean((2, 3), keepdim=True))).relu()
            return x * self.norm2(self.fc2(hidden)).sigmoid()

    layers = {
        "plain": torchvision.ops.SqueezeExcitation(CHANNELS, REDUCED),
        "swish": torchvision.ops.SqueezeExcitation(CHANNELS, REDUCED, nn.SiLU, nn.Tanh),
        "normed": Normed(),
    }
    for row, shape in SHAPES.items():
        x, probe = random.standard_normal((2, *shape, CHANNELS))
        x[0], x[1] = 0.0, -1.5  # an empty and a flat example
        recorded |= {f"{row}/x": x, f"{row}/probe": probe}
        for name, layer in layers.items():
            layer = layer.double().train()
            load(layer, weights)
            inputs = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
            out = layer(inputs)
            layer.zero_grad()
            (out * torch.tensor(probe).permute(0, 3, 1, 2)).sum().backward()
            recorded[f"{row}/{name}/out"] = out.detach().permute(0, 2, 3, 1).numpy()
            recorded[f"{row}/{name}/grad_x"] = inputs.grad.permute(0, 2, 3, 1).numpy()
            gradients = {our_path(path): to_ours(weight.grad.numpy()) for path, weight in layer.named_parameters()}
            recorded[f"{row}/{name}/grad_weights"] = np.concatenate(
                [gradients[path].ravel() for path in sorted(gradients)]
            )
    np.savez_compressed(pathlib.Path(__file__).with_name("attention_channel.npz"), **recorded)


def our_path(path: str) -> str:
    """fc1.weight -> fc1/kernel, norm1.weight -> norm1/scale."""
    layer, name = path.split(".")
    return f"{layer}/{name.replace('weight', 'kernel' if layer in LAYERS else 'scale')}"


def to_ours(array: np.ndarray) -> np.ndarray:
    """[features, in_features, height, width] -> [height, width, in_features, features]; other ranks stay."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def load(layer, weights) -> None:
    """Sets the parameters of a torch module from arrays in our layout and with our names."""
    import torch

    for path, parameter in layer.named_parameters():
        value = weights[our_path(path)]
        parameter.data = torch.tensor(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value)


if __name__ == "__main__":
    main()
