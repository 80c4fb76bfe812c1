import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.conv import Conv, symmetric_padding


@pytest.mark.parametrize("groups,size,strides,dilation", [(2, 8, 2, 1), (6, 8, 2, 1), (1, 9, 1, 2)])
def test_conv_against_a_loop(groups, size, strides, dilation):
    in_features, features = 6, 12
    conv = Conv(
        features,
        (3, 3),
        strides=(strides, strides),
        padding=symmetric_padding((3, 3), dilation),
        kernel_dilation=dilation,
        feature_group_count=groups,
        use_bias=False,
    )
    x = jax.random.normal(jax.random.key(0), (2, size, size, in_features))
    variables = conv.init(jax.random.key(1), x)
    kernel = np.asarray(variables["params"]["kernel"], np.float64)
    assert kernel.shape == (3, 3, in_features // groups, features)

    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (dilation, dilation), (dilation, dilation), (0, 0)))
    out_size = -(-size // strides)
    expected = np.zeros((2, out_size, out_size, features))
    for i, j, o in np.ndindex(out_size, out_size, features):
        first = (o // (features // groups)) * (in_features // groups)
        for a, b in np.ndindex(3, 3):
            pixel = padded[:, i * strides + a * dilation, j * strides + b * dilation, first : first + kernel.shape[2]]
            expected[:, i, j, o] += pixel @ kernel[a, b, :, o]
    np.testing.assert_allclose(conv.apply(variables, x), expected, atol=1e-5)


def test_symmetric_padding_is_half_a_kernel():
    assert symmetric_padding((3, 3)) == ((1, 1), (1, 1))
    assert symmetric_padding((7, 1)) == ((3, 3), (0, 0))
    assert symmetric_padding((3, 5), 2) == ((2, 2), (4, 4))


def test_symmetric_padding_is_not_same_at_stride_two():
    x = jnp.arange(8.0).reshape(1, 8, 1, 1)
    same = jax.lax.padtype_to_pads((8,), (3,), (2,), "SAME")
    assert list(same) != [symmetric_padding((3,))[0]]
    first = Conv(1, (3, 1), (2, 1), padding=symmetric_padding((3, 1)), use_bias=False)
    out = first.apply({"params": {"kernel": jnp.ones((3, 1, 1, 1))}}, x)
    np.testing.assert_array_equal(out.ravel(), [0 + 1, 1 + 2 + 3, 3 + 4 + 5, 5 + 6 + 7])


def test_symmetric_padding_refuses_even_kernels():
    with pytest.raises(ValueError, match=r"^symmetric_padding: kernel_size=\(2, 3\) must be odd; "):
        symmetric_padding((2, 3))
