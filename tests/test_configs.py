"""Every recipe is locked and has the fields of the default; its arguments are checked."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import pytest

from arch import models, optim
from configs import cli, common, default, shufflenet_v2

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
LARGE_BATCH = ("resnet50_goyal", "resnet50_smith", "resnet50_lars", "resnet50_akiba")
CASES += [(name, arg) for name in LARGE_BATCH for arg in ("fashion_mnist", "smoke", "fashion_mnist,smoke")]
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
    size, lengths = config.global_batch_size, {"num_epochs": config.num_epochs, "num_steps": config.num_steps}
    plan = optim.plan_batches(config.schedule, num_examples=round(100.5 * size), global_batch_size=size, **lengths)
    tx, schedule = optim.create(config.optimizer, config.schedule, plan)
    images = jnp.zeros((2, config.data.image_size, config.data.image_size, config.data.num_channels))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    jax.eval_shape(tx.init, variables["params"])
    assert float(schedule(1)) > 0
    assert len(config.data.mean) == len(config.data.std) == config.data.num_channels


def test_an_activation_is_a_name_of_the_catalogue():
    """As a flag gives it, or a search over fields tries it."""
    config = cli.override(recipe("shufflenet_v2", "smoke"), {"model.fields.act": "swish"}, "test")
    images = jnp.ones((2, config.data.image_size, config.data.image_size, config.data.num_channels))
    model = models.from_config(config.model, num_classes=10)
    assert "logistic" in str(jax.make_jaxpr(lambda key: model.init(key, images, train=False))(jax.random.key(0)))
    config = cli.override(config, {"model.fields.act": "swsh"}, "test")
    with pytest.raises(ValueError, match="unknown name 'swsh'; did you mean 'swish'"):
        models.from_config(config.model, num_classes=10)


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
    plan = optim.plan_batches(
        config.schedule, num_examples=1_281_167, global_batch_size=1024, num_steps=config.num_steps
    )
    _, schedule = optim.create(config.optimizer, config.schedule, plan)
    rates = [float(schedule(step)) for step in (0, 150_000, 300_000)]
    assert rates == [0.5, 0.25, 0.0]


def rate_and_plan(config, num_examples=1_281_167):
    sizes = {"global_batch_size": config.global_batch_size, "num_epochs": config.num_epochs}
    plan = optim.plan_batches(config.schedule, num_examples=num_examples, **sizes)
    return optim.create(config.optimizer, config.schedule, plan)[1], plan


@pytest.mark.parametrize("name", LARGE_BATCH)
def test_the_large_batch_recipes_share_the_network_of_goyal(name):
    """Section 5.1 of arXiv:1706.02677, and statistics of 32 images at every batch."""
    config = recipe(name, "")
    assert (config.model.name, config.num_epochs, config.optimizer.weight_decay) == ("resnet50", 90.0, 1e-4)
    assert config.model.fields.to_dict() == {"zero_init_residual": True, "classifier_std": 0.01}
    assert config.model.norm.fields.to_dict() == {"ghost_batch_size": 32, "running_rule": "mean"}
    assert config.optimizer.decay_min_ndim == 2 and config.label_smoothing == 0
    assert config.global_batch_size == (8192 if name in ("resnet50_goyal", "resnet50_smith") else 32768)


def test_goyals_rate():
    """From 0.1 to 3.2 in 5 epochs, a tenth after 30, 60 and 80."""
    config = recipe("resnet50_goyal", "")
    assert config.optimizer.nesterov and config.optimizer.momentum == 0.9
    rate, plan = rate_and_plan(config)
    steps = [0, *(plan.steps_in(epochs) for epochs in (2.5, 5.0, 29.9, 30.1, 60.1, 80.1))]
    expected = [0.1, 1.65, 3.2, 3.2, 0.32, 0.032, 0.0032]
    assert [float(rate(step)) for step in steps] == pytest.approx(expected, rel=2e-3)


def test_smiths_batch():
    """8,192 to 16,384 after 30 epochs, where the rate falls to a fifth; Goyal's from there on."""
    rate, plan = rate_and_plan(recipe("resnet50_smith", ""))
    found = [
        (plan.stage(step).global_batch_size, round(float(rate(step)), 6))
        for step in (plan.steps_in(epochs) for epochs in (29.9, 30.1, 60.1, 80.1))
    ]
    assert found == [(8192, 3.2), (16384, 0.64), (16384, 0.064), (16384, 0.0064)]


def test_the_rate_of_lars_is_the_tpu_references():
    """Of 32,768 images: 32 after 14 epochs from 0, then to 0 as a square."""
    config = recipe("resnet50_lars", "")
    assert (config.optimizer.name, config.optimizer.lars_variant) == ("lars", "tpu")
    rate, plan = rate_and_plan(config)
    steps = [0, *(plan.steps_in(epochs) for epochs in (7.0, 14.0, 52.0)), plan.num_steps]
    assert [float(rate(step)) for step in steps] == pytest.approx([0, 16, 32, 8, 0], rel=2e-3, abs=1e-9)


def test_akibas_rate_and_transition():
    """Slow start: 0.5, 0.075, 0.01 and 0.001 of 12.8 for 40, 30, 15 and 5 epochs; RMSprop until about the tenth."""
    config = recipe("resnet50_akiba", "")
    assert (config.optimizer.name, config.eval_statistics) == ("rmsprop_warmup", "last_batch_averaged")
    assert (config.optimizer.transition_center_epochs, config.optimizer.transition_period_epochs) == (10.0, 5.0)
    rate, plan = rate_and_plan(config)
    found = [float(rate(plan.steps_in(epochs))) for epochs in (1.0, 39.0, 41.0, 71.0, 86.0)]
    assert found == pytest.approx([6.4, 6.4, 0.96, 0.128, 0.0128], rel=1e-5)


@pytest.mark.parametrize("name", LARGE_BATCH)
def test_a_small_version_is_the_recipe_in_fewer_epochs(name):
    """20 of 90: all that is given in epochs is shortened alike."""
    large, small = recipe(name, ""), recipe(name, "fashion_mnist")
    length = small.num_epochs / large.num_epochs
    assert small.schedule.name == large.schedule.name and small.optimizer.name == large.optimizer.name
    assert small.schedule.base_batch_size == large.schedule.base_batch_size
    if name != "resnet50_lars":  # the warm-up follows from the batch
        assert small.schedule.warmup_epochs == pytest.approx(large.schedule.warmup_epochs * length)
        assert small.schedule.base_learning_rate == large.schedule.base_learning_rate
    if large.schedule.name == "step":
        assert small.schedule.step_epochs == pytest.approx([e * length for e in large.schedule.step_epochs])
    if name == "resnet50_akiba":
        assert small.optimizer.transition_center_epochs == pytest.approx(10 * length)


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


def test_a_recipe_that_names_another_loads_from_any_folder(monkeypatch, tmp_path):
    """As those that searches have found do."""
    path = pathlib.Path("configs/found/random.py").absolute()
    monkeypatch.chdir(tmp_path)
    assert cli.load_recipe(str(path)).model.fields.cell.startswith("|nor_conv_3x3~0|+|")
    with pytest.raises(ValueError, match=r"there is no file configs/shuflenet\.py"):
        cli.load_recipe("configs/shuflenet.py")
