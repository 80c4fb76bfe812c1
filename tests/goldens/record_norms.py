"""Records norms.npz: torch's BatchNorm2d and GroupNorm, forward, backward and running statistics, in float64.

    pip install torch==2.14.1
    python tests/goldens/record_norms.py

Arrays are stored in our layout, [batch, height, width, channels]. The scalar whose gradients are stored is
sum(output * probe).
"""

import pathlib

import numpy as np

SHAPE = (4, 3, 5, 6)


def main() -> None:
    """Runs the layers and writes the file beside this one."""
    import torch

    random = np.random.RandomState(0)
    x, probe = random.standard_normal((2, *SHAPE)) * 2.0 + 0.5
    scale, bias, mean = random.standard_normal((3, SHAPE[-1]))
    var = np.exp(random.standard_normal(SHAPE[-1]))
    recorded = dict(versions=f"torch {torch.__version__}", x=x, probe=probe, scale=scale, bias=bias, mean=mean, var=var)

    layers = {
        "batch": torch.nn.BatchNorm2d(SHAPE[-1], eps=1e-5, momentum=0.1),
        "group2": torch.nn.GroupNorm(2, SHAPE[-1], eps=1e-5),
        "group6": torch.nn.GroupNorm(6, SHAPE[-1], eps=1e-5),
    }
    for name, layer in layers.items():
        layer = layer.double()
        layer.load_state_dict(
            {"weight": torch.tensor(scale), "bias": torch.tensor(bias)}
            | ({"running_mean": torch.tensor(mean), "running_var": torch.tensor(var)} if name == "batch" else {}),
            strict=False,
        )
        inputs = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
        out = layer(inputs)
        (out * torch.tensor(probe).permute(0, 3, 1, 2)).sum().backward()
        recorded[f"{name}/out"] = out.detach().permute(0, 2, 3, 1).numpy()
        recorded[f"{name}/grad_x"] = inputs.grad.permute(0, 2, 3, 1).numpy()
        recorded[f"{name}/grad_scale"] = layer.weight.grad.numpy()
        recorded[f"{name}/grad_bias"] = layer.bias.grad.numpy()
        if name == "batch":
            recorded["batch/new_mean"] = layer.running_mean.numpy()
            recorded["batch/new_var"] = layer.running_var.numpy()
            recorded["batch/eval_out"] = layer.eval()(inputs).detach().permute(0, 2, 3, 1).numpy()
    np.savez_compressed(pathlib.Path(__file__).with_name("norms.npz"), **recorded)


if __name__ == "__main__":
    main()
