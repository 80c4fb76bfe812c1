"""NASNet, AmoebaNet and PNASNet: timm's networks, recorded in tests/goldens, and what the papers count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import AUXILIARY, models, norm
from arch.blocks import cells
from arch.efficiency.complexity import abstract_variables, count
from arch.models.genotypes import AMOEBANET_A, Cell, Genotype, unused_states
from arch.weights.names import nasnet as names
from tests.models.checks import check_examples_reach_norms_and_dropout, check_parity, maps_of

SMALL = {"stage_sizes": (1, 1), "features": 4, "stem": "small", "num_classes": 10}
# The recorded networks do not drop, and keep torch's unbiased running variance.
RECORDED = {
    "num_classes": 10,
    "stage_sizes": (2, 1, 1),
    "features": 8,
    "stem_features": 12,
    "dropout_rate": 0.0,
    "norm": norm.create("batch_norm", epsilon=1e-3, unbiased_running_variance=True),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,net,layer_names",
    [("nasnet_a_large", "nasnet_small", names.timm), ("pnasnet_5_large", "pnasnet_small", names.timm_pnasnet)],
)
def test_parity_with_timm(x64, name, net, layer_names):
    """Logits, updated running statistics and the gradient of every parameter, from the same weights, in float64."""
    check_parity(models.create(name, **RECORDED), "nasnet.npz", net, 64, layer_names)


# Parameters and multiply-adds that the papers print, of what TensorFlow's programs build.
PAPERS = {
    ("nasnet_a_mobile", 224): ("5.3M", "564M"),
    ("nasnet_a_large", 331): ("88.9M", "23.8B"),
    ("cifar_nasnet_a", 32): ("3.3M", None),
    ("pnasnet_5_large", 331): ("86.1M", "25.0B"),
    ("amoebanet_a_4_50", 224): ("5.1M", "555M"),
    ("amoebanet_a_6_190", 331): ("86.7M", "23.1B"),
    ("amoebanet_a_6_448", 299): ("469M", "104B"),
    ("cifar_amoebanet_a_6_32", 32): ("2.6M", None),
    ("cifar_amoebanet_a_6_36", 32): ("3.2M", None),
}


def printed(value):
    digits = float(value[:-1]) * {"M": 1e6, "B": 1e9}[value[-1]]
    last = 10 ** -len(value[:-1].partition(".")[2])
    return digits, last * {"M": 1e6, "B": 1e9}[value[-1]]


@pytest.mark.slow
@pytest.mark.parametrize("name,size", PAPERS)
def test_sizes_are_those_that_the_papers_print(name, size):
    """To the last digit, give or take one, or 0.2%; with `align_first`, as it can be read too, within 2%."""
    for aligned in (False, True):
        fields = {"align_first": aligned, "num_classes": 10 if size == 32 else 1000}
        cost = count(models.create(name, **fields), (1, size, size, 3), train=False)
        for value, paper in zip((cost.params, cost.macs), PAPERS[name, size], strict=True):
            if paper:
                expected, digit = printed(paper)
                atol = 0.02 * expected if aligned else max(digit, 0.002 * expected)
                np.testing.assert_allclose(value, expected, rtol=0, atol=atol)


# Multiply-adds of the specification, in millions, with `align_first`.
COUNTED = {
    ("nasnet_a_mobile", 224): 557.7,
    ("cifar_nasnet_a", 32): 525.8,
    ("amoebanet_a_4_50", 224): 555.7,
    ("cifar_amoebanet_a_6_32", 32): 398.7,
    ("cifar_amoebanet_a_6_36", 32): 498.4,
}


@pytest.mark.slow
@pytest.mark.parametrize("name,size", COUNTED)
def test_multiply_adds_are_counted_to_the_last_digit(name, size):
    model = models.create(name, align_first=True, num_classes=10 if size == 32 else 1000)
    cost = count(model, (1, size, size, 3), train=False)
    assert round(cost.macs / 1e6, 1) == COUNTED[name, size]


@pytest.mark.slow
def test_what_a_cell_puts_out_is_not_what_its_nodes_leave():
    """AmoebaNet-A 4/50 would have 4.34 million parameters and 486 million multiply-adds."""
    normal, reduction = (
        Cell(cell.nodes, unused_states(cell.nodes)) for cell in (AMOEBANET_A.normal, AMOEBANET_A.reduction)
    )
    model = models.create("amoebanet_a_4_50", genotype=Genotype(normal, reduction), align_first=True)
    cost = count(model, (1, 224, 224, 3), train=False)
    np.testing.assert_allclose((cost.params, cost.macs), (4.34e6, 486e6), rtol=0.002)


def test_the_cells_are_those_of_the_papers_figure():
    """Figure 2: reductions between stages and, for ImageNet, two before; 24 * 44 = 1056 channels in the end."""
    maps, out = maps_of(models.create("nasnet_a_mobile"), 224)
    expected = {"stem_cell1": (56, 44), "stem_cell2": (28, 88), "reduction1": (14, 352), "reduction2": (7, 704)}
    expected |= {f"stage{s}_cell{u}": (28 >> s - 1, 132 << s) for s in (1, 2, 3) for u in (1, 2, 3, 4)}
    found = {name: leaf["__call__"][0].shape for name, leaf in maps.items() if "cell" in name or "reduction" in name}
    assert found == {name: (1, pixels, pixels, channels) for name, (pixels, channels) in expected.items()}
    assert out.shape == (1, 1000)


@pytest.mark.parametrize("skip_reduction,channels", [(False, 24), (True, 12)])
def test_the_older_input_after_a_reduction(skip_reduction, channels):
    """What the reduction reads, or, of the large network, what came before that: here 6 * 4, and a stem of 12."""
    model = models.create("cifar_nasnet_a", **SMALL, skip_reduction=skip_reduction)
    variables = abstract_variables(model, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32), train=False)
    kernel = variables["params"]["stage2_cell1"]["previous_halved"]["conv1"]["kernel"]
    assert kernel.shape == (1, 1, channels, 4)


def rates_of(model, progress, monkeypatch):
    """The rates of drop path, in the order of the cells, without repeats; by tracing, where they are numbers still."""
    x, rates = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32), []
    monkeypatch.setattr(cells, "drop_path", lambda x, key, rate, ids: rates.append(rate) or x)
    variables = abstract_variables(model, x, train=False)
    del variables["schedule"]

    def apply(variables, x):
        variables = {**variables, "schedule": {"progress": np.float32(progress)}}
        return model.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})

    jax.eval_shape(apply, variables, x)
    return list(dict.fromkeys(rates))


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_drop_path_grows_with_training_and_with_depth(progress, monkeypatch):
    """TF-slim's v3: cell i of n has i / n of the rate; of AmoebaNet, and DARTS, all have all of it."""
    for name, shares in (
        ("cifar_nasnet_a", (1 / 3, 2 / 3, 1.0)),
        ("cifar_amoebanet_a_6_32", (1.0,)),
        ("cifar_darts_v2", (1.0,)),
    ):
        small = {"num_cells": 3, "features": 4} if "darts" in name else SMALL
        rates = rates_of(models.create(name, **small, drop_path_rate=0.6), progress, monkeypatch)
        expected = list(dict.fromkeys(0.6 * progress * share for share in shares))
        np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_a_step_tells_the_network_how_far_it_is():
    """One number more, which no gradient reaches, where paths are dropped; nothing where none are."""
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    model = models.create("cifar_nasnet_a", **SMALL)
    assert sorted(abstract_variables(model, x, train=False)) == ["batch_stats", "params"]
    variables = abstract_variables(model.clone(drop_path_rate=0.1), x, train=False)
    assert variables["schedule"]["progress"].shape == ()
    told = model.after_step({"schedule": {"progress": jnp.zeros(())}, "params": {}}, 0.75)
    assert told == {"schedule": {"progress": 0.75}, "params": {}}


