"""Records mobilenet_v2.npz: outputs of torchvision's MobileNet v2, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    python tests/goldens/record_mobilenet_v2.py

The networks are `whole`, at width 1, and `small`, two stages at width 0.35; see fill.py. Dropout is off, because its
noise is torch's own.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record


def main() -> None:
    """Runs both networks and writes the file beside this one."""
    import torch
    import torchvision

    published = torchvision.models.MobileNetV2
    recorded = {"versions": f"torch {torch.__version__}, torchvision {torchvision.__version__}"}
    record("whole", published(num_classes=NUM_CLASSES, dropout=0.0), 64, recorded)
    stages = [[1, 16, 1, 1], [6, 24, 2, 2]]  # expansion, channels, units, stride
    small = published(num_classes=NUM_CLASSES, dropout=0.0, width_mult=0.35, inverted_residual_setting=stages)
    record("small", small, 32, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("mobilenet_v2.npz"), **recorded)


if __name__ == "__main__":
    main()
