"""What recipes share: the argument behind the colon of `--config=configs/x.py:imagenet,width=1.5`, and data sets."""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from arch.errors import unknown_name
from configs import default

CIFAR = ("cifar10", "cifar100")


def parse_arg(arg: str | None, **defaults: Any) -> dict[str, Any]:
    """Values by name, from a comma-separated list of `name=value` or, for a switch, `name`.

    >>> parse_arg("smoke,width=1.5", smoke=False, width=1.0, variant="megvii")
    {'smoke': True, 'width': 1.5, 'variant': 'megvii'}

    Args:
      arg: what stands behind the colon; None or "" gives the defaults.
      **defaults: every name that the recipe knows; a value is read as the type of its default.

    Raises:
      ValueError: a name that is not among them, or a value that is not of that type.
    """
    values = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, equals, text = (part.strip() for part in item.partition("="))
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(defaults)}"
            raise ValueError(f"config argument: unknown name {name!r} in {arg!r}; {hint}")
        values[name] = _read(name, text, type(defaults[name]), bool(equals))
    return values


def _read(name: str, text: str, kind: type, given: bool) -> Any:
    if kind is bool:
        words = {"": True, "true": True, "1": True, "false": False, "0": False}
        if text.lower() in words and bool(text) == given:
            return words[text.lower()]
        raise ValueError(f"config argument: {name}={text!r} must be true or false; write {name} or {name}=false")
    if not given:
        raise ValueError(f"config argument: {name} needs a value; write {name}=VALUE")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"config argument: {name}={text!r} must be of type {kind.__name__}") from None


def make_smoke(config: ml_collections.ConfigDict) -> None:
    """Turns a recipe into a few steps on small synthetic images: seconds, to see that all of it works."""
    config.num_steps = 4
    config.global_batch_size = 16
    config.log_every_steps = 2
    config.eval_every_epochs = 0.0
    config.schedule.warmup_epochs = 0.0
    config.data.name = "synthetic"
    config.data.train_split, config.data.val_split, config.data.test_split = "train", "val", "test"
    config.data.image_size = min(config.data.image_size, 32)
    config.data.num_workers = 0


def family_recipe(
    owner: str,
    arg: str | None,
    *,
    names: Sequence[str],
    small: Callable[[str], Mapping[str, Any]],
    imagenet: Callable[[ml_collections.ConfigDict], None],
    cifar: Callable[[ml_collections.ConfigDict], None] | None = None,
) -> ml_collections.ConfigDict:
    """The recipe of a family of networks, for the digits, Fashion-MNIST, CIFAR or ImageNet.

    Args:
      owner: the recipe's file, for errors.
      arg: `name=` one of `names`, `imagenet`, `fashion_mnist`, `smoke` and, with `cifar`, `cifar10`, `cifar100`,
        separated by commas.
      names: keys of arch.models.MODELS; the first is taken where none is named.
      small: the fields that make the network of a name fit images of 16 to 32 pixels and two CPU cores; of its stem
        they say nothing.
      imagenet: sets what the paper trains with, on top of `set_imagenet`.
      cifar: the same for CIFAR, on top of `set_cifar`; None where the family has no recipe for CIFAR.
    """
    data_sets = ("imagenet", "fashion_mnist", *(CIFAR if cifar else ()))
    args = parse_arg(arg, name=names[0], smoke=False, **dict.fromkeys(data_sets, False))
    name = args["name"]
    if name not in names:
        raise unknown_name(owner, name, names)
    chosen = [data for data in data_sets if args[data]]
    if len(chosen) > 1:
        raise ValueError(f"{owner}: {' and '.join(chosen)} exclude each other; keep one")
    config = default.get_config()
    config.model.name = name
    if args["imagenet"]:
        set_imagenet(config)
        imagenet(config)
    elif cifar and chosen and chosen[0] in CIFAR:
        set_cifar(config, chosen[0])
        cifar(config)
    else:
        config.model.fields = ml_collections.ConfigDict(dict(small(name)))
        if args["fashion_mnist"]:
            set_fashion_mnist(config)
            config.model.fields.stem = "stride2"
        else:
            set_digits(config)
            config.model.fields.stem = "small"
    if args["smoke"]:
        make_smoke(config)
    return config


