"""Statistics of a pass are those of its concatenated batches, and one batch's make evaluation what training was."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec

from arch import models, norm
from arch.norm.batch import BatchNorm
from arch.norm.frozen import FrozenBatchNorm
from arch.norm.precise import batch_statistics, merge, with_statistics
from arch.norm.renorm import BatchRenorm
from arch.norm.weight import MeanOnlyBatchNorm
from arch.ops.stochastic import Dropout, Examples
from tests.compiling import quick_jit


class _Net(nn.Module):
    """Norm, dense, activation, norm; the second norm's input depends on the first's statistics."""

    norm: type[nn.Module] = BatchNorm

    @nn.compact
    def __call__(self, x, *, train, examples=None):
        x = self.norm(name="first")(x, train=train, examples=examples)
        x = nn.relu(nn.Dense(3, name="dense")(x))
        x = Dropout(0.5, name="dropout")(x, train=train, examples=examples)
        return self.norm(name="second")(x, train=train, examples=examples)


def _batches(*sizes, mean=2.0, std=3.0, dtype=np.float32):
    random = np.random.default_rng(0)
    return [(mean + std * (1 + n / 4) * random.standard_normal((n, 2, 2, 3)) + n).astype(dtype) for n in sizes]


def _variables(net, dtype=np.float32):
    """With affine parameters and statistics that are not those of a fresh network."""
    random = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((2, 2, 2, 3), dtype), train=False))
    return jax.tree.map(lambda leaf: random.uniform(0.5, 1.5, leaf.shape).astype(dtype), shapes)


def _moments(values):
    values = np.asarray(values, np.float64).reshape(-1, values.shape[-1])
    return values.mean(0), values.var(0)


def _relu_dense(variables, x, mean, var):
    """The second norm's input, by the formula, where the first normalizes by these statistics."""
    first, dense = variables["params"]["first"], variables["params"]["dense"]
    x = (x - mean) / np.sqrt(var + 1e-5) * first["scale"] + first["bias"]
    return np.maximum(x @ dense["kernel"] + dense["bias"], 0)


def test_a_pass_over_unequal_batches_against_numpy():
    """First norm: those of the pass. Second: of the concatenated inputs, each normalized by its own batch."""
    batches, variables = _batches(8, 3, 5), _variables(_Net())
    step = quick_jit(functools.partial(batch_statistics, _Net(), train=False))
    after = with_statistics(variables, merge(step(variables, x) for x in batches))["batch_stats"]
    deeper = np.concatenate([_relu_dense(variables, x, *_moments(x)) for x in batches])
    for name, values in {"first": np.concatenate(batches), "second": deeper}.items():
        mean, var = _moments(values)
        np.testing.assert_allclose(after[name]["mean"], mean, rtol=1e-5)
        np.testing.assert_allclose(after[name]["var"], var, rtol=1e-5)
    assert after["first"]["mean"].dtype == np.float32


def test_passes_by_running_statistics_reach_what_evaluation_sees(x64):
    """Two passes for a chain of two norms; a third changes nothing."""
    batches, net = _batches(8, 3, dtype=np.float64), _Net()
    variables = _variables(net, np.float64)
    step = quick_jit(functools.partial(batch_statistics, net, normalize="running", train=False))
    for _ in range(2):
        variables = with_statistics(variables, merge(step(variables, x) for x in batches))
    x = np.concatenate(batches)
    expected = {"first": _moments(x), "second": _moments(_relu_dense(variables, x, *_moments(x)))}
    for name, (mean, var) in expected.items():
        np.testing.assert_allclose(variables["batch_stats"][name]["mean"], mean, rtol=1e-12)
        np.testing.assert_allclose(variables["batch_stats"][name]["var"], var, rtol=1e-12)
    again = with_statistics(variables, merge(step(variables, x) for x in batches))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), again, variables)


@pytest.mark.parametrize("layer", [BatchNorm, BatchRenorm, MeanOnlyBatchNorm])
def test_of_one_batch_evaluation_is_what_normalization_by_the_batch_is(x64, layer):
    """Also with variances that a norm stores unbiased otherwise; the network's own statistics do not matter.

    Batch renormalization is batch normalization in its first steps.
    """
    made = functools.partial(layer, unbiased_running_variance=True) if layer is BatchNorm else layer
    (x,), net = _batches(6, dtype=np.float64), _Net(norm=made)
    variables = _variables(net, np.float64)

    @quick_jit
    def both(variables, x):
        after = with_statistics(variables, batch_statistics(net, variables, x, train=False))
        with nn.intercept_methods(_without_dropout):
            trained, _ = net.apply(variables, x, train=True, mutable=["batch_stats"])
        return net.apply(after, x, train=False), trained

    evaluated, trained = both(variables, x)
    np.testing.assert_allclose(evaluated, trained, rtol=1e-10, atol=1e-10)


def _without_dropout(call, args, kwargs, context):
    return args[0] if isinstance(context.module, Dropout) else call(*args, **kwargs)


