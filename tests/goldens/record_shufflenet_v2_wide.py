"""Records shufflenet_v2_wide.npz: outputs of torchvision's ShuffleNet v2 1.5x and 2x in evaluation, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    python tests/goldens/record_shufflenet_v2_wide.py

On images of 64 pixels; see fill.py. The narrower ones, and the authors', are in record_shufflenet_v2.py.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record_eval


def main() -> None:
    """Runs both networks and writes the file beside this one."""
    import torch
    import torchvision

    recorded = {"versions": f"torch {torch.__version__}, torchvision {torchvision.__version__}"}
    for width in (1.5, 2.0):
        net = getattr(torchvision.models, f"shufflenet_v2_x{width}".replace(".", "_"))(num_classes=NUM_CLASSES)
        maps = {4: net.maxpool, 8: net.stage2, 16: net.stage3, 32: net.stage4}
        record_eval(f"torchvision/{width}", net, 64, recorded, maps)
    np.savez_compressed(pathlib.Path(__file__).with_name("shufflenet_v2_wide.npz"), **recorded)


if __name__ == "__main__":
    main()
