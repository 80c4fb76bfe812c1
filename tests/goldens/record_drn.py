"""Records drn.npz: dilated residual networks put together from torchvision's units, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    python tests/goldens/record_drn.py

Neither torchvision nor timm has these networks. Here their layout, as the authors' code (github.com/fyu/drn) has it, is
put on torchvision's units: strides and dilations are set on their convolutions. The networks are `drn_a_50`,
`drn_c_26`, `drn_d_22` and `drn_d_54`; see fill.py. Their layers are called `stem`, `stages.STAGE.UNIT` and `fc`.
"""

import pathlib
from typing import Any

import numpy as np
from fill import NUM_CLASSES, record_eval

DILATIONS = (1, 1, 1, 1, 2, 4, 2, 1)
STRIDES = (1, 2, 2, 2, 1, 1, 1, 1)
FEATURES = (16, 32, 64, 128, 256, 512, 512, 512)


def main() -> None:
    """Runs every network and writes the file beside this one."""
    import torch
    import torchvision

    recorded = {"versions": f"torch {torch.__version__}, torchvision {torchvision.__version__}"}
    nets = {
        "drn_c_26": _drn("c", torchvision.models.resnet.BasicBlock, (1, 1, 2, 2, 2, 2, 1, 1)),
        "drn_d_22": _drn("d", torchvision.models.resnet.BasicBlock, (1, 1, 2, 2, 2, 2, 1, 1)),
        "drn_d_54": _drn("d", torchvision.models.resnet.Bottleneck, (1, 1, 3, 4, 6, 3, 1, 1)),
    }
    for name, net in nets.items():
        maps = {1: net.stages[0], 2: net.stages[1], 4: net.stages[2]}
        record_eval(name, net, 32, recorded, maps)
    net = torchvision.models.resnet50(num_classes=NUM_CLASSES, replace_stride_with_dilation=[False, True, True])
    net.layer4[0].conv2.padding = net.layer4[0].conv2.dilation = (1, 1)
    record_eval("drn_a_50", net, 32, recorded, maps={4: net.layer1})
    np.savez_compressed(pathlib.Path(__file__).with_name("drn.npz"), **recorded)


def _drn(variant: str, block: Any, sizes: tuple[int, ...]) -> Any:
    """DRN-C, or -D, of these units."""
    import torch
    from torch import nn
    from torchvision.models.resnet import BasicBlock

    def conv(inputs: int, features: int, stride: int, dilation: int) -> nn.Module:
        layer = nn.Conv2d(inputs, features, 3, stride, dilation, dilation, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(features), nn.ReLU())

    def unit(kind: Any, inputs: int, features: int, stride: int, dilation: int) -> nn.Module:
        outputs, shortcut = features * kind.expansion, None
        if stride != 1 or inputs != outputs:
            layer = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            shortcut = nn.Sequential(layer, nn.BatchNorm2d(outputs))
        made = kind(inputs, features, stride, shortcut)
        for layer in (made.conv1, made.conv2):
            if layer.kernel_size == (3, 3):
                layer.padding = layer.dilation = (dilation, dilation)
        return made

    class Plain(nn.Module):
        """A basic unit without a shortcut."""

        def __init__(self, inputs: int, features: int, dilation: int) -> None:
            super().__init__()
            first, second = conv(inputs, features, 1, dilation), conv(features, features, 1, dilation)
            self.conv1, self.bn1, _ = first
            self.conv2, self.bn2, _ = second

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 16, 7, 1, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU())
            self.stages, inputs = nn.ModuleList(), 16
            for stage, (size, features) in enumerate(zip(sizes, FEATURES, strict=True)):
                kind, units, dilation = block if 2 <= stage < 6 else BasicBlock, [], DILATIONS[stage]
                for number in range(size):
                    stride = STRIDES[stage] if number == 0 else 1
                    if variant == "d" and not 2 <= stage < 6:
                        units.append(conv(inputs, features, stride, dilation))
                    elif stage >= 6:
                        units.append(Plain(inputs, features, dilation))
                    else:
                        units.append(unit(kind, inputs, features, stride, dilation))
                    inputs = features * kind.expansion
                self.stages.append(nn.Sequential(*units))
            self.fc = nn.Linear(512, NUM_CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for stage in self.stages:
                x = stage(x)
            return self.fc(x.mean((2, 3)))

    return Net()


if __name__ == "__main__":
    main()
