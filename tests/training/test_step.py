"""The training step: one batch is one batch, however it is spread over devices and micro-batches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import jax_utils
from flax import linen as nn

from arch import AXIS_NAME
from arch import norm as norms
from arch.blocks.head import sow_auxiliary, sow_penalty
from arch.ops.stochastic import Dropout
from arch.training import metrics
from arch.training.checkpoint import to_devices, to_host
from arch.training.state import create_state
from arch.training.step import make_eval_step, make_train_step, pmap_eval_step, pmap_train_step

CLASSES, SIZE = 10, 8


class Net(nn.Module):
    """Three convolutions with a norm each, and dropout."""

    norm: object
    dropout_rate: float = 0.0
    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x, *, train, examples=None):
        norm = norms.bind(self.norm, train=train, examples=examples)
        param_dtype = jnp.promote_types(self.dtype, jnp.float32)
        x = x.astype(self.dtype)
        for i in range(3):
            x = nn.Conv(8, (3, 3), use_bias=False, dtype=self.dtype, param_dtype=param_dtype, name=f"conv{i}")(x)
            x = nn.relu(norm(name=f"norm{i}")(x))
        x = x.mean((1, 2))
        x = Dropout(self.dropout_rate, name="dropout")(x, train=train, examples=examples)
        return nn.Dense(CLASSES, param_dtype=param_dtype, name="classifier")(x)


def noisy_preprocess(images, keys):
    """An augmentation of its own key for every example."""
    images = images.astype(jnp.float32) / 128 - 1
    if keys is None:
        return images
    return images + 0.3 * jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)


def plain_preprocess(images, keys):
    return images.astype(jnp.float32) / 128 - 1


def batch(step, size=16):
    rng = np.random.default_rng([7, step])
    return {
        "image": rng.integers(0, 256, (size, SIZE, SIZE, 3), dtype=np.uint8),
        "label": rng.integers(0, CLASSES, size).astype(np.int32),
        "weight": np.ones(size, np.float32),
    }


def split(batch, devices):
    return {key: value.reshape(devices, -1, *value.shape[1:]) for key, value in batch.items()}


def train(model, batches, devices, *, dtype=jnp.float32, tx=None, **options):
    """The state on the host after these batches."""
    tx = tx or optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(0.1, momentum=0.9))
    options = {"seed": 3, "preprocess": noisy_preprocess, "reset_metrics_every_steps": 100} | options
    state = create_state(
        model, tx, seed=0, image_shape=(SIZE, SIZE, 3), num_classes=CLASSES, dtype=dtype,
        keep_ema=options.get("ema_decay", 0) > 0, measure_noise=options.pop("measure_noise", False),
    )  # fmt: skip
    step = jax.pmap(make_train_step(model, tx, **options), axis_name="batch", devices=jax.local_devices()[:devices])
    replicated = jax.tree.map(lambda x: np.stack([x] * devices), jax.device_get(state))
    for one in batches:
        replicated = step(replicated, split(one, devices))
    states = [jax.tree.map(lambda x, i=i: np.asarray(x)[i], replicated) for i in range(devices)]
    for other in states[1:]:
        jax.tree.map(np.testing.assert_array_equal, states[0], other)  # one state, the same everywhere
    return states[0]


def assert_close(a, b, tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance), a, b)


def distance(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


def model(norm="sync_batch_norm", **fields):
    return Net(norms.create(norm), **fields)


@pytest.mark.parametrize("devices", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_k_devices_equal_one_with_augmentation_and_dropout_in_float64(x64, devices):
    net = model(dropout_rate=0.3, dtype=jnp.float64)
    batches = [batch(i) for i in range(3)]
    one = train(net, batches, 1, dtype=jnp.float64)
    many = train(net, batches, devices, dtype=jnp.float64)
    assert_close(one.params, many.params, 1e-12)
    assert_close(one.batch_stats, many.batch_stats, 1e-12)
    assert_close(one.metrics, many.metrics.replace(_reduction_counter=one.metrics._reduction_counter), 1e-12)


@pytest.mark.slow
def test_three_layer_net_in_float32(x64):
    net = model()
    batches = [batch(0)]
    assert_close(train(net, batches, 1).params, train(net, batches, 4).params, 1e-5)


def test_per_replica_batch_norm_is_not_sync_batch_norm(x64):
    batches = [batch(i) for i in range(3)]
    sync = train(model(dtype=jnp.float64), batches, 4, dtype=jnp.float64)
    replica = train(model("batch_norm", dtype=jnp.float64), batches, 4, dtype=jnp.float64)
    assert distance(sync.params, replica.params) > 1e-3


@pytest.mark.slow
def test_per_replica_batch_norm_is_the_mean_of_ghosts(x64):
    """One plain gradient per ghost, averaged, with NumPy's mean of the statistics."""
    net = model("batch_norm", dtype=jnp.float64)
    one = batch(0)
    got = train(net, [one], 4, dtype=jnp.float64, tx=optax.sgd(1.0), preprocess=plain_preprocess)
    state = jax.device_get(
        create_state(net, optax.sgd(1.0), seed=0, image_shape=(SIZE, SIZE, 3), num_classes=CLASSES, dtype=jnp.float64)
    )

    def loss(params, images, labels):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = net.apply(variables, images, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates["batch_stats"]

    ghosts = split(one, 4)
    parts = [
        jax.grad(loss, has_aux=True)(state.params, plain_preprocess(i, None), j)
        for i, j in zip(ghosts["image"], ghosts["label"], strict=True)
    ]
    grads, stats = jax.tree.map(lambda *xs: np.mean(xs, axis=0), *parts)
    assert_close(jax.tree.map(np.subtract, state.params, grads), got.params, 1e-12)
    assert_close(stats, got.batch_stats, 1e-12)


@pytest.mark.parametrize("parts", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_micro_batches_equal_one_batch_with_group_norm(x64, parts):
    net = model("group_norm", dropout_rate=0.3, dtype=jnp.float64)
    batches = [batch(i) for i in range(3)]
    whole = train(net, batches, 2, dtype=jnp.float64)
    scanned = train(net, batches, 2, dtype=jnp.float64, num_micro_batches=parts)
    assert_close(whole.params, scanned.params, 1e-12)
    assert metrics.compute(whole.metrics) == pytest.approx(metrics.compute(scanned.metrics), rel=1e-12)


@pytest.mark.slow
def test_micro_batches_with_sync_batch_norm_are_the_same_for_any_number_of_devices(x64):
    net = model(dtype=jnp.float64)
    batches = [batch(i) for i in range(3)]
    one, four = (train(net, batches, devices, dtype=jnp.float64, num_micro_batches=2) for devices in (1, 4))
    assert_close(one.params, four.params, 1e-12)
    assert_close(one.batch_stats, four.batch_stats, 1e-12)


@pytest.mark.slow
def test_micro_batches_in_float32():
    net = model("group_norm")
    whole, scanned = (train(net, [batch(0)], 1, num_micro_batches=parts) for parts in (1, 4))
    assert_close(whole.params, scanned.params, 1e-6)


def test_examples_of_weight_zero_might_as_well_not_be_there(x64):
    """4 + 1 examples that count, on two devices of four, against a batch of these five alone."""
    net = model(dtype=jnp.float64)
    padded = batch(0, size=8)
    padded["weight"] = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    padded["image"][5:] = 0
    five = {key: value[:5] for key, value in padded.items()}
    got = train(net, [padded], 2, dtype=jnp.float64, preprocess=plain_preprocess)
    expected = train(net, [five], 1, dtype=jnp.float64, preprocess=plain_preprocess)
    assert_close(got.params, expected.params, 1e-12)
    assert_close(got.batch_stats, expected.batch_stats, 1e-12)
    assert int(got.metrics.loss.count) == 5


def test_gradient_is_the_mean_over_the_global_batch(x64):
    """Compares gradients, not losses: a factor of the number of devices would be no more than a learning rate."""
    net = model("group_norm", dtype=jnp.float64)
    tx = optax.sgd(1.0)
    one = batch(0)
    got = train(net, [one], 4, dtype=jnp.float64, tx=tx, preprocess=plain_preprocess)
    state = create_state(net, tx, seed=0, image_shape=(SIZE, SIZE, 3), num_classes=CLASSES, dtype=jnp.float64)

    def loss(params):
        logits = net.apply({"params": params}, plain_preprocess(one["image"], None), train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, one["label"]).mean()

    expected = jax.tree.map(lambda p, g: p - g, state.params, jax.grad(loss)(state.params))
    assert_close(jax.device_get(expected), got.params, 1e-12)


def test_ema_is_the_closed_form(x64):
    net = model("group_norm", dtype=jnp.float64)
    batches = [batch(i) for i in range(3)]
    trail = [train(net, batches[:n], 1, dtype=jnp.float64, ema_decay=0.9) for n in range(4)]
    expected = trail[0].params
    for state in trail[1:]:
        expected = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, expected, state.params)
    assert_close(expected, trail[-1].ema_params, 1e-12)


def nan_at_second(images, keys):
    """An image whose first pixel is 255 becomes infinite."""
    images = images.astype(jnp.float32)
    return jnp.where(images[:, :1, :1, :1] == 255, jnp.inf, images / 128 - 1)


@pytest.fixture
def poisoned():
    batches = [batch(i, size=4) for i in range(4)]
    for one in batches:
        one["image"][:, 0, 0, 0] = 0
    batches[1]["image"][2, 0, 0, 0] = 255
    return batches


def test_the_state_freezes_at_the_first_non_finite_loss(poisoned):
    net = model("group_norm")
    good = train(net, poisoned[:1], 2, preprocess=nan_at_second)
    got = train(net, poisoned, 2, preprocess=nan_at_second)
    assert (int(good.bad_step), int(got.bad_step)) == (-1, 1)
    for name in ("params", "opt_state", "metrics"):
        jax.tree.map(np.testing.assert_array_equal, getattr(good, name), getattr(got, name))


def test_without_raise_on_nan_only_the_bad_update_is_left_out(poisoned):
    net = model("group_norm")
    got = train(net, poisoned, 2, preprocess=nan_at_second, raise_on_nan=False)
    frozen = train(net, poisoned, 2, preprocess=nan_at_second)
    assert int(got.bad_step) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got.params))
    assert int(got.metrics.loss.count) == 12
    assert distance(got.params, frozen.params) > 1e-4


