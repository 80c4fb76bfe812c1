"""Records inception.npz: outputs of torchvision's GoogLeNet and Inception v3 and of timm's Inception v4 and
Inception-ResNet v2, in float64.

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31
    python tests/goldens/record_inception.py

The whole networks, with their first three maps, are `googlenet`, `inception_v3`, `inception_v4` and
`inception_resnet_v2`, in evaluation; of `googlenet_small` and `inception_v3_small` the first module of each stage is
left. `googlenet_head` and `inception_v3_head` are their auxiliary heads alone, on maps of three channels. See fill.py.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record, record_eval


def main() -> None:
    """Runs every network and writes the file beside this one."""
    import timm
    import torch
    import torchvision
    from torchvision.models.googlenet import InceptionAux as HiddenAux
    from torchvision.models.inception import InceptionAux as ConvAux

    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
    recorded = {"versions": versions}
    for name, maps, size in (
        ("googlenet", {2: "conv1", 4: "conv3", 8: "inception3b"}, 64),
        ("inception_v3", {2: "Conv2d_2b_3x3", 4: "Conv2d_4a_3x3", 8: "Mixed_5d"}, 107),
    ):
        net = getattr(torchvision.models, name)(num_classes=NUM_CLASSES, aux_logits=False, init_weights=False)
        record_eval(name, net, size, recorded, {stride: getattr(net, module) for stride, module in maps.items()})
    for name, maps in (
        ("inception_v4", {2: "features.2", 4: "features.4", 8: "features.9"}),
        (
            "inception_resnet_v2",
            {2: "conv2d_2b", 4: "conv2d_4a", 8: "repeat"},
        ),
    ):
        net = timm.create_model(name, pretrained=False, num_classes=NUM_CLASSES)
        record_eval(name, net, 107, recorded, {stride: net.get_submodule(module) for stride, module in maps.items()})
    record("googlenet_small", _small_googlenet(), 32, recorded)
    record("inception_v3_small", _small_inception_v3(), 91, recorded)
    # Bins of the first overlap: 14 is not a multiple of 4.
    record("googlenet_head", HiddenAux(3, NUM_CLASSES, dropout=0.0), 14, recorded)
    record("inception_v3_head", ConvAux(3, NUM_CLASSES), 17, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("inception.npz"), **recorded)


def _small_googlenet():
    import torch
    from torchvision.models.googlenet import GoogLeNet, Inception

    net = GoogLeNet(NUM_CLASSES, aux_logits=False, init_weights=False, dropout=0.0)
    net.inception3b = net.inception4b = net.inception4c = net.inception4d = torch.nn.Identity()
    net.inception4e = net.inception5b = torch.nn.Identity()
    net.inception4a = Inception(256, 192, 96, 208, 16, 48, 64)
    net.inception5a = Inception(512, 256, 160, 320, 32, 128, 128)
    net.fc = torch.nn.Linear(832, NUM_CLASSES)
    return net


def _small_inception_v3():
    import torch
    from torchvision.models import inception

    net = inception.Inception3(NUM_CLASSES, aux_logits=False, init_weights=False, dropout=0.0)
    net.Mixed_5c = net.Mixed_5d = net.Mixed_6c = net.Mixed_6d = net.Mixed_6e = net.Mixed_7c = torch.nn.Identity()
    net.Mixed_6a = inception.InceptionB(256)
    net.Mixed_6b = inception.InceptionC(736, channels_7x7=128)
    return net


if __name__ == "__main__":
    main()
