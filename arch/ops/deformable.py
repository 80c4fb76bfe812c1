"""Deformable convolution, versions 1 and 2: taps that read where another layer tells them to, at each pixel anew."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.errors import check_map
from arch.ops._lowerings.geometry import Geometry
from arch.ops.conv import Conv
from arch.ops.conv2d import Padding, as_padding, as_pair
from arch.ops.irregular import IrregularConv as IrregularConv
from arch.ops.irregular import irregular_conv2d as irregular_conv2d
from arch.ops.sampled_conv import sampled_conv2d


def deform_conv2d(
    x: jax.Array,
    offsets: jax.Array,
    kernel: jax.Array,
    *,
    mask: jax.Array | None = None,
    strides: int | Sequence[int] = (1, 1),
    padding: Padding,
    kernel_dilation: int | Sequence[int] = (1, 1),
    feature_group_count: int = 1,
) -> jax.Array:
    """A convolution with displaced taps: y[p] = sum over taps k of kernel[k] @ x(p + p_k + offset_k[p]) * mask_k[p].

    x is read bilinearly and is 0 outside, as in `bilinear_sample`. Offsets of 0 without a mask make it `conv2d`. Groups
    of input channels may have offsets of their own: group g moves the channels from g * in_features / num_groups on.

    Paper: Dai et al., Deformable Convolutional Networks (arXiv:1703.06211), section 2.1; the mask is from Zhu et al.,
        Deformable ConvNets v2 (arXiv:1811.11168), section 3.2.
    Parameters: none; those of `DeformConv` are `kernel [kernel_height, kernel_width, in_features / groups, features]`,
        `bias [features]`, a convolution `offset` to num_groups * taps * 2 features, and for version 2 one, `mask`, to
        num_groups * taps.
    MACs: out_height * out_width * taps * in_features * (features / groups + 4), 4 of them for reading; `DeformConv`
        adds those of its other convolutions.

    Args:
        x: [batch, height, width, in_features], floating point.
        offsets: [batch, out_height, out_width, num_groups * taps * 2], real, in pixels: for each group, for each tap,
            row by row, along the height and along the width. The shape tells the number of groups.
        kernel: [height, width, in_features / feature_group_count, features], dtype of x.
        mask: [batch, out_height, out_width, num_groups * taps], real factors of the samples; None takes 1.
        strides: step between windows, in pixels.
        padding: "SAME", "VALID" or (before, after) along height and width, in pixels; a number stands for both.
        kernel_dilation: distance between taps before they are displaced, in pixels.
        feature_group_count: groups of features, as in `conv2d`.

    Returns:
        [batch, out_height, out_width, features], dtype of x; coordinates are kept in at least float32.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    owner = "deform_conv2d"
    _check_arrays(owner, x, offsets, kernel, mask)
    _check_feature_groups(owner, x.shape[3], kernel.shape, feature_group_count)
    geometry = _geometry(x.shape, kernel.shape, strides, padding, kernel_dilation, feature_group_count)
    taps = math.prod(kernel.shape[:2])
    num_groups = _num_groups(owner, offsets.shape[3], taps, x.shape[3])
    expected = (x.shape[0], *geometry.output_size)
    for name, array, features in (("offsets", offsets, 2 * num_groups * taps), ("mask", mask, num_groups * taps)):
        if array is not None and array.shape != (*expected, features):
            raise ValueError(
                f"{owner}: {name}{list(array.shape)} must be {[*expected, features]}, as the output of "
                f"x{list(x.shape)} and {num_groups} offset groups of {taps} taps ask; compute them with the same "
                "strides and padding"
            )
    ys, xs = _points(offsets, geometry, num_groups)
    weights = None
    if mask is not None:
        weights = mask.astype(ys.dtype).reshape(*expected, num_groups, taps).swapaxes(3, 4)
    return sampled_conv2d(
        x,
        ys,
        xs,
        kernel.reshape(taps, *kernel.shape[2:]),
        weights=weights,
        feature_group_count=feature_group_count,
    )


