"""What the recipes of ResNet, SENet and Deep Roots say beside what every recipe does."""

import importlib

import jax.numpy as jnp
import pytest

from arch import models, norm, optim
from arch.efficiency.complexity import abstract_variables, count_params

FAMILIES = ("resnet", "resnet_v2", "senet", "deep_roots")
NAMES = [(family, name) for family in FAMILIES for name in importlib.import_module(f"configs.{family}").NAMES]


def _recipe(family, arg):
    return importlib.import_module(f"configs.{family}").get_config(arg)


def _rates(config, steps):
    sizes = {"num_epochs": config.num_epochs, "num_steps": config.num_steps}
    plan = optim.plan_batches(config.schedule, num_examples=50_000, global_batch_size=config.global_batch_size, **sizes)
    _, schedule = optim.create(config.optimizer, config.schedule, plan)
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_every_network_has_a_small_one(family, name):
    """Of at most half a million parameters or so, for one grey channel."""
    config = _recipe(family, f"fashion_mnist,name={name}")
    model = models.create(name, num_classes=10, norm=norm.create("batch_norm"), **config.model.fields)
    variables = abstract_variables(model, jnp.zeros((1, 28, 28, 1)), train=False)
    assert 1e5 < count_params(variables) < 5e5


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_every_network_has_the_recipe_of_its_data(family, name):
    """The published network, with no field changed; the other data set is refused in one line."""
    cifar = name.startswith("cifar_") or "_nin" in name
    own, other = ("cifar10", "imagenet") if cifar else ("imagenet", "cifar10")
    assert not _recipe(family, f"{own},name={name}").model.fields
    message = "config argument: unknown name" if family == "senet" else f"configs/{family}.py: name={name} is not for"
    with pytest.raises(ValueError, match=f"^{message}"):
        _recipe(family, f"{other},name={name}")


def test_resnet_on_cifar_is_the_papers():
    """Section 4.2 of arXiv:1512.03385: 64k steps, falls after 32k and 48k, 400 steps of warm-up of 110 layers."""
    config = _recipe("resnet", "cifar100,name=cifar_resnet20")
    assert (config.num_steps, config.global_batch_size, config.optimizer.weight_decay) == (64_000, 128, 1e-4)
    assert (config.data.name, config.data.image_size, config.data.crop_padding) == ("cifar100", 32, 4)
    steps = (1, 31_990, 32_010, 47_990, 48_010, 63_999)
    assert _rates(config, steps) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    deep = _recipe("resnet", "cifar10,name=cifar_resnet110")
    low, high = _rates(deep, (1, 401))
    assert 0.01 <= low < 0.011 and high == pytest.approx(0.1)


def test_resnext_on_cifar_is_the_papers():
    """300 epochs, falls after 150 and 225, weight decay 5e-4."""
    config = _recipe("resnet", "cifar10,name=cifar_resnext29_8x64d")
    assert (config.num_epochs, config.global_batch_size, config.optimizer.weight_decay) == (300.0, 128, 5e-4)
    epochs = (1, 149, 151, 224, 226)
    expected = [0.1, 0.1, 0.01, 0.01, 0.001]
    assert _rates(config, [round(epoch * 50_000 / 128) for epoch in epochs]) == pytest.approx(expected)


def test_senet_is_the_papers():
    """Section 6.1 of arXiv:1709.01507: 100 epochs of 1,024 images, rate 0.6 that falls every 30 epochs."""
    config = _recipe("senet", "imagenet")
    assert (config.num_epochs, config.global_batch_size) == (100.0, 1024)
    assert (config.schedule.base_learning_rate, config.schedule.step_epochs) == (0.6, (30.0, 60.0, 90.0))


def test_one_data_set_is_taken():
    with pytest.raises(ValueError, match=r"^configs/resnet.py: imagenet and cifar10 exclude each other; keep one"):
        _recipe("resnet", "imagenet,cifar10")
