"""Folded networks compute what they did before, and only what can be folded is."""

import re
from collections.abc import Sequence

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import models
from arch.efficiency.complexity import abstract_variables
from arch.norm.batch import BatchNorm
from arch.norm.fold import fold, foldable
from arch.norm.frozen import FrozenBatchNorm
from arch.norm.gradient import SpectralNormConv
from arch.norm.group import GroupNorm
from arch.norm.renorm import BatchRenorm
from arch.norm.weight import MeanOnlyBatchNorm, WeightNormConv, WeightStandardizedConv
from arch.ops.conv import Conv, ConvTranspose, DepthwiseConv
from tests.compiling import quick_jit


def _filled(model, x, **call_kwargs):
    """Random variables, far from those of a fresh network."""
    random = np.random.default_rng(0)

    def fill(path, leaf):
        values, name = random.standard_normal(leaf.shape), path[-1].key
        if name == "kernel":
            values = values * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif name in ("var", "std", "g"):
            values = np.exp(0.3 * values)
        else:
            values = 0.3 * values + (name == "scale")
        return np.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, abstract_variables(model, x, **call_kwargs))


def _images(*shape, dtype=np.float32):
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def _outputs(model, x, **call_kwargs):
    """Of the network as it is, of the folded one, and its variables."""
    variables = _filled(model, x, **call_kwargs)
    apply, folded = fold(model, variables, x, **call_kwargs)
    plain, after = quick_jit(lambda v, f, x: (model.apply(v, x, **call_kwargs), apply(f, x)))(variables, folded, x)
    return np.asarray(plain), np.asarray(after), folded


