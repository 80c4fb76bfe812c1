"""Convolution and transposed convolution as functions of arrays; the linen modules are in `arch.ops.conv`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from arch.errors import unknown_name
from arch.ops._lowerings import choice, primitives
from arch.ops._lowerings.geometry import Geometry, Pair

Padding = str | int | Sequence[int | tuple[int, int]]


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: int | Sequence[int] = (1, 1),
    padding: Padding,
    kernel_dilation: int | Sequence[int] = (1, 1),
    feature_group_count: int = 1,
    implementation: str = "auto",
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """A dense, grouped or depthwise convolution, without flipping the kernel, as in `lax.conv_general_dilated`.

    It can be differentiated in both modes and to any order, mapped, sharded and exported. The program is chosen when it
    is lowered, for the platform it is lowered for; sums are kept in at least float32.

    y[p, o] = sum over taps k and inputs c of o's group of kernel[k, c, o] * x[strides * p + kernel_dilation * k, c].

    Paper: Xie et al., ResNeXt (arXiv:1611.05431), section 3 (groups); Yu and Koltun (arXiv:1511.07122), section 2
        (dilation).
    Parameters: kernel [kernel_height, kernel_width, in_features / groups, features]; in `Conv` bias [features], too.
    MACs: out_height * out_width * kernel_height * kernel_width * in_features * features / groups.

    Args:
        x: [batch, height, width, in_features].
        kernel: [height, width, in_features / feature_group_count, features], dtype of x.
        strides: step between windows, in pixels.
        padding: "SAME", "VALID" or (before, after) along height and width, in pixels; a number stands for both.
        kernel_dilation: distance between taps, in pixels.
        feature_group_count: groups of features; in_features is depthwise.
        implementation: "auto" takes the fastest measured program, on platforms not measured JAX's own; "reference" is
            JAX's own; "depthwise", "grouped", "im2col", "matmul" and "winograd" force one.
        precision: of the products, as jax.lax takes it; None is that of `jax.default_matmul_precision`.

    Returns:
        [batch, out_height, out_width, features], dtype of x.

    Raises:
        ValueError: shapes or dtypes that do not fit; an implementation that is unknown or cannot take this convolution.
    """
    _check_arrays("conv2d", x, kernel)
    groups = feature_group_count
    _check_groups("conv2d", groups, x.shape[3], kernel.shape)
    strides = as_pair("conv2d: strides", strides)
    kernel_dilation = as_pair("conv2d: kernel_dilation", kernel_dilation)
    pairs = as_padding("conv2d", padding)
    if isinstance(pairs, str):
        pairs = lax.padtype_to_pads(x.shape[1:3], _extents(kernel.shape, kernel_dilation), strides, pairs)
    geometry = Geometry(
        input_size=x.shape[1:3],
        kernel_size=kernel.shape[:2],
        strides=strides,
        padding=tuple(map(tuple, pairs)),
        kernel_dilation=kernel_dilation,
        groups=groups,
        implementation=implementation,
        precision=_resolve_precision(precision),
    )
    choice.check("conv2d", geometry, kernel.shape, x.dtype)
    return primitives.value(x, kernel, geometry)


def conv_transpose2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: int | Sequence[int] = (1, 1),
    padding: Padding,
    kernel_dilation: int | Sequence[int] = (1, 1),
    feature_group_count: int = 1,
    transpose_kernel: bool = False,
    implementation: str = "auto",
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """A transposed convolution ("deconvolution"), as in `lax.conv_transpose`; dense, grouped or depthwise.

    It is the gradient of a convolution in its input, and runs as that: what is said of `conv2d` holds here too. With
    `transpose_kernel`, `conv_transpose2d(y, kernel, padding=transposed_padding(sizes, padding), ...)` transposes
    `conv2d(x, kernel, padding=padding, ...)`, with all else equal.

    Paper: Long et al., FCN (arXiv:1411.4038), section 3.3.
    Parameters: kernel [kernel_height, kernel_width, in_features / groups, features]; in `ConvTranspose` bias
        [features], too.
    MACs: height * width * kernel_height * kernel_width * in_features * features / groups.

    Args:
        x: [batch, height, width, in_features], floating point.
        kernel: [height, width, in_features / feature_group_count, features], or with transpose_kernel
            [height, width, features / feature_group_count, in_features]; dtype of x.
        strides: output pixels to a step of one input pixel.
        padding: of x, once `strides - 1` zeros are between its pixels: (before, after) along height and width, a number
            stands for both, negative ones crop. "SAME" makes out_size = size * stride, "VALID" leaves out nothing that
            the kernel reaches: (size - 1) * stride + max(extent, stride).
        kernel_dilation: distance between taps, in pixels.
        feature_group_count: groups of features; in_features is depthwise.
        transpose_kernel: the kernel is that of the convolution which this transposes; else it is the one that slides
            over the stretched x, flipped along height and width.
        implementation: as in `conv2d`, for the convolution which this transposes: from `features` to `in_features`.
        precision: of the products, as jax.lax takes it; None is that of `jax.default_matmul_precision`.

    Returns:
        [batch, out_height, out_width, features], dtype of x.

    Raises:
        ValueError: shapes or dtypes that do not fit; padding that crops more than there is; an implementation that is
            unknown or cannot take the convolution.
    """
    owner = "conv_transpose2d"
    _check_arrays(owner, x, kernel)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ValueError(f"{owner}: x must be floating point, not {x.dtype}; convert it")
    groups = feature_group_count
    if transpose_kernel:
        _check_transposed_kernel(owner, groups, x.shape[3], kernel.shape[3])
    else:
        _check_groups(owner, groups, x.shape[3], kernel.shape)
        kernel = _transposed_kernel(kernel, groups)
    strides = as_pair(f"{owner}: strides", strides)
    kernel_dilation = as_pair(f"{owner}: kernel_dilation", kernel_dilation)
    extents = _extents(kernel.shape, kernel_dilation)
    pairs = as_padding(owner, padding)
    if isinstance(pairs, str):
        pairs = [_named_transposed_padding(pairs, *axis) for axis in zip(extents, strides, strict=True)]
    axes = zip(x.shape[1:3], strides, extents, pairs, strict=True)
    out_size, conv_padding = zip(*(_transposed_axis(*axis) for axis in axes), strict=True)
    if min(out_size) < 0:
        raise ValueError(f"{owner}: padding={padding} must not leave a size below 0, as {out_size}; crop less")
    geometry = Geometry(
        input_size=out_size,
        kernel_size=kernel.shape[:2],
        strides=strides,
        padding=conv_padding,
        kernel_dilation=kernel_dilation,
        groups=groups,
        implementation=implementation,
        precision=_resolve_precision(precision),
    )
    choice.check(owner, geometry, kernel.shape, x.dtype)
    return primitives.input_gradient(x, kernel, geometry)


def symmetric_padding(kernel_size: Sequence[int], kernel_dilation: int = 1) -> tuple[tuple[int, int], ...]:
    """Padding of half a kernel on both sides, as torch and Caffe networks have it.

    "SAME" differs at stride 2 on even sizes: it pads (0, 1) where this pads (1, 1), and so shifts ported weights.

    Args:
        kernel_size: taps along each spatial axis; odd.
        kernel_dilation: distance between taps, in pixels.

    Returns:
        (before, after) along each spatial axis, in pixels.

    Raises:
        ValueError: an even kernel, which has no symmetric padding that keeps the size.
    """
    if any(size % 2 == 0 for size in kernel_size):
        raise ValueError(
            f"symmetric_padding: kernel_size={tuple(kernel_size)} must be odd; give explicit pairs for an even kernel"
        )
    return tuple((kernel_dilation * (size // 2),) * 2 for size in kernel_size)


def transposed_padding(
    kernel_size: int | Sequence[int],
    padding: int | Sequence[int | tuple[int, int]] = 0,
    *,
    kernel_dilation: int | Sequence[int] = 1,
    output_padding: int | Sequence[int] = 0,
) -> tuple[Pair, Pair]:
    """The padding of a transposed convolution, from that of the convolution which it transposes, as torch counts it.

    `torch.nn.ConvTranspose2d(..., padding=p, output_padding=q)` has `padding=transposed_padding(kernel_size, p,
    output_padding=q)` here, and its weights, from [in, out / groups, height, width] to [height, width, out / groups,
    in], with `transpose_kernel`. Then out_size = (size - 1) * stride - 2 * p + extent + q.

    Args:
        kernel_size: height and width, in taps.
        padding: of the convolution: (before, after) along height and width, in pixels; a number stands for both.
        kernel_dilation: distance between taps, in pixels.
        output_padding: pixels more at the end of each axis; of the sizes that a convolution takes to the same size, the
            one that is meant.

    Returns:
        ((before, after), (before, after)), to be the `padding` of `conv_transpose2d` and of `ConvTranspose`.

    Raises:
        ValueError: padding by name, which depends on sizes; negative output padding.
    """
    owner = "transposed_padding"
    if isinstance(padding, str):
        raise ValueError(f"{owner}: padding={padding!r} must be numbers; give the name to the layer itself")
    more = (output_padding, output_padding) if isinstance(output_padding, int) else tuple(output_padding)
    if len(more) != 2 or min(more) < 0:
        raise ValueError(f"{owner}: output_padding={output_padding} must be one or two numbers from 0; crop by padding")
    taps = as_pair(f"{owner}: kernel_size", kernel_size)
    extents = _extents(taps, as_pair(f"{owner}: kernel_dilation", kernel_dilation))
    rows, columns = (
        (extent - 1 - before, extent - 1 - after + end)
        for extent, (before, after), end in zip(extents, as_padding(owner, padding), more, strict=True)
    )
    return rows, columns


def as_pair(owner: str, sizes: int | Sequence[int]) -> Pair:
    """(height, width) of sizes that may be one number for both; `owner` also says what they are the size of."""
    pair = (sizes, sizes) if isinstance(sizes, int) else tuple(sizes)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{owner}={sizes} must be one or two positive integers; give (height, width)")
    return pair


def as_padding(owner: str, padding: Padding) -> str | tuple[Pair, Pair]:
    """The name "SAME" or "VALID", or else ((before, after), (before, after)), in pixels."""
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "VALID"):
            raise unknown_name(f"{owner}: padding", padding, ("SAME", "VALID"))
        return padding.upper()
    axes = (padding, padding) if isinstance(padding, int) else padding
    pairs = tuple((pad, pad) if isinstance(pad, int) else tuple(pad) for pad in axes)
    if len(pairs) != 2 or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            f"{owner}: padding={padding} must be a (before, after) for height and for width; give two pairs"
        )
    return pairs


def _named_transposed_padding(name: str, extent: int, stride: int) -> Pair:
    """(before, after) of one axis, as `lax.conv_transpose` has it."""
    if name == "VALID":
        return extent - 1, max(extent, stride) - 1
    before = extent - 1 if stride >= extent else -(-(extent + stride - 2) // 2)
    return before, extent + stride - 2 - before


def _transposed_axis(size: int, stride: int, extent: int, padding: Pair) -> tuple[int, Pair]:
    """The output size of a transposed convolution, and the padding of the convolution that leads back to `size`."""
    before, after = padding
    stretched = (size - 1) * stride + 1 if size else 0
    # Up to stride - 1 pixels of padding that no window reaches, where the convolution would else have to crop.
    unreached = min(stride - 1, max(0, after - (extent - 1))) if size else 0
    return stretched + before + after - (extent - 1), (extent - 1 - before, extent - 1 - after + unreached)


def _transposed_kernel(kernel: jax.Array, groups: int) -> jax.Array:
    """[height, width, in / groups, out], flipped along height and width, as [height, width, out / groups, in]."""
    height, width, group_in, out_features = kernel.shape
    by_group = kernel[::-1, ::-1].reshape(height, width, group_in, groups, out_features // groups)
    return by_group.transpose(0, 1, 4, 3, 2).reshape(height, width, out_features // groups, groups * group_in)


def _extents(kernel_size: Sequence[int], kernel_dilation: Pair) -> list[int]:
    """Pixels from the first tap to the last, along height and width."""
    return [dilation * (taps - 1) + 1 for dilation, taps in zip(kernel_dilation, kernel_size[:2], strict=True)]


def _resolve_precision(precision: lax.PrecisionLike) -> lax.PrecisionLike:
    # Read while tracing, as jax.lax does: when the program is lowered the context may be another.
    return precision if precision is not None else jax.config.jax_default_matmul_precision


def _check_arrays(owner: str, x: jax.Array, kernel: jax.Array) -> None:
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError(
            f"{owner}: x and kernel must have 4 axes, not shapes {x.shape} and {kernel.shape}; give NHWC and HWIO"
        )
    if x.dtype != kernel.dtype:
        raise ValueError(f"{owner}: x and kernel must be of one dtype, not {x.dtype} and {kernel.dtype}; cast one")


def _check_groups(owner: str, groups: int, in_features: int, kernel_shape: Sequence[int]) -> None:
    if groups < 1 or in_features != kernel_shape[2] * groups:
        raise ValueError(
            f"{owner}: in_features={in_features} must be feature_group_count={groups} times kernel.shape[2]="
            f"{kernel_shape[2]}; change the kernel or the groups"
        )
    if kernel_shape[3] % groups:
        raise ValueError(
            f"{owner}: feature_group_count={groups} must divide features={kernel_shape[3]}; choose a divisor"
        )


def _check_transposed_kernel(owner: str, groups: int, in_features: int, kernel_in_features: int) -> None:
    if in_features != kernel_in_features:
        raise ValueError(
            f"{owner}: in_features={in_features} must be kernel.shape[3]={kernel_in_features} with transpose_kernel; "
            "change the kernel"
        )
    if groups < 1 or in_features % groups:
        raise ValueError(
            f"{owner}: feature_group_count={groups} must divide in_features={in_features}; choose a divisor"
        )
