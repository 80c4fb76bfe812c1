"""The one place from which networks take their convolutions: linen modules, and the functions behind them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax

from arch.ops.conv2d import Padding, as_padding, as_pair, conv2d, conv_transpose2d
from arch.ops.conv2d import symmetric_padding as symmetric_padding
from arch.ops.conv2d import transposed_padding as transposed_padding


class Conv(nn.Module):
    """`conv2d` with its kernel, and a bias; parameters and their initial values are those of `flax.linen.Conv`.

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
        _check_groups("Conv", groups, x.shape[-1], self.features)
        shape = (*as_pair("Conv: kernel_size", self.kernel_size), x.shape[-1] // groups, self.features)
        return _apply(self, conv2d, x, shape, self.features, {"feature_group_count": groups})


class DepthwiseConv(nn.Module):
    """A convolution of each channel alone; `flax.linen.Conv` with as many groups as channels, and its parameters.

    Paper: Howard et al., MobileNet (arXiv:1704.04861), section 3.1.
    Parameters: kernel [kernel_height, kernel_width, 1, in_features * depth_multiplier], bias of as many features.
    MACs: out_height * out_width * kernel_height * kernel_width * in_features * depth_multiplier.

    Attributes:
        kernel_size: height and width, in taps.
        depth_multiplier: output channels of each input channel; output channel o sees input o // depth_multiplier.
        strides: step between windows, in pixels.
        padding: as in `Conv`.
        kernel_dilation: distance between taps, in pixels.
        use_bias, dtype, param_dtype, precision, bias_init: as in `Conv`.
        kernel_init: initial values of [height, width, 1, in_features * depth_multiplier].
        implementation: as in `conv2d`.
    """

    kernel_size: int | Sequence[int]
    depth_multiplier: int = 1
    strides: int | Sequence[int] | None = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] | None = 1
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: lax.PrecisionLike = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in_features] to [batch, out_height, out_width, in_features * depth_multiplier].

        Raises:
            ValueError: a multiplier below 1; whatever `conv2d` refuses.
        """
        features = _widened("DepthwiseConv", x.shape[-1], self.depth_multiplier)
        shape = (*as_pair("DepthwiseConv: kernel_size", self.kernel_size), 1, features)
        return _apply(self, conv2d, x, shape, features, {"feature_group_count": x.shape[-1]})


class SeparableConv(nn.Module):
    """A depthwise convolution, then a 1x1 one across channels.

    What lies between the two is as given: a norm and an activation in MobileNet (arXiv:1704.04861, figure 3), nothing
    in Xception, NASNet and DARTS. Nothing follows the second.

    Paper: Chollet, Xception (arXiv:1610.02357), section 2.
    Parameters: those of `DepthwiseConv`, "depthwise", and of a 1x1 `Conv`, "pointwise"; of the norm, "depthwise_norm".
    MACs: out_height * out_width * in_features * depth_multiplier * (kernel_height * kernel_width + features).

    Attributes:
        features: output channels.
        kernel_size: height and width of the depthwise kernel, in taps.
        strides: step between its windows, in pixels.
        padding: of the depthwise convolution, as in `Conv`.
        kernel_dilation: distance between its taps, in pixels.
        depth_multiplier: channels between the two, for each input channel.
        conv: makes both convolutions from their fields; bind here what they share: `functools.partial(Conv,
            use_bias=False)`.
        norm: makes the normalization between them, a function of x alone, from its name; None leaves it out.
        act: the activation between them; None leaves it out.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    depth_multiplier: int = 1
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., Callable[[jax.Array], jax.Array]] | None = None
    act: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in_features] to [batch, out_height, out_width, features]."""
        x = self.conv(
            features=_widened("SeparableConv", x.shape[-1], self.depth_multiplier),
            kernel_size=as_pair("SeparableConv: kernel_size", self.kernel_size),
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=x.shape[-1],
            name="depthwise",
        )(x)
        x = _between(self, x, "depthwise_norm")
        return self.conv(features=self.features, kernel_size=(1, 1), name="pointwise")(x)


class FactorizedConv(nn.Module):
    """A 1xM convolution, then an Mx1 one.

    With nothing between and no bias in the first it is the dense convolution whose kernel is K[i, j, c, o] = sum over m
    of horizontal[0, j, c, m] * vertical[i, 0, m, o], at the borders too. A bias of the first would not be in the rows
    that the second pads.

    Paper: Szegedy et al., Inception v3 (arXiv:1512.00567), section 3.2.
    Parameters: "horizontal" [1, M, in_features, middle_features], "vertical" [M, 1, middle_features, features], their
        biases; those of the norm, "horizontal_norm".
    MACs: out_height * out_width * M * middle_features * (in_features + features), at stride 1.

    Attributes:
        features: output channels.
        kernel_size: height of the second and width of the first, in taps; a number stands for both.
        middle_features: channels between the two; None takes `features`.
        strides: step between windows, in pixels; the first takes that of the width, the second that of the height.
        padding: as in `Conv`; the first pads the width, the second the height.
        kernel_dilation: distance between taps, in pixels.
        conv: makes both convolutions from their fields; bind here what they share: `functools.partial(Conv,
            use_bias=False)`.
        norm: makes the normalization between them, a function of x alone, from its name; None leaves it out.
        act: the activation between them; None leaves it out.
    """

    features: int
    kernel_size: int | Sequence[int]
    middle_features: int | None = None
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., Callable[[jax.Array], jax.Array]] | None = None
    act: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in_features] to [batch, out_height, out_width, features]."""
        height, width = as_pair("FactorizedConv: kernel_size", self.kernel_size)
        row_stride, column_stride = as_pair("FactorizedConv: strides", self.strides)
        row_dilation, column_dilation = as_pair("FactorizedConv: kernel_dilation", self.kernel_dilation)
        padding = as_padding("FactorizedConv", self.padding)
        # One tap at stride 1 needs no padding: for it the names "SAME" and "VALID" mean none, too.
        rows, columns = (padding, padding) if isinstance(padding, str) else ((padding[0], (0, 0)), ((0, 0), padding[1]))
        x = self.conv(
            features=self.features if self.middle_features is None else self.middle_features,
            kernel_size=(1, width),
            strides=(1, column_stride),
            padding=columns,
            kernel_dilation=(1, column_dilation),
            name="horizontal",
        )(x)
        x = _between(self, x, "horizontal_norm")
        return self.conv(
            features=self.features,
            kernel_size=(height, 1),
            strides=(row_stride, 1),
            padding=rows,
            kernel_dilation=(row_dilation, 1),
            name="vertical",
        )(x)


