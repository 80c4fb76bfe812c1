"""What the recipes of NASNet, AmoebaNet and DARTS say beside what every recipe does."""

import importlib
import json

import jax.numpy as jnp
import pytest

from arch import models, norm, optim
from arch.efficiency.complexity import abstract_variables, count_params
from arch.models.genotypes import AMOEBANET_A, DARTS_V1, resolve
from configs import cli

FAMILIES = ("nasnet", "amoebanet", "darts")
NAMES = [(family, name) for family in FAMILIES for name in importlib.import_module(f"configs.{family}").NAMES]
# Of the authors: epochs, images a step, rate, weight decay, drop path, weight of the auxiliary head, clipping.
CIFAR = {
    "cifar_nasnet_a": (600.0, 32, 0.025, 5e-4, 0.4, 0.4, 5.0),
    "cifar_amoebanet_a_6_36": (600.0, 128, 0.024, 5e-4, 0.3, 0.5, 0.0),
    "cifar_darts_v2": (600.0, 96, 0.025, 3e-4, 0.2, 0.4, 5.0),
}


def _recipe(family, arg):
    return importlib.import_module(f"configs.{family}").get_config(arg)


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_every_network_has_a_small_one(family, name):
    """Of at most half a million parameters or so, for one grey channel."""
    config = _recipe(family, f"fashion_mnist,name={name}")
    model = models.create(name, num_classes=10, norm=norm.create("batch_norm"), **config.model.fields)
    variables = abstract_variables(model, jnp.zeros((1, 28, 28, 1)), train=False)
    assert 1e5 < count_params(variables) < 5e5


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_every_network_has_the_recipe_of_its_data(family, name):
    """The published network, with heads and dropped paths alone; the other data set is refused in one line."""
    own, other = ("cifar10", "imagenet") if name.startswith("cifar_") else ("imagenet", "cifar10")
    config = _recipe(family, f"{own},name={name}")
    assert set(config.model.fields) <= {"auxiliary_heads", "auxiliary_weight", "drop_path_rate"}
    assert config.model.fields.auxiliary_heads
    with pytest.raises(ValueError, match=f"^configs/{family}.py: name={name} is not for {other}; take"):
        _recipe(family, f"{other},name={name}")


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_is_the_authors(name):
    family = next(family for family, known in NAMES if known == name)
    config = _recipe(family, f"cifar10,name={name}")
    model = models.from_config(config.model, num_classes=10)
    assert CIFAR[name] == (
        config.num_epochs,
        config.global_batch_size,
        config.schedule.base_learning_rate,
        config.optimizer.weight_decay,
        model.drop_path_rate,
        model.auxiliary_weight,
        config.optimizer.grad_clip_norm,
    )
    assert config.schedule.name == "cosine"


@pytest.mark.parametrize(
    "family,name,size", [("nasnet", "nasnet_a_large", 331), ("amoebanet", "amoebanet_a_4_50", 224)]
)
def test_imagenet_falls_by_three_hundredths_every_2_4_epochs(family, name, size):
    """100 steps an epoch here: after 12 epochs, four falls, and one more at the end of the fifth period."""
    config = _recipe(family, f"imagenet,name={name}")
    assert config.data.image_size == size
    size = config.global_batch_size
    plan = optim.plan_batches(
        config.schedule, num_examples=100 * size, global_batch_size=size, num_epochs=config.num_epochs
    )
    _, schedule = optim.create(config.optimizer, config.schedule, plan)
    rates = [float(schedule(step)) for step in (1190, 1210, round(config.num_epochs * 100) - 1)]
    falls = round(config.num_epochs / 2.4 + 0.49) - 1
    assert rates == pytest.approx([0.1 * 0.97**4, 0.1 * 0.97**5, 0.1 * 0.97**falls], rel=1e-4)


@pytest.mark.parametrize(
    "text,expected",
    [
        ("amoebanet_a", AMOEBANET_A),
        ("DARTS_V1", DARTS_V1),
        (json.dumps(DARTS_V1.to_json()), DARTS_V1),
    ],
)
def test_a_searched_cell_is_trained_by_a_flag(text, expected):
    """As the command line reads and keeps the value of a field that the recipe does not have."""
    config = _recipe("darts", "")
    with config.unlocked():
        config.model.fields.genotype = cli.literal(text)
    model = models.from_config(config.model, num_classes=10)
    assert resolve(model.genotype) == expected
    abstract_variables(model, jnp.zeros((1, 16, 16, 1)), train=False)
