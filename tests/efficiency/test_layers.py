"""The layers of a network: each operation belongs to the module that asks for it."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from arch.attention.dot_product import MultiHeadAttention
from arch.efficiency.arithmetic import Macs
from arch.efficiency.complexity import total, trace
from arch.efficiency.layers import layers
from arch.ops.conv import Conv
from arch.ops.shift import ActiveShift


class _Net(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = Conv(8, (3, 1), strides=2, feature_group_count=2, name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        x = Conv(16, 3, feature_group_count=8, name="depthwise")(x)
        x = ActiveShift(name="shift")(x)
        x = MultiHeadAttention(num_heads=2, name="attention")(x.reshape(x.shape[0], -1, 16))
        if self.is_initializing() or train:
            nn.Dense(3, name="auxiliary")(x)
        gain = self.param("gain", nn.initializers.ones, ())
        return nn.Dense(5, name="classifier")(x.mean(1)) * gain


def test_each_layer_has_its_own():
    traced = trace(_Net(), (2, 8, 8, 4), train=False)
    found = {layer.path: layer for layer in layers(traced)}
    told = {path: (layer.kind, layer.shape, layer.params, layer.macs) for path, layer in found.items()}
    pixels, tokens = 2 * 16, 2 * 16
    assert told == {
        "conv": ("conv 3x1/2 in 2 groups", (2, 4, 4, 8), 3 * 2 * 8 + 8, Macs(conv=pixels * 3 * 2 * 8)),
        "norm": ("norm", (2, 4, 4, 8), 16, Macs()),
        "depthwise": ("depthwise 3x3", (2, 4, 4, 16), 160, Macs(conv=pixels * 9 * 16)),
        "shift": ("reading", (2, 4, 4, 16), 32, Macs(other=pixels * 4 * 16)),
        **{
            f"attention/{name}": ("linear", (2, 16, 2, 8), 272, Macs(linear=tokens * 256))
            for name in ("query", "key", "value")
        },
        "attention": ("product", (2, 16, 2, 8), 0, Macs(other=2 * tokens * 16 * 16)),
        "attention/out": ("linear", (2, 16, 16), 272, Macs(linear=tokens * 256)),
        "classifier": ("linear", (2, 5), 85, Macs(linear=2 * 80)),
        "": ("parameters", (2, 5), 1, Macs()),
        "auxiliary": ("parameters", (), 51, Macs()),
    }
    assert [path for path in found if path][:3] == ["conv", "norm", "depthwise"] and list(found)[-1] == "auxiliary"


def test_they_add_up():
    traced = trace(_Net(), (2, 8, 8, 4), train=True)
    cost, found = total(traced), layers(traced)
    macs = sum((layer.macs for layer in found), Macs())
    assert macs == Macs(cost.conv_macs, cost.linear_macs, cost.other_macs)
    assert sum(layer.params for layer in found) == cost.params
    assert sum(layer.activations for layer in found) == cost.activations
    assert 0 < sum(layer.bytes_moved for layer in found) <= cost.bytes_moved


def test_methods_and_transformations_are_no_layers():
    class Outer(nn.Module):
        def setup(self):
            self.inner = nn.Dense(3)

        def _twice(self, x):
            return self.inner(x) + jax.checkpoint(jnp.sin)(self.inner(x))

        def __call__(self, x):
            return self._twice(x)

    (layer,) = layers(trace(Outer(), (2, 3)))
    assert (layer.path, layer.macs) == ("inner", Macs(linear=2 * 2 * 9))
