"""Records weight_names.npz: names and shapes of all tensors of the networks that torchvision or timm shares with us.

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31
    python tests/goldens/record_weight_names.py

An entry "LIBRARY/NAME" of the JSON `tensors` is a text with a line "TENSOR AXES" a tensor, as `conv1.weight 64 3 7 7`,
without counters of batches. Networks have 1000 classes, and the auxiliary heads that the library makes by itself.
"""

import json
import pathlib

import numpy as np

TORCHVISION = (
    "densenet121 densenet161 densenet169 densenet201 googlenet inception_v3 mobilenet_v2 resnet18 resnet34 resnet50 "
    "resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 "
    "shufflenet_v2_x1_5 shufflenet_v2_x2_0 vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn"
)
TIMM = (
    "inception_resnet_v2 inception_v3 inception_v4 mobilenetv1_100 resnet18 resnet34 resnet50 resnet101 resnet152 "
    "resnet200 resnetv2_18 resnetv2_34 resnetv2_50 resnetv2_101 resnetv2_152 resnext50_32x4d resnext101_32x4d "
    "resnext101_32x8d resnext101_64x4d legacy_seresnet18 legacy_seresnet34 legacy_seresnet50 legacy_seresnet101 "
    "legacy_seresnet152 seresnet50 seresnet101 seresnet152 legacy_seresnext50_32x4d legacy_seresnext101_32x4d "
    "legacy_senet154 legacy_xception nasnetalarge pnasnet5large"
)


def main() -> None:
    """Builds every network without memory and writes the file beside this one."""
    import timm
    import torch
    import torchvision

    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
    recorded = {}
    with torch.device("meta"):
        for name in TORCHVISION.split():
            auxiliary = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            recorded[f"torchvision/{name}"] = getattr(torchvision.models, name)(**auxiliary)
        for name in TIMM.split():
            recorded[f"timm/{name}"] = timm.create_model(name, pretrained=False)
    tensors = {
        key: "\n".join(
            " ".join([name, *map(str, value.shape)])
            for name, value in net.state_dict().items()
            if not name.endswith("num_batches_tracked")
        )
        for key, net in recorded.items()
    }
    np.savez_compressed(
        pathlib.Path(__file__).with_name("weight_names.npz"), versions=versions, tensors=json.dumps(tensors)
    )


if __name__ == "__main__":
    main()
