"""Every recipe is locked and has the fields of the default; its arguments are checked."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import pytest

from arch import models, optim
from configs import common, default, shufflenet_v2

ROOT = pathlib.Path(__file__).parents[1]
NOT_RECIPES = {"__init__", "default", "common", "cli"}
RECIPES = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem not in NOT_RECIPES)
OPEN = ("model.fields", "model.norm.fields")
SHUFFLENET_ARGS = [
    "",
    "imagenet",
    "imagenet,width=1.5",
    "fashion_mnist",
    "smoke",
    "imagenet,smoke",
    "variant=torchvision",
]
FAMILIES = [name for name in RECIPES if hasattr(importlib.import_module(f"configs.{name}"), "NAMES")]
CASES = [(name, "") for name in RECIPES] + [("shufflenet_v2", arg) for arg in SHUFFLENET_ARGS[1:]]
CASES += [(name, arg) for name in FAMILIES for arg in ("imagenet", "fashion_mnist", "smoke")]
CIFAR_CASES = [
    ("densenet", "cifar_densenet_40_12"),
    ("densenet", "cifar_densenet_bc_100_12"),
    ("condensenet", "cifar_condensenet_50"),
    ("igcv1", "cifar_igcv1_l24m2_d8"),
    ("igcv1", "cifar_igcv1_l4m8_d62"),
    ("gunn", "gunn_15"),
    ("fractalnet", "fractalnet_20"),
    ("shiftresnet", "shiftresnet20_e3"),
]
CASES += [(family, f"{arg}name={name}") for family, name in CIFAR_CASES for arg in ("cifar10,", "cifar100,smoke,", "")]
# Rate, epochs, images a step and epochs of the falls, of networks for CIFAR.
CIFAR_RECIPES = {
    ("densenet", "cifar_densenet_bc_190_40"): (0.1, 300.0, 64, (150.0, 225.0)),
    ("condensenet", "cifar_condensenet_86"): (0.1, 300.0, 64, None),
    ("condensenet", "cifar_condensenet_182"): (0.1, 600.0, 64, None),
    ("igcv1", "cifar_igcv1_l24m2_d38"): (0.1, 400.0, 64, (200.0, 300.0, 350.0)),
    ("gunn", "gunn_15"): (0.1, 300.0, 64, (150.0, 225.0)),
    ("fractalnet", "fractalnet_40"): (0.02, 400.0, 100, (200.0, 300.0, 350.0, 375.0)),
    ("shiftresnet", "shiftresnet110_e3"): (0.1, 160.0, 128, (82.0, 124.0)),
}


def recipe(name, arg):
    return importlib.import_module(f"configs.{name}").get_config(arg)


def paths(config, prefix=""):
    for key, value in config.items():
        path = f"{prefix}{key}"
        if path not in OPEN and hasattr(value, "items"):
            yield from paths(value, path + ".")
        else:
            yield path


@pytest.mark.parametrize(("name", "arg"), CASES)
def test_a_recipe_changes_values_only(name, arg):
    config = recipe(name, arg)
    assert config.is_locked
    assert set(paths(config)) == set(paths(default.get_config()))


@pytest.mark.parametrize(
    ("name", "arg"),
    [pytest.param(*case, marks=pytest.mark.slow if case[1] and case[0] in FAMILIES else ()) for case in CASES],
)
def test_a_recipe_builds_its_network_and_optimiser(name, arg):
    """By tracing alone: names, fields and shapes fit together."""
    config = recipe(name, arg)
    model = models.from_config(config.model, num_classes=10)
    tx, schedule = optim.create(
        config.optimizer, config.schedule, total_steps=config.num_steps or 1000, steps_per_epoch=100.5,
        global_batch_size=config.global_batch_size,
    )  # fmt: skip
    images = jnp.zeros((2, config.data.image_size, config.data.image_size, config.data.num_channels))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    jax.eval_shape(tx.init, variables["params"])
    assert float(schedule(1)) > 0
    assert len(config.data.mean) == len(config.data.std) == config.data.num_channels


def test_every_network_is_in_a_recipe():
    """By `name=`, or, of ShuffleNet v2, by `width=`; and no recipe has a name that is none."""
    names = {recipe("shufflenet_v2", f"width={width}").model.name for width in shufflenet_v2.WIDTHS}
    for family in FAMILIES:
        names |= set(importlib.import_module(f"configs.{family}").NAMES)
    assert names == set(models.MODELS)


@pytest.mark.parametrize(("family", "name"), CIFAR_RECIPES)
def test_a_recipe_for_cifar(family, name):
    """The published network, with no field changed, and what its authors train with."""
    rate, epochs, batch, falls = CIFAR_RECIPES[family, name]
    config = recipe(family, f"cifar100,name={name}")
    assert (config.data.name, config.data.image_size, config.data.crop_padding) == ("cifar100", 32, 4)
    assert not config.model.fields
    assert (config.schedule.base_learning_rate, config.num_epochs, config.global_batch_size) == (rate, epochs, batch)
    assert config.schedule.name == ("step" if falls else "cosine")
    assert falls is None or config.schedule.step_epochs == falls


@pytest.mark.parametrize("family", ["densenet", "condensenet", "igcv1", "gunn"])
def test_a_network_for_the_other_data_set_is_refused(family):
    for name in importlib.import_module(f"configs.{family}").NAMES:
        if name == "gunn_15":  # has both recipes
            continue
        other, own = ("imagenet", "cifar10") if name.startswith("cifar_") else ("cifar10", "imagenet")
        with pytest.raises(ValueError, match=f"^configs/{family}.py: name={name} is not for {other}; take {own}"):
            recipe(family, f"{other},name={name}")


@pytest.mark.parametrize(("name", "rate"), [("vgg16", 0.01), ("vgg11", 0.01), ("vgg16_bn", 0.1), ("vgg19_bn", 0.1)])
def test_vgg_with_norms_has_another_rate(name, rate):
    """Of torchvision's reference."""
    assert recipe("vgg", f"imagenet,name={name}").schedule.base_learning_rate == rate