class ConvTranspose(nn.Module):
    """`conv_transpose2d` with its kernel, and a bias; parameters and initial values of `flax.linen.ConvTranspose`.

    Attributes:
        features: output channels.
        kernel_size: height and width, in taps.
        strides: output pixels to a step of one input pixel.
        padding: as in `conv_transpose2d`; "SAME" makes out_size = size * stride. From what torch calls padding and
            output padding, `transposed_padding` makes it.
        kernel_dilation: distance between taps, in pixels.
        use_bias, dtype, param_dtype, precision: as in `Conv`.
        kernel_init: initial values of [height, width, in_features / feature_group_count, features], or with
            transpose_kernel of [height, width, features / feature_group_count, in_features].
        bias_init: initial values of [features].
        transpose_kernel: the kernel is that of the convolution which this transposes, as in torch.
        feature_group_count: groups of features.
        implementation: as in `conv_transpose2d`.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] | None = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] | None = 1
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: lax.PrecisionLike = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()
    transpose_kernel: bool = False
    feature_group_count: int = 1
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in_features] to [batch, out_height, out_width, features].

        Raises:
            ValueError: a number of groups that does not divide the features; whatever `conv_transpose2d` refuses.
        """
        groups = self.feature_group_count
        _check_groups("ConvTranspose", groups, x.shape[-1], self.features)
        kernel_size = as_pair("ConvTranspose: kernel_size", self.kernel_size)
        if self.transpose_kernel:
            shape = (*kernel_size, self.features // groups, x.shape[-1])
        else:
            shape = (*kernel_size, x.shape[-1] // groups, self.features)
        options = {"feature_group_count": groups, "transpose_kernel": self.transpose_kernel}
        return _apply(self, conv_transpose2d, x, shape, self.features, options)


def _apply(
    layer: nn.Module,
    convolution: Callable[..., jax.Array],
    x: jax.Array,
    kernel_shape: Sequence[int],
    features: int,
    options: Mapping[str, Any],
) -> jax.Array:
    """A layer's convolution of x with the layer's own kernel, plus its bias if it has one."""
    kernel = layer.param("kernel", layer.kernel_init, kernel_shape, layer.param_dtype)
    bias = layer.param("bias", layer.bias_init, (features,), layer.param_dtype) if layer.use_bias else None
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=layer.dtype)
    out = convolution(
        x,
        kernel,
        strides=1 if layer.strides is None else layer.strides,
        padding=layer.padding,
        kernel_dilation=1 if layer.kernel_dilation is None else layer.kernel_dilation,
        implementation=layer.implementation,
        precision=layer.precision,
        **options,
    )
    return out if bias is None else out + bias


def _between(layer: nn.Module, x: jax.Array, name: str) -> jax.Array:
    """What lies between the two convolutions of a layer; `name` is that of the norm."""
    x = x if layer.norm is None else layer.norm(name=name)(x)
    return x if layer.act is None else layer.act(x)


def _check_groups(owner: str, groups: int, in_features: int, features: int) -> None:
    if groups < 1 or in_features % groups or features % groups:
        raise ValueError(
            f"{owner}: feature_group_count={groups} must divide in_features={in_features} and features={features}; "
            "choose a divisor of both"
        )


def _widened(owner: str, in_features: int, depth_multiplier: int) -> int:
    """Output channels of a depthwise convolution."""
    if depth_multiplier < 1:
        raise ValueError(f"{owner}: depth_multiplier={depth_multiplier} must be at least 1; leave it out for 1")
    return in_features * depth_multiplier
