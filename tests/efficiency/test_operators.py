"""A network cut into operators: put together again, and counted."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import models
from arch.efficiency.complexity import abstract_variables, count_macs
from arch.efficiency.operators import operators
from arch.norm.fold import fold
from arch.ops.channel import channel_shuffle
from arch.ops.conv import Conv
from arch.ops.pooling import max_pool


class _Net(nn.Module):
    """Branches, a shuffle, slices, a shortcut, a gate that reads two operators, a kernel computed from parameters."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(Conv(8, 3, name="stem")(x))
        x = max_pool(x, 3, 2, 1)
        left, right = jnp.split(channel_shuffle(x, 2), 2, axis=-1)
        right = nn.relu(Conv(4, 1, name="right")(right)) * 2
        x = jnp.concatenate([left, right], -1) + x
        gate = nn.sigmoid(nn.Dense(8, name="gate")(x.mean((1, 2))))
        x = x * gate[:, None, None]
        gain = self.param("gain", nn.initializers.ones, (8,))
        return x.reshape(x.shape[0], -1) @ jnp.tile(jnp.exp(gain), 16)[:, None]


def _run(fn, *args):
    """The network, operator by operator, and the values in its memory."""
    values = dict(enumerate(jax.tree.leaves(args)))
    for operator in operators(fn, *args):
        assert [values[number].shape for number in operator.reads] == [shape.shape for shape in operator.inputs]
        values |= zip(operator.writes, operator.fn(*(values[number] for number in operator.reads)), strict=True)
    return values


def test_operators_one_after_the_other_are_the_network():
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = _Net().init(jax.random.key(0), x)
    values = jax.jit(functools.partial(_run, _Net().apply))(variables, x)
    last = operators(_Net().apply, variables, x)[-1].writes[-1]
    np.testing.assert_allclose(values[last], _Net().apply(variables, x), rtol=1e-5)


def test_operators_of_a_folded_network_are_it():
    model = models.create("shufflenet_v2_x0_5", num_classes=10, stage_sizes=(2, 2, 1))
    x = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), x)
    apply, folded = fold(model, variables, x, train=False)
    values = jax.jit(functools.partial(_run, apply))(folded, x)
    expected = apply(folded, x)
    assert any(value.shape == expected.shape and jnp.allclose(value, expected, atol=1e-5) for value in values.values())


def test_what_follows_element_by_element_belongs_to_the_operator_before():
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    found = operators(_Net().apply, abstract_variables(_Net(), x), x)
    names = [operator.key.split()[0] for operator in found]
    # The stem with its ReLU; a pool, whatever it is made of; the shuffle; the right branch with ReLU and doubling; the
    # join with the shortcut; the mean; the gate and what it scales; the tiled gain; the product.
    assert names[0] == "conv" and names[2:] == [
        "transpose",
        "conv",
        "concatenate",
        "reduce_sum",
        "linear",
        "tile",
        "linear",
    ]


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50", "densenet121"])
def test_operators_have_the_multiply_adds_of_the_network(name):
    model, x = models.create(name), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = abstract_variables(model, x, train=False)
    apply = functools.partial(model.apply, train=False)
    distinct, times = {}, collections.Counter()
    for operator in operators(apply, variables, x):
        distinct[operator.key] = operator
        times[operator.key] += 1
    counted = 0
    for key, operator in distinct.items():
        macs = count_macs(lambda _, *inputs, fn=operator.fn: fn(*inputs), (), *operator.inputs)
        counted += times[key] * macs.total
    assert counted == count_macs(apply, variables, x).total
    assert sum(times.values()) > len(distinct)


def test_the_key_tells_apart_what_differs_and_nothing_else():
    def keys(shape=(1, 8, 8, 4), dtype=jnp.float32, taps=3, act=nn.relu):
        net = Conv(4, taps, dtype=dtype, param_dtype=dtype)
        x = jax.ShapeDtypeStruct(shape, dtype)
        variables = abstract_variables(net, x)
        return [o.key for o in operators(lambda v, x: act(net.apply(v, x)), variables, x)]

    (plain,) = keys()
    assert keys() == [plain]
    others = [keys((1, 8, 4, 4)), keys(dtype=jnp.bfloat16), keys(taps=1), keys(act=nn.sigmoid), keys(act=lambda x: x)]
    assert len({plain, *(key for (key,) in others)}) == 6
