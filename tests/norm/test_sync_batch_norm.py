"""Batch norm over devices: k devices with n examples are one device with k * n, also in each group of devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec

from arch.norm.batch import BatchNorm
from arch.ops.stochastic import Examples
from tests.compiling import quick_jit

SHARDED, REPLICATED = PartitionSpec("batch"), PartitionSpec()


def _data(mean=1.0, std=2.0, batch=8):
    x, probe = jax.random.normal(jax.random.key(0), (2, batch, 3, 3, 4))
    return mean + std * x, probe


def _split(tree, num_devices):
    return jax.tree.map(lambda a: a.reshape(num_devices, -1, *a.shape[1:]), tree)


def _step(module, variables, axis_name, summed=False):
    """(params, (x, probe, weight)) -> gradients of params and of x, outputs, statistics, of one device."""

    def step(params, batch):
        x, probe, weight = batch

        def loss(params, x):
            out, updated = module.apply(
                {**variables, "params": params},
                x,
                train=True,
                examples=Examples(weight=weight),
                mutable=["batch_stats"],
            )
            return jnp.sum(out * probe), (out, updated["batch_stats"])

        (grads, grad_x), (out, stats) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
        if axis_name is not None and not summed:
            grads = jax.lax.psum(grads, axis_name)
        return grads, grad_x, out, stats

    return step


def _one_device(module, variables, x, probe, weight=None):
    return jax.jit(_step(module, variables, None))(variables["params"], (x, probe, weight))


def _devices(how, module, variables, num_devices, x, probe, weight=None):
    """The same four results, with the arrays of the devices joined again; those that are replicated are checked."""
    batch = (x, probe, weight)
    if how.startswith("shard_map"):
        check_vma = how.endswith("checked")
        # Under check_vma=True the gradients of replicated parameters arrive summed.
        return jax.jit(
            jax.shard_map(
                _step(module, variables, "batch", summed=check_vma),
                mesh=Mesh(jax.devices()[:num_devices], ("batch",)),
                in_specs=(REPLICATED, SHARDED),
                out_specs=(REPLICATED, SHARDED, SHARDED, REPLICATED),
                check_vma=check_vma,
            )
        )(variables["params"], batch)
    step, axes = _step(module, variables, "batch"), dict(axis_name="batch", in_axes=(None, 0))
    if how == "pmap":
        step = jax.pmap(step, **axes, devices=jax.devices()[:num_devices])
    else:
        step = jax.jit(jax.vmap(step, **axes))
    grads, grad_x, out, stats = step(variables["params"], _split(batch, num_devices))
    for leaf in jax.tree.leaves((grads, stats)):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    first = functools.partial(jax.tree.map, lambda a: a[0])
    return first(grads), grad_x.reshape(x.shape), out.reshape(x.shape[0], *out.shape[2:]), first(stats)


def _assert_close(actual, expected, tolerance=1e-5):
    """Each array to `tolerance` of its largest value, or of 1."""

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))

    jax.tree.map(compare, actual, expected)


HOWS = ["pmap", "vmap", "shard_map", "shard_map checked"]


_FEW = [("pmap", 1), ("pmap", 3), ("pmap", 8), ("vmap", 4), ("shard_map", 4), ("shard_map checked", 4)]
_OTHERS = [pytest.param("pmap", k, marks=pytest.mark.slow) for k in (2, 4, 5, 6, 7)]


@pytest.mark.parametrize("how,num_devices", _FEW + _OTHERS)
def test_devices_equal_one_device(how, num_devices):
    x, probe = _data(batch=2 * num_devices)
    variables = jax.tree.map(lambda a: a + 0.3, BatchNorm().init(jax.random.key(0), x, train=False))
    layer = functools.partial(BatchNorm, unbiased_running_variance=True)
    expected = _one_device(layer(), variables, x, probe)
    _assert_close(_devices(how, layer(axis_name="batch"), variables, num_devices, x, probe), expected)


@pytest.mark.parametrize("how", HOWS)
def test_large_mean_and_small_variance_over_devices(how):
    x, probe = _data(mean=1e3, std=1e-2, batch=32)
    layer = functools.partial(BatchNorm, epsilon=1e-8)
    variables = layer().init(jax.random.key(0), x, train=False)
    actual = _devices(how, layer(axis_name="batch"), variables, 8, x, probe)
    _assert_close(actual, _one_device(layer(), variables, x, probe))
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-8)
    np.testing.assert_allclose(actual[2], exact, atol=1e-5)
    np.testing.assert_allclose(np.asarray(actual[2]).std((0, 1, 2)), 1.0, rtol=1e-3)


@pytest.mark.parametrize("how", ["pmap", "vmap", "shard_map checked"])
def test_masked_examples_over_devices_with_unequal_counts(how):
    """Four valid examples on one device and one on the other: means of means would give 2.69 for 1.09."""
    x, probe = _data()
    weight = jnp.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    probe = probe * weight[:, None, None, None]
    variables = BatchNorm().init(jax.random.key(0), x, train=False)
    grads, grad_x, out, stats = _devices(how, BatchNorm(axis_name="batch"), variables, 2, x, probe, weight)
    kept = np.flatnonzero(weight)
    expected = _one_device(BatchNorm(), variables, x[kept], probe[kept])
    _assert_close((grads, grad_x[kept], out[kept], stats), expected)
    values = np.asarray(x, np.float64)[kept]
    np.testing.assert_allclose(stats["mean"], 0.1 * values.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * values.var((0, 1, 2)), atol=1e-6)


@pytest.mark.parametrize("how", ["pmap", "shard_map checked"])
def test_a_device_without_weight_does_not_disturb(how):
    x, probe = _data(mean=50.0, std=1.0)
    x = x.at[:4].set(-7.0)
    weight = jnp.array([0.0] * 4 + [1.0] * 4)
    probe = probe * weight[:, None, None, None]
    variables = BatchNorm().init(jax.random.key(0), x, train=False)
    grads, grad_x, out, stats = _devices(how, BatchNorm(axis_name="batch"), variables, 2, x, probe, weight)
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(grad_x[:4], 0.0)
    _assert_close((grads, grad_x[4:], out[4:], stats), _one_device(BatchNorm(), variables, x[4:], probe[4:]))


def _independent(module, variables, num_groups, batch):
    """One device a group: gradients of parameters summed, running statistics averaged, as a training step does."""
    step = quick_jit(jax.vmap(_step(module, variables, None), in_axes=(None, 0)))
    grads, grad_x, out, stats = step(variables["params"], _split(batch, num_groups))
    grads = jax.tree.map(lambda leaf: leaf.sum(0), grads)
    return grads, *_joined((grad_x, out)), jax.tree.map(lambda leaf: leaf.mean(0), stats)


def _joined(tree):
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


_GROUPS = [("pmap", 4, 2), ("vmap", 8, 4), ("shard_map checked", 4, 2)]
_MORE_GROUPS = [("pmap", 1, 1), ("pmap", 8, 1), ("pmap", 8, 2), ("pmap", 8, 4), ("pmap", 8, 8), ("pmap", 6, 3)]
_MORE_GROUPS += [
    ("vmap", 6, 1),
    ("shard_map", 4, 2),
    ("vmap", 8, 2),
    ("vmap", 2, 2),
    ("shard_map", 8, 4),
    ("shard_map checked", 8, 2),
]


@pytest.mark.parametrize(
    "how,num_devices,group_size", _GROUPS + [pytest.param(*case, marks=pytest.mark.slow) for case in _MORE_GROUPS]
)
def test_groups_of_devices_are_independent_batch_norms(how, num_devices, group_size):
    """Each group around a mean of its own, so that statistics of others would be seen."""
    x, probe = _data(batch=2 * num_devices)
    x = x + 10.0 * jnp.arange(len(x)).reshape(-1, 1, 1, 1)
    variables = jax.tree.map(lambda a: a + 0.3, BatchNorm().init(jax.random.key(0), x, train=False))
    layer = functools.partial(BatchNorm, unbiased_running_variance=True)
    expected = _independent(layer(), variables, num_devices // group_size, (x, probe, None))
    grouped = layer(axis_name="batch", device_group_size=group_size)
    _assert_close(_devices(how, grouped, variables, num_devices, x, probe), expected)


@pytest.mark.parametrize("how", ["vmap", pytest.param("pmap", marks=pytest.mark.slow)])
def test_groups_with_unequal_counts_and_one_without_any(how):
    x, probe = _data(batch=12)
    weight = jnp.array([1.0, 1.0, 0.0, 0.0, 0.5, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    probe = probe * weight[:, None, None, None]
    variables = jax.tree.map(lambda a: a + 0.3, BatchNorm().init(jax.random.key(0), x, train=False))
    expected = _independent(BatchNorm(), variables, 3, (x, probe, weight))
    grouped = BatchNorm(axis_name="batch", device_group_size=2)
    actual = _devices(how, grouped, variables, 6, x, probe, weight)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(actual))
    _assert_close(actual, expected)


def test_groups_of_devices_are_exact_in_float64_and_their_means_do_not_mix(x64):
    """Mean 1e3 and standard deviation 1e-2 in one group, 0 and 1 in the other; the formula is NumPy's."""
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 3, 5))
    x[0] = 1e3 + 1e-2 * x[0]
    mean, var = x.mean((1, 2, 3), keepdims=True), x.var((1, 2, 3), keepdims=True)
    layer = BatchNorm(axis_name="batch", device_group_size=2, epsilon=1e-12, momentum=0.0)
    variables = {
        "params": {"scale": np.ones(5), "bias": np.zeros(5)},
        "batch_stats": {"mean": np.ones(5), "var": np.ones(5)},
    }
    for dtype, tolerance in ((np.float64, 1e-9), (np.float32, 1e-5)):
        _, _, out, stats = _devices(
            "vmap", layer, variables, 4, x.reshape(8, 3, 3, 5).astype(dtype), np.ones((8, 1, 1, 1))
        )
        exact = x if dtype == np.float64 else x.astype(np.float32).astype(np.float64)
        mean, var = exact.mean((1, 2, 3), keepdims=True), exact.var((1, 2, 3), keepdims=True)
        np.testing.assert_allclose(out.reshape(x.shape), (exact - mean) / np.sqrt(var + 1e-12), rtol=0, atol=tolerance)
        np.testing.assert_allclose(stats["mean"], mean.mean(0).squeeze(), rtol=1e-6)
        np.testing.assert_allclose(stats["var"], var.mean(0).squeeze(), rtol=1e-6)


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"device_group_size": 3}, "device_group_size=3 must divide the 4 devices of axis 'batch'; choose a divisor"),
        ({"device_group_size": 0}, "device_group_size=0 must divide the 4 devices of axis 'batch'; choose a divisor"),
        ({"device_group_size": 2, "axis_name": None}, "device_group_size=2 needs an axis_name; name the mapped axis"),
    ],
)
def test_groups_that_do_not_fit_are_refused(fields, message):
    x = np.zeros((4, 2, 3), np.float32)
    variables = BatchNorm().init(jax.random.key(0), x[0], train=False)
    layer = BatchNorm(**{"axis_name": "batch", **fields})
    with pytest.raises(ValueError, match=f"^batch_moments: {message}"):
        jax.vmap(
            lambda x: layer.apply(variables, x, train=True, mutable=["batch_stats"]), axis_name="batch", axis_size=4
        )(x)


