"""ShuffleNet v2 (Ma, Zhang, Zheng, Sun, ECCV 2018, arXiv:1807.11164).

    python train.py --config=configs/shufflenet_v2.py                       0.5x, the digits of scikit-learn
    python train.py --config=configs/shufflenet_v2.py:fashion_mnist         0.5x, Fashion-MNIST
    python train.py --config=configs/shufflenet_v2.py:imagenet,width=1.5    1.5x (0.5, 1, 1.5, 2; without: 1x), ImageNet
    python train.py --config=configs/shufflenet_v2.py:smoke                 a few steps on synthetic images

Digits: see the README for time and accuracy, measured on two CPU cores. ImageNet is the authors' recipe (300k steps of
1,024 images; top-1 69.4% published for 1x). Here: not yet run; small on Fashion-MNIST: docs/architectures.md.
"""

import ml_collections

from configs import common, default

WIDTHS = (0.5, 1.0, 1.5, 2.0)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `imagenet`, `fashion_mnist`, `smoke`, `width=` 0.5, 1, 1.5 or 2, `variant=` megvii or torchvision."""
    args = common.parse_arg(arg, imagenet=False, fashion_mnist=False, smoke=False, width=0.0, variant="megvii")
    width = args["width"] or (1.0 if args["imagenet"] else 0.5)
    if width not in WIDTHS:
        raise ValueError(f"configs/shufflenet_v2.py: width={width} must be one of {', '.join(map(str, WIDTHS))}")
    if args["imagenet"] and args["fashion_mnist"]:
        raise ValueError("configs/shufflenet_v2.py: imagenet and fashion_mnist exclude each other; keep one")

    config = default.get_config()
    config.model.name = f"shufflenet_v2_x{width:.1f}".replace(".", "_")
    config.model.fields = ml_collections.ConfigDict({"variant": args["variant"], "stem": "small", "dropout_rate": 0.0})
    if args["imagenet"]:
        common.set_imagenet(config)
        _imagenet(config, width)
    elif args["fashion_mnist"]:
        common.set_fashion_mnist(config)
    else:
        common.set_digits(config)
    if args["smoke"]:
        common.make_smoke(config)
    return config


def _imagenet(config: ml_collections.ConfigDict, width: float) -> None:
    common.set_shufflenet_imagenet(config)
    config.model.fields.stem = "imagenet"
    config.model.fields.dropout_rate = 0.2 if width == 2.0 else 0.0  # as in the authors' code
