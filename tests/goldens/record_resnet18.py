"""Records resnet18.npz: what torchvision's ResNet-18 puts out in evaluation, and outputs of small kin, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    python tests/goldens/record_resnet18.py

The kin are `basic`, its first two stages of one unit and of two, and `dilated`, the same of bottleneck units of which
the second stage has a dilation for its stride; see fill.py.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record, record_eval


def main() -> None:
    """Runs the network and writes the file beside this one."""
    import torch
    import torchvision
    from torchvision.models import resnet

    recorded = {"versions": f"torch {torch.__version__}, torchvision {torchvision.__version__}"}
    net = torchvision.models.resnet18(num_classes=NUM_CLASSES)
    record_eval("resnet18", net, 64, recorded, maps={4: net.layer1, 8: net.layer2, 16: net.layer3, 32: net.layer4})
    basic = resnet.ResNet(resnet.BasicBlock, [1, 2, 1, 1])
    dilated = resnet.ResNet(resnet.Bottleneck, [1, 2, 1, 1], replace_stride_with_dilation=[True, False, False])
    for name, small, channels in (("basic", basic, 128), ("dilated", dilated, 512)):
        small.layer3 = small.layer4 = torch.nn.Identity()
        small.fc = torch.nn.Linear(channels, NUM_CLASSES)
        record(name, small, 32, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("resnet18.npz"), **recorded)


if __name__ == "__main__":
    main()