def _assert_close(actual, expected, tolerance):
    """To `tolerance` of the largest value, or of 1."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


_SMALL = {
    "shufflenet_v2_x1_0": {"stage_sizes": (2, 1), "stage_features": (16, 24), "head_features": 32, "stem_features": 8},
    "mobilenet_v2": {
        "stage_sizes": (1, 2),
        "stage_features": (16, 24),
        "stage_strides": (1, 2),
        "expand_ratios": (1, 6),
    },
    "resnet50": {"stage_sizes": (1, 1), "stage_features": (16, 32)},
    "resnext50_32x4d": {"stage_sizes": (2,), "stage_features": (64,)},
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if "shuffle" in n else pytest.mark.slow) for n in _SMALL])
def test_every_norm_of_a_small_network_is_folded(name):
    model = models.create(name, num_classes=10, **_SMALL[name])
    plain, folded, variables = _outputs(model, _images(2, 32, 32, 3), train=False)
    _assert_close(folded, plain, 1e-5)
    assert np.abs(plain).max() > 0.1
    assert not jax.tree.leaves(variables.get("batch_stats", {}))
    assert not re.search("norm", str(jax.tree.map(jnp.shape, variables["params"])))


@pytest.mark.slow
@pytest.mark.parametrize("name,num_norms", [
    ("shufflenet_v2_x1_0", 56), ("mobilenet_v2", 52), ("resnet50", 53), ("resnext50_32x4d", 53)
])  # fmt: skip
def test_a_folded_network_equals_the_unfolded(name, num_norms):
    model = models.create(name)
    plain, folded, variables = _outputs(model, _images(2, 96, 96, 3), train=False)
    _assert_close(folded, plain, 1e-4)
    assert not jax.tree.leaves(variables.get("batch_stats", {}))
    shape = jax.ShapeDtypeStruct((1, 96, 96, 3), jnp.float32)
    assert len(foldable(model, abstract_variables(model, shape, train=False), shape, train=False)) == num_norms


_WIDE = {"param_dtype": jnp.float64}


class _Layers(nn.Module):
    """Layers of every kind, each with a norm; some with biases, one norm without affine parameters; float64."""

    @nn.compact
    def __call__(self, x, *, train):
        x = Conv(8, 3, **_WIDE, use_bias=True, bias_init=nn.initializers.normal(), name="conv")(x)
        x = nn.relu(BatchNorm(name="conv_norm")(x, train=train))
        x = DepthwiseConv(3, **_WIDE, depth_multiplier=2, use_bias=False, name="depthwise")(x)
        x = nn.relu(BatchNorm(use_scale=False, use_bias=False, name="depthwise_norm")(x, train=train))
        x = Conv(12, (1, 3), **_WIDE, feature_group_count=4, padding="VALID", name="grouped")(x)
        x = nn.relu(BatchNorm(epsilon=1e-3, name="grouped_norm")(x, train=train))
        x = ConvTranspose(6, 3, **_WIDE, strides=2, use_bias=False, name="transposed")(x)
        x = BatchNorm(name="transposed_norm")(x, train=train).mean((1, 2))
        x = nn.Dense(7, **_WIDE, name="dense")(x)
        return BatchNorm(name="dense_norm")(x, train=train)


def test_layers_of_every_kind_in_float64_against_the_formula(x64):
    """The folded kernel and bias by hand, and outputs that differ by rounding alone."""
    model, x = _Layers(), _images(2, 6, 6, 3, dtype=np.float64)
    plain, folded, variables = _outputs(model, x, train=False)
    np.testing.assert_allclose(folded, plain, rtol=1e-12, atol=1e-12)
    before = _filled(model, x, train=False)
    for layer, epsilon in {"conv": 1e-5, "depthwise": 1e-5, "grouped": 1e-3, "transposed": 1e-5, "dense": 1e-5}.items():
        own, norm = before["params"][layer], before["params"].get(f"{layer}_norm", {"scale": 1.0, "bias": 0.0})
        stats = before["batch_stats"][f"{layer}_norm"]
        factor = norm["scale"] / np.sqrt(stats["var"] + epsilon)
        actual = variables["params"][layer]
        np.testing.assert_allclose(actual["kernel"], own["kernel"] * factor, rtol=1e-12)
        bias = (own.get("bias", 0.0) - stats["mean"]) * factor + norm["bias"]
        np.testing.assert_allclose(actual["bias"], bias, rtol=1e-12, atol=1e-14)


class _Traps(nn.Module):
    """What looks like a convolution with its norm, and must stay."""

    @nn.compact
    def __call__(self, x, *, train):
        norm = lambda x, name: BatchNorm(name=name)(x, train=train)  # noqa: E731
        x = norm(x, "no_conv_before")
        twice_read = Conv(4, 3, name="twice_read")(x)
        x = norm(twice_read, "of_twice_read") + twice_read
        x = norm(nn.relu(Conv(4, 3, name="activated")(x)), "of_activated")
        both = Conv(4, 3, name="two_norms")(x)
        x = norm(both, "first_of_two") * norm(both, "second_of_two")
        shared = Conv(4, 3, name="shared")
        x = norm(shared(norm(shared(x), "of_shared_1")), "of_shared_2")
        shared_norm = BatchNorm(name="shared_norm")
        x = shared_norm(Conv(4, 1, name="a")(shared_norm(Conv(4, 1, name="b")(x), train=train)), train=train)
        x = GroupNorm(name="group_norm")(Conv(4, 1, name="grouped_norm_conv")(x), train=train)
        tied = Conv(4, 1, name="kernel_read_twice")
        x = norm(tied(x), "of_kernel_read_twice") + tied.variables["params"]["kernel"].sum()
        x = norm(ConvTranspose(4, 3, transpose_kernel=True, name="other_layout")(x), "of_other_layout")
        x = norm(nn.WeightNorm(Conv(4, 3, name="inner"), name="weight_norm")(x), "of_weight_norm")
        x = norm(WeightNormConv(4, 3, name="weight_normed")(x), "of_weight_normed")
        x = norm(WeightStandardizedConv(4, 3, name="standardized")(x), "of_standardized")
        x = norm(SpectralNormConv(4, 3, name="spectral_conv")(x), "of_spectral_conv")
        x = norm(nn.SpectralNorm(Conv(4, 3, name="bounded"), name="spectral")(x, update_stats=False), "of_spectral")
        x = norm(nn.remat(Conv)(4, 3, name="rematerialised")(x), "of_rematerialised")
        return norm(Conv(4, 3, name="last", **_WIDE)(x), "folded")


def test_what_cannot_be_folded_stays(x64):
    model, x = _Traps(), _images(2, 5, 5, 4, dtype=np.float64)
    variables = _filled(model, x, train=False)
    pairs = foldable(model, variables, x, train=False)
    assert [(pair.layer, pair.norm) for pair in pairs] == [(("last",), ("folded",))]
    plain, folded, after = _outputs(model, x, train=False)
    np.testing.assert_allclose(folded, plain, rtol=1e-11, atol=1e-11)
    assert set(variables["params"]) - set(after["params"]) == {"folded"}
    kept = after["params"]["twice_read"]["kernel"]
    np.testing.assert_array_equal(kept, variables["params"]["twice_read"]["kernel"])


class _Output(nn.Module):
    """A convolution whose output the network puts out too."""

    @nn.compact
    def __call__(self, x, *, train):
        x = Conv(4, 3, name="conv")(x)
        return x, BatchNorm(name="norm")(x, train=train)


def test_a_convolution_that_is_an_output_is_not_folded():
    x = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
    assert not foldable(_Output(), abstract_variables(_Output(), x, train=False), x, train=False)


class _Nested(nn.Module):
    """Convolution and norm in modules of their own, made in `setup`."""

    dtype: jnp.dtype | None = None
    norms_of: Sequence[type[nn.Module]] = (BatchNorm, BatchNorm)

    def setup(self):
        self.convs = [Conv(8, 3, use_bias=False, dtype=self.dtype) for _ in self.norms_of]
        self.norms = [norm(dtype=self.dtype) for norm in self.norms_of]

    def __call__(self, x, *, train):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x), train=train)
        return x


def test_modules_made_in_setup_and_bfloat16():
    """The output stays bfloat16 and near that of float32; kernels are folded in float32."""
    x = _images(2, 8, 8, 3)
    exact, folded, variables = _outputs(_Nested(), x, train=False)
    _assert_close(folded, exact, 1e-5)
    _, rounded, same = _outputs(_Nested(jnp.bfloat16), x, train=False)
    assert rounded.dtype == jnp.bfloat16
    _assert_close(rounded.astype(np.float32), exact, 2e-2)
    jax.tree.map(np.testing.assert_array_equal, same, variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(same)} == {np.dtype("float32")}


def test_every_norm_with_running_statistics_is_folded():
    """Batch renormalization, frozen and mean-only batch normalization too: in evaluation all are a * x + b."""
    model = _Nested(norms_of=(BatchRenorm, FrozenBatchNorm, MeanOnlyBatchNorm))
    plain, folded, variables = _outputs(model, _images(2, 8, 8, 3), train=False)
    _assert_close(folded, plain, 1e-5)
    assert set(variables["params"]) == {"convs_0", "convs_1", "convs_2"}


def test_the_folded_network_is_exported_and_takes_other_sizes():
    model, x = _Nested(), _images(2, 8, 8, 3)
    variables = _filled(model, x, train=False)
    apply, folded = fold(model, variables, jax.ShapeDtypeStruct(x.shape, x.dtype), train=False)
    larger = _images(3, 9, 10, 3)
    exported = jax.export.deserialize(jax.export.export(jax.jit(apply))(folded, larger).serialize())
    expected = quick_jit(lambda v, x: model.apply(v, x, train=False))(variables, larger)
    _assert_close(np.asarray(exported.call(folded, larger)), np.asarray(expected), 1e-5)


def test_training_mode_is_refused():
    x = _images(1, 8, 8, 3)
    variables = _filled(_Nested(), x, train=False)
    with pytest.raises(ValueError, match=r"fold: norm=norms_0 must be in evaluation; fold\(model, .*train=False\)"):
        fold(_Nested(), variables, x, train=True)