class DeformConv(nn.Module):
    """`deform_conv2d` with the layers that tell its offsets; it starts as an ordinary convolution, or as half of one.

    The convolution `offset`, of the same windows, starts at zero. With `modulated` another, `mask`, starts at zero too,
    and a sigmoid makes factors of its output: 0.5 at first. The papers train both with 0.1 times the learning rate of
    the rest: their parameters lie under "offset" and "mask", where the path masks of `arch.optim.masks` find them.

    Attributes:
        features: output channels.
        kernel_size: height and width, in taps.
        strides: step between windows, in pixels.
        padding: as in `deform_conv2d`.
        kernel_dilation: distance between taps before they are displaced, in pixels.
        feature_group_count: groups of features.
        num_offset_groups: groups of input channels with offsets, and a mask, of their own.
        modulated: the samples have factors too; version 2 of the paper.
        use_bias: adds a value to each output channel.
        dtype: of the computation; None takes what x and the parameters promote to. Offsets are at least float32.
        param_dtype: of the parameters.
        kernel_init: initial values of [height, width, in_features / feature_group_count, features].
        bias_init: initial values of [features].
        conv: makes the convolutions `offset` and `mask` from their fields.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    feature_group_count: int = 1
    num_offset_groups: int = 1
    modulated: bool = False
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()
    conv: Callable[..., nn.Module] = Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in_features] to [batch, out_height, out_width, features].

        Raises:
            ValueError: groups that do not divide the features; whatever `deform_conv2d` refuses.
        """
        owner = "DeformConv"
        check_map(owner, x)
        groups, num_groups, in_features = self.feature_group_count, self.num_offset_groups, x.shape[-1]
        kernel_size = as_pair(f"{owner}: kernel_size", self.kernel_size)
        kernel_shape = (*kernel_size, in_features // max(groups, 1), self.features)
        _check_feature_groups(owner, in_features, kernel_shape, groups)
        if num_groups < 1 or in_features % num_groups:
            raise ValueError(
                f"{owner}: num_offset_groups={num_groups} must divide in_features={in_features}; choose a divisor"
            )
        taps = math.prod(kernel_size)
        offsets = self._tell(x, 2 * num_groups * taps, "offset")
        mask = nn.sigmoid(self._tell(x, num_groups * taps, "mask")) if self.modulated else None
        kernel = self.param("kernel", self.kernel_init, kernel_shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        out = deform_conv2d(
            x,
            offsets,
            kernel,
            mask=mask,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=groups,
        )
        return out if bias is None else out + bias

    def _tell(self, x: jax.Array, features: int, name: str) -> jax.Array:
        """A convolution of the same windows that starts at zero, in at least float32: bfloat16 has 8 digits."""
        return self.conv(
            features=features,
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            dtype=jnp.promote_types(self.dtype or x.dtype, jnp.float32),
            param_dtype=self.param_dtype,
            precision=jax.lax.Precision.HIGHEST,  # coordinates need all digits
            kernel_init=nn.initializers.zeros_init(),
            bias_init=nn.initializers.zeros_init(),
            name=name,
        )(x)


def _points(offsets: jax.Array, geometry: Geometry, num_groups: int) -> tuple[jax.Array, jax.Array]:
    """Rows and columns that the taps read: [batch, out_height, out_width, taps, num_groups] each."""
    dtype = jnp.promote_types(offsets.dtype, jnp.float32)
    by_tap = offsets.astype(dtype).reshape(*offsets.shape[:3], num_groups, math.prod(geometry.kernel_size), 2)
    windows = (
        jnp.arange(size, dtype=dtype) * stride - before
        for size, stride, (before, _) in zip(geometry.output_size, geometry.strides, geometry.padding, strict=True)
    )
    taps = jnp.asarray(list(itertools.product(*map(range, geometry.kernel_size))), dtype)
    taps *= jnp.asarray(geometry.kernel_dilation, dtype)
    rows, columns = windows
    ys = rows[:, None, None, None] + taps[:, 0] + by_tap[..., 0]
    xs = columns[:, None, None] + taps[:, 1] + by_tap[..., 1]
    return ys.swapaxes(3, 4), xs.swapaxes(3, 4)


def _geometry(
    x: Sequence[int],
    kernel: Sequence[int],
    strides: int | Sequence[int],
    padding: Padding,
    kernel_dilation: int | Sequence[int],
    groups: int,
) -> Geometry:
    """The windows of the convolution, before taps are displaced."""
    strides = as_pair("deform_conv2d: strides", strides)
    kernel_dilation = as_pair("deform_conv2d: kernel_dilation", kernel_dilation)
    pairs = as_padding("deform_conv2d", padding)
    if isinstance(pairs, str):
        extents = [dilation * (size - 1) + 1 for dilation, size in zip(kernel_dilation, kernel[:2], strict=True)]
        pairs = jax.lax.padtype_to_pads(x[1:3], extents, strides, pairs)
    return Geometry(tuple(x[1:3]), tuple(kernel[:2]), strides, tuple(map(tuple, pairs)), kernel_dilation, groups)


def _num_groups(owner: str, offset_features: int, taps: int, in_features: int) -> int:
    """How many groups of channels have offsets of their own."""
    if offset_features == 0 or offset_features % (2 * taps):
        raise ValueError(
            f"{owner}: offsets.shape[3]={offset_features} must be a multiple of 2 for each of taps={taps}; give "
            f"{2 * taps} for one group"
        )
    num_groups = offset_features // (2 * taps)
    if in_features % num_groups:
        raise ValueError(
            f"{owner}: {num_groups} offset groups, of offsets.shape[3]={offset_features}, must divide "
            f"in_features={in_features}; choose a divisor"
        )
    return num_groups


def _check_arrays(owner: str, x: jax.Array, offsets: jax.Array, kernel: jax.Array, mask: jax.Array | None) -> None:
    for name, array in (("x", x), ("offsets", offsets), ("kernel", kernel), ("mask", mask)):
        if array is not None and (array.ndim != 4 or not jnp.issubdtype(array.dtype, jnp.floating)):
            raise ValueError(
                f"{owner}: {name}={array.dtype}{list(array.shape)} must be floating point with 4 axes; convert it"
            )
    if x.dtype != kernel.dtype:
        raise ValueError(f"{owner}: x and kernel must be of one dtype, not {x.dtype} and {kernel.dtype}; cast one")


def _check_feature_groups(owner: str, in_features: int, kernel: Sequence[int], groups: int) -> None:
    if groups < 1 or in_features != kernel[2] * groups or kernel[3] % groups:
        raise ValueError(
            f"{owner}: feature_group_count={groups} must divide in_features={in_features}, to give "
            f"kernel.shape[2]={kernel[2]}, and features={kernel[3]}; change the groups or the kernel"
        )
