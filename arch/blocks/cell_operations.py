"""The operations of searched cells, by name; every one brings its input to the cell's number of channels."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from arch.errors import unknown_name
from arch.ops.conv import FactorizedConv, SeparableConv, symmetric_padding
from arch.ops.conv2d import Padding
from arch.ops.pooling import avg_pool, max_pool

PADDINGS = ("SAME", "symmetric")


class CellOperation(nn.Module):
    """What all operations know; each maps [batch, height, width, channels] to [batch, ceil(height / strides),
    ceil(width / strides), features].

    Attributes:
        features: output channels.
        strides: in pixels, 1 or 2.
        padding: "SAME", or "symmetric", which pads half of a window on either side.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    strides: int
    padding: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    def padding_of(self, kernel_size: int, kernel_dilation: int = 1) -> Padding:
        """Of a window, as the operators take it."""
        if self.padding not in PADDINGS:
            raise unknown_name(f"{type(self).__name__}: padding", self.padding, PADDINGS)
        if self.padding == "SAME":
            return "SAME"
        return symmetric_padding((kernel_size, kernel_size), kernel_dilation)

    def pointwise(self, x: jax.Array, features: int, name: str = "", strides: int = 1) -> jax.Array:
        """A 1x1 convolution and its normalization; their names begin with `name`."""
        conv = self.conv(features=features, kernel_size=(1, 1), strides=(strides, strides), name=f"{name}conv")
        return self.norm(name=f"{name}norm")(conv(x))


class PointwiseOperation(CellOperation):
    """Activation, 1x1 convolution, normalization.

    Attributes:
        use_act: whether the activation is there.
    """

    use_act: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.act(x) if self.use_act else x
        return self.pointwise(x, self.features, strides=self.strides)


