"""IGCV3 (Sun, Li, Liu, Wang, Interleaved Low-Rank Group Convolutions, BMVC 2018, arXiv:1806.00178)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head
from arch.blocks.interleaved import InterleavedInvertedResidual
from arch.blocks.residual import check_stages, residual_stages
from arch.blocks.stem import image_stem, stem_stride
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples


class IGCV3(nn.Module):
    """IGCV3-D, section 4 of the paper: MobileNet v2 with grouped 1x1 convolutions, and twice the units for it.

    The authors' code, layer by layer, at width 1.

    Differs from the paper: at other widths the authors' code miscounts the input channels of a stage and the last
    convolution's; here channels are scaled, rounded, and rounded up to whole groups, and the last convolution is
    widened where the network is. A stage of one width that keeps its channels has a shortcut in its first unit too;
    the paper's has none such.

    Initial values: the authors'. Convolutions from N(0, 2 / fan-in), the classifier's weights too, its bias 0, norms at
    scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        width_multiplier: of the channels of every layer, above 0.
        stage_sizes: units of each stage.
        stage_features: channels of each stage, at width 1.
        stage_strides: of the first unit of each stage.
        expand_ratios: of the units of each stage: channels of the depthwise convolution, as a multiple of the input's.
        groups: of the units' 1x1 convolutions.
        stem_features: channels of the first convolution, at width 1.
        head_features: channels of the last convolution, at width 1 or less.
        stem: "imagenet" (3x3 stride 2) or, for images of 8 to 64 pixels, "small" (3x3 stride 1)
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
    width_multiplier: float = 1.0
    stage_sizes: Sequence[int] = (1, 4, 6, 8, 6, 6, 1)
    stage_features: Sequence[int] = (16, 24, 32, 64, 96, 160, 320)
    stage_strides: Sequence[int] = (1, 2, 2, 2, 1, 2, 1)
    expand_ratios: Sequence[float] = (1, 6, 6, 6, 6, 6, 6)
    groups: int = 2
    stem_features: int = 32
    head_features: int = 1280
    stem: str = "imagenet"
    dropout_rate: float = 0.0
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.relu6
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
            width / stride, features]}, the last map of each stride, from the stem's on.

        Raises:
            ValueError: integer images; an unknown stem; stages or groups that do not fit; a width that is not positive.
        """
        self._check_fields()
        dtypes = resolve_dtypes("IGCV3", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)

        def unit(stage: int, *, strides: int, name: str) -> InterleavedInvertedResidual:
            return InterleavedInvertedResidual(
                features=self._widened(self.stage_features[stage]),
                strides=strides,
                expand_ratio=self.expand_ratios[stage],
                groups=self.groups,
                conv=conv,
                norm=norm,
                act=self.act,
                name=name,
            )

        x = image_stem(
            x.astype(dtypes.compute),
            owner="IGCV3",
            kind=self.stem,
            features=self._widened(self.stem_features),
            kernel_size=3,
            pool=False,
            conv=conv,
            norm=norm,
            act=self.act,
        )
        features_at = residual_stages(
            x,
            stride=stem_stride(self.stem, pool=False),
            stage_sizes=self.stage_sizes,
            stage_strides=self.stage_strides,
            unit=unit,
        )
        if self.features_only:
            return features_at
        *_, x = features_at.values()
        head_features = round(self.head_features * max(1.0, self.width_multiplier))
        x = conv(features=head_features, kernel_size=(1, 1), name="head_conv")(x)
        x = self.act(norm(name="head_norm")(x))
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=self.kernel_init,
            dtypes=dtypes,
        )

    def _widened(self, features: int) -> int:
        """Channels of a layer: scaled, and in whole groups."""
        return max(1, -(-round(features * self.width_multiplier) // self.groups)) * self.groups

    def _check_fields(self) -> None:
        """The width is positive, and every stage has its size, features, strides and ratio."""
        if self.width_multiplier <= 0 or self.groups < 1:
            raise ValueError(
                f"IGCV3: width_multiplier={self.width_multiplier} must be above 0 and groups={self.groups} at least "
                "1; raise them"
            )
        check_stages(
            "IGCV3",
            self.stage_sizes,
            stage_features=self.stage_features,
            stage_strides=self.stage_strides,
            expand_ratios=self.expand_ratios,
        )
