"""Records densenet.npz: outputs of torchvision's DenseNet, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    python tests/goldens/record_densenet.py

The networks are `densenet121`, in evaluation, with the maps of its dense blocks, and `small`, of two blocks of two
layers of growth rate 8, in training too; see fill.py.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record, record_eval


def main() -> None:
    """Runs both networks and writes the file beside this one."""
    import torch
    import torchvision

    recorded = {"versions": f"torch {torch.__version__}, torchvision {torchvision.__version__}"}
    whole = torchvision.models.densenet121(num_classes=NUM_CLASSES)
    blocks = {4 * 2**stage: getattr(whole.features, f"denseblock{stage + 1}") for stage in range(4)}
    record_eval("densenet121", whole, 64, recorded, blocks)
    small = torchvision.models.DenseNet(8, (2, 2), num_init_features=16, num_classes=NUM_CLASSES)
    record("small", small, 32, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("densenet.npz"), **recorded)


if __name__ == "__main__":
    main()
