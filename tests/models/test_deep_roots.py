"""Deep Roots: Network in Network against torch's layers, recorded in tests/goldens, and the authors' tables."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from arch import models, norm
from arch.efficiency.complexity import abstract_variables, count_params
from tests.compiling import quick_jit
from tests.models.checks import check_eval_parity, check_examples_reach_norms_and_dropout, maps_of

_SMALL = {"stage_features": ((16, 8), (16, 12), (16,)), "groups": (1, 4, 2)}
_TWO_STAGES = {"kernel_sizes": (3, 3), "groups": (1, 4), "pools": ("max",)}
_PLACES = {"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "classifier": 12}


def test_parity_with_torchs_layers(x64):
    """Groups, biases, and pools whose last windows reach over the map."""
    model = models.create("deep_roots_nin", num_classes=10, **_SMALL)
    check_eval_parity(model, "deep_roots.npz", "small", 16, lambda _, layers: str(_PLACES[layers[0]]))


@pytest.mark.parametrize(
    "name,published",
    [
        ("resnet50_v1", 25_503_976),
        ("deep_roots_resnet50_root2", 25_448_680),
        ("deep_roots_resnet50_root4", 25_126_120),
        ("deep_roots_resnet50_root8", 23_195_368),
        ("deep_roots_resnet50_root16", 18_691_048),
        ("deep_roots_resnet50_root32", 16_438_888),
        ("deep_roots_resnet50_root64", 15_312_808),
    ],
)
def test_parameters_are_those_of_the_authors_table(name, published):
    """Which counts no norm, and 64 biases of the first convolution."""
    variables = abstract_variables(models.create(name), jnp.zeros((1, 64, 64, 3)), train=False)
    leaves = traverse_util.flatten_dict(variables["params"]).items()
    weights = sum(leaf.size for path, leaf in leaves if not re.search("norm", path[-2]))
    assert weights + 64 == published


def test_groups_save_what_the_authors_table_says_of_resnet_200():
    """Whose parameters count 2,046,016 fewer in all rows, most of them of the classifier."""
    published = {
        (1, 1, 1, 1): 62_451_880,
        (2, 1, 1, 1): 62_396_584,
        (8, 4, 2, 1): 49_084_072,
        (64, 32, 16, 8): 32_814_952,
    }
    plain, *saved = (
        count_params(
            abstract_variables(
                models.create("resnet200", groups=groups, stride_at="first"), jnp.zeros((1, 32, 32, 3)), train=False
            )
        )
        for groups in published
    )
    of_plain, *of_saved = published.values()
    assert [plain - params for params in saved] == [of_plain - params for params in of_saved]


@pytest.mark.parametrize(
    "name,groups",
    [
        ("deep_roots_nin", (1, 1, 1)),
        ("deep_roots_nin_root2", (1, 2, 1)),
        ("deep_roots_nin_root4", (1, 4, 2)),
        ("deep_roots_nin_root8", (1, 8, 4)),
        ("deep_roots_nin_root16", (1, 16, 8)),
    ],
)
def test_a_root_module_is_a_convolution_in_groups_and_one_that_mixes_them(name, groups):
    params = abstract_variables(models.create(name), jnp.zeros((1, 32, 32, 3)), train=False)["params"]
    windows = [params[f"conv{stage}_1"]["kernel"].shape for stage in (1, 2, 3)]
    assert windows == [(5, 5, 3 // groups[0], 192), (5, 5, 96 // groups[1], 192), (3, 3, 192 // groups[2], 192)]
    assert [params[f"conv{stage}_2"]["kernel"].shape for stage in (2, 3)] == [(1, 1, 192, 192)] * 2


def test_a_norm_takes_the_place_of_the_biases():
    """Of all convolutions but the classifier."""
    model = models.create("deep_roots_nin", norm=norm.create("batch_norm"), **_SMALL)
    params = abstract_variables(model, jnp.zeros((1, 16, 16, 3)), train=False)["params"]
    biased = {name for name, layer in params.items() if "kernel" in layer and "bias" in layer}
    assert biased == {"classifier"}
    assert {name for name in params if name.endswith("_norm")} == {f"{name}_norm" for name in _PLACES} - {
        "classifier_norm"
    }


def test_the_stem_may_have_a_stride():
    maps, out = maps_of(models.create("deep_roots_nin", stem="stride2", num_classes=10, **_SMALL), 28)
    assert maps["conv1_1"]["__call__"][0].shape == (1, 14, 14, 16)
    assert maps["conv2_1"]["__call__"][0].shape == (1, 7, 7, 16)
    assert maps["conv3_1"]["__call__"][0].shape == (1, 3, 3, 16)
    assert out.shape == (1, 10)


def test_no_activation_follows_the_classifier():
    calls = []
    model = models.create("deep_roots_nin", act=lambda x: calls.append(x.shape[-1]) or x, num_classes=10, **_SMALL)
    maps_of(model, 16)
    init_and_apply = 2
    assert calls == [16, 8, 16, 12, 16] * init_and_apply


def test_dropout_follows_both_pools():
    """At one half, as in Network in Network."""
    assert models.create("deep_roots_nin").dropout_rate == 0.5
    maps, _ = maps_of(models.create("deep_roots_nin", num_classes=10, **_SMALL), 16)
    shapes = [maps[name]["__call__"][0].shape for name in ("dropout1", "dropout2")]
    assert shapes == [(1, 8, 8, 8), (1, 4, 4, 12)]


def test_examples_reach_norms_and_dropout():
    check_examples_reach_norms_and_dropout(
        models.create("deep_roots_nin", num_classes=10, norm=norm.create("batch_norm"), **_SMALL)
    )


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "imagenet"}, "NetworkInNetwork: stem: unknown name 'imagenet'; one of small, stride2"),
        ({"pools": ("max", "mean")}, "NetworkInNetwork: pools: unknown name 'mean'; did you mean 'max'?"),
        ({"groups": (1, 1)}, "NetworkInNetwork: groups=(1, 1) must have 3 values, for stage_features="),
        ({"groups": (1, 5, 1)}, "Conv: feature_group_count=5 must divide"),
        ({"kernel_sizes": (5,)}, "NetworkInNetwork: kernel_sizes=(5,) must have 3 values"),
        ({"pools": ("max",)}, "NetworkInNetwork: pools=('max',) must have 2 values"),
        ({"dropout_rate": 2.0}, "Dropout: rate=2.0 must lie in [0, 1]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("deep_roots_nin", **fields)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)


def test_initial_values_count_the_channels_of_a_group():
    """Section 4 of the paper: He et al.'s, for the fan-in that a filter has."""
    model = models.create("deep_roots_nin", num_classes=10, stage_features=((16,), (64,)), **_TWO_STAGES)
    init = quick_jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.device_get(init())
    kernel = params["conv2_1"]["kernel"]
    assert kernel.shape == (3, 3, 4, 64)
    # 4 standard errors of a standard deviation
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 4)), rtol=4 / np.sqrt(2 * kernel.size))
    assert not any(layer["bias"].any() for layer in params.values())


def test_pools_are_those_named():
    """A mean is at most the largest value, of what activations put out."""
    single = {"stage_features": ((1,), (1,)), "groups": (1, 1), "kernel_sizes": (1, 1)}
    ones = models.create("deep_roots_nin", features_only=True, pools=("max",), **single)
    x = np.random.default_rng(0).uniform(0.0, 1.0, (1, 8, 8, 1)).astype(np.float32)
    layer = {"kernel": np.ones((1, 1, 1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    variables = {"params": {"conv1_1": layer, "conv2_1": layer}}
    largest, mean = (
        np.asarray(ones.clone(pools=(pool,)).apply(variables, x, train=False)[2])[0, ..., 0] for pool in ("max", "avg")
    )
    for i, j in np.ndindex(4, 4):
        window = x[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, 0]
        assert largest[i, j] == window.max()
        np.testing.assert_allclose(mean[i, j], window.mean(), rtol=1e-5)
