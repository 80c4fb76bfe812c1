"""Records deform_resnet.npz: torchvision's ResNet with its deformable convolutions in it, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    python tests/goldens/record_deform_resnet.py

The networks are `v1`, of which the last stage is dilated by 2, without stride, and deformable with two groups of
offsets, and `v2`, of which the last stage has its stride and is deformable with factors. Of both two stages are left,
of one unit and of two; see fill.py. The layers that tell offsets and factors are called `offset` and `mask`.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record

OFFSET_GROUPS = {"v1": 2, "v2": 1}


def main() -> None:
    """Runs both networks and writes the file beside this one."""
    import torch
    import torchvision
    from torchvision.models import resnet
    from torchvision.ops import DeformConv2d

    class Deformable(DeformConv2d):
        """A deformable convolution with the layers that tell its offsets and factors."""

        def __init__(self, conv: torch.nn.Conv2d, groups: int, modulated: bool) -> None:
            window = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
            super().__init__(conv.in_channels, conv.out_channels, 3, bias=False, **window)
            self.offset = torch.nn.Conv2d(conv.in_channels, 2 * 9 * groups, 3, **window)
            self.mask = torch.nn.Conv2d(conv.in_channels, 9 * groups, 3, **window) if modulated else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x, self.offset(x), None if self.mask is None else self.mask(x).sigmoid())

    recorded = {"versions": f"torch {torch.__version__}, torchvision {torchvision.__version__}"}
    for name, groups in OFFSET_GROUPS.items():
        net = resnet.ResNet(resnet.Bottleneck, [1, 2, 1, 1])
        if name == "v1":
            net.layer2[0].conv2.stride = net.layer2[0].downsample[0].stride = (1, 1)
            for unit in net.layer2:
                unit.conv2.padding = unit.conv2.dilation = (2, 2)
        for unit in net.layer2:
            unit.conv2 = Deformable(unit.conv2, groups, modulated=name == "v2")
        net.layer3 = net.layer4 = torch.nn.Identity()
        net.fc = torch.nn.Linear(512, NUM_CLASSES)
        record(name, net, 32, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("deform_resnet.npz"), **recorded)


if __name__ == "__main__":
    main()