@pytest.mark.parametrize(
    "family", ["vgg", "mobilenet_v1", "mobilenet_v2", "bilinear", "condensenet", "densenet", "resnet"]
)
def test_all_parameters_decay_where_the_source_decays_all(family):
    assert recipe(family, "imagenet").optimizer.decay_min_ndim == 0


def test_the_imagenet_recipe_is_the_papers():
    """Section 4 of arXiv:1807.11164 and the authors' training script; figures from the issue's list."""
    config = recipe("shufflenet_v2", "imagenet")
    assert (config.model.name, config.global_batch_size, config.num_steps) == ("shufflenet_v2_x1_0", 1024, 300_000)
    assert (config.optimizer.momentum, config.optimizer.weight_decay, config.label_smoothing) == (0.9, 4e-5, 0.1)
    assert (config.data.crop, config.data.color_jitter, config.data.flip) == ("random_resized", 0.4, True)
    _, schedule = optim.create(
        config.optimizer, config.schedule, total_steps=config.num_steps, steps_per_epoch=1251.1, global_batch_size=1024
    )
    rates = [float(schedule(step)) for step in (0, 150_000, 300_000)]
    assert rates == [0.5, 0.25, 0.0]


def test_parse_arg():
    assert common.parse_arg("smoke,width=1.5", smoke=False, width=1.0, variant="a") == {
        "smoke": True, "width": 1.5, "variant": "a",
    }  # fmt: skip
    assert common.parse_arg(None, smoke=False) == {"smoke": False}
    assert common.parse_arg("smoke=false", smoke=True) == {"smoke": False}


@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("smok", "unknown name 'smok' in 'smok'; did you mean 'smoke'"),
        ("width", "width needs a value; write width=VALUE"),
        ("width=wide", "width='wide' must be of type float"),
        ("smoke=7", "smoke='7' must be true or false"),
    ],
)
def test_parse_arg_names_what_is_wrong(arg, words):
    with pytest.raises(ValueError, match=words):
        common.parse_arg(arg, smoke=False, width=1.0)
