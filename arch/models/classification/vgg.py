"""VGG (Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556)."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.stem import STEMS
from arch.errors import unknown_name
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv, symmetric_padding
from arch.ops.dtypes import Dtypes, resolve_dtypes
from arch.ops.pooling import adaptive_avg_pool, max_pool
from arch.ops.stochastic import Dropout, Examples


class VGG(nn.Module):
    """VGG, table 1 of the paper; torchvision's network, layer by layer.

    Stages of 3x3 convolutions, each with its activation, a max pool 2x2 after each stage, and linear layers on a map of
    7x7.

    Differs from the paper: images that do not leave a map of 7x7 have it averaged to that size, as in torchvision; at
    224 pixels nothing changes. Normalizations (`use_norm`, torchvision's `vgg16_bn`) are not the paper's. The initial
    values.

    Initial values: torchvision's. Convolutions from N(0, 2 / fan-out), linear layers from N(0, 0.01), biases 0, norms
    at scale 1 and bias 0.

    The map is flattened channel by channel, as it lies in memory in torchvision, so that its weights fit as they are.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: convolutions of each stage: (1, 1, 2, 2, 2) is table 1's A, (2, 2, 2, 2, 2) B, (2, 2, 3, 3, 3) D,
            which is VGG-16, and (2, 2, 4, 4, 4) E.
        stage_features: channels of each stage.
        use_norm: a normalization between each convolution and its activation.
        final_pool: the last stage is pooled too; without, its map is the last, that of "conv5_3".
        pool_size: height and width of the map that the linear layers see.
        hidden_features: outputs of the linear layers before the classifier.
        stem: the first convolution has stride 1, "imagenet" and "small" alike, or, with "stride2", 2, which makes all
            that follows four times cheaper.
        dropout_rate: after each hidden linear layer.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm. Unused without use_norm.
        act: the activation.
        kernel_init: initial values of the convolutions.
        features_only: returns maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    stage_sizes: Sequence[int] = (2, 2, 3, 3, 3)
    stage_features: Sequence[int] = (64, 128, 256, 512, 512)
    use_norm: bool = False
    final_pool: bool = True
    pool_size: int = 7
    hidden_features: Sequence[int] = (4096, 4096)
    stem: str = "imagenet"
    dropout_rate: float = 0.5
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
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
            width / stride, features]}: of the first strides the last map before it is pooled and, with final_pool, what
            the last pooling leaves.

        Raises:
            ValueError: integer images; images that pooling leaves nothing of; an unknown stem; stages that do not fit.
        """
        self._check_fields(x)
        dtypes = resolve_dtypes("VGG", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(
            self.conv,
            kernel_size=(3, 3),
            padding=symmetric_padding((3, 3)),
            use_bias=True,
            kernel_init=self.kernel_init,
            **layer,
        )
        norm = bind(self.norm, train=train, examples=examples, **layer)

        x = x.astype(dtypes.compute)
        stride = self._stem_stride()
        features_at = {}
        for stage, (size, features) in enumerate(zip(self.stage_sizes, self.stage_features, strict=True), start=1):
            for number in range(1, size + 1):
                strides = self._stem_stride() if (stage, number) == (1, 1) else 1
                x = conv(features=features, strides=(strides, strides), name=f"stage{stage}_conv{number}")(x)
                if self.use_norm:
                    x = norm(name=f"stage{stage}_norm{number}")(x)
                x = self.act(x)
            features_at[stride] = x
            if stage < len(self.stage_sizes) or self.final_pool:
                x = max_pool(x, (2, 2), strides=(2, 2), padding="VALID")
                stride *= 2
                features_at[stride] = x
        if self.features_only:
            return features_at
        return self._classify(x, dtypes, train, examples)

    def _classify(self, x: jax.Array, dtypes: Dtypes, train: bool, examples: Examples | None) -> jax.Array:
        """The linear layers, on the last map; from the compact `__call__`."""
        x = adaptive_avg_pool(x, self.pool_size)
        x = jnp.moveaxis(x, 3, 1).reshape(x.shape[0], -1)
        dense = functools.partial(nn.Dense, kernel_init=nn.initializers.normal(0.01), param_dtype=dtypes.param)
        for number, features in enumerate(self.hidden_features, start=1):
            x = self.act(dense(features, dtype=dtypes.compute, name=f"hidden{number}")(x))
            x = Dropout(self.dropout_rate, name=f"dropout{number}")(x, train=train, examples=examples)
        return dense(self.num_classes, dtype=dtypes.head, name="classifier")(x)

    def _stem_stride(self) -> int:
        return 2 if self.stem == "stride2" else 1

    def _check_fields(self, x: jax.Array) -> None:
        """The stem is known, every stage has its size and features, and the images are large enough."""
        if self.stem not in STEMS:
            raise unknown_name("VGG: stem", self.stem, STEMS)
        if len(self.stage_sizes) != len(self.stage_features) or min(self.stage_sizes, default=0) < 1:
            raise ValueError(
                f"VGG: stage_sizes={tuple(self.stage_sizes)} must be 1 or more, one for each of "
                f"stage_features={tuple(self.stage_features)}; change either"
            )
        smallest = self._stem_stride() * 2 ** (len(self.stage_sizes) - (0 if self.final_pool else 1))
        if x.ndim == 4 and min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"VGG: height={x.shape[1]} and width={x.shape[2]} must be at least {smallest}, or pooling leaves "
                "nothing; give larger images or fewer stages"
            )
