"""Records shufflenet_v2_plus.npz: outputs of the authors' ShuffleNet v2+, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    git clone https://github.com/megvii-model/ShuffleNet-Series
    (cd ShuffleNet-Series && git checkout a96672fd98f18666f813b66c9f2a40495abc94b0)
    python tests/goldens/record_shufflenet_v2_plus.py ShuffleNet-Series/ShuffleNetV2+

The networks are `whole`, the small one, in evaluation, on images of 64 pixels, and `small`, of which seven units of all
kinds are left, also in training, on images of 64, without dropout; see fill.py.

The file was recorded from a transcription of the two files of that commit, blocks.py and network.py, without their
initial values, which `fill` overwrites.
"""

import argparse
import pathlib
import sys

import numpy as np
from fill import NUM_CLASSES, record, record_eval

# Of the authors' script: 0, 1 and 2 are depthwise 3x3, 5x5 and 7x7, 3 is the branch of three.
ARCHITECTURE = [0, 0, 3, 1, 1, 1, 0, 0, 2, 0, 2, 1, 1, 0, 2, 0, 2, 1, 3, 2]
UNITS = (0, 2, 4, 8, 9, 16, 18)


def main() -> None:
    """Runs both networks and writes the file beside this one."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("megvii", help="folder with the authors' blocks.py and network.py")
    sys.path.insert(0, parser.parse_args().megvii)
    import network  # the authors'

    recorded = {"versions": f"torch {torch.__version__}, megvii a96672f"}
    for name in ("whole", "small"):
        net = network.ShuffleNetV2_Plus(n_class=NUM_CLASSES, architecture=ARCHITECTURE, model_size="Small")
        net.globalpool = torch.nn.AdaptiveAvgPool2d(1)  # theirs is 7x7, which is the same at 224 pixels
        net.dropout = torch.nn.Identity()
        if name == "whole":
            units = {2: net.first_conv, 4: net.features[3], 8: net.features[7], 16: net.features[15]}
            record_eval(name, net, 64, recorded, units | {32: net.features[19]})
        else:
            net.features = torch.nn.Sequential(*(net.features[unit] for unit in UNITS))
            record(name, net, 64, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("shufflenet_v2_plus.npz"), **recorded)


if __name__ == "__main__":
    main()