def set_imagenet(config: ml_collections.ConfigDict) -> None:
    """ImageNet with random resized crops and flips, in the usual way; the optimiser is the recipe's."""
    config.data.name = "imagenet2012"
    config.data.test_split = "validation"
    config.data.crop = "random_resized"
    config.data.flip = True
    config.data.num_workers = 8
    config.data.max_bad_records = 10


def set_cifar(config: ml_collections.ConfigDict, name: str) -> None:
    """CIFAR-10 or CIFAR-100, `name`, in the usual way: padded by 4, cropped and flipped; the optimiser is the recipe's.

    Trained on all of the 50,000 images; none choose a checkpoint.
    """
    config.data.name = name
    config.data.image_size = 32
    config.data.mean, config.data.std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    config.data.crop, config.data.crop_padding = "pad", 4
    config.data.flip = True
    config.data.eval_crop_ratio = 1.0


def set_resnet_cifar(config: ml_collections.ConfigDict, warmup_steps: int = 0) -> None:
    """What ResNet is trained with on CIFAR (arXiv:1512.03385, section 4.2); warm-up is a ramp from a tenth."""
    images, config.global_batch_size = 50_000, 128
    epochs = config.global_batch_size / images  # of a step
    config.num_steps = 64_000
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.warmup_learning_rate = 0.01
    config.schedule.warmup_epochs = warmup_steps * epochs
    config.schedule.step_epochs = (32_000 * epochs, 48_000 * epochs)


def set_shufflenet_imagenet(config: ml_collections.ConfigDict, num_steps: int = 300_000) -> None:
    """What the authors of ShuffleNet train with, on top of `set_imagenet`: steps of 1,024 images, a linear rate."""
    config.num_steps = num_steps
    config.global_batch_size = 1024
    config.label_smoothing = 0.1
    config.data.color_jitter = 0.4
    config.schedule.base_learning_rate = 0.5
    config.checkpoint_every_steps = 5000


def set_cells_imagenet(config: ml_collections.ConfigDict) -> None:
    """What the networks of TensorFlow's searched cells have in common on ImageNet, on top of `set_imagenet`."""
    config.global_batch_size = 256
    config.label_smoothing = 0.1
    config.data.mean = config.data.std = (0.5, 0.5, 0.5)
    config.model.fields = ml_collections.ConfigDict({"auxiliary_heads": True})
    config.model.norm.fields = ml_collections.ConfigDict({"epsilon": 1e-3})
    config.optimizer.grad_clip_norm = 10.0
    config.schedule.base_learning_rate = 0.1


def set_falls(config: ml_collections.ConfigDict, *, every: float, factor: float) -> None:
    """A rate that falls to `factor` of itself after each `every` epochs; `config.num_epochs` must be set before."""
    falls = math.ceil(round(config.num_epochs / every, 6)) - 1  # none at the very end
    config.schedule.name = "step"
    config.schedule.step_epochs = tuple(round(number * every, 6) for number in range(1, falls + 1))
    config.schedule.step_factor = factor


def set_digits(config: ml_collections.ConfigDict) -> None:
    """The handwritten digits of scikit-learn, at 16x16, in a minute or two."""
    config.num_epochs = 40.0
    config.global_batch_size = 64
    config.data.name = "digits"
    config.data.image_size = 16
    config.log_every_steps = 20
    config.eval_every_epochs = 5.0
    config.optimizer.weight_decay = 1e-3
    config.schedule.base_learning_rate = 0.05
    config.schedule.warmup_epochs = 2.0
    _set_small_and_grey(config)


def set_fashion_mnist(config: ml_collections.ConfigDict) -> None:
    """Fashion-MNIST, at 28x28."""
    config.num_epochs = 20.0
    config.global_batch_size = 128
    config.data.name = "fashion_mnist"
    config.data.image_size = 28
    config.data.flip = True
    config.optimizer.weight_decay = 5e-4
    config.schedule.base_learning_rate = 0.1
    config.schedule.warmup_epochs = 0.5
    _set_small_and_grey(config)


def _set_small_and_grey(config: ml_collections.ConfigDict) -> None:
    config.label_smoothing = 0.1
    config.data.train_split, config.data.val_split = "train[:95%]", "train[95%:]"
    config.data.num_channels = 1
    config.data.mean = config.data.std = (0.5,)
    config.data.crop, config.data.crop_padding = "pad", 2
    config.data.eval_crop_ratio = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_learning_rate = 0.0
