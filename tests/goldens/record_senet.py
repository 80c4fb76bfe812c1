"""Records senet.npz: what timm's networks with squeeze-and-excitation put out, in float64.

    pip install torch==2.14.1 timm==1.0.31
    python tests/goldens/record_senet.py

The networks are the official `legacy_seresnet50`, timm's `legacy_seresnet18`, which has an activation before the gates,
`seresnet18`, whose gates' hidden layers are not rounded to multiples of 8 here, and `seresnet50`, and, of SENet-154's
units, `senet`, stages of 3, 4, 6 and 3, because the 36 of its third, with weights from names, multiply the rounding of
the input by 1e9; and, in training too, `small`, the first two stages, of one unit each in 2 groups. See fill.py.
"""

import functools
import pathlib

import numpy as np
from fill import NUM_CLASSES, record, record_eval

SENET154 = {"reduction": 16, "inplanes": 128, "input_3x3": True, "downsample_kernel_size": 3, "downsample_padding": 1}


def main() -> None:
    """Runs every network and writes the file beside this one."""
    import timm
    import torch
    from timm.layers import SEModule
    from timm.models.senet import SEBottleneck, SENet

    recorded = {"versions": f"torch {torch.__version__}, timm {timm.__version__}"}
    exact = {"attn_layer": functools.partial(SEModule, rd_divisor=1)}
    nets = {
        "legacy_seresnet50": timm.create_model("legacy_seresnet50", num_classes=NUM_CLASSES),
        "legacy_seresnet18": timm.create_model("legacy_seresnet18", num_classes=NUM_CLASSES),
        "seresnet50": timm.create_model("seresnet50", num_classes=NUM_CLASSES),
        "seresnet18": timm.create_model("seresnet18", num_classes=NUM_CLASSES, block_args=exact),
    }
    nets["senet"] = SENet(SEBottleneck, (3, 4, 6, 3), groups=64, num_classes=NUM_CLASSES, **SENET154)
    for name, net in nets.items():
        record_eval(name, net, 64, recorded, maps={4: net.layer1, 8: net.layer2})
    small = SENet(SEBottleneck, (1, 1, 1, 1), groups=2, drop_rate=0.0, **SENET154)
    small.layer3 = small.layer4 = torch.nn.Identity()
    small.last_linear = torch.nn.Linear(512, NUM_CLASSES)
    record("small", small, 16, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("senet.npz"), **recorded)


if __name__ == "__main__":
    main()
