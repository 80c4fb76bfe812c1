"""The one place from which networks take their convolutions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax

from arch.errors import unknown_name
from arch.ops._lowerings import choice, primitives
from arch.ops._lowerings.geometry import Geometry

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

    Args:
        x: [batch, height, width, in_features].
        kernel: [height, width, in_features / feature_group_count, features], dtype of x.
        strides: step between windows, in pixels.
        padding: "SAME", "VALID" or (before, after) along height and width, in pixels; a number stands for both.
        kernel_dilation: distance between taps, in pixels.
        feature_group_count: groups of features; in_features is depthwise.
        implementation: "auto" takes the fastest measured program, on platforms not measured JAX's own; "reference" is
            JAX's own; "depthwise", "grouped" and "matmul" force one.
        precision: of the products, as jax.lax takes it; None is that of `jax.default_matmul_precision`.

    Returns:
        [batch, out_height, out_width, features], dtype of x.

    Raises:
        ValueError: shapes or dtypes that do not fit; an implementation that is unknown or cannot take this convolution.
    """
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError(
            f"conv2d: x and kernel must have 4 axes, not shapes {x.shape} and {kernel.shape}; give NHWC and HWIO"
        )
    if x.dtype != kernel.dtype:
        raise ValueError(f"conv2d: x and kernel must be of one dtype, not {x.dtype} and {kernel.dtype}; cast one")
    groups = feature_group_count
    if groups < 1 or x.shape[3] != kernel.shape[2] * groups:
        raise ValueError(
            f"conv2d: in_features={x.shape[3]} must be feature_group_count={groups} times kernel.shape[2]="
            f"{kernel.shape[2]}; change the kernel or the groups"
        )
    if kernel.shape[3] % groups:
        raise ValueError(
            f"conv2d: feature_group_count={groups} must divide features={kernel.shape[3]}; choose a divisor"
        )
    strides, kernel_dilation = _pair("strides", strides), _pair("kernel_dilation", kernel_dilation)
    extents = [dilation * (taps - 1) + 1 for dilation, taps in zip(kernel_dilation, kernel.shape[:2], strict=True)]
    geometry = Geometry(
        input_size=x.shape[1:3],
        kernel_size=kernel.shape[:2],
        strides=strides,
        padding=_explicit_padding(padding, x.shape[1:3], extents, strides),
        kernel_dilation=kernel_dilation,
        groups=groups,
        implementation=implementation,
        # Read while tracing, as jax.lax does: when the program is lowered the context may be another.
        precision=precision if precision is not None else jax.config.jax_default_matmul_precision,
    )
    choice.check(geometry, kernel.shape, x.dtype)
    return primitives.value(x, kernel, geometry)


class Conv(nn.Module):
    """A convolution; parameters and their initial values are those of `flax.linen.Conv`.

    Attributes:
        features: output channels.
        kernel_size: height and width, in taps.
        strides: step between windows, in pixels.
        padding: "SAME", "VALID" or (before, after) along height and width, in pixels; a number stands for both.
        kernel_dilation: distance between taps, in pixels.
        feature_group_count: groups of features.
        use_bias: adds a value to each output channel.
        dtype: of the computation; None takes what x and the parameters promote to.
        param_dtype: of the parameters.
        precision: of the products, as jax.lax takes it.
        kernel_init: initial values of [height, width, in_features / feature_group_count, features].
        bias_init: initial values of [features].
        implementation: as in `conv2d`.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] | None = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] | None = 1
    feature_group_count: int = 1
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: lax.PrecisionLike = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in_features] to [batch, out_height, out_width, features].

        Raises:
            ValueError: a number of groups that does not divide the features; whatever `conv2d` refuses.
        """
        groups = self.feature_group_count
        if groups < 1 or x.shape[-1] % groups or self.features % groups:
            raise ValueError(
                f"Conv: feature_group_count={groups} must divide in_features={x.shape[-1]} and "
                f"features={self.features}; choose a divisor of both"
            )
        shape = (*_pair("kernel_size", self.kernel_size), x.shape[-1] // groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        out = conv2d(
            x,
            kernel,
            strides=1 if self.strides is None else self.strides,
            padding=self.padding,
            kernel_dilation=1 if self.kernel_dilation is None else self.kernel_dilation,
            feature_group_count=groups,
            implementation=self.implementation,
            precision=self.precision,
        )
        return out if bias is None else out + bias


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


def _pair(name: str, sizes: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a field that may be one number for both."""
    pair = (sizes, sizes) if isinstance(sizes, int) else tuple(sizes)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"conv2d: {name}={sizes} must be one or two positive integers; give (height, width)")
    return pair


def _explicit_padding(
    padding: Padding, sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """((before, after), (before, after)), in pixels; `extents` are those of the dilated kernel."""
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "VALID"):
            raise unknown_name("conv2d: padding", padding, ("SAME", "VALID"))
        padding = lax.padtype_to_pads(sizes, extents, strides, padding.upper())
    elif isinstance(padding, int):
        padding = (padding, padding)
    pairs = tuple((pad, pad) if isinstance(pad, int) else tuple(pad) for pad in padding)
    if len(pairs) != 2 or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            f"conv2d: padding={padding} must be a (before, after) for height and for width; give two pairs"
        )
    return pairs
