"""Irregular convolution: taps at positions that are learned, the same ones at every pixel."""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax

from arch.errors import check_map
from arch.ops._lowerings.geometry import Pair
from arch.ops.conv2d import as_pair, conv2d
from arch.ops.sampled_conv import sampled_conv2d
from arch.ops.sampling import bilinear_shift


def irregular_conv2d(
    x: jax.Array, kernel: jax.Array, positions: jax.Array, *, strides: int | Sequence[int] = (1, 1)
) -> jax.Array:
    """A convolution with taps anywhere: y[p] = sum over taps k of kernel[k] @ x(strides * p + positions[k]).

    x is read bilinearly and is 0 outside. Positions at the pixels of a lattice make it an ordinary convolution. With
    positions for each filter, output channel o reads at positions[o]; then x meets the kernel first, and what comes out
    is moved, which is the same because both are linear, and reads no pixel twice.

    Paper: Ma et al., Irregular Convolutional Neural Networks (arXiv:1706.07966), section 3.
    Parameters: none; those of `IrregularConv` are `kernel [taps, in_features, features]`, `bias [features]`, and
        `positions [taps, 2]` or `[features, taps, 2]`.
    MACs: out_height * out_width * taps * in_features * (features + 4), 4 of them for reading; with positions for each
        filter height * width * taps * (in_features + 4) * features.

    Args:
        x: [batch, height, width, in_features], floating point.
        kernel: [taps, in_features, features], dtype of x.
        positions: [taps, 2] or [features, taps, 2], real rows and columns relative to a pixel, in pixels; may be
            learned, at less than the learning rate of the kernel.
        strides: step between the pixels that taps are relative to.

    Returns:
        [batch, ceil(height / stride), ceil(width / stride), features], dtype of x; positions are kept in at least
        float32.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    _check_arrays(x, kernel, positions)
    strides = as_pair("irregular_conv2d: strides", strides)
    positions = positions.astype(jnp.promote_types(positions.dtype, jnp.float32))
    if positions.ndim == 3:
        return _move_each_filter(x, kernel, positions, strides)
    ys, xs = (
        jnp.arange(0, size, stride, dtype=positions.dtype)[:, None] + positions[:, axis]
        for axis, (size, stride) in enumerate(zip(x.shape[1:3], strides, strict=True))
    )
    shape = (x.shape[0], ys.shape[0], xs.shape[0], len(positions), 1)
    ys, xs = (jnp.broadcast_to(points[..., None], shape) for points in (ys[:, None], xs))
    return sampled_conv2d(x, ys, xs, kernel)


class IrregularConv(nn.Module):
    """`irregular_conv2d` that starts on a regular lattice, and so as an ordinary convolution.

    The positions, parameter "positions", want a lower learning rate than the rest, such as 0.1 of it: the path masks of
    `arch.optim.masks` find them.

    Differs from the paper: it does not say whether filters share positions; `per_filter` chooses, and they do where it
        is not set. Its scaling of the positions' gradient is left to the learning rate.

    Attributes:
        features: output channels.
        kernel_size: height and width of the lattice at the start, in taps.
        strides: step between the pixels that taps are relative to.
        kernel_dilation: distance between the taps of the lattice, in pixels.
        per_filter: every output channel has positions of its own.
        use_bias: adds a value to each output channel.
        dtype: of the computation; None takes what x and the kernel promote to. Positions are at least float32.
        param_dtype: of the parameters.
        kernel_init: initial values of [taps, in_features, features].
        bias_init: initial values of [features].
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    kernel_dilation: int | Sequence[int] = 1
    per_filter: bool = False
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in_features] to [batch, out_height, out_width, features].

        Raises:
            ValueError: whatever `irregular_conv2d` refuses.
        """
        check_map("IrregularConv", x)
        kernel_size = as_pair("IrregularConv: kernel_size", self.kernel_size)
        dilation = as_pair("IrregularConv: kernel_dilation", self.kernel_dilation)
        taps = math.prod(kernel_size)
        shape = (self.features, taps, 2) if self.per_filter else (taps, 2)

        def lattice(key: jax.Array, shape: Sequence[int], dtype: Dtype) -> jax.Array:
            del key
            return jnp.broadcast_to(jnp.asarray(_lattice(kernel_size, dilation), dtype), shape)

        positions = self.param("positions", lattice, shape, jnp.promote_types(self.param_dtype, jnp.float32))
        kernel = self.param("kernel", self.kernel_init, (taps, x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        out = irregular_conv2d(x, kernel, positions, strides=self.strides)
        return out if bias is None else out + bias


def _lattice(kernel_size: Pair, dilation: Pair) -> list[tuple[int, int]]:
    """Rows and columns of the taps of an ordinary convolution relative to its centre, row by row."""
    rows, columns = (
        [(tap - (taps - 1) // 2) * rate for tap in range(taps)]
        for taps, rate in zip(kernel_size, dilation, strict=True)
    )
    return list(itertools.product(rows, columns))


def _move_each_filter(x: jax.Array, kernel: jax.Array, positions: jax.Array, strides: Pair) -> jax.Array:
    """`irregular_conv2d` with positions [features, taps, 2]: tap by tap, so that the maps of one are in memory."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # of the sum

    @jax.checkpoint
    def response(x: jax.Array, kernel: jax.Array, position: jax.Array) -> jax.Array:
        out = conv2d(x.astype(dtype), kernel.astype(dtype)[None, None], padding="VALID")
        return bilinear_shift(out, position[:, 0], position[:, 1])[:, :: strides[0], :: strides[1]]

    def add(out: jax.Array, tap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return out + response(x, *tap), None

    out_size = (-(-size // stride) for size, stride in zip(x.shape[1:3], strides, strict=True))
    zeros = jnp.zeros((x.shape[0], *out_size, kernel.shape[2]), dtype)
    return lax.scan(add, zeros, (kernel, positions.swapaxes(0, 1)))[0].astype(x.dtype)


def _check_arrays(x: jax.Array, kernel: jax.Array, positions: jax.Array) -> None:
    owner = "irregular_conv2d"
    for name, array, ranks in (("x", x, (4,)), ("kernel", kernel, (3,)), ("positions", positions, (2, 3))):
        if array.ndim not in ranks or not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"{owner}: {name}={array.dtype}{list(array.shape)} must be floating point with "
                f"{' or '.join(map(str, ranks))} axes; convert it"
            )
    if x.dtype != kernel.dtype:
        raise ValueError(f"{owner}: x and kernel must be of one dtype, not {x.dtype} and {kernel.dtype}; cast one")
    taps, in_features, features = kernel.shape
    if in_features != x.shape[3]:
        raise ValueError(f"{owner}: kernel.shape[1]={in_features} must be in_features={x.shape[3]}; change the kernel")
    if positions.shape not in ((taps, 2), (features, taps, 2)):
        raise ValueError(
            f"{owner}: positions{list(positions.shape)} must be [{taps}, 2] or [{features}, {taps}, 2], as kernel"
            f"{list(kernel.shape)} says; reshape them"
        )
