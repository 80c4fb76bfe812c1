"""clcNet (Zhang, Channel Local Convolutions, CVPR 2018, arXiv:1712.06145)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head
from arch.blocks.interleaved import ChannelLocalUnit
from arch.blocks.residual import check_stages, residual_stages
from arch.blocks.stem import image_stem, stem_stride
from arch.models.classification.resnet import default_strides
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples


class ClcNet(nn.Module):
    """clcNet, section 4 of the paper: stages of channel local convolutions; the author's code, layer by layer.

    A unit's 3x3 convolution has groups of two channels, its 1x1 convolution two groups: the two together let every
    output see every input.

    Differs from the paper: nothing that is known; with `interlaced_inputs` the 3x3 convolutions read the other
    grouping of section 3.

    Initial values: the author's. Convolutions from N(0, 2 / fan-out), where the fan-out counts the channels of all
    groups, classifier weights from U(-1, 1) / sqrt(fan-in), its bias 0, norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: units of each stage; the first is of stride 2, in the first stage of 1. The paper's (a, b, c, d)
            are those of the last four stages without their first unit.
        stage_features: channels of each stage.
        spatial_group_features: channels of a group of the 3x3 convolutions.
        num_pointwise_groups: groups of the 1x1 convolutions.
        interlaced_inputs: groups of the 3x3 convolutions read every so many channels, else neighbours.
        stem_features: channels of the first convolution.
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
    stage_sizes: Sequence[int] = (1, 2, 2, 6, 3)
    stage_features: Sequence[int] = (64, 128, 256, 512, 1024)
    spatial_group_features: int = 2
    num_pointwise_groups: int = 2
    interlaced_inputs: bool = False
    stem_features: int = 32
    stem: str = "imagenet"
    dropout_rate: float = 0.0
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
            ValueError: integer images; an unknown stem; stages or groups that do not fit.
        """
        check_stages("ClcNet", self.stage_sizes, stage_features=self.stage_features)
        dtypes = resolve_dtypes("ClcNet", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)

        def unit(stage: int, *, strides: int, name: str) -> ChannelLocalUnit:
            return ChannelLocalUnit(
                features=self.stage_features[stage],
                strides=strides,
                spatial_group_features=self.spatial_group_features,
                num_pointwise_groups=self.num_pointwise_groups,
                interlaced_inputs=self.interlaced_inputs,
                conv=conv,
                norm=norm,
                act=self.act,
                name=name,
            )

        x = image_stem(
            x.astype(dtypes.compute),
            owner="ClcNet",
            kind=self.stem,
            features=self.stem_features,
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
            stage_strides=default_strides(self.stage_sizes),
            unit=unit,
        )
        if self.features_only:
            return features_at
        *_, x = features_at.values()
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            dtypes=dtypes,
        )
