import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.dense_prediction import densely_adjacent_prediction
from tests.compiling import quick_jit


@pytest.mark.parametrize("size,kernel_size", [((4, 5), (3, 3)), ((1, 1), (3, 3)), ((3, 4), (1, 5))])
def test_against_a_loop_with_its_gradient(x64, size, kernel_size):
    random = np.random.RandomState(0)
    (kh, kw), features = kernel_size, 2
    x, probe = random.standard_normal((2, *size, features * kh * kw)), random.standard_normal((2, *size, features))
    expected, expected_gradient = np.zeros(probe.shape), np.zeros(x.shape)
    for i, j, c, l, m in np.ndindex(*size, features, kh, kw):  # noqa: E741
        row, column, channel = i + l - kh // 2, j + m - kw // 2, c * kh * kw + l * kw + m
        if 0 <= row < size[0] and 0 <= column < size[1]:
            expected[:, i, j, c] += x[:, row, column, channel] / (kh * kw)
            expected_gradient[:, row, column, channel] += probe[:, i, j, c] / (kh * kw)

    @quick_jit
    def results(x, probe):
        out, pull = jax.vjp(lambda x: densely_adjacent_prediction(x, kernel_size), x)
        return out, *pull(probe)

    out, gradient = results(x, probe)
    np.testing.assert_allclose(out, expected, atol=1e-14)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-14)


def test_equal_slices_give_a_box_blur():
    x = np.random.RandomState(0).standard_normal((1, 6, 7, 1)).astype(np.float32)
    out = quick_jit(densely_adjacent_prediction)(np.repeat(x, 9, axis=3))[0, :, :, 0]
    padded = np.pad(x[0, :, :, 0], 1)
    blurred = sum(padded[i : i + 6, j : j + 7] for i in range(3) for j in range(3)) / 9
    np.testing.assert_allclose(out, blurred, atol=1e-6)


@pytest.mark.parametrize(
    "channels,kernel_size,message",
    [
        (20, 3, r"densely_adjacent_prediction: kernel_size=\(3, 3\), 9 taps, must divide channels=20; .*"),
        (16, 4, r"densely_adjacent_prediction: kernel_size=\(4, 4\) must be odd, .*"),
    ],
)
def test_refusals_are_one_line(channels, kernel_size, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        densely_adjacent_prediction(jnp.zeros((1, 4, 4, channels)), kernel_size)
    with pytest.raises(ValueError, match=r"^densely_adjacent_prediction: x=int32\[1, 4, 4, 9\] must be floating .*$"):
        densely_adjacent_prediction(jnp.zeros((1, 4, 4, 9), int))