def test_metrics_start_anew_after_a_row_of_the_log():
    states = [train(model("group_norm"), [batch(i) for i in range(n)], 1, reset_metrics_every_steps=2) for n in (2, 3)]
    assert [int(state.metrics.loss.count) for state in states] == [32, 16]


def test_indivisible_micro_batches_are_refused():
    with pytest.raises(ValueError, match="num_micro_batches=3 must divide the device's batch of 8"):
        train(model("group_norm"), [batch(0)], 2, num_micro_batches=3)


def test_evaluation_sums_over_devices_and_batches():
    net = model()
    state = create_state(net, optax.sgd(0.1), seed=0, image_shape=(SIZE, SIZE, 3), num_classes=CLASSES)
    devices = jax.local_device_count()
    eval_step = pmap_eval_step(make_eval_step(net, preprocess=noisy_preprocess))
    sums, replicated = to_devices(state.metrics), to_devices(state)
    batches = [batch(i) for i in range(2)]
    batches[1]["weight"][5:] = 0
    for one in batches:
        sums = eval_step(
            {"params": replicated.params, "batch_stats": replicated.batch_stats}, split(one, devices), sums
        )
    got = metrics.compute(to_host(sums))
    images, labels = (np.concatenate([batches[0][key], batches[1][key][:5]]) for key in ("image", "label"))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = np.asarray(net.apply(variables, noisy_preprocess(images, None), train=False), np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(21), labels]
    assert got["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert got["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean(), rel=1e-6)


