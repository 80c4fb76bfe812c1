"""Records shufflenet_v2.npz: outputs of torchvision's and of the authors' ShuffleNet v2, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    git clone https://github.com/megvii-model/ShuffleNet-Series
    (cd ShuffleNet-Series && git checkout a96672fd98f18666f813b66c9f2a40495abc94b0)
    python tests/goldens/record_shufflenet_v2.py ShuffleNet-Series/ShuffleNetV2

The networks are torchvision/0.5, torchvision/1.0, megvii/0.5 and megvii/1.0, on images of 64 pixels; see fill.py.
"""

import argparse
import pathlib
import sys

import numpy as np
from fill import NUM_CLASSES, record

IMAGE_SIZE = 64
WIDTHS = (0.5, 1.0)


def main() -> None:
    """Runs every network and writes the file beside this one."""
    import torch
    import torchvision

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("megvii", help="folder with the authors' blocks.py and network.py")
    sys.path.insert(0, parser.parse_args().megvii)
    import network  # the authors'

    recorded = {"versions": f"torch {torch.__version__}, torchvision {torchvision.__version__}, megvii a96672f"}
    for width in WIDTHS:
        published = getattr(torchvision.models, f"shufflenet_v2_x{width}".replace(".", "_"))
        record(f"torchvision/{width}", published(num_classes=NUM_CLASSES), IMAGE_SIZE, recorded)
        megvii = network.ShuffleNetV2(n_class=NUM_CLASSES, model_size=f"{width}x")
        megvii.globalpool = torch.nn.AdaptiveAvgPool2d(1)  # theirs is 7x7, which is the same at 224 pixels
        record(f"megvii/{width}", megvii, IMAGE_SIZE, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("shufflenet_v2.npz"), **recorded)


if __name__ == "__main__":
    main()