def test_large_mean_and_small_variance_over_batches():
    batches = [1e3 + 1e-2 * (x + 5 * i) for i, x in enumerate(_batches(8, 8, 8, 8, mean=0.0, std=1.0))]
    batches = [x.astype(np.float32) for x in batches]
    variables = _variables(_Net())
    step = quick_jit(functools.partial(batch_statistics, _Net(), train=False))
    mean, var = _moments(np.concatenate(batches))
    total = merge(step(variables, x) for x in batches)["first",].moments
    np.testing.assert_allclose(np.float64(total.shift) + total.offset, mean, atol=1e-5)
    np.testing.assert_allclose(total.var, var, rtol=1e-4)
    np.testing.assert_array_equal(total.count, 4 * 8 * 4)


def test_weights_count_and_a_batch_without_any_changes_nothing():
    x, other = _batches(6, 6)
    weight = np.float32([1, 0, 2, 1, 0, 1])
    variables = _variables(_Net())

    @quick_jit
    def run(x, weight):
        return batch_statistics(_Net(), variables, x, examples=Examples(weight), train=False)

    counted, nothing = run(x, weight), run(other, 0 * weight)
    jax.tree.map(np.testing.assert_array_equal, with_statistics(variables, nothing), variables)
    for order in ([counted, nothing], [nothing, counted]):
        after = with_statistics(variables, merge(order))["batch_stats"]["first"]
        mean, var = _moments(np.concatenate([x[[0, 2, 2, 3, 5]]]))
        np.testing.assert_allclose(after["mean"], mean, rtol=1e-5)
        np.testing.assert_allclose(after["var"], var, rtol=1e-5)


@pytest.mark.parametrize("how", ["pmap", pytest.param("shard_map", marks=pytest.mark.slow)])
def test_devices_measure_one_batch(how):
    """Statistics over four devices are those of the whole batch, and the same on all."""
    (x,), net = _batches(8), _Net(norm=functools.partial(BatchNorm, axis_name="batch"))
    variables = _variables(_Net())
    expected = quick_jit(functools.partial(batch_statistics, _Net(), train=False))(variables, x)

    def step(variables, x):
        statistics = batch_statistics(net, variables, x, axis_name="batch", train=False)
        return with_statistics(variables, statistics), statistics

    if how == "pmap":
        mapped = jax.pmap(step, axis_name="batch", in_axes=(None, 0), devices=jax.devices()[:4])
        copies, statistics = mapped(variables, x.reshape(4, 2, *x.shape[1:]))
        for leaf in jax.tree.leaves((copies, statistics)):
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
        # Statistics of devices are merged and set as they come, each copy by its own.
        twice = with_statistics(copies, merge([statistics, statistics]))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), twice, copies)
        after = jax.tree.map(lambda leaf: leaf[0], copies)
    else:
        mesh, spec = Mesh(jax.devices()[:4], ("batch",)), PartitionSpec
        after, _ = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(spec(), spec("batch")), out_specs=spec()))(
            variables, x
        )
    wanted = with_statistics(variables, expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), after, wanted)


def test_a_shared_norm_counts_all_its_inputs_and_remat_is_no_obstacle():
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            shared = BatchNorm(name="shared")
            x = shared(x, train=train)
            return nn.remat(_Inner)(name="inner")(shared(3.0 * x + 1.0, train=train))

    class _Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return BatchNorm(name="norm")(x, train=False)

    (x,) = _batches(4)
    variables = _variables(Shared())
    found = quick_jit(functools.partial(batch_statistics, Shared(), train=False))(variables, x)
    assert set(found) == {("shared",), ("inner", "norm")}
    own = variables["params"]["shared"]
    mean, var = _moments(x)
    second = 3.0 * ((x - mean) / np.sqrt(var + 1e-5) * own["scale"] + own["bias"]) + 1.0
    moments = found["shared",].moments
    mean, var = _moments(np.concatenate([x, second]))
    np.testing.assert_allclose(moments.shift + moments.offset, mean, rtol=1e-5)
    np.testing.assert_allclose(moments.var, var, rtol=1e-5)


def test_a_network_of_the_catalogue_by_tracing():
    """Every norm of a ShuffleNet v2 is measured, bfloat16 in float32, and what comes back has the same shapes."""
    small = {"stage_sizes": (2,), "stage_features": (60,), "dtype": jnp.bfloat16}
    model = models.create("shufflenet_v2_x0_5", norm=norm.create("batch_norm"), **small)
    x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.bfloat16)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    found = jax.eval_shape(functools.partial(batch_statistics, model, train=False), variables, x)
    assert len(found) == 1 + 5 + 3 + 1
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype("float32")}
    after = jax.eval_shape(with_statistics, variables, found)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, variables)


def test_frozen_norms_stay_and_errors_name_the_remedy():
    (x,) = _batches(4)
    with pytest.raises(ValueError, match="batch_statistics: normalize: unknown name 'batches'; did you mean 'batch'"):
        batch_statistics(_Net(), _variables(_Net()), x, normalize="batches", train=False)
    frozen = _Net(norm=FrozenBatchNorm)
    with pytest.raises(
        ValueError, match="batch_statistics: the model must have norms with running statistics, 0 found"
    ):
        jax.eval_shape(functools.partial(batch_statistics, frozen, train=False), _variables(frozen), x)
    with pytest.raises(ValueError, match="merge: statistics must be of at least 1 batch, 0 given; pass a fresh"):
        merge(iter([]))