@pytest.mark.parametrize("name,stage", [("nasnet_a_mobile", (14, 528)), ("cifar_nasnet_a", (16, 384))])
def test_the_auxiliary_head_is_before_the_last_reduction(name, stage):
    """Its pool leaves 4x4 of 14x14 or of 16x16 pixels, all of which its second convolution sees."""
    size = {"nasnet_a_mobile": 224, "cifar_nasnet_a": 32}[name]
    model = models.create(name, num_classes=10, auxiliary_heads=True)
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    params = abstract_variables(model, x, train=False)["params"]["auxiliary"]
    assert params["unit1"]["conv"]["kernel"].shape == (1, 1, stage[1], 128)
    assert params["unit2"]["conv"]["kernel"].shape == (4, 4, 128, 768)
    features = abstract_variables(model.clone(features_only=True), x, train=False)["params"]
    assert "auxiliary" not in features


def test_auxiliary_logits_are_for_training():
    weights = []
    model = models.create("cifar_nasnet_a", **SMALL, auxiliary_heads=True, auxiliary_weight=0.3)
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    variables = abstract_variables(model, x, train=False)

    def apply(variables, x):
        states = []
        for train in (True, False):
            _, state = model.apply(variables, x, train=train, mutable=["batch_stats", AUXILIARY])
            states.append({name: logits for name, (logits, _) in state.get(AUXILIARY, {}).items()})
            weights.extend(weight for _, weight in state.get(AUXILIARY, {}).values())
        return states

    training, evaluation = jax.eval_shape(apply, variables, x)
    assert training["auxiliary_logits"].shape == (2, 10)
    assert not evaluation and weights == [0.3]


def test_examples_reach_norms_drop_path_and_dropout():
    check_examples_reach_norms_and_dropout(
        models.create("cifar_amoebanet_a_6_32", **SMALL, drop_path_rate=0.4, dropout_rate=0.4)
    )


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"features": 1}, "NASNet: features=1 must be at least 2 with stem='small', for what its cells divide them by"),
        ({"stem": "imagenet"}, "NASNet: features=4 must be at least 8 with stem='imagenet', for what its cells divid"),
        ({"drop_path_rate": -0.1}, "NASNet: drop_path_rate=-0.1 must lie in [0, 1]; it is a probability"),
        ({"stage_sizes": (1,), "auxiliary_heads": True}, "NASNet: auxiliary_heads=True must have a stage before the "),
        ({"stage_sizes": (1, 0)}, "NASNet: stage_sizes=(1, 0) must be at least 1 each; "),
        ({"genotype": "nasnet"}, "genotype: unknown name 'nasnet'; did you mean 'nasnet_a'"),
        ({"stem": "tiny"}, "NASNet: stem: unknown name 'tiny'; one of imagenet, small"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("cifar_nasnet_a", **{**SMALL, **fields})
    with pytest.raises(ValueError) as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
