"""Records layer_norms.npz: torch's layer, instance and weight norms, forward and backward, in float64.

    pip install torch==2.14.1
    python tests/goldens/record_layer_norms.py

Arrays are stored in our layout, [batch, height, width, channels] and [height, width, in_features, features]. The scalar
whose gradients are stored is sum(output * probe).
"""

import pathlib

import numpy as np

SHAPE = (3, 4, 5, 6)
FEATURES = 8


def main() -> None:
    """Runs the layers and writes the file beside this one."""
    import torch

    random = np.random.RandomState(0)
    recorded = {"versions": f"torch {torch.__version__}"}

    def to_nchw(array):
        return torch.tensor(array).permute(0, 3, 1, 2)

    def to_nhwc(tensor):
        return tensor.detach().permute(0, 2, 3, 1).numpy()

    def record(name, x, probe, run, parameters):
        inputs = to_nchw(x).contiguous().requires_grad_()
        out = run(inputs)
        (out * to_nchw(probe)).sum().backward()
        recorded[f"{name}/out"], recorded[f"{name}/grad_x"] = to_nhwc(out), to_nhwc(inputs.grad)
        for key, (tensor, to_ours) in parameters.items():
            recorded[f"{name}/{key}"] = to_ours(tensor.detach()).numpy()
            recorded[f"{name}/grad_{key}"] = to_ours(tensor.grad).numpy()

    x, probe = random.standard_normal((2, *SHAPE)) * 2.0 + 0.5
    x[1] = 7.0  # constant
    x[2] = 1e3 + 1e-2 * x[2]  # a large mean and a small variance
    recorded["x"], recorded["probe"] = x, probe
    channels = SHAPE[-1]
    elementwise = torch.nn.LayerNorm((channels, *SHAPE[1:3]), eps=1e-5).double()
    per_pixel = torch.nn.LayerNorm(channels, eps=1e-5).double()
    layers = {
        "hwc": (torch.nn.GroupNorm(1, channels, eps=1e-5).double(), lambda t: t),
        "hwc_elementwise": (elementwise, lambda t: t.permute(1, 2, 0)),
        "c": (per_pixel, lambda t: t),
        "instance": (torch.nn.InstanceNorm2d(channels, eps=1e-5, affine=True).double(), lambda t: t),
    }
    for name, (layer, to_ours) in layers.items():
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.tensor(random.standard_normal(parameter.shape)))
        run = (lambda inputs: per_pixel(inputs.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)) if name == "c" else layer
        record(name, x, probe, run, {"scale": (layer.weight, to_ours), "bias": (layer.bias, to_ours)})

    recorded["conv/x"] = random.standard_normal(SHAPE)
    recorded["conv/probe"] = random.standard_normal((SHAPE[0], SHAPE[1] - 2, SHAPE[2] - 2, FEATURES))
    conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(channels, FEATURES, 3, groups=2).double())
    weight = conv.parametrizations.weight
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.tensor(random.standard_normal(parameter.shape)))
    parameters = {
        "g": (weight.original0, lambda t: t[:, 0, 0, 0]),
        "v": (weight.original1, lambda t: t.permute(2, 3, 1, 0)),
        "bias": (conv.bias, lambda t: t),
    }
    record("conv", recorded["conv/x"], recorded["conv/probe"], conv, parameters)
    np.savez_compressed(pathlib.Path(__file__).with_name("layer_norms.npz"), **recorded)


if __name__ == "__main__":
    main()