class NetWithMore(Net):
    """`Net` with an auxiliary head, a penalty, and a collection that `after_step` changes."""

    @nn.compact
    def __call__(self, x, *, train, examples=None):
        gate = self.variable("gates", "gate", lambda: jnp.ones((), jnp.float64))
        logits = Net(self.norm, dtype=self.dtype, name="net")(x, train=train, examples=examples) * gate.value
        if train or self.is_initializing():
            more = nn.Dense(CLASSES, param_dtype=jnp.float64, name="more")(x.mean((1, 2)))
            sow_auxiliary(self, "logits", more, 0.3)
        if train:
            sow_penalty(self, "size", 0.01 * jnp.sum(self.variables["params"]["more"]["kernel"] ** 2))
        return logits

    def after_step(self, variables, progress):
        return {**variables, "gates": {"gate": jnp.where(progress > 0.5, 2.0, variables["gates"]["gate"])}}


def test_initialization_keeps_no_logits_and_no_penalty(x64):
    net = NetWithMore(norms.create("none"), dtype=jnp.float64)
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((2, SIZE, SIZE, 3)), train=True))
    assert set(variables) == {"params", "gates"}


@pytest.mark.parametrize(("devices", "parts"), [(1, 1), (2, 2)])
def test_auxiliary_logits_and_penalties_are_in_the_loss(x64, devices, parts):
    """One step of plain descent, against the gradient of the loss as the formula has it."""
    net = NetWithMore(norms.create("none"), dtype=jnp.float64)
    one = batch(0)
    one["weight"][3] = 0.0
    options = {"preprocess": plain_preprocess, "label_smoothing": 0.1, "num_micro_batches": parts, "num_steps": 4}
    got = train(net, [one], devices, dtype=jnp.float64, tx=optax.sgd(1.0), **options)
    start = create_state(
        net, optax.sgd(1.0), seed=0, image_shape=(SIZE, SIZE, 3), num_classes=CLASSES, dtype=jnp.float64
    )

    def loss(params):
        x = jnp.asarray(plain_preprocess(one["image"], None), jnp.float64)
        targets = 0.9 * jax.nn.one_hot(one["label"], CLASSES, dtype=jnp.float64) + 0.1 / CLASSES
        logits = net.apply({"params": params, **start.other}, x, train=False)
        more = x.mean((1, 2)) @ params["more"]["kernel"] + params["more"]["bias"]
        losses = [-jnp.sum(targets * jax.nn.log_softmax(values), 1) for values in (logits, more)]
        mean = lambda values: jnp.sum(values * one["weight"]) / 15.0  # noqa: E731
        return mean(losses[0]) + 0.3 * mean(losses[1]) + 0.01 * jnp.sum(params["more"]["kernel"] ** 2), mean(losses[0])

    (_, main_loss), grads = jax.value_and_grad(loss, has_aux=True)(start.params)
    assert_close(got.params, jax.tree.map(lambda p, g: p - g, start.params, grads), 1e-6)  # images are float32
    assert metrics.compute(got.metrics)["loss"] == pytest.approx(float(main_loss), rel=1e-6)