class _Net(nn.Module):
    """Three times convolution, batch norm, ReLU."""

    axis_name: str | None

    @nn.compact
    def __call__(self, x, *, train, examples=None):
        for i in range(3):
            x = nn.Conv(8, (3, 3), name=f"conv{i}")(x)
            x = BatchNorm(axis_name=self.axis_name, name=f"norm{i}")(x, train=train, examples=examples)
            x = nn.relu(x)
        return x


@pytest.mark.parametrize("how", ["pmap", "shard_map checked"])
def test_three_layer_net_over_devices(how):
    x, _ = _data()
    probe = jax.random.normal(jax.random.key(1), (8, 3, 3, 8)) / 100
    variables = _Net(None).init(jax.random.key(0), x, train=False)
    actual = _devices(how, _Net("batch"), variables, 4, x, probe)
    _assert_close(actual, _one_device(_Net(None), variables, x, probe))


def test_per_replica_is_ghost_batch_norm_and_not_synchronized():
    x, probe = _data()
    variables = BatchNorm().init(jax.random.key(0), x, train=False)
    layers = {name: BatchNorm(axis_name=name) for name in (None, "batch")}
    out = {}
    for name, layer in layers.items():
        mapped = jax.pmap(_step(layer, variables, None), axis_name="batch", in_axes=(None, 0))
        out[name] = np.asarray(mapped(variables["params"], _split((x, probe, None), 4))[2]).reshape(x.shape)
    ghosts = np.asarray(x, np.float64).reshape(4, 2, 3, 3, 4)
    mean, var = ghosts.mean((1, 2, 3), keepdims=True), ghosts.var((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(out[None], ((ghosts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape), atol=1e-5)
    assert np.abs(out[None] - out["batch"]).max() > 1e-3


@pytest.mark.parametrize("group_size", [None, 2])
def test_one_collective_forward_and_one_backward(group_size):
    x, probe = _split(_data(), 4)
    variables = BatchNorm().init(jax.random.key(0), x[0], train=False)
    layer = BatchNorm(axis_name="batch", device_group_size=group_size)

    def forward(params, x, probe):
        out, updated = layer.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(out * probe), updated

    def count(fn):
        """Collectives of the program as written, and as compiled, where XLA may have merged some."""
        mapped = jax.pmap(fn, axis_name="batch", in_axes=(None, 0, 0), devices=jax.devices()[:4])
        lowered = mapped.lower(variables["params"], x, probe)
        written = re.findall(r"stablehlo\.(all_\w+|reduce_scatter|collective_\w+)\"?\(", lowered.as_text())
        compiled = re.findall(r" (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", lowered.compile().as_text())
        return written, compiled

    assert count(forward) == (["all_reduce"], ["all-reduce"])
    assert count(jax.grad(forward, argnums=(0, 1), has_aux=True)) == (["all_reduce"] * 2, ["all-reduce"] * 2)
