import pickle

import numpy as np
import pytest

from input_pipeline.order import EvalOrder, TrainOrder, augmentation_uniforms, epoch_permutation, host_block


@pytest.mark.parametrize("bits", [[5, 9, 2, 7], [3, 1, 3, 0, 1, 3] * 20])
def test_equal_random_numbers_are_ordered_by_their_place(monkeypatch, bits):
    monkeypatch.setattr("input_pipeline.order._random_bits", lambda entropy, count: np.array(bits, np.uint64))
    expected = sorted(range(len(bits)), key=lambda i: (bits[i], i))
    assert epoch_permutation(0, 0, len(bits)).tolist() == expected


def test_every_epoch_is_a_different_permutation():
    orders = [epoch_permutation(3, epoch, 97) for epoch in range(4)] + [epoch_permutation(4, 0, 97)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(97))
    assert len({tuple(order) for order in orders}) == len(orders)


def test_epochs_are_laid_end_to_end_and_batches_straddle_them():
    num_examples, batch_size = 10, 4
    order = TrainOrder(0, num_examples, batch_size)
    stream = np.concatenate([order.indices(step, 0, batch_size) for step in range(15)])
    for epoch in range(6):  # 15 batches of 4 are exactly 6 epochs of 10
        part = stream[epoch * num_examples : (epoch + 1) * num_examples]
        np.testing.assert_array_equal(np.sort(part), np.arange(num_examples))


@pytest.mark.parametrize("batch_size", [3, 7, 25])
def test_a_batch_larger_than_the_data_set_runs_through_several_epochs(batch_size):
    order = TrainOrder(1, 7, batch_size)
    stream = np.concatenate([order.indices(step, 0, batch_size) for step in range(21)])
    counts = np.bincount(stream[: len(stream) // 7 * 7], minlength=7)
    assert (counts == len(stream) // 7).all()


def test_a_far_step_is_reached_without_the_steps_before_and_in_any_order():
    far = 10**7
    first = TrainOrder(5, 1000, 64).indices(far, 0, 64)
    order = TrainOrder(5, 1000, 64)
    for step in (0, far + 3, 12):
        order.indices(step, 0, 64)
    np.testing.assert_array_equal(order.indices(far, 0, 64), first)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(order)).indices(far, 0, 64), first)
    offset = far * 64 % 1000
    np.testing.assert_array_equal(first[:10], epoch_permutation(5, far * 64 // 1000, 1000)[offset : offset + 10])


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_hosts_share_the_global_batch_out(process_count):
    order = TrainOrder(0, 50, 16)
    parts = [order.indices(7, *host_block(16, host, process_count)) for host in range(process_count)]
    np.testing.assert_array_equal(np.concatenate(parts), order.indices(7, 0, 16))


@pytest.mark.parametrize(("num_examples", "num_batches"), [(1, 1), (8, 1), (9, 2), (16, 2), (23, 3)])
def test_evaluation_meets_every_example_once(num_examples, num_batches):
    order = EvalOrder(num_examples, 8)
    assert order.num_batches == num_batches
    blocks = [order.indices(step, *host_block(8, host, 2)) for step in range(num_batches) for host in range(2)]
    met = np.concatenate(blocks)
    assert len(met) == 8 * num_batches
    np.testing.assert_array_equal(met[met >= 0], np.arange(num_examples))


def test_random_numbers_are_uniform_and_belong_to_seed_step_and_position():
    many = augmentation_uniforms(0, 0, 0, 20000)
    assert many.min() >= 0 and many.max() < 1
    np.testing.assert_allclose([many.mean(), many.var()], [1 / 2, 1 / 12], atol=0.01)
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 2**40, 0)]
    assert len({augmentation_uniforms(*key, 1)[0] for key in keys}) == len(keys)


def test_shuffling_and_augmentation_draw_from_different_streams():
    # NumPy pads entropy with zeros: without a tag, (seed, epoch) would be (seed, step, position 0).
    uniforms = augmentation_uniforms(3, 5, 0, 40)
    assert not np.array_equal(np.argsort(uniforms), epoch_permutation(3, 5, 40))
