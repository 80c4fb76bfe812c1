"""GUNN (Qiao, Zhang, Shen, Wang, Yuille, Gradually Updated Neural Networks, ICML 2018, arXiv:1711.09280)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.dense import halve
from arch.blocks.head import classifier_head
from arch.blocks.residual import check_stages
from arch.blocks.stem import image_stem, stem_stride
from arch.errors import unknown_name
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.gradually_updated import GraduallyUpdated
from arch.ops.stochastic import Examples

TRANSITIONS = ("conv_first", "pool_first")

# Fields of GUNN-15, for CIFAR.
CIFAR = {
    "stage_sizes": (1, 1, 1),
    "stage_features": (240, 300, 360),
    "stage_segments": (20, 25, 30),
    "projection": True,
    "transition": "conv_first",
    "head_features": 360,
    "stem": "small",
}


class GUNN(nn.Module):
    """Stages of gradually updated layers, section 4 of the paper; the authors' code, layer by layer.

    Each stage is a 1x1 convolution to its width, with normalization and activation, and one or more layers that compute
    its channels segment by segment, each from the newest of the others. From the second stage on maps are averaged 2x2,
    behind the convolution in GUNN-15, before it in GUNN-18. GUNN-15 ends with one more 1x1 convolution.

    Wide GUNN-18 and GUNN-24 are known by size and error alone (45.6 and 29.6 million parameters): widths are fields,
    and two layers a stage (`stage_sizes`) are what the name GUNN-24 implies, but no width was found that gives its
    size.

    Differs from the paper: nothing that is known. Maps of odd size lose their last row and column where they are
    averaged.

    Initial values: the authors'. Convolutions from N(0, 2 / fan-out), classifier weights from U(-1, 1) / sqrt(fan-in),
    its bias 0, norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: gradually updated layers of each stage.
        stage_features: channels of each stage.
        stage_segments: of the layers of each stage; a divisor of its features.
        projection: the layers have a linear term, as for CIFAR.
        transition: from the second stage on: "conv_first" or "pool_first".
        head_features: channels of a last 1x1 convolution; None makes none.
        stem_features: channels of the first convolution.
        stem: "imagenet" (7x7 stride 2, max pool 3x3 stride 2) or, for images of 8 to 64 pixels, "small" (3x3 stride 1)
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
    stage_sizes: Sequence[int] = (1, 1, 1, 1)
    stage_features: Sequence[int] = (400, 800, 1600, 2000)
    stage_segments: Sequence[int] = (10, 20, 40, 50)
    projection: bool = False
    transition: str = "pool_first"
    head_features: int | None = None
    stem_features: int = 64
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
            ValueError: integer images; an unknown stem or transition; stages or segments that do not fit; images too
                small for the stages.
        """
        self._check_fields()
        dtypes = resolve_dtypes("GUNN", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)

        def pointwise(x: jax.Array, features: int, name: str) -> jax.Array:
            x = conv(features=features, kernel_size=(1, 1), name=f"{name}_conv")(x)
            return self.act(norm(name=f"{name}_norm")(x))

        x = image_stem(
            x.astype(dtypes.compute),
            owner="GUNN",
            kind=self.stem,
            features=self.stem_features,
            kernel_size=7,
            pool=True,
            conv=conv,
            norm=norm,
            act=self.act,
        )
        stride = stem_stride(self.stem, pool=True)
        features_at = {stride: x}
        stages = zip(self.stage_sizes, self.stage_features, self.stage_segments, strict=True)
        for stage, (size, features, segments) in enumerate(stages, start=1):
            if stage > 1 and self.transition == "pool_first":
                x = halve(x, "GUNN")
            x = pointwise(x, features, f"stage{stage}")
            if stage > 1 and self.transition == "conv_first":
                x = halve(x, "GUNN")
            for unit in range(1, size + 1):
                x = GraduallyUpdated(
                    num_segments=segments,
                    projection=self.projection,
                    conv=conv,
                    norm=norm,
                    act=self.act,
                    name=f"stage{stage}_layer{unit}",
                )(x)
            stride *= 1 if stage == 1 else 2
            features_at[stride] = x
        if self.features_only:
            return features_at
        if self.head_features is not None:
            x = pointwise(x, self.head_features, "head")
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            dtypes=dtypes,
        )

    def _check_fields(self) -> None:
        """The transition is known, and every stage has its size, features and segments."""
        if self.transition not in TRANSITIONS:
            raise unknown_name("GUNN: transition", self.transition, TRANSITIONS)
        check_stages("GUNN", self.stage_sizes, stage_features=self.stage_features, stage_segments=self.stage_segments)