def test_what_after_step_changes_is_in_the_state_and_in_the_next_step(x64):
    net = NetWithMore(norms.create("none"), dtype=jnp.float64)
    options = {"dtype": jnp.float64, "tx": optax.sgd(0.0), "preprocess": plain_preprocess, "num_steps": 4}
    states = [train(net, [batch(0)] * count, 2, reset_metrics_every_steps=1, **options) for count in (2, 3, 4)]
    assert [float(state.other["gates"]["gate"]) for state in states] == [1.0, 2.0, 2.0]
    losses = [metrics.compute(state.metrics)["loss"] for state in states]
    assert losses[0] == losses[1] != losses[2]


def test_a_network_with_after_step_needs_the_number_of_steps():
    with pytest.raises(ValueError, match=r"^make_train_step: num_steps must be given, for NetWithMore.after_step$"):
        make_train_step(NetWithMore(norms.create("none")), optax.sgd(0.1), seed=0, preprocess=plain_preprocess)


@pytest.mark.parametrize(("devices", "parts"), [(4, 1), (1, 4), (2, 2)])
def test_the_noise_of_the_gradient_is_measured_from_its_parts(x64, devices, parts):
    """Against the definition, from the gradients of four quarters of each batch; over the steps since the last row."""
    net, size = model("none", dtype=jnp.float64), 16
    options = {"dtype": jnp.float64, "tx": optax.sgd(0.0), "preprocess": plain_preprocess}
    options |= {"num_micro_batches": parts, "measure_noise": True, "reset_metrics_every_steps": 2}
    got = train(net, [batch(step) for step in range(4)], devices, **options)

    def gradient(one):
        def loss(params):
            logits = net.apply({"params": params}, plain_preprocess(one["image"], None), train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, one["label"]).mean()

        return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(got.params))])

    def quarters(one):
        """The parts: of a device's batch, micro-batch j has the examples whose position is j modulo `parts`."""
        positions = np.arange(size).reshape(devices, -1)
        chosen = [positions[d, j::parts] for d in range(devices) for j in range(parts)]
        return [{key: value[rows] for key, value in one.items()} for rows in chosen]

    squared_norm = trace = 0.0
    for step in (2, 3):
        parts_of = np.stack([gradient(quarter) for quarter in quarters(batch(step))])
        small, large = np.square(parts_of).sum(1).mean(), np.square(parts_of.mean(0)).sum()
        squared_norm += (16 * large - 4 * small) / 12
        trace += (small - large) / (1 / 4 - 1 / 16)
    assert got.noise.squared_norm == pytest.approx(squared_norm, rel=1e-6)
    assert got.noise.trace == pytest.approx(trace, rel=1e-6)


def test_one_compilation_serves_all_batches():
    """Of the step as train.py runs it: replicated state, prefetched batches, donated buffers."""
    net, tx = model(), optax.sgd(0.1)
    state = to_devices(create_state(net, tx, seed=0, image_shape=(SIZE, SIZE, 3), num_classes=CLASSES))
    step = pmap_train_step(make_train_step(net, tx, seed=0, preprocess=noisy_preprocess))
    batches = (split(batch(i), jax.local_device_count()) for i in range(4))
    batches = jax_utils.prefetch_to_device(batches, 2, axis_name=AXIS_NAME)
    compiled = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    state = step(state, next(batches))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for one in batches:
            state = step(state, one)
        again = len(compiled)
        jax.jit(lambda x: x * 3.21 + 1)(1.0)  # the listener does hear compilations
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert (again, len(compiled)) == (0, 1)
