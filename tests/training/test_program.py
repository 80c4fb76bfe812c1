"""What the compiled training step says between devices: what the algorithm needs, and nothing more."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arch import norm
from arch.training.checkpoint import to_devices
from arch.training.state import create_state
from arch.training.step import make_train_step, pmap_train_step
from tests.training.test_step import CLASSES, SIZE, Net, batch, plain_preprocess, split

DEVICES = 8
BYTES = {"pred": 1, "s32": 4, "u32": 4, "f32": 4, "f64": 8}


def compiled(name, **options):
    """(the state, the program of one step as XLA has compiled it for eight devices)."""
    net, tx = Net(norm.create(name)), optax.sgd(0.1, momentum=0.9)
    state = create_state(
        net,
        tx,
        seed=0,
        image_shape=(SIZE, SIZE, 3),
        num_classes=CLASSES,
        measure_noise=options.pop("measure_noise", False),
    )
    step = pmap_train_step(make_train_step(net, tx, seed=0, preprocess=plain_preprocess, **options))
    return state, step.lower(to_devices(state), split(batch(0), DEVICES)).compile().as_text()


def reduced(program):
    """Bytes of each all-reduce of a program."""
    return [
        sum(
            BYTES[dtype] * math.prod(int(size) for size in shape.split(",") if size)
            for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
        )
        for result in re.findall(r"= (.*?) all-reduce(?:-start)?\(", program)
    ]


def size_of(*trees):
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(trees))


@pytest.mark.parametrize("options", [{}, {"num_micro_batches": 2}, {"num_micro_batches": 2, "measure_noise": True}])
def test_gradients_statistics_and_metrics_cross_devices_once(options):
    """Of per-replica norms: their bytes, that of the weights' sum, and of the noise one number more."""
    state, program = compiled("batch_norm", **options)
    expected = size_of(state.params, state.batch_stats, state.metrics) + 4
    if options.get("measure_noise"):
        expected += 4
    sizes = reduced(program)
    # The counts of the three metrics are one number, which XLA may see and send once.
    assert sum(sizes) in (expected, expected - 2 * 4)
    assert len(sizes) <= 3  # one program may reduce different types one by one


def test_synchronous_norms_add_one_reduction_forward_and_one_backward_each():
    """A row for each device forward, two sums a channel backward; the network has three norms of 8 channels."""
    plain, program = (compiled(name)[1] for name in ("batch_norm", "sync_batch_norm"))
    assert len(reduced(program)) - len(reduced(plain)) == 2 * 3
    rows = DEVICES * (3 * 8 + 1) * 4
    assert sum(reduced(program)) - sum(reduced(plain)) == 3 * (rows + 2 * 8 * 4)


@pytest.mark.parametrize("name", ["batch_norm", "sync_batch_norm"])
def test_no_activation_crosses_devices_and_the_state_is_donated(name):
    state, program = compiled(name)
    assert not re.search(r"all-gather|all-to-all|collective-permute|reduce-scatter", program)
    aliases = re.search(r"input_output_alias=\{(.*?)\}, entry", program).group(1)
    assert len(re.findall(r"(?:may|must)-alias", aliases)) == len(jax.tree.leaves(state))


def test_the_parser_sees_what_is_there():
    """One reduction of 12 bytes and one of 20 in a program of their own."""
    mapped = jax.pmap(lambda x, y: (jax.lax.psum(x, "i"), jax.lax.psum(jnp.sin(y) * jax.lax.psum(x, "i")[0], "i")), "i")
    program = mapped.lower(np.zeros((2, 3), np.float32), np.zeros((2, 5), np.float32)).compile().as_text()
    assert sorted(reduced(program)) == [12, 20]
