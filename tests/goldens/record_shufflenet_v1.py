"""Records shufflenet_v1.npz: outputs of the authors' ShuffleNet v1, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    git clone https://github.com/megvii-model/ShuffleNet-Series
    (cd ShuffleNet-Series && git checkout d8e4db13a7f5b05707461d64c87347fc70c88645)
    python tests/goldens/record_shufflenet_v1.py ShuffleNet-Series/ShuffleNetV1

The networks are g3 and g8, 1x in 3 groups and 0.5x in 8, in evaluation, on images of 64 pixels, and `small`, of which
the first two units of the first two stages of 1x in 3 groups are left, also in training, on images of 32; see fill.py.

The file was recorded from a transcription of the two files of that commit, blocks.py and network.py, without their
initial values, which `fill` overwrites.
"""

import argparse
import pathlib
import sys

import numpy as np
from fill import NUM_CLASSES, record, record_eval


def main() -> None:
    """Runs every network and writes the file beside this one."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("megvii", help="folder with the authors' blocks.py and network.py")
    sys.path.insert(0, parser.parse_args().megvii)
    import network  # the authors'

    def build(groups: int, size: str):
        net = network.ShuffleNetV1(n_class=NUM_CLASSES, model_size=size, group=groups)
        net.globalpool = torch.nn.AdaptiveAvgPool2d(1)  # theirs is 7x7, which is the same at 224 pixels
        return net

    recorded = {"versions": f"torch {torch.__version__}, megvii d8e4db1"}
    for groups, size in ((3, "1.0x"), (8, "0.5x")):
        net = build(groups, size)
        maps = {4: net.maxpool, 8: net.features[3], 16: net.features[11], 32: net.features[15]}
        record_eval(f"g{groups}", net, 64, recorded, maps)
    small = build(3, "1.0x")
    small.features = torch.nn.Sequential(*(small.features[unit] for unit in (0, 1, 4, 5)))
    small.stage_out_channels = [480]
    small.classifier = torch.nn.Sequential(torch.nn.Linear(480, NUM_CLASSES, bias=False))
    record("small", small, 32, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("shufflenet_v1.npz"), **recorded)


if __name__ == "__main__":
    main()
