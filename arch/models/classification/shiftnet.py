"""ShiftNet (Wu et al., Shift: A Zero FLOP, Zero Parameter Alternative, CVPR 2018, arXiv:1711.08141)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head
from arch.blocks.residual import check_stages, residual_stages
from arch.blocks.shift import ShiftUnit
from arch.blocks.stem import image_stem, stem_stride
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples


class ShiftNet(nn.Module):
    """ShiftNet, section 4 of the paper: a stem and four groups of conv-shift-conv units, all of 1x1 convolutions.

    A and B have the published sizes. No code was released for ImageNet, so the following is a reading that gives
    them, also found in re-implementations.

    Differs from the paper, or fills what it leaves open: nothing follows the stem's convolution, since units begin with
    a normalization, and one with an activation follows the last group; the first unit of a group sets what it learns
    beside the average of its input, 3x3 at stride 2. Of C the published size (0.78 million parameters) comes out where
    these units have no shortcut (`concatenate=False`), and 0.69 to 0.74 million otherwise: nothing else speaks for
    either, and its stem of 16 channels is that of B.

    Initial values: ours. Convolutions from N(0, 2 / fan-out), classifier weights from U(-1, 1) / sqrt(fan-in), its bias
    0, norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: units of each group; the first is of stride 2.
        stage_features: channels of each group.
        stage_kernel_sizes: of the shifts of each group, in taps; odd.
        expand_ratios: of each group that of its first unit and that of the others: channels that are shifted, as a
            multiple of those that are learned.
        concatenate: the shortcut of the first units.
        assignment: of channels to taps, "contiguous", the paper's, or "modulo" as in the authors' CUDA code.
        stem_features: channels of the first convolution.
        stem: "imagenet" (7x7 stride 2) or, for images of 8 to 64 pixels, "small" (3x3 stride 1)
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
    stage_sizes: Sequence[int] = (5, 6, 7, 3)
    stage_features: Sequence[int] = (64, 128, 256, 512)
    stage_kernel_sizes: Sequence[int] = (5, 5, 3, 3)
    expand_ratios: Sequence[tuple[float, float]] = ((4, 4), (4, 3), (3, 2), (2, 1))
    concatenate: bool = True
    assignment: str = "contiguous"
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
            ValueError: integer images; an unknown stem or assignment; stages that do not fit; fewer shifted channels
                than taps.
        """
        check_stages(
            "ShiftNet",
            self.stage_sizes,
            stage_features=self.stage_features,
            stage_kernel_sizes=self.stage_kernel_sizes,
            expand_ratios=self.expand_ratios,
        )
        dtypes = resolve_dtypes("ShiftNet", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)

        def unit(stage: int, *, strides: int, name: str) -> ShiftUnit:
            return ShiftUnit(
                features=self.stage_features[stage],
                strides=strides,
                expand_ratio=self.expand_ratios[stage][0 if strides == 2 else 1],
                kernel_size=self.stage_kernel_sizes[stage],
                concatenate=self.concatenate,
                assignment=self.assignment,
                conv=conv,
                norm=norm,
                act=self.act,
                name=name,
            )

        x = image_stem(
            x.astype(dtypes.compute),
            owner="ShiftNet",
            kind=self.stem,
            features=self.stem_features,
            kernel_size=7,
            pool=False,
            conv=conv,
            norm=lambda name: lambda x: x,
            act=lambda x: x,
        )
        features_at = residual_stages(
            x,
            stride=stem_stride(self.stem, pool=False),
            stage_sizes=self.stage_sizes,
            stage_strides=(2,) * len(self.stage_sizes),
            unit=unit,
        )
        if self.features_only:
            return features_at
        *_, x = features_at.values()
        x = self.act(norm(name="head_norm")(x))
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            dtypes=dtypes,
        )
