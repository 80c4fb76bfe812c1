"""Inception v3 (Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, arXiv:1512.00567)."""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.auxiliary import ConvAuxiliaryHead
from arch.blocks.head import classifier_head, sow_auxiliary
from arch.blocks.inception import (
    Branches,
    ConvStep,
    InceptionModule,
    Step,
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
from arch.ops.dtypes import Dtypes, resolve_dtypes
from arch.ops.stochastic import Examples
from arch.ops.widths import make_divisible

STEM_FEATURES = (32, 32, 64, 80, 192)
# Of the modules of the first stage: channels of the pooled branch. Of the second: between factors of 7x7 convolutions.
POOLED_FEATURES = (32, 64, 64)
MIDDLE_FEATURES = (128, 160, 160, 192)
AUXILIARY_FEATURES = (128, 768)


def dense_branches(pooled_features: int, average: Step) -> Branches:
    """Figure 5: 5x5 convolutions as two of 3x3; torchvision's InceptionA."""
    return (
        (ConvStep(64),),
        (ConvStep(48), ConvStep(64, 5)),
        (ConvStep(64), ConvStep(96, 3), ConvStep(96, 3)),
        (average, ConvStep(pooled_features)),
    )


def first_reduction(padding: str) -> Branches:
    """Figure 10, from the first stage to the second; torchvision's InceptionB."""
    return (
        (ConvStep(384, 3, 2, padding),),
        (ConvStep(64), ConvStep(96, 3), ConvStep(96, 3, 2, padding)),
        (max_step(2, padding),),
    )


def factorized_branches(middle_features: int, average: Step) -> Branches:
    """Figure 6: 7x7 convolutions as 1x7 and 7x1, once and twice; torchvision's InceptionC."""
    middle = middle_features
    return (
        (ConvStep(192),),
        (ConvStep(middle), ConvStep(middle, (1, 7)), ConvStep(192, (7, 1))),
        (
            ConvStep(middle),
            ConvStep(middle, (7, 1)),
            ConvStep(middle, (1, 7)),
            ConvStep(middle, (7, 1)),
            ConvStep(192, (1, 7)),
        ),
        (average, ConvStep(192)),
    )


def second_reduction(padding: str) -> Branches:
    """From the second stage to the third; torchvision's InceptionD."""
    return (
        (ConvStep(192), ConvStep(320, 3, 2, padding)),
        (ConvStep(192), ConvStep(192, (1, 7)), ConvStep(192, (7, 1)), ConvStep(192, 3, 2, padding)),
        (max_step(2, padding),),
    )


def expanded_branches(average: Step) -> Branches:
    """Figure 7: 1x3 and 3x1 side by side; torchvision's InceptionE."""
    both = (ConvStep(384, (1, 3)), ConvStep(384, (3, 1)))
    return (
        (ConvStep(320),),
        (ConvStep(384), both),
        (ConvStep(448), ConvStep(384, 3), both),
        (average, ConvStep(192)),
    )


class InceptionV3(nn.Module):
    """Inception v3; torchvision's network, layer by layer, which is TF-slim's but for `count_padding`.

    Its published weights are for images in [-1, 1].

    Differs from the paper: the released networks are the oracle where its figures differ from them, such as in the
    5x5 of the first stage's modules.

    Initial values: torchvision's. Weights from N(0, 0.1), in the auxiliary head N(0, 0.01) for the 5x5 convolution and
    N(0, 0.001) for its classifier; norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        width_multiplier: of the channels of every layer, above 0; they are made divisible by 8.
        stage_sizes: modules of the three stages; those of the first have the channels of `POOLED_FEATURES`, of the
            second of `MIDDLE_FEATURES`, and the last of these again where there are more.
        count_padding: padding counts in the average pools of the branches, as in torchvision, or not, as in TensorFlow.
        auxiliary_heads: logits after the second stage, for training.
        auxiliary_weight: what their loss counts; 0.4 in torchvision's training, 0.3 in the paper.
        stem: "imagenet" (3x3 stride 2, four more convolutions and two max pools 3x3 stride 2) or, for images of 8 to 64
            pixels, "small" (stride 1, no pools) or "stride2" (stride 2, no pools).
        padding: of all that the paper does not pad, which is two convolutions of the stem, all windows of stride 2 and
            the auxiliary head: "VALID", "SAME", or None, which is "VALID" with the stem "imagenet", else "SAME".
        dropout_rate: before the classifier.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions and of the classifier.
        features_only: returns maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    width_multiplier: float = 1.0
    stage_sizes: Sequence[int] = (3, 4, 2)
    count_padding: bool = True
    auxiliary_heads: bool = False
    auxiliary_weight: float = 0.4
    stem: str = "imagenet"
    padding: str | None = None
    dropout_rate: float = 0.5
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = functools.partial(BatchNorm, epsilon=1e-3)
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.normal(0.1)
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
            width / stride, features]}, the last map of each stride, from the stem's on.

        Raises:
            ValueError: integer or too small images; an unknown stem or padding; stages that are not three; a width
                that is not positive.
        """
        padding = resolve_padding("InceptionV3", self.stem, self.padding)
        check_repeats("InceptionV3", self.stage_sizes)
        check_size("InceptionV3", x.shape[1:3], (*stem_windows(self.stem), (3, 2), (3, 2)), padding)
        dtypes = resolve_dtypes("InceptionV3", x, self.dtype, self.param_dtype)
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
        for name, branches in self._modules(padding):
            x = InceptionModule(widen(branches, self.width_multiplier), **layers, name=name)(x)
            stride *= 2 if name.startswith("reduction") else 1
            features_at[stride] = x
            if name == f"stage2_unit{self.stage_sizes[1]}" and self._wants_auxiliary_head(train):
                self._auxiliary_head(x, padding, layers, dtypes)
        if self.features_only:
            return features_at
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=self.kernel_init,
            dtypes=dtypes,
        )

    def _modules(self, padding: str) -> Iterator[tuple[str, Branches]]:
        """Names and branches, from the first to the last."""
        average = average_step(self.count_padding)
        first, second, third = self.stage_sizes
        for unit in range(1, first + 1):
            yield f"stage1_unit{unit}", dense_branches(_row(POOLED_FEATURES, unit), average)
        yield "reduction1", first_reduction(padding)
        for unit in range(1, second + 1):
            yield f"stage2_unit{unit}", factorized_branches(_row(MIDDLE_FEATURES, unit), average)
        yield "reduction2", second_reduction(padding)
        for unit in range(1, third + 1):
            yield f"stage3_unit{unit}", expanded_branches(average)

    def _wants_auxiliary_head(self, train: bool) -> bool:
        return self.auxiliary_heads and not self.features_only and (train or self.is_initializing())

    def _auxiliary_head(self, x: jax.Array, padding: str, layers: dict[str, Callable], dtypes: Dtypes) -> None:
        """Logits for training."""
        check_size("InceptionV3", x.shape[1:3], ((5, 3), (5, 1)), padding, what="maps for the auxiliary head")
        first, second = (make_divisible(features * self.width_multiplier) for features in AUXILIARY_FEATURES)
        logits = ConvAuxiliaryHead(
            num_classes=self.num_classes,
            features=(first, second),
            padding=padding,
            conv_init=nn.initializers.normal(0.01),
            kernel_init=nn.initializers.normal(0.001),
            dtypes=dtypes,
            **layers,
            name="auxiliary",
        )(x)
        sow_auxiliary(self, "auxiliary_logits", logits, self.auxiliary_weight)


def _row(table: Sequence[int], unit: int) -> int:
    return table[min(unit, len(table)) - 1]
