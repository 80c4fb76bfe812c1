"""Records mobilenet_v1.npz: outputs of timm's MobileNet v1 in evaluation, in float64.

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31
    python tests/goldens/record_mobilenet_v1.py

The networks are `whole`, mobilenetv1_100, on images of 64 pixels, and `small`, of which the first two stages are left,
on images of 32; see fill.py.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record_eval


def main() -> None:
    """Runs both networks and writes the file beside this one."""
    import timm
    import torch

    recorded = {"versions": f"torch {torch.__version__}, timm {timm.__version__}"}
    whole, small = (timm.create_model("mobilenetv1_100", pretrained=False, num_classes=NUM_CLASSES) for _ in range(2))
    maps = {2: whole.blocks[0], 4: whole.blocks[1], 8: whole.blocks[2], 16: whole.blocks[3], 32: whole.blocks[4]}
    record_eval("whole", whole, 64, recorded, maps)
    small.blocks = small.blocks[:2]
    small.classifier = torch.nn.Linear(128, NUM_CLASSES)
    record_eval("small", small, 32, recorded, {2: small.blocks[0], 4: small.blocks[1]})
    np.savez_compressed(pathlib.Path(__file__).with_name("mobilenet_v1.npz"), **recorded)


if __name__ == "__main__":
    main()