class FactorizedReduction(CellOperation):
    """Activation, two 1x1 convolutions of stride 2 side by side, of which the second sees the pixels that the first
    leaves out along the diagonal, and one normalization: NASNet (arXiv:1707.07012), as TF-slim and DARTS have it.

    The first makes half of the channels, rounded down. Behind the last pixel of an odd size the second sees zeros.

    Attributes:
        use_act: whether the activation is there.
    """

    use_act: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Raises ValueError: a stride other than 2; features below 2."""
        if self.strides != 2 or self.features < 2:
            raise ValueError(
                f"FactorizedReduction: strides={self.strides} must be 2 and features={self.features} at least 2, one "
                "for each half; widen the network"
            )
        x = self.act(x) if self.use_act else x
        first, second = x[:, ::2, ::2], x[:, 1::2, 1::2]
        missing = [(0, more - less) for more, less in zip(first.shape[1:3], second.shape[1:3], strict=True)]
        second = jnp.pad(second, [(0, 0), *missing, (0, 0)])
        half = self.features // 2
        first = self.conv(features=half, kernel_size=(1, 1), name="conv1")(first)
        second = self.conv(features=self.features - half, kernel_size=(1, 1), name="conv2")(second)
        return self.norm(name="norm")(jnp.concatenate([first, second], axis=-1))


class IdentityOperation(CellOperation):
    """Its input, or, where size or channels change, what brings it there.

    Attributes:
        factorized: halves the map by a `FactorizedReduction`, as DARTS does, not by a 1x1 convolution of stride 2.
    """

    factorized: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.strides == 1 and x.shape[-1] == self.features:
            return x
        fields = (self.features, self.strides, self.padding, self.conv, self.norm, self.act)
        if self.factorized and self.strides == 2:
            return FactorizedReduction(*fields, name="reduce")(x)
        return PointwiseOperation(*fields, name="project")(x)


class PoolOperation(CellOperation):
    """Pooling and, where channels change, a 1x1 convolution and a normalization; padding counts in no mean.

    Attributes:
        kind: "max" or "avg".
        window: height and width, in pixels.
    """

    kind: str
    window: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pool = max_pool if self.kind == "max" else functools.partial(avg_pool, count_padding=False)
        x = pool(x, (self.window,) * 2, strides=(self.strides,) * 2, padding=self.padding_of(self.window))
        return x if x.shape[-1] == self.features else self.pointwise(x, self.features)


class SeparableOperation(CellOperation):
    """Activation, separable convolution, normalization, `num_convs` times; nothing between the separable's halves.

    Attributes:
        kernel_size: height and width of the depthwise kernels, in taps.
        num_convs: the first has the stride.
        kernel_dilation: distance between taps, in pixels.
    """

    kernel_size: int
    num_convs: int = 2
    kernel_dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for number in range(1, self.num_convs + 1):
            x = SeparableConv(
                features=self.features,
                kernel_size=(self.kernel_size, self.kernel_size),
                strides=self.strides if number == 1 else 1,
                padding=self.padding_of(self.kernel_size, self.kernel_dilation),
                kernel_dilation=self.kernel_dilation,
                conv=self.conv,
                name=f"separable{number}",
            )(self.act(x))
            x = self.norm(name=f"norm{number}")(x)
        return x


class BottleneckOperation(CellOperation):
    """A convolution of a share of the channels between two 1x1 ones, each after an activation and before a
    normalization: AmoebaNet (arXiv:1802.01548), as its authors' program has it. Shares below one channel have no 1x1.

    Attributes:
        kernel_size: height and width, in taps.
        bottleneck_ratio: the share, rounded down.
        factorized: a row of taps, normalization, activation, then a column of them, not a square.
        kernel_dilation: distance between taps, in pixels.
    """

    kernel_size: int
    bottleneck_ratio: float = 1 / 4
    factorized: bool = False
    kernel_dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        narrow = int(self.features * self.bottleneck_ratio)
        if narrow:
            x = self.pointwise(self.act(x), narrow, "narrow_")
        layer = {
            "features": narrow or self.features,
            "kernel_size": (self.kernel_size, self.kernel_size),
            "strides": (self.strides, self.strides),
            "padding": self.padding_of(self.kernel_size, self.kernel_dilation),
            "kernel_dilation": (self.kernel_dilation, self.kernel_dilation),
            "name": "conv",
        }
        if self.factorized:
            conv = FactorizedConv(**layer, conv=self.conv, norm=self.norm, act=self.act)
        else:
            conv = self.conv(**layer)
        x = self.norm(name="norm")(conv(self.act(x)))
        return self.pointwise(self.act(x), self.features, "widen_") if narrow else x


# Every name of arch.models.genotypes.OPERATIONS -> makes the operation from the fields of `CellOperation`.
OPERATIONS: Mapping[str, Callable[..., CellOperation]] = {
    "identity": functools.partial(IdentityOperation, factorized=False),
    "skip_connect": functools.partial(IdentityOperation, factorized=True),
    "avg_pool_3x3": functools.partial(PoolOperation, kind="avg", window=3),
    "max_pool_3x3": functools.partial(PoolOperation, kind="max", window=3),
    "max_pool_5x5": functools.partial(PoolOperation, kind="max", window=5),
    "max_pool_7x7": functools.partial(PoolOperation, kind="max", window=7),
    "conv_1x1": functools.partial(PointwiseOperation),
    "conv_3x3": functools.partial(BottleneckOperation, kernel_size=3),
    "conv_3x3_dilated": functools.partial(BottleneckOperation, kernel_size=3, kernel_dilation=2),
    "conv_1x3_3x1": functools.partial(BottleneckOperation, kernel_size=3, factorized=True, bottleneck_ratio=3 / 8),
    "conv_1x7_7x1": functools.partial(BottleneckOperation, kernel_size=7, factorized=True),
    "sep_conv_3x3": functools.partial(SeparableOperation, kernel_size=3),
    "sep_conv_5x5": functools.partial(SeparableOperation, kernel_size=5),
    "sep_conv_7x7": functools.partial(SeparableOperation, kernel_size=7),
    "dil_conv_3x3": functools.partial(SeparableOperation, kernel_size=3, num_convs=1, kernel_dilation=2),
    "dil_conv_5x5": functools.partial(SeparableOperation, kernel_size=5, num_convs=1, kernel_dilation=2),
}
