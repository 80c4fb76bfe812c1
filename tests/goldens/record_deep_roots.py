"""Records deep_roots.npz: Network in Network with root modules, made of torch's layers, in float64.

    pip install torch==2.14.1
    python tests/goldens/record_deep_roots.py

The network is `small`, narrow, in groups of the second and third stage, with biases and no norm; see fill.py.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record_eval


def main() -> None:
    """Runs the network and writes the file beside this one."""
    import torch
    from torch import nn

    pools = (nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(3, 2, ceil_mode=True))
    layers = []
    channels = 3
    for stage, (kernel, groups, widths) in enumerate(((5, 1, (16, 8)), (5, 4, (16, 12)), (3, 2, (16,)))):
        for place, width in enumerate(widths):
            size = 1 if place else kernel
            layers.append(nn.Conv2d(channels, width, size, padding=size // 2, groups=1 if place else groups))
            layers.append(nn.ReLU())
            channels = width
        if stage < 2:
            layers.append(pools[stage])
    layers += [nn.Conv2d(channels, NUM_CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    recorded = {"versions": f"torch {torch.__version__}"}
    net = nn.Sequential(*layers)
    record_eval("small", net, 16, recorded, maps={1: net[3], 2: net[8], 4: net[11]})
    np.savez_compressed(pathlib.Path(__file__).with_name("deep_roots.npz"), **recorded)


if __name__ == "__main__":
    main()
