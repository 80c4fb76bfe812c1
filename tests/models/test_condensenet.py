"""CondenseNet: its training condenses it as the paper says, and what is deployed computes the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from arch import PENALTIES, models
from arch.efficiency.complexity import abstract_variables, count_params
from arch.models.classification.condensenet import deploy
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, maps_of

_SMALL = {"num_classes": 10, "stage_sizes": (1, 1), "growth_rates": (8, 16)}
_FIELDS = [
    {"num_groups": 4},
    {"num_groups": 2, "condense_factor": 8, "classifier_condense_factor": 4},
    {"num_groups": 4, "condense_factor": 2, "classifier_condense_factor": 1},
]


def _small(**fields):
    return models.create("cifar_condensenet_50", **{**_SMALL, **fields})


def _images(dtype=np.float32, batch=8):
    return np.random.default_rng(0).standard_normal((batch, 8, 8, 3)).astype(dtype)


def _random_variables(model, dtype=np.float32, seed=0):
    """All values random, running statistics too; the masks are whole."""
    random = np.random.default_rng(seed)
    shapes = abstract_variables(model, jax.ShapeDtypeStruct((1, 8, 8, 3), dtype), train=False)

    def value(path, leaf):
        if path[0] == "condensation":
            return np.ones(leaf.shape, bool)
        values = random.standard_normal(leaf.shape)
        return np.asarray(np.exp(0.5 * values) if path[-1] == "var" else values, leaf.dtype)

    flat = {path: value(path, leaf) for path, leaf in traverse_util.flatten_dict(shapes).items()}
    return traverse_util.unflatten_dict(flat)


def _masks(variables):
    """Layer -> (mask, kernel)."""
    flat = traverse_util.flatten_dict(jax.device_get(variables), sep="/")
    return {
        path.removeprefix("condensation/").removesuffix("/mask"): (
            mask,
            flat[path.replace("condensation", "params", 1).removesuffix("mask") + "kernel"],
        )
        for path, mask in flat.items()
        if path.startswith("condensation/")
    }


def _factors(fields, layer):
    """(groups, condense_factor) of a layer."""
    if layer.startswith("classifier"):
        return 1, fields.get("classifier_condense_factor", 2)
    return fields["num_groups"], fields.get("condense_factor", fields["num_groups"])


@pytest.mark.parametrize("fields", _FIELDS, ids=str)
def test_training_condenses_to_one_over_the_factor_and_deploys(fields):
    """By gradient steps from the initial values; the density falls in equal steps over the first half."""
    model, num_steps = _small(group_lasso_weight=1e-3, **fields), 16
    x, labels = _images(), np.arange(8)

    @quick_jit
    def init():
        return model.init(jax.random.key(0), x[:1], train=False)

    @quick_jit
    def step(variables, progress):
        rest = {name: tree for name, tree in variables.items() if name != "params"}

        def loss(params):
            logits, updated = model.apply({**rest, "params": params}, x, train=True, mutable=["batch_stats", PENALTIES])
            penalties = updated.pop(PENALTIES)
            losses = -jax.nn.log_softmax(logits)[jnp.arange(8), labels]
            return losses.mean() + sum(jax.tree.leaves(penalties)), updated

        grads, updated = jax.grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], grads)
        return model.after_step({**variables, **updated, "params": params}, progress)

    variables = init()
    for done in range(1, num_steps + 1):
        before, variables = variables, step(variables, done / num_steps)
        assert jax.tree.structure(before) == jax.tree.structure(variables)
        for layer, (mask, _) in _masks(variables).items():
            num_groups, factor = _factors(fields, layer)
            due = sum(2 * done * (factor - 1) >= stage * num_steps for stage in range(1, factor))
            assert mask.shape[1] == num_groups
            np.testing.assert_array_equal(mask.sum(0) * factor, mask.shape[0] * (factor - due), f"{layer} {done}")
            assert not (mask & ~_masks(before)[layer][0]).any(), "what is dropped never comes back"
    deployed, converted = deploy(model, jax.device_get(variables))
    both = quick_jit(lambda *v: [net.apply(w, x, train=False) for net, w in zip((model, deployed), v, strict=True)])
    masked, grouped = both(variables, converted)
    np.testing.assert_allclose(grouped, masked, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", _FIELDS, ids=str)
def test_the_deployed_network_computes_the_same(x64, fields):
    """In float64, with random statistics; it is what `deployed` declares, and smaller."""
    model, x = _small(**fields), _images(np.float64, batch=2)
    variables = quick_jit(lambda v: model.after_step(v, 1.0))(_random_variables(model, np.float64))
    deployed, converted = deploy(model, jax.device_get(variables))
    declared = abstract_variables(deployed, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float64), train=False)
    shapes = jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.asarray(leaf).dtype), converted)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), declared)
    assert count_params(converted) < count_params(variables)
    # With the masks whole it is another network: they matter.
    unmasked = {**variables, "condensation": _random_variables(model)["condensation"]}
    nets = (model, model, deployed)
    run = quick_jit(lambda *v: [net.apply(w, x, train=False) for net, w in zip(nets, v, strict=True)])
    whole, masked, grouped = run(unmasked, variables, converted)
    np.testing.assert_allclose(grouped, masked, rtol=1e-10, atol=1e-10)
    assert np.abs(whole - masked).max() > 0.1


def test_the_first_inputs_that_go_are_those_of_the_smallest_weights():
    model = _small(num_groups=4)
    variables = _random_variables(model)
    after = quick_jit(model.after_step)(variables, np.float32(1 / 6))
    for name in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, after[name], variables[name])
    for layer, (mask, kernel) in _masks(after).items():
        if layer.startswith("classifier"):
            assert mask.all()
            continue
        for group in range(4):
            sums = np.abs(kernel[0, 0, :, group::4]).sum(1)
            assert set(np.flatnonzero(~mask[:, group])) == set(np.argsort(sums)[: len(sums) // 4])


def test_nothing_goes_before_the_first_stage_is_over():
    model = _small(num_groups=4)
    variables = _random_variables(model)
    jax.tree.map(np.testing.assert_array_equal, quick_jit(model.after_step)(variables, np.float32(0.16)), variables)


def test_a_deployed_network_has_nothing_to_condense():
    model = _small(num_groups=4)
    deployed, variables = deploy(model, jax.device_get(model.after_step(_random_variables(model), 1.0)))
    jax.tree.map(np.testing.assert_array_equal, deployed.after_step(variables, 1.0), variables)


def test_the_penalty_is_the_group_lasso_of_the_convolutions(x64):
    """Summed here weight by weight; in training alone, and none once the network is condensed."""
    model = _small(num_groups=2, group_lasso_weight=0.25)
    variables, x = _random_variables(model, np.float64), _images(np.float64)

    def penalties(model, variables, train):
        return model.apply(variables, x, train=train, mutable=["batch_stats", PENALTIES])[1].get(PENALTIES, {})

    @quick_jit
    def run(variables):
        condensed = model.after_step(variables, 1.0)
        return penalties(model, variables, True), penalties(model, condensed, True)

    whole, condensed = run(variables)
    expected = sum(
        np.sqrt((kernel[0, 0, c, group::2] ** 2).sum())
        for layer, (_, kernel) in _masks(variables).items()
        if not layer.startswith("classifier")
        for c, group in np.ndindex(kernel.shape[2], 2)
    )
    assert set(whole) == {"group_lasso"}
    np.testing.assert_allclose(whole["group_lasso"], 0.25 * expected, rtol=1e-12)
    assert condensed["group_lasso"] == 0
    for net, train in ((model, False), (model.clone(group_lasso_weight=0.0), True)):
        assert not jax.eval_shape(lambda v: penalties(net, v, train), variables)  # noqa: B023


def test_the_penalty_of_imagenet_is_the_papers_and_of_cifar_none():
    assert models.create("condensenet_74").group_lasso_weight == 1e-5
    assert models.create("cifar_condensenet_86").group_lasso_weight == 0.0


def test_the_stages_are_those_of_the_papers_table():
    """Table 1: sizes, growth rates, 1x1 convolutions of four times as many channels, nothing but averages between."""
    maps, out = maps_of(models.create("condensenet_74"), 224)
    features = 16
    assert maps["stem_conv"]["__call__"][0].shape == (1, 112, 112, features)
    stages = [(112, 4, 8), (56, 6, 16), (28, 8, 32), (14, 10, 64), (7, 8, 128)]
    for stage, (size, num_layers, growth_rate) in enumerate(stages, start=1):
        for number in range(1, num_layers + 1):
            layer = maps[f"stage{stage}_unit{number}"]
            features += growth_rate
            assert layer["conv1"]["__call__"][0].shape == (1, size, size, 4 * growth_rate)
            assert layer["conv2"]["__call__"][0].shape == (1, size, size, growth_rate)
            assert layer["__call__"][0].shape == (1, size, size, features)
    assert out.shape == (1, 1000)


def test_every_layer_sees_all_before_it():
    """Those of earlier blocks as means of 2x2 pixels."""
    model, x = _small(num_groups=4), _images(batch=2)
    run = quick_jit(lambda v: model.apply(v, x, train=False, capture_intermediates=True, mutable=["intermediates"])[1])
    maps = jax.device_get(run(_random_variables(model)))["intermediates"]
    first, second = (maps[f"stage{stage}_unit1"]["__call__"][0] for stage in (1, 2))
    np.testing.assert_array_equal(first[..., :16], maps["stem_conv"]["__call__"][0])
    means = first.reshape(2, 4, 2, 4, 2, -1).mean((2, 4))
    np.testing.assert_allclose(second[..., : first.shape[-1]], means, rtol=1e-5, atol=1e-5)


def test_activations_come_before_convolutions():
    """One for each convolution but the first, and one before the classifier; dropout in between changes no shape."""
    for fields in ({}, {"deployed": True}):
        calls = []
        model = _small(num_groups=4, act=lambda x, calls=calls: calls.append(x.shape[-1]) or x, **fields)
        maps_of(model, 8)
        init_and_apply = 2
        assert calls == [16, 32, 24, 64, 40] * init_and_apply


def test_stems():
    for name, fields, size in (
        ("condensenet_74", {}, 14),
        ("condensenet_74", {"stem": "small"}, 28),
        ("condensenet_74", {"stem": "stride2", "stem_features": 24}, 14),
    ):
        maps, _ = maps_of(models.create(name, **_SMALL, **fields), 28)
        assert maps["stem_conv"]["__call__"][0].shape == (1, size, size, fields.get("stem_features", 16))
        assert "stem_norm" not in maps


def test_initial_values_are_the_authors():
    model = models.create("condensenet_74", num_classes=100, stage_sizes=(1,), growth_rates=(32,), num_groups=4)
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    for kernel, fan_out in [
        (params["stem_conv"]["kernel"], 9 * 64),
        (params["stage1_unit1"]["conv1"]["kernel"], 128),
        (params["stage1_unit1"]["conv2"]["kernel"], 9 * 32),
    ]:
        # 4 standard errors of a standard deviation
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_out), rtol=4 / np.sqrt(2 * kernel.size))
    kernel, limit = params["classifier"]["linear"]["kernel"], 1 / np.sqrt(96)
    assert -limit <= kernel.min() < -0.99 * limit and 0.99 * limit < kernel.max() <= limit
    assert not params["classifier"]["bias"].any()


def test_examples_reach_norms_and_dropout():
    model = _small(num_groups=2, dropout_rate=0.5, stage_sizes=(1,), growth_rates=(8,))
    check_examples_reach_norms_and_dropout(model, _random_variables(model))


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "CondenseNet: stem: unknown name 'tiny'; one of imagenet, small, stride2"),
        (
            {"stage_sizes": (1, 2)},
            r"CondenseNet: growth_rates=\(8, 16, 32, 64, 128\) must be one for each of stage_siz",
        ),
        ({"num_groups": 3}, "LearnedGroupConv: num_groups=3 must divide in_features=16 and features=32; choose a div"),
        ({"condense_factor": 5}, "LearnedGroupConv: condense_factor=5 must divide in_features=16; choose a divisor"),
        ({"classifier_condense_factor": 5}, "LearnedGroupConv: condense_factor=5 must divide in_features=2064; choose"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("condensenet_74", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)


def test_what_cannot_be_deployed_is_refused():
    model = _small(num_groups=4)
    with pytest.raises(
        ValueError, match=r"^to_index_and_grouped_conv: the groups have \[.*\] inputs of .*; condense to stage"
    ):
        deploy(model, _random_variables(model))
    with pytest.raises(ValueError, match=r"^deploy: deployed=True must be False; the network is converted already"):
        deploy(model.clone(deployed=True), {})


def test_images_that_are_too_small_are_refused():
    model = models.create("condensenet_74")
    with pytest.raises(ValueError, match=r"^CondenseNet: a map of 1x1 pixels must have 2x2 to be halved; take"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))


def test_integer_images_are_refused():
    model = models.create("condensenet_74")
    with pytest.raises(ValueError, match=r"^CondenseNet: x must be floating point, not uint8; convert"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8), train=False))
