"""ResNet (He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385) and ResNeXt (Xie et al., CVPR 2017, arXiv:1611.05431).

    python train.py --config=configs/resnet.py                                  a small one, the digits of scikit-learn
    python train.py --config=configs/resnet.py:fashion_mnist,name=resnet18      a small one, Fashion-MNIST
    python train.py --config=configs/resnet.py:imagenet,name=resnext50_32x4d    of the published size, ImageNet
    python train.py --config=configs/resnet.py:cifar10,name=cifar_resnet110     of the published size, CIFAR-10, or -100
    python train.py --config=configs/resnet.py:smoke                            a few steps on synthetic images

ImageNet is the recipe of torchvision's reference for these networks (90 epochs of 256 images, rate 0.1 that falls
tenfold after 30 and 60, weight decay 1e-4 of all parameters); top-1 69.8% published for resnet18, 73.3% for resnet34,
76.1% for resnet50, 77.4% for resnet101, 78.3% for resnet152, 77.6% for resnext50_32x4d, 79.3% for resnext101_32x8d.
CIFAR is the papers' recipe: of ResNet, section 4.2, 64,000 steps of 128 images, rate 0.1 that falls tenfold after
32,000 and 48,000, weight decay 1e-4, where 110 layers start with 400 steps below 0.1 (here a ramp from 0.01); of
ResNeXt, section 5.3 and appendix A, 300 epochs, falls after 150 and 225, weight decay 5e-4. Error on CIFAR-10 of 20,
32, 44, 56, 110 layers: 8.75, 7.51, 7.17, 6.97, 6.43%; of ResNeXt-29 8x64d, 16x64d: 3.65, 3.58%. Here: not yet run;
small on Fashion-MNIST: docs/architectures.md.
"""

from collections.abc import Callable

import ml_collections

from configs import common, default

NAMES = (
    "resnet50",
    "resnet18",
    "resnet34",
    "resnet101",
    "resnet152",
    "resnet200",
    "resnet50_v1",
    "resnet101_v1",
    "resnet152_v1",
    "resnext50_32x4d",
    "resnext101_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "cifar_resnet110",
    "cifar_resnext29_8x64d",
    "cifar_resnext29_16x64d",
)

_BASIC = {"stage_sizes": (2, 2, 2), "stage_features": (24, 48, 96), "stem_features": 24, "dropout_rate": 0.0}
_BOTTLENECK = {"stage_sizes": (2, 2, 2), "stage_features": (16, 32, 64), "stem_features": 32, "dropout_rate": 0.0}
_GROUPS = {"groups": 8, "base_width": 16}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `cifar10`, `cifar100`, `smoke`."""
    return common.family_recipe("configs/resnet.py", arg, names=NAMES, small=small, imagenet=_imagenet, cifar=_cifar)


def small(name: str) -> dict:
    """Fields for small images and two CPU cores; the network for CIFAR of 20 layers is small as it is."""
    if name.startswith("cifar_resnet") and not name.startswith("cifar_resnext"):
        return {"stage_sizes": (3, 3, 3), "dropout_rate": 0.0}
    if name in ("resnet18", "resnet34"):
        return _BASIC
    return _BOTTLENECK | _GROUPS if "resnext" in name else _BOTTLENECK


def large_batch_recipe(
    owner: str,
    arg: str | None,
    *,
    global_batch_size: int,
    set_optimizer: Callable[[ml_collections.ConfigDict, float], None],
) -> ml_collections.ConfigDict:
    """ResNet-50 with a large batch, as Goyal et al. set it up (arXiv:1706.02677, section 5.1).

    The stride is on the 3x3 convolutions, the last scale of every unit starts at 0, the classifier at N(0, 0.01^2),
    statistics are of 32 images whatever the batch, norms and biases do not decay. With `fashion_mnist` a small network
    of 20 epochs of 2,048 images, in which all that is given in epochs of 90 is shortened alike.

    Args:
      owner: the recipe's file, for errors.
      arg: `fashion_mnist` and `smoke`, separated by commas.
      global_batch_size: for ImageNet.
      set_optimizer: gets the config and the share of 90 epochs that the run is long; sets optimizer and schedule.
    """
    args = common.parse_arg(arg, fashion_mnist=False, smoke=False)
    config = default.get_config()
    config.model.name = "resnet50"
    fields = {"zero_init_residual": True, "classifier_std": 0.01}
    if args["fashion_mnist"]:
        common.set_fashion_mnist(config)
        config.label_smoothing = 0.0
        config.schedule.warmup_learning_rate = -1.0
        config.global_batch_size = 2048
        fields |= {**small("resnet50"), "stem": "stride2"}
    else:
        common.set_imagenet(config)
        config.num_epochs = 90.0
        config.global_batch_size = global_batch_size
    config.model.fields = ml_collections.ConfigDict(fields)
    config.model.norm.name = "ghost_batch_norm"
    config.model.norm.fields = ml_collections.ConfigDict({"ghost_batch_size": 32, "running_rule": "mean"})
    config.optimizer.weight_decay = 1e-4
    config.schedule.base_learning_rate, config.schedule.base_batch_size = 0.1, 256
    set_optimizer(config, config.num_epochs / 90)
    if args["smoke"]:
        common.make_smoke(config)
        config.model.norm.fields.ghost_batch_size = 1
    return config


def _imagenet(config: ml_collections.ConfigDict) -> None:
    if config.model.name.startswith("cifar_"):
        raise ValueError(f"configs/resnet.py: name={config.model.name} is not for imagenet; take cifar10 or cifar100")
    config.num_epochs = 90.0
    config.global_batch_size = 256
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 60.0)


def _cifar(config: ml_collections.ConfigDict) -> None:
    name = config.model.name
    if not name.startswith("cifar_"):
        raise ValueError(f"configs/resnet.py: name={name} is not for {config.data.name}; take imagenet")
    if name.startswith("cifar_resnext"):
        config.num_epochs = 300.0
        config.global_batch_size = 128
        config.optimizer.weight_decay = 5e-4
        config.optimizer.decay_min_ndim = 0
        config.schedule.name = "step"
        config.schedule.base_learning_rate = 0.1
        config.schedule.step_epochs = (150.0, 225.0)
    else:
        common.set_resnet_cifar(config, warmup_steps=400 if name == "cifar_resnet110" else 0)
