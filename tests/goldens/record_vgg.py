"""Records vgg.npz: outputs of torchvision's VGG with fewer hidden features, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    python tests/goldens/record_vgg.py

The networks are `vgg16`, all of its convolutions; `small`, two stages of (1, 2) convolutions, and `small_bn`, the same
with batch normalization, whose map of 8x8 is averaged to 7x7 by bins that overlap. See fill.py.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record, record_eval


def main() -> None:
    """Runs every network and writes the file beside this one."""
    import torch
    import torchvision
    from torchvision.models import vgg

    def network(layers: list, batch_norm: bool = False) -> vgg.VGG:
        with torch.device("meta"):  # the linear layers of the published size are never filled
            net = vgg.VGG(vgg.make_layers(layers, batch_norm), init_weights=False)
        net.features = vgg.make_layers(layers, batch_norm)
        features = layers[-2]
        parts = (features * 49, 24), (24, 16), (16, NUM_CLASSES)
        layers = [part for sizes in parts for part in (torch.nn.Linear(*sizes), torch.nn.ReLU(), torch.nn.Dropout(0.0))]
        net.classifier = torch.nn.Sequential(*layers[:-2])
        return net

    recorded = {"versions": f"torch {torch.__version__}, torchvision {torchvision.__version__}"}
    whole = network(vgg.cfgs["D"])
    maps = {1: whole.features[3], 2: whole.features[8], 8: whole.features[22], 32: whole.features[30]}
    record_eval("vgg16", whole, 32, recorded, maps)
    small = [8, "M", 16, 16, "M"]
    record_eval("small", network(small), 32, recorded)
    record("small_bn", network(small, batch_norm=True), 32, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("vgg.npz"), **recorded)


if __name__ == "__main__":
    main()
