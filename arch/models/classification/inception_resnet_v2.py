"""Inception-ResNet v2 (Szegedy, Ioffe, Vanhoucke, Alemi, AAAI 2017, arXiv:1602.07261)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.conv_unit import ConvUnit
from arch.blocks.head import classifier_head
from arch.blocks.inception import (
    Branches,
    ConvStep,
    InceptionModule,
    InceptionResidualUnit,
    average_step,
    check_repeats,
    check_size,
    factorized_stem,
    max_step,
    resolve_padding,
    stem_windows,
    widen,
)
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples
from arch.ops.widths import make_divisible

STEM_FEATURES = (32, 32, 64, 80, 192)
HEAD_FEATURES = 1536

# The module between stem and units: "mixed 5b" of the released network.
FIRST_BRANCHES: Branches = (
    (ConvStep(96),),
    (ConvStep(48), ConvStep(64, 5)),
    (ConvStep(64), ConvStep(96, 3), ConvStep(96, 3)),
    (average_step(count_padding=False), ConvStep(64)),
)
# Of the units of the three stages, figures 16, 17 and 19 of the paper: "block 35", "block 17" and "block 8".
UNIT_BRANCHES: tuple[Branches, Branches, Branches] = (
    (
        (ConvStep(32),),
        (ConvStep(32), ConvStep(32, 3)),
        (ConvStep(32), ConvStep(48, 3), ConvStep(64, 3)),
    ),
    (
        (ConvStep(192),),
        (ConvStep(128), ConvStep(160, (1, 7)), ConvStep(192, (7, 1))),
    ),
    (
        (ConvStep(192),),
        (ConvStep(192), ConvStep(224, (1, 3)), ConvStep(256, (3, 1))),
    ),
)


def first_reduction(padding: str) -> Branches:
    """Figure 7 with k = l = 256, m = n = 384, from the first stage to the second."""
    return (
        (ConvStep(384, 3, 2, padding),),
        (ConvStep(256), ConvStep(256, 3), ConvStep(384, 3, 2, padding)),
        (max_step(2, padding),),
    )


def second_reduction(padding: str) -> Branches:
    """Figure 18, from the second stage to the third."""
    return (
        (ConvStep(256), ConvStep(384, 3, 2, padding)),
        (ConvStep(256), ConvStep(288, 3, 2, padding)),
        (ConvStep(256), ConvStep(288, 3), ConvStep(320, 3, 2, padding)),
        (max_step(2, padding),),
    )


class InceptionResNetV2(nn.Module):
    """Inception-ResNet v2, figures 15 to 19 of the paper; timm's network, layer by layer, whose weights are TF-slim's.

    Padding does not count in the one average pool.

    Differs from the paper: it is the released network, which has the stem of Inception v3, 320, 1088 and 2080 channels
    where the figures have 384, 1154 and 2048, and a last unit of scale 1 without activation.

    Initial values: weights of convolutions from N(0, 2 / fan-in), truncated at two standard deviations, of the
    classifier from U(-1, 1) / sqrt(fan-in), biases 0, norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        width_multiplier: of the channels of every layer, above 0; they are made divisible by 8.
        stage_sizes: units of the three stages, the last of which is the one of scale 1.
        residual_scales: of what the units of each stage add, but for the last of all.
        stem: "imagenet" (3x3 stride 2, four more convolutions and two max pools 3x3 stride 2) or, for images of 8 to 64
            pixels, "small" (stride 1, no pools) or "stride2" (stride 2, no pools).
        padding: of all that the released network does not pad, which is two convolutions of the stem and all windows of
            stride 2: "VALID", "SAME", or None, which is "VALID" with the stem "imagenet", else "SAME".
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
    stage_sizes: Sequence[int] = (10, 20, 10)
    residual_scales: Sequence[float] = (0.17, 0.1, 0.2)
    stem: str = "imagenet"
    padding: str | None = None
    dropout_rate: float = 0.2
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = functools.partial(BatchNorm, epsilon=1e-3)
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.he_normal()
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
            [batch, num_classes], float32 or wider; with features_only {stride: [batch, about height / stride, about
            width / stride, features]}, the last map of each stride, from the stem's on, before the last convolution.

        Raises:
            ValueError: integer or too small images; an unknown stem or padding; stages or scales that are not three; a
                width that is not positive.
        """
        padding = self._check_fields(x)
        dtypes = resolve_dtypes("InceptionResNetV2", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        layers = {
            "conv": functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer),
            "norm": bind(self.norm, train=train, examples=examples, **layer),
            "act": self.act,
        }
        stem_features = [make_divisible(features * self.width_multiplier) for features in STEM_FEATURES]
        features_at = factorized_stem(
            x.astype(dtypes.compute), kind=self.stem, padding=padding, features=stem_features, **layers
        )
        stride = max(features_at)
        x = features_at[stride]
        transitions = (("mixed", FIRST_BRANCHES), ("reduction1", first_reduction(padding)))
        transitions += (("reduction2", second_reduction(padding)),)
        for stage, (name, branches) in enumerate(transitions, start=1):
            x = InceptionModule(widen(branches, self.width_multiplier), **layers, name=name)(x)
            stride *= 1 if stage == 1 else 2
            features_at[stride] = x = self._stage(x, stage, layers)
        if self.features_only:
            return features_at
        head_features = make_divisible(HEAD_FEATURES * self.width_multiplier)
        return classifier_head(
            ConvUnit(head_features, 1, **layers, kernel_size=1, name="head_unit")(x),
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            dtypes=dtypes,
        )

    def _stage(self, x: jax.Array, stage: int, layers: dict[str, Callable]) -> jax.Array:
        """The residual units of a stage."""
        size = self.stage_sizes[stage - 1]
        branches = widen(UNIT_BRANCHES[stage - 1], self.width_multiplier)
        for unit in range(1, size + 1):
            is_last = (stage, unit) == (3, size)
            x = InceptionResidualUnit(
                branches,
                scale=1.0 if is_last else self.residual_scales[stage - 1],
                last_act=not is_last,
                **layers,
                name=f"stage{stage}_unit{unit}",
            )(x)
        return x

    def _check_fields(self, x: jax.Array) -> str:
        """The padding, once all fits together."""
        owner = "InceptionResNetV2"
        padding = resolve_padding(owner, self.stem, self.padding)
        check_repeats(owner, self.stage_sizes)
        if len(self.residual_scales) != 3:
            raise ValueError(
                f"{owner}: residual_scales={tuple(self.residual_scales)} must be 3, one a stage; change them"
            )
        check_size(owner, x.shape[1:3], (*stem_windows(self.stem), (3, 2), (3, 2)), padding)
        return padding
