"""Inception v4 (Szegedy, Ioffe, Vanhoucke, Alemi, AAAI 2017, arXiv:1602.07261)."""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head
from arch.blocks.inception import (
    Branches,
    ConvStep,
    InceptionModule,
    average_step,
    check_repeats,
    check_size,
    max_step,
    resolve_padding,
    run_steps,
    stem_windows,
    widen,
)
from arch.blocks.stem import SMALL_STRIDES
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples

_AVERAGE = average_step(count_padding=False)

# Figure 4 of the paper.
DENSE_BRANCHES: Branches = (
    (ConvStep(96),),
    (ConvStep(64), ConvStep(96, 3)),
    (ConvStep(64), ConvStep(96, 3), ConvStep(96, 3)),
    (_AVERAGE, ConvStep(96)),
)
# Figure 5.
FACTORIZED_BRANCHES: Branches = (
    (ConvStep(384),),
    (ConvStep(192), ConvStep(224, (1, 7)), ConvStep(256, (7, 1))),
    (
        ConvStep(192),
        ConvStep(192, (7, 1)),
        ConvStep(224, (1, 7)),
        ConvStep(224, (7, 1)),
        ConvStep(256, (1, 7)),
    ),
    (_AVERAGE, ConvStep(128)),
)
_BOTH = (ConvStep(256, (1, 3)), ConvStep(256, (3, 1)))
# Figure 6.
EXPANDED_BRANCHES: Branches = (
    (ConvStep(256),),
    (ConvStep(384), _BOTH),
    (ConvStep(384), ConvStep(448, (3, 1)), ConvStep(512, (1, 3)), _BOTH),
    (_AVERAGE, ConvStep(256)),
)


def first_reduction(padding: str) -> Branches:
    """Figure 7 with k = 192, l = 224, m = 256, n = 384, from the first stage to the second."""
    return (
        (ConvStep(384, 3, 2, padding),),
        (ConvStep(192), ConvStep(224, 3), ConvStep(256, 3, 2, padding)),
        (max_step(2, padding),),
    )


def second_reduction(padding: str) -> Branches:
    """Figure 8, from the second stage to the third."""
    return (
        (ConvStep(192), ConvStep(192, 3, 2, padding)),
        (ConvStep(256), ConvStep(256, (1, 7)), ConvStep(320, (7, 1)), ConvStep(320, 3, 2, padding)),
        (max_step(2, padding),),
    )


class InceptionV4(nn.Module):
    """Inception v4, figures 3 to 9 of the paper; timm's network, layer by layer, whose weights are TF-slim's.

    Padding does not count in the average pools. There is no auxiliary head, as in timm's network.

    Initial values: weights of convolutions from N(0, 2 / fan-in), truncated at two standard deviations, of the
    classifier from U(-1, 1) / sqrt(fan-in), biases 0, norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        width_multiplier: of the channels of every layer, above 0; they are made divisible by 8.
        stage_sizes: modules of the three stages.
        stem: "imagenet" (figure 3: strides 2, 2 and 2) or, for images of 8 to 64 pixels, "small" (the same layers at
            stride 1) or "stride2" (of which the first alone has stride 2).
        padding: of all that the paper marks with V, for valid: "VALID", "SAME", or None, which is "VALID" with the stem
            "imagenet", else "SAME".
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
    stage_sizes: Sequence[int] = (4, 7, 3)
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
            width / stride, features]}, the last map of each stride, from the stem's on.

        Raises:
            ValueError: integer or too small images; an unknown stem or padding; stages that are not three; a width
                that is not positive.
        """
        padding = resolve_padding("InceptionV4", self.stem, self.padding)
        check_repeats("InceptionV4", self.stage_sizes)
        check_size("InceptionV4", x.shape[1:3], self._windows(), padding)
        dtypes = resolve_dtypes("InceptionV4", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        layers = {
            "conv": functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer),
            "norm": bind(self.norm, train=train, examples=examples, **layer),
            "act": self.act,
        }
        strides = SMALL_STRIDES.get(self.stem, 2)
        steps = (ConvStep(32, 3, strides, padding), ConvStep(32, 3, 1, padding), ConvStep(64, 3))
        (steps,) = widen((steps,), self.width_multiplier)
        x = run_steps(x.astype(dtypes.compute), steps, "stem", **layers)
        features_at = {strides: x}
        for name, module_strides, branches in self._modules(padding):
            x = InceptionModule(widen(branches, self.width_multiplier), **layers, name=name)(x)
            strides *= module_strides
            features_at[strides] = x
        if self.features_only:
            return features_at
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            dtypes=dtypes,
        )

    def _modules(self, padding: str) -> Iterator[tuple[str, int, Branches]]:
        """Names, strides and branches, from the first to the last."""
        strides = self._stem_module_strides()
        yield "stem_mixed1", strides, ((max_step(strides, padding),), (ConvStep(96, 3, strides, padding),))
        yield (
            "stem_mixed2",
            1,
            (
                (ConvStep(64), ConvStep(96, 3, 1, padding)),
                (ConvStep(64), ConvStep(64, (1, 7)), ConvStep(64, (7, 1)), ConvStep(96, 3, 1, padding)),
            ),
        )
        yield "stem_mixed3", strides, ((ConvStep(192, 3, strides, padding),), (max_step(strides, padding),))
        first, second, third = self.stage_sizes
        yield from ((f"stage1_unit{unit}", 1, DENSE_BRANCHES) for unit in range(1, first + 1))
        yield "reduction1", 2, first_reduction(padding)
        yield from ((f"stage2_unit{unit}", 1, FACTORIZED_BRANCHES) for unit in range(1, second + 1))
        yield "reduction2", 2, second_reduction(padding)
        yield from ((f"stage3_unit{unit}", 1, EXPANDED_BRANCHES) for unit in range(1, third + 1))

    def _stem_module_strides(self) -> int:
        """Of the first and the third module of the stem."""
        return 1 if self.stem in SMALL_STRIDES else 2

    def _windows(self) -> tuple[tuple[int, int], ...]:
        """(size, stride) of all that may lack padding."""
        first, second, *_ = stem_windows(self.stem)
        strides = self._stem_module_strides()
        return first, second, (3, strides), (3, 1), (3, strides), (3, 2), (3, 2)
