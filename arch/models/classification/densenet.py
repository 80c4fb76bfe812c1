"""DenseNet (Huang, Liu, van der Maaten, Weinberger, CVPR 2017, arXiv:1608.06993)."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.dense import DenseLayer, DenseTransition
from arch.blocks.head import classifier_head
from arch.blocks.residual import check_stages
from arch.blocks.stem import bare_stem, image_stem, stem_stride
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples

# What the paper's networks for CIFAR have in common, section 4.1: the basic ones, and those with bottlenecks and
# compression (BC), whose first convolution has twice the growth rate.
CIFAR = {"stem": "small", "stem_features": 16, "bottleneck_ratio": None, "compression_ratio": 1.0}
CIFAR_BC = {"stem": "small"}


class DenseNet(nn.Module):
    """DenseNet, table 1 and sections 3 and 4 of the paper: every layer sees all that the layers before it made.

    For ImageNet torchvision's networks, layer by layer; for CIFAR the paper's of section 4.1, basic (no bottleneck,
    transitions that keep the channels) and BC.

    Differs from the paper: dropout follows the 3x3 convolutions alone, as in torchvision, not the 1x1 ones.

    Initial values: torchvision's. Convolutions from N(0, 2 / fan-in), classifier weights from U(-1, 1) / sqrt(fan-in),
    its bias 0, norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: layers of each dense block.
        growth_rate: channels that a layer adds.
        bottleneck_ratio: channels of a layer's 1x1 convolution, as a multiple of growth_rate; None leaves it out.
        compression_ratio: share of its input's channels that a transition keeps, in (0, 1].
        stem_features: channels of the first convolution.
        stem: "imagenet" (7x7 stride 2, normalization, max pool 3x3 stride 2) or, for images of 8 to 64 pixels, "small"
            (a 3x3 convolution of stride 1 alone, the paper's for CIFAR) or "stride2" (the same of stride 2).
        dropout_rate: of the values that each layer adds; 0.2 in the paper where no images are augmented.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions.
        features_only: returns maps instead of logits, and makes no head: neither the last normalization.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    stage_sizes: Sequence[int] = (6, 12, 24, 16)
    growth_rate: int = 32
    bottleneck_ratio: int | None = 4
    compression_ratio: float = 0.5
    stem_features: int = 64
    stem: str = "imagenet"
    dropout_rate: float = 0.0
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    features_only: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, examples: Examples | None = None
    ) -> jax.Array | dict[int, jax.Array]:
        """The logits of images.

        Args:
            x: [batch, height, width, channels], floating point, normalized as the data asks.
            train: batch statistics and dropout, else running statistics and none.
            examples: weights, for the statistics, and ids, for dropout, of the examples.

        Returns:
            [batch, num_classes], float32 or wider; with features_only {stride: [batch, height / stride,
            width / stride, features]}, what the stem and the last layer of each block put out, not normalized.

        Raises:
            ValueError: integer images; an unknown stem; stages without layers; a growth rate below 1; a compression
                that leaves no channel or adds some; images that are too small.
        """
        check_stages("DenseNet", self.stage_sizes)
        if self.growth_rate < 1:
            raise ValueError(f"DenseNet: growth_rate={self.growth_rate} must be at least 1; it is what a layer adds")
        dtypes = resolve_dtypes("DenseNet", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)
        parts = {"conv": conv, "norm": norm, "act": self.act}

        x = x.astype(dtypes.compute)
        stem = {"owner": "DenseNet", "kind": self.stem, "features": self.stem_features}
        if self.stem == "imagenet":
            x = image_stem(x, **stem, kernel_size=7, pool=True, **parts)
        else:
            x = bare_stem(x, **stem, conv=conv)
        stride = stem_stride(self.stem, pool=True)
        features_at = {stride: x}
        for stage, size in enumerate(self.stage_sizes, start=1):
            if stage > 1:
                features = self._compressed(x.shape[-1])
                x = DenseTransition(features=features, **parts, name=f"transition{stage - 1}")(x)
                stride *= 2
            for unit in range(1, size + 1):
                x = DenseLayer(
                    growth_rate=self.growth_rate,
                    bottleneck_ratio=self.bottleneck_ratio,
                    dropout_rate=self.dropout_rate,
                    **parts,
                    name=f"stage{stage}_unit{unit}",
                )(x, train=train, examples=examples)
            features_at[stride] = x
        if self.features_only:
            return features_at
        x = self.act(norm(name="head_norm")(x))
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=0.0,
            train=train,
            examples=examples,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            dtypes=dtypes,
        )

    def _compressed(self, features: int) -> int:
        """Channels that a transition puts out."""
        compressed = math.floor(features * self.compression_ratio)
        if not 1 <= compressed <= features:
            raise ValueError(
                f"DenseNet: compression_ratio={self.compression_ratio} must leave 1 to {features} of {features} "
                "channels; choose one in (0, 1]"
            )
        return compressed
