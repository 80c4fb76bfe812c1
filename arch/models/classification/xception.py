"""Xception (Chollet, CVPR 2017, arXiv:1610.02357)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head
from arch.blocks.separable import SeparableUnit, XceptionBlock
from arch.blocks.stem import image_stem, stem_stride
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv, SeparableConv, symmetric_padding
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples


class Xception(nn.Module):
    """Xception, figure 5 of the paper; timm's `legacy_xception`, layer by layer, and that of Keras.

    An entry flow whose blocks halve the map, a middle flow of residual blocks, an exit flow. Published for 299 pixels,
    which leave a last map of 10x10. Nothing lies between the two halves of a separable convolution; section 4.7 tries
    what `norm_between` and `act_between` put there, and finds that an activation harms.

    A "Waterfall Xception" is named beside it in lectures, without a paper, and no description of it is published: it
    cannot be told from this network, and has no name here. The four cases of `norm_between` and `act_between` are all
    that is known to be varied.

    Differs from the paper: pools of the blocks pad symmetrically, as in timm; Keras pads at the end where the size is
    even. Keras has the epsilon of its norms at 1e-3: `norm.create("batch_norm", epsilon=1e-3)`.

    Initial values: timm's, but for the classifier. Convolutions from N(0, 2 / fan-out), where the fan-out of a
    depthwise convolution counts all of its channels, norms at scale 1 and bias 0; classifier weights from N(0, 0.01),
    its bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stem_features: channels of the first convolution.
        more_stem_features: channels of each further convolution of the stem, 3x3 of stride 1.
        entry_features: channels of each block of the entry flow, which have stride 2 and two separable convolutions.
        num_middle_blocks: blocks of the middle flow, of three separable convolutions, of the entry flow's last channels
            and of stride 1.
        exit_features: channels of the exit flow: of its block, whose first convolution keeps the input's and which has
            stride 2, then of each separable convolution after it.
        norm_between: a normalization follows each depthwise convolution.
        act_between: an activation follows each depthwise convolution, and its normalization.
        stem: "imagenet" (3x3 stride 2, without padding) or, for images of 8 to 64 pixels, "small" (3x3 stride 1)
            or "stride2" (3x3 stride 2).
        dropout_rate: before the classifier.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions.
        features_only: returns maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    stem_features: int = 32
    more_stem_features: Sequence[int] = (64,)
    entry_features: Sequence[int] = (128, 256, 728)
    num_middle_blocks: int = 8
    exit_features: Sequence[int] = (1024, 1536, 2048)
    norm_between: bool = False
    act_between: bool = False
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
            width / stride, features]}, the last map of each stride, from the stem's on.

        Raises:
            ValueError: integer images; an unknown stem; no features of the entry or of the exit flow.
        """
        if not self.entry_features or not self.exit_features:
            raise ValueError(
                f"Xception: entry_features={tuple(self.entry_features)} and exit_features={tuple(self.exit_features)} "
                "must have a block each; give both at least one"
            )
        dtypes = resolve_dtypes("Xception", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)
        separable_conv = functools.partial(
            SeparableConv,
            kernel_size=(3, 3),
            padding=symmetric_padding((3, 3)),
            conv=conv,
            norm=norm if self.norm_between else None,
            act=self.act if self.act_between else None,
        )
        block = functools.partial(XceptionBlock, separable_conv=separable_conv, conv=conv, norm=norm, act=self.act)

        x = image_stem(
            x.astype(dtypes.compute),
            owner="Xception",
            kind=self.stem,
            features=self.stem_features,
            kernel_size=3,
            pool=False,
            conv=conv,
            norm=norm,
            act=self.act,
            more_features=self.more_stem_features,
            padded=False,
        )
        stride = stem_stride(self.stem, pool=False)
        features_at = {stride: x}
        for number, features in enumerate(self.entry_features, start=1):
            x = block((features, features), strides=2, first_act=number > 1, name=f"entry{number}")(x)
            stride *= 2
            features_at[stride] = x
        features = x.shape[-1]
        for number in range(1, self.num_middle_blocks + 1):
            x = block((features,) * 3, strides=1, first_act=True, name=f"middle{number}")(x)
        features_at[stride] = x
        x = block((features, self.exit_features[0]), strides=2, first_act=True, name="exit1")(x)
        for number, features in enumerate(self.exit_features[1:], start=2):
            x = SeparableUnit(features, 1, separable_conv, norm, self.act, name=f"exit{number}")(x)
        features_at[2 * stride] = x
        if self.features_only:
            return features_at
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=nn.initializers.normal(0.01),
            dtypes=dtypes,
        )
