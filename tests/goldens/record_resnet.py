"""Records resnet.npz: outputs of torchvision's ResNet-50 and ResNeXt-50, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    python tests/goldens/record_resnet.py

The networks are `resnet50`, `resnext50_32x4d`, and `small`, a ResNeXt of which the first two stages are left, of one
unit and of two; see fill.py.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record


def main() -> None:
    """Runs every network and writes the file beside this one."""
    import torch
    import torchvision
    from torchvision.models import resnet

    recorded = {"versions": f"torch {torch.__version__}, torchvision {torchvision.__version__}"}
    for name in ("resnet50", "resnext50_32x4d"):
        record(name, getattr(torchvision.models, name)(num_classes=NUM_CLASSES), 64, recorded)
    small = resnet.ResNet(resnet.Bottleneck, [1, 2, 1, 1], groups=8, width_per_group=8)
    small.layer3 = small.layer4 = torch.nn.Identity()
    small.fc = torch.nn.Linear(512, NUM_CLASSES)
    record("small", small, 32, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("resnet.npz"), **recorded)


if __name__ == "__main__":
    main()
