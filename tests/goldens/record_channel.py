"""Records channel.npz: torch's channel_shuffle and roll along channels, and their gradients, in float64.

    pip install torch==2.14.1
    python tests/goldens/record_channel.py

Arrays are stored in our layout, [batch, height, width, channels]. The scalar whose gradients are stored is
sum(output * probe). Of the shapes, one has a pixel only, one an odd number of channels; one input is all zeros.
"""

import pathlib

import numpy as np

SHAPES = {"map": (2, 2, 1, 12), "pixel": (1, 1, 1, 24), "odd": (1, 1, 2, 15), "one_channel": (1, 2, 2, 1)}
GROUPS = {"map": (1, 2, 3, 6, 12), "pixel": (2, 3, 8), "odd": (3, 5), "one_channel": (1,)}
SHIFTS = {"map": (0, 2, -3, 29), "pixel": (3, -25), "odd": (7, -1), "one_channel": (0, 5)}


def main() -> None:
    """Runs the operators and writes the file beside this one."""
    import torch

    random = np.random.RandomState(0)
    recorded = {"versions": f"torch {torch.__version__}"}
    for name, shape in SHAPES.items():
        x, probe = random.standard_normal((2, *shape))
        if name == "one_channel":
            x = np.zeros(shape)
        recorded |= {f"{name}/x": x, f"{name}/probe": probe}
        calls = {f"shuffle{groups}": (torch.nn.functional.channel_shuffle, groups) for groups in GROUPS[name]}
        calls |= {f"shift{shift}": (lambda x, shift: torch.roll(x, shift, 1), shift) for shift in SHIFTS[name]}
        for key, (call, number) in calls.items():
            inputs = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
            out = call(inputs, number)
            (out * torch.tensor(probe).permute(0, 3, 1, 2)).sum().backward()
            recorded[f"{name}/{key}/out"] = out.detach().permute(0, 2, 3, 1).numpy()
            recorded[f"{name}/{key}/grad"] = inputs.grad.permute(0, 2, 3, 1).numpy()
    np.savez_compressed(pathlib.Path(__file__).with_name("channel.npz"), **recorded)


if __name__ == "__main__":
    main()
