"""Records residual_attention.npz: residual attention networks in torch, after the authors' prototxt, in float64.

    pip install torch==2.14.1
    python tests/goldens/record_residual_attention.py

No torch library has these networks. The layers are those of `model/Attention-56-deploy.prototxt` and
`model/AttentionNeXt-56-deploy.prototxt` of github.com/fwang91/residual-attention-network, with the modules B and C and
fewer channels: `attention` with units of pre-activation, `next` with units of ResNeXt; see fill.py. Masks end in tanh,
as there. Pooling is in ceil mode, and resizing aligns corners, as Caffe's layers have it. Layers have our names.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record

FEATURES, LAST_FEATURES, STEM_FEATURES, GROUPS, IMAGE_SIZE = (16, 32), 32, 8, 4, 36


def main() -> None:
    """Runs both networks and writes the file beside this one."""
    import torch

    recorded = {"versions": f"torch {torch.__version__}"}
    for name in ("attention", "next"):
        record(name, _network(grouped=name == "next"), IMAGE_SIZE, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("residual_attention.npz"), **recorded)


def _network(grouped: bool):
    import torch
    from torch import nn
    from torch.nn import functional

    def conv(inputs: int, features: int, size: int = 1, stride: int = 1, groups: int = 1) -> nn.Module:
        return nn.Conv2d(inputs, features, size, stride, size // 2, groups=groups, bias=False)

    def pool(x: torch.Tensor) -> torch.Tensor:
        return functional.max_pool2d(x, 3, 2, ceil_mode=True)

    def interp(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)

    class Preactivation(nn.Module):
        """BN, ReLU, convolution, three times; a projection reads what the first ReLU puts out."""

        def __init__(self, inputs: int, features: int, stride: int = 1) -> None:
            super().__init__()
            width = features // 4
            self.norm1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width)
            self.norm2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3, stride)
            self.norm3, self.conv3 = nn.BatchNorm2d(width), conv(width, features)
            self.shortcut_conv = conv(inputs, features, 1, stride) if inputs != features or stride != 1 else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.norm1(x))
            shortcut = x if self.shortcut_conv is None else self.shortcut_conv(h)
            h = self.conv2(torch.relu(self.norm2(self.conv1(h))))
            return shortcut + self.conv3(torch.relu(self.norm3(h)))

    class Grouped(nn.Module):
        """Convolution, BN, ReLU, twice; convolution, BN, sum, ReLU; a projection has its BN."""

        def __init__(self, inputs: int, features: int, stride: int = 1) -> None:
            super().__init__()
            width = features // 2
            self.conv1, self.norm1 = conv(inputs, width), nn.BatchNorm2d(width)
            self.conv2, self.norm2 = conv(width, width, 3, stride, GROUPS), nn.BatchNorm2d(width)
            self.conv3, self.norm3 = conv(width, features), nn.BatchNorm2d(features)
            self.projects = inputs != features or stride != 1
            if self.projects:
                self.shortcut_conv, self.shortcut_norm = conv(inputs, features, 1, stride), nn.BatchNorm2d(features)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shortcut = self.shortcut_norm(self.shortcut_conv(x)) if self.projects else x
            h = torch.relu(self.norm1(self.conv1(x)))
            h = torch.relu(self.norm2(self.conv2(h)))
            return torch.relu(shortcut + self.norm3(self.conv3(h)))

    unit = Grouped if grouped else Preactivation

    class Mask(nn.Module):
        """Module B (two poolings) or C (one)."""

        def __init__(self, features: int, deep: bool) -> None:
            super().__init__()
            names = ["down1", "bottom"] + (["down2", "skip1", "up1"] if deep else [])
            for name in names:
                setattr(self, f"{name}_unit1", unit(features, features))
            self.deep = deep
            if not grouped:
                self.norm1 = nn.BatchNorm2d(features)
            self.conv1, self.norm2, self.conv2 = (
                conv(features, features),
                nn.BatchNorm2d(features),
                conv(features, features),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            down = self.down1_unit1(pool(x))
            if self.deep:
                bottom = self.bottom_unit1(self.down2_unit1(pool(down)))
                up = self.up1_unit1(self.skip1_unit1(down) + interp(bottom, down))
            else:
                up = self.bottom_unit1(down)
            h = interp(up, x)
            h = self.conv1(h if grouped else torch.relu(self.norm1(h)))
            return torch.tanh(self.conv2(torch.relu(self.norm2(h))))

    class Attention(nn.Module):
        def __init__(self, features: int, deep: bool) -> None:
            super().__init__()
            for name in ("pre_unit1", "trunk_unit1", "trunk_unit2", "post_unit1"):
                setattr(self, name, unit(features, features))
            self.mask = Mask(features, deep)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shared = self.pre_unit1(x)
            trunk = self.trunk_unit2(self.trunk_unit1(shared))
            return self.post_unit1(trunk * self.mask(shared) + trunk)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            first, second = FEATURES
            self.stem_conv, self.stem_norm = conv(3, STEM_FEATURES, 7, 2), nn.BatchNorm2d(STEM_FEATURES)
            self.stage1_unit, self.stage1_attention1 = unit(STEM_FEATURES, first), Attention(first, deep=True)
            self.stage2_unit, self.stage2_attention1 = unit(first, second, 2), Attention(second, deep=False)
            self.last_unit1 = unit(second, LAST_FEATURES, 2)
            if not grouped:
                self.last_norm = nn.BatchNorm2d(LAST_FEATURES)
            self.classifier = nn.Linear(LAST_FEATURES, NUM_CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = pool(torch.relu(self.stem_norm(self.stem_conv(x))))
            x = self.stage1_attention1(self.stage1_unit(x))
            x = self.last_unit1(self.stage2_attention1(self.stage2_unit(x)))
            x = x if grouped else torch.relu(self.last_norm(x))
            return self.classifier(x.mean((2, 3)))

    return Net()


if __name__ == "__main__":
    main()
