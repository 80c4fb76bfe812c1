import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.channel import channel_shift, channel_shuffle, channel_unshuffle
from tests.compiling import quick_jit

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "channel.npz"


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4, 6, 12])
def test_shuffle_is_the_index_formula(num_groups):
    channels = 12
    x = np.arange(2 * 3 * channels).reshape(2, 3, channels)
    expected = np.empty_like(x)
    for c in range(channels):
        expected[..., c] = x[..., (c % num_groups) * (channels // num_groups) + c // num_groups]
    np.testing.assert_array_equal(channel_shuffle(jnp.asarray(x), num_groups), expected)


def test_against_torch(x64):
    golden = np.load(GOLDEN)
    for name in ("map", "pixel", "odd", "one_channel"):
        x, probe = golden[f"{name}/x"], golden[f"{name}/probe"]
        keys = [key.split("/")[1] for key in golden if key.startswith(name) and key.endswith("/out")]

        @quick_jit
        def results(x, probe, keys=keys):
            def call(key, x):
                if key.startswith("shuffle"):
                    return channel_shuffle(x, int(key.removeprefix("shuffle")))
                return channel_shift(x, int(key.removeprefix("shift")))

            pulled = {key: jax.vjp(lambda x, key=key: call(key, x), x) for key in keys}
            return {key: (out, pull(probe)[0]) for key, (out, pull) in pulled.items()}

        assert keys
        for key, (out, gradient) in results(x, probe).items():
            np.testing.assert_array_equal(out, golden[f"{name}/{key}/out"])
            np.testing.assert_array_equal(gradient, golden[f"{name}/{key}/grad"])


def test_unshuffle_is_the_view_of_the_authors_code():
    x = np.arange(2 * 24).reshape(2, 24)
    for num_groups in (1, 2, 3, 8, 24):
        # ShuffleNet v1 as released: reshape to (group_channels, groups), permute, reshape.
        expected = x.reshape(2, 24 // num_groups, num_groups).transpose(0, 2, 1).reshape(2, 24)
        np.testing.assert_array_equal(channel_unshuffle(jnp.asarray(x), num_groups), expected)
    # ShuffleNet v2 as released: even channels pass, odd ones are convolved.
    np.testing.assert_array_equal(channel_unshuffle(jnp.asarray(x), 2), np.concatenate([x[:, ::2], x[:, 1::2]], 1))


def test_the_two_conventions_undo_each_other():
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 24), np.float32)
    for num_groups in (2, 3, 8):

        @quick_jit
        def run(x, groups=num_groups):
            there, back = channel_shuffle(x, groups), channel_unshuffle(x, groups)
            other = channel_shuffle(x, 24 // groups)
            return channel_unshuffle(there, groups), channel_shuffle(back, groups), back, other

        first, second, back, other_count = run(x)
        np.testing.assert_array_equal(first, x)
        np.testing.assert_array_equal(second, x)
        np.testing.assert_array_equal(back, other_count)


def test_every_group_sees_all_groups_after_a_shuffle():
    shuffled = channel_shuffle(jnp.asarray(np.repeat(np.arange(3), 6)), 3)
    for group in np.asarray(shuffled).reshape(3, 6):
        assert set(group) == {0, 1, 2}


def test_shifts_by_s_and_by_the_rest_of_the_circle_undo_each_other():
    x = np.random.default_rng(0).standard_normal((2, 3, 10), np.float32)
    shifts = (0, 7, -3, np.int32(13))
    outs = quick_jit(lambda x: [channel_shift(channel_shift(x, 3), shift) for shift in shifts])(x)
    for shift, out in zip((3, 10, 0, 16), outs, strict=True):
        expected = np.empty_like(x)
        for channel in range(10):
            expected[..., channel] = x[..., (channel - shift) % 10]
        np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(outs[1], x)
    np.testing.assert_array_equal(outs[2], x)


def test_a_shift_by_half_a_group_joins_neighbouring_groups_only():
    channels, num_groups = 24, 4
    groups_of = jnp.asarray(np.repeat(np.arange(num_groups), channels // num_groups))
    shifted = channel_shift(groups_of, channels // (2 * num_groups))
    seen = [set(group) for group in np.asarray(shifted).reshape(num_groups, -1)]
    assert seen == [{3, 0}, {0, 1}, {1, 2}, {2, 3}]


@pytest.mark.parametrize("call", [channel_shuffle, channel_unshuffle])
@pytest.mark.parametrize("num_groups", [0, 3, -2])
def test_groups_that_do_not_divide_are_refused(call, num_groups):
    with pytest.raises(
        ValueError,
        match=f"^{call.__name__}: num_groups={num_groups} must divide channels=232; choose a divisor of 232$",
    ):
        call(jnp.zeros((1, 2, 2, 232)), num_groups)


def test_a_fraction_of_a_channel_is_refused():
    with pytest.raises(ValueError, match=r"^channel_shift: shift=1.5 must be an integer; round it$"):
        channel_shift(jnp.zeros((1, 2, 2, 4)), 1.5)
