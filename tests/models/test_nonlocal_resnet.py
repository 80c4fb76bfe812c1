"""ResNet with non-local blocks: where they stand, and that the network starts as the ResNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models
from arch.attention.non_local import NonLocal
from arch.efficiency.complexity import abstract_variables
from arch.norm import bind
from arch.norm.batch import BatchNorm
from tests.compiling import quick_jit
from tests.models.checks import maps_of, random_variables

_SMALL = {"num_classes": 10, "stage_sizes": (1, 2), "stage_features": (8, 8), "stem_features": 8, "stem": "small"}
_BLOCK = {**_SMALL, "blocks_after": ((), (1,))}


@pytest.mark.parametrize(
    "name,blocks,inner_features",
    [
        ("nonlocal_resnet50", {"stage2_unit2": 512, "stage2_unit4": 512, "stage3_unit2": 1024, "stage3_unit4": 1024,
                               "stage3_unit6": 1024}, 2),
        ("nonlocal_resnet50_1block", {"stage3_unit5": 1024}, 2),
    ],
)  # fmt: skip
def test_blocks_stand_where_the_paper_has_them(name, blocks, inner_features):
    """Behind every other unit of res3 and res4, or before the last unit of res4; half of the channels inside."""
    maps, _ = maps_of(models.create(name), 64)
    found = {unit: layers["context"] for unit, layers in maps.items() if "context" in layers}
    assert {unit: layers["out"]["__call__"][0].shape[-1] for unit, layers in found.items()} == blocks
    for unit, layers in found.items():
        for part in ("theta", "phi", "g"):
            assert layers[part]["__call__"][0].shape[-1] == blocks[unit] // inner_features


def test_it_starts_as_the_resnet(x64):
    """The scale of each block's norm starts at zero, and the other weights have the names of the ResNet's."""
    model, resnet = models.create("nonlocal_resnet50", **_BLOCK), models.create("resnet50", **_SMALL)
    x = np.random.default_rng(1).standard_normal((2, 8, 8, 3))
    variables = random_variables(model, x)
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.asarray(x), train=False)["params"])()
    block = init["stage2_unit1"]["context"]
    assert not block["norm"]["scale"].any() and all(
        block[name]["kernel"].any() for name in ("theta", "phi", "g", "out")
    )
    norm = variables["params"]["stage2_unit1"]["context"]["norm"]
    for name in norm:
        norm[name] = np.zeros_like(norm[name])
    plain = {group: dict(tree) for group, tree in variables.items()}
    for tree in plain.values():
        tree["stage2_unit1"] = {name: layer for name, layer in tree["stage2_unit1"].items() if name != "context"}
    run = quick_jit(
        lambda variables, plain: (model.apply(variables, x, train=False), resnet.apply(plain, x, train=False))
    )
    ours, theirs = run(variables, plain)
    np.testing.assert_array_equal(ours, theirs)


def test_the_block_reads_what_its_unit_puts_out(x64):
    """After the last activation; the unit behind it reads the sum."""
    model = models.create("nonlocal_resnet50", **{**_BLOCK, "stage_sizes": (1, 1)}, form="dot_product")
    x = np.random.default_rng(1).standard_normal((2, 8, 8, 3))
    variables = random_variables(model, x)
    block = NonLocal("dot_product", subsampling="after", norm=bind(BatchNorm, train=False))

    @quick_jit
    def run(variables):
        resnet = models.create("resnet50", **{**_SMALL, "stage_sizes": (1, 1)}, features_only=True)
        plain = {
            group: tree
            | {"stage2_unit1": {name: leaf for name, leaf in tree["stage2_unit1"].items() if name != "context"}}
            for group, tree in variables.items()
        }
        before = resnet.apply(plain, x, train=False)[2]
        of_block = {group: tree["stage2_unit1"]["context"] for group, tree in variables.items()}
        after = model.clone(features_only=True).apply(variables, x, train=False)[2]
        return before, block.apply(of_block, before), after

    before, expected, after = run(variables)
    assert before.min() >= 0 and after.min() < 0
    np.testing.assert_allclose(after, expected, rtol=1e-12, atol=1e-12)


def test_every_option_of_the_block_reaches_it(x64):
    x = np.random.default_rng(1).standard_normal((2, 8, 8, 3))
    variables = random_variables(models.create("nonlocal_resnet50", **_BLOCK), x)
    options = ({}, {"form": "dot_product"}, {"subsampling": None}, {"use_scale": True})
    nets = [models.create("nonlocal_resnet50", **_BLOCK, **fields) for fields in options]
    logits = quick_jit(lambda variables: [net.apply(variables, x, train=False) for net in nets])(variables)
    for other in range(1, len(options)):
        assert np.abs(logits[other] - logits[0]).max() > 1e-6, options[other]


def test_every_parameter_of_a_block_has_the_dtype_of_the_network(x64):
    model = models.create("nonlocal_resnet50", **_BLOCK, form="concatenation", param_dtype=jnp.float64)
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    block = abstract_variables(model, x, train=False)["params"]["stage2_unit1"]["context"]
    assert "concat_kernel" in block and {leaf.dtype for leaf in jax.tree.leaves(block)} == {jnp.dtype("float64")}


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"blocks_after": ((), (1,))}, r"NonLocalResNet: blocks_after=\(\(\), \(1,\)\) must be one for each of stage_"),
        (
            {"blocks_after": ((), (), (0, 2), ())},
            r"NonLocalResNet: blocks_after=\(0, 2\) of stage 3 must lie in 1 to 6, its units; leave 0 out",
        ),
        ({"form": "gausian"}, "NonLocal: form: unknown name 'gausian'; did you mean 'gaussian'"),
        ({"stem": "tiny"}, "ResNet: stem: unknown name 'tiny'"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("nonlocal_resnet50", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)
