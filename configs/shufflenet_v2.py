"""ShuffleNet v2 (Ma, Zhang, Zheng, Sun, ECCV 2018, arXiv:1807.11164).

    python train.py --config=configs/shufflenet_v2.py                       0.5x, the digits of scikit-learn
    python train.py --config=configs/shufflenet_v2.py:fashion_mnist         0.5x, Fashion-MNIST
    python train.py --config=configs/shufflenet_v2.py:imagenet,width=1.5    1.5x (0.5, 1, 1.5, 2; without: 1x), ImageNet
    python train.py --config=configs/shufflenet_v2.py:smoke                 a few steps on synthetic images

Digits: see the README for time and accuracy, measured on two CPU cores.
ImageNet is the authors' recipe (300k steps of 1,024 images; top-1 69.4% published for 1x). Here: not yet run.
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
        _imagenet(config, width)
    elif args["fashion_mnist"]:
        _fashion_mnist(config)
    else:
        _digits(config)
    if args["smoke"]:
        common.make_smoke(config)
    return config


def _imagenet(config: ml_collections.ConfigDict, width: float) -> None:
    config.num_steps = 300_000
    config.global_batch_size = 1024
    config.label_smoothing = 0.1
    config.model.fields.stem = "imagenet"
    config.model.fields.dropout_rate = 0.2 if width == 2.0 else 0.0  # as in the authors' code
    config.data.name = "imagenet2012"
    config.data.test_split = "validation"
    config.data.crop = "random_resized"
    config.data.flip = True
    config.data.color_jitter = 0.4
    config.data.num_workers = 8
    config.data.max_bad_records = 10
    config.schedule.base_learning_rate = 0.5
    config.checkpoint_every_steps = 5000


def _digits(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 40.0
    config.global_batch_size = 64
    config.data.name = "digits"
    config.data.image_size = 16
    config.log_every_steps = 20
    config.eval_every_epochs = 5.0
    config.optimizer.weight_decay = 1e-3
    config.schedule.base_learning_rate = 0.05
    config.schedule.warmup_epochs = 2.0
    _small_and_grey(config)


def _fashion_mnist(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 20.0
    config.global_batch_size = 128
    config.data.name = "fashion_mnist"
    config.data.image_size = 28
    config.data.flip = True
    config.optimizer.weight_decay = 5e-4
    config.schedule.base_learning_rate = 0.1
    config.schedule.warmup_epochs = 0.5
    _small_and_grey(config)


def _small_and_grey(config: ml_collections.ConfigDict) -> None:
    config.label_smoothing = 0.1
    config.data.train_split, config.data.val_split = "train[:95%]", "train[95%:]"
    config.data.num_channels = 1
    config.data.mean = config.data.std = (0.5,)
    config.data.crop, config.data.crop_padding = "pad", 2
    config.data.eval_crop_ratio = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_learning_rate = 0.0
