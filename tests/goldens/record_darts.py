"""Records darts.npz: small networks of DARTS's cells in torch, in float64.

    pip install torch==2.14.1
    python tests/goldens/record_darts.py

No library has these networks. They are written here from the paper (arXiv:1806.09055), its appendix, and from what the
authors' program is known to do: activation, convolution, normalization; separable convolutions twice; padding of half a
window; two shifted 1x1 convolutions where a skip connection, or an older input, halves the map. `cifar` has V1's cells
and five of them, on images of 16 pixels, `imagenet` V2's and three of them, on images of 64. See fill.py.
"""

import pathlib

import numpy as np
import torch
from fill import NUM_CLASSES, record
from torch import nn

FEATURES = 6
V1 = (
    "sep_conv_3x3 1 sep_conv_3x3 0 skip_connect 0 sep_conv_3x3 1 skip_connect 0 sep_conv_3x3 1 sep_conv_3x3 0 "
    "skip_connect 2",
    "max_pool_3x3 0 max_pool_3x3 1 skip_connect 2 max_pool_3x3 0 max_pool_3x3 0 skip_connect 2 skip_connect 2 "
    "avg_pool_3x3 0",
)
V2 = (
    "sep_conv_3x3 0 sep_conv_3x3 1 sep_conv_3x3 0 sep_conv_3x3 1 sep_conv_3x3 1 skip_connect 0 skip_connect 0 "
    "dil_conv_3x3 2",
    "max_pool_3x3 0 max_pool_3x3 1 skip_connect 2 max_pool_3x3 1 max_pool_3x3 0 skip_connect 2 skip_connect 2 "
    "max_pool_3x3 1",
)


def conv(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Conv2d:
    """Without bias, padded by half of the window."""
    return nn.Conv2d(inputs, outputs, size, stride, dilation * (size // 2), dilation, groups, bias=False)


def pointwise(inputs: int, outputs: int) -> nn.Sequential:
    """Activation, 1x1 convolution, normalization."""
    return nn.Sequential(nn.ReLU(), conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))


class Halving(nn.Module):
    """Of even sizes alone."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, outputs // 2, 1, 2), conv(inputs, outputs // 2, 1, 2)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = x.relu()
        return self.norm(torch.cat([self.conv1(x), self.conv2(x[:, :, 1:, 1:])], 1))


def separable(width: int, stride: int, dilation: int) -> list[nn.Module]:
    depthwise = conv(width, width, 3, stride, dilation, width)
    return [nn.ReLU(), depthwise, conv(width, width, 1), nn.BatchNorm2d(width)]


def operation(name: str, width: int, stride: int) -> nn.Module:
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else Halving(width, width)
    if name == "sep_conv_3x3":
        return nn.Sequential(*separable(width, stride, 1), *separable(width, 1, 1))
    if name == "dil_conv_3x3":
        return nn.Sequential(*separable(width, stride, 2))
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, 1)
    return nn.AvgPool2d(3, stride, 1, count_include_pad=False)


class Cell(nn.Module):
    """Eight operations, two a node, which read numbered states: 0 the older input, 1 the newer."""

    def __init__(self, text: str, older: int, newer: int, width: int, reduces: bool, halves: bool):
        super().__init__()
        names, self.states = text.split()[::2], list(map(int, text.split()[1::2]))
        self.older = Halving(older, width) if halves else pointwise(older, width)
        self.newer = pointwise(newer, width)
        strides = [2 if reduces and state < 2 else 1 for state in self.states]
        self.ops = nn.ModuleList(operation(name, width, stride) for name, stride in zip(names, strides, strict=True))

    def forward(self, older, newer):
        states = [self.older(older), self.newer(newer)]
        for first in range(0, 8, 2):
            pair = (first, first + 1)
            states.append(sum(self.ops[place](states[self.states[place]]) for place in pair))
        return torch.cat(states[2:], 1)


class Network(nn.Module):
    """Reduction cells after a third and two thirds of the cells."""

    def __init__(self, genotype: tuple[str, str], num_cells: int, imagenet: bool):
        super().__init__()
        width, norm = FEATURES, nn.BatchNorm2d
        if imagenet:
            first = [conv(3, width // 2, 3, 2), norm(width // 2), nn.ReLU(), conv(width // 2, width, 3, 2), norm(width)]
            self.stem = nn.Sequential(*first)
            self.stem2 = nn.Sequential(nn.ReLU(), conv(width, width, 3, 2), norm(width))
            older = newer = width
        else:
            self.stem = nn.Sequential(conv(3, 3 * width, 3), norm(3 * width))
            self.stem2 = nn.Identity()
            older = newer = 3 * width
        self.cells, halves = nn.ModuleList(), imagenet
        for index in range(num_cells):
            reduces = index in (num_cells // 3, 2 * num_cells // 3)
            width *= 1 + reduces
            self.cells.append(Cell(genotype[reduces], older, newer, width, reduces, halves))
            older, newer, halves = newer, 4 * width, reduces
        self.classifier = nn.Linear(newer, NUM_CLASSES)

    def forward(self, x):
        older = self.stem(x)
        newer = self.stem2(older)
        for cell in self.cells:
            older, newer = newer, cell(older, newer)
        return self.classifier(newer.mean((2, 3)))


def main() -> None:
    """Runs both networks and writes the file beside this one."""
    recorded = {"versions": f"torch {torch.__version__}"}
    record("cifar", Network(V1, 5, imagenet=False), 16, recorded)
    record("imagenet", Network(V2, 3, imagenet=True), 64, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("darts.npz"), **recorded)


if __name__ == "__main__":
    main()
