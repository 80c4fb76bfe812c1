"""Records resnet_v2.npz: what timm's ResNets with pre-activation put out, in float64.

    pip install torch==2.14.1 timm==1.0.31
    python tests/goldens/record_resnet_v2.py

The networks are `resnetv2_18` and `resnetv2_50`, and, in training too, `small`, two stages of bottleneck units, one and
two; see fill.py.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record, record_eval


def main() -> None:
    """Runs every network and writes the file beside this one."""
    import timm
    import torch
    from timm.layers import BatchNormAct2d, create_conv2d
    from timm.models.resnetv2 import ResNetV2

    recorded = {"versions": f"torch {torch.__version__}, timm {timm.__version__}"}
    for name in ("resnetv2_18", "resnetv2_50"):
        net = timm.create_model(name, pretrained=False, num_classes=NUM_CLASSES)
        maps = {4: net.stages[0], 8: net.stages[1]}
        if name == "resnetv2_18":
            maps |= {16: net.stages[2], 32: net.norm}
        record_eval(name, net, 64, recorded, maps=maps)
    layers = {"conv_layer": create_conv2d, "norm_layer": BatchNormAct2d}
    small = ResNetV2(layers=[1, 2], channels=(64, 128), stem_chs=16, num_classes=NUM_CLASSES, **layers)
    record("small", small, 32, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("resnet_v2.npz"), **recorded)


if __name__ == "__main__":
    main()
