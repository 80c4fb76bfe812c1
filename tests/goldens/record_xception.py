"""Records xception.npz: outputs of timm's Xception in evaluation, in float64.

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31
    python tests/goldens/record_xception.py

The networks are `whole`, legacy_xception, on images of 71 pixels, and `small`, a narrower one of two blocks that enter,
one in the middle and one that leaves, on images of 39; see fill.py.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record_eval


def main() -> None:
    """Runs both networks and writes the file beside this one."""
    import timm
    import torch
    from timm.models.xception import Block, SeparableConv2d

    recorded = {"versions": f"torch {torch.__version__}, timm {timm.__version__}"}
    whole = timm.create_model("legacy_xception", pretrained=False, num_classes=NUM_CLASSES)
    maps = {2: whole.act2, 4: whole.block1, 8: whole.block2, 32: whole.act4}
    record_eval("whole", whole, 71, recorded, maps)
    small = timm.create_model("legacy_xception", pretrained=False, num_classes=NUM_CLASSES)
    small.block1 = Block(64, 16, 2, 2, start_with_relu=False)
    small.block2 = Block(16, 24, 2, 2)
    small.block3 = Block(24, 24, 3, 1)
    small.block4 = Block(24, 32, 2, 2, grow_first=False)
    for number in range(5, 13):
        setattr(small, f"block{number}", torch.nn.Identity())
    small.conv3, small.bn3 = SeparableConv2d(32, 40, 3, 1, 1), torch.nn.BatchNorm2d(40)
    small.conv4, small.bn4 = SeparableConv2d(40, 48, 3, 1, 1), torch.nn.BatchNorm2d(48)
    small.fc = torch.nn.Linear(48, NUM_CLASSES)
    maps = {2: small.act2, 4: small.block1, 8: small.block3, 16: small.act4}
    record_eval("small", small, 39, recorded, maps)
    np.savez_compressed(pathlib.Path(__file__).with_name("xception.npz"), **recorded)


if __name__ == "__main__":
    main()
