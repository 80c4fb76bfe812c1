"""GoogLeNet, Inception v1 (Szegedy et al., Going Deeper with Convolutions, CVPR 2015, arXiv:1409.4842)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.auxiliary import HiddenAuxiliaryHead
from arch.blocks.head import classifier_head, sow_auxiliary
from arch.blocks.inception import Branches, ConvStep, InceptionModule, max_step, run_steps, widen
from arch.blocks.stem import image_stem, stem_stride
from arch.errors import unknown_name
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import Dtypes, resolve_dtypes
from arch.ops.local_response import local_response_norm
from arch.ops.pooling import adaptive_avg_pool, avg_pool, ceil_mode_padding, max_pool
from arch.ops.stochastic import Examples
from arch.ops.widths import make_divisible

VARIANTS = ("paper", "torchvision")

# Table 1 of the paper, a tuple a stage, a row a module: channels of the 1x1 branch; of the 3x3 branch, reduced and out;
# of the 5x5 branch, reduced and out; of the pooled branch.
STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
# Channels of the first three convolutions, and of the auxiliary heads: convolution and hidden linear layer.
STEM_FEATURES = (64, 64, 192)
AUXILIARY_FEATURES = (128, 1024)


def module_branches(features: Sequence[int], large_kernel: int) -> Branches:
    """The branches of a module, from a row of `STAGES`."""
    one, three_reduced, three, five_reduced, five, pooled = features
    return (
        (ConvStep(one),),
        (ConvStep(three_reduced), ConvStep(three, 3)),
        (ConvStep(five_reduced), ConvStep(five, large_kernel)),
        (max_step(1, "SAME"), ConvStep(pooled)),
    )


class GoogLeNet(nn.Module):
    """GoogLeNet, table 1 of the paper. Two published networks:

    `paper`: convolutions with biases and without normalizations, 5x5 where the table says so, local response
    normalization around the stem's last two convolutions, all as in Caffe's `bvlc_googlenet`; 0.4 of the last features
    are dropped.

    `torchvision`: batch normalization, none of local responses, 3x3 in the place of 5x5, a last max pool of 2x2, 0.2
    dropped. Its published weights are for images in [-1, 1].

    The paper does not say how its max pools round: here they pad at the end alone, as in Caffe, and halve 112 pixels.

    Differs from the paper: torchvision's where it says so above; the initial values, of which the paper has none.

    Initial values: torchvision's, all weights from N(0, 0.01), norms at scale 1 and bias 0. Without norms, Caffe's:
    weights from U(-1, 1) * sqrt(3 / fan-in), biases 0.2, those of classifiers 0.

    Attributes:
        num_classes: outputs of the classifier.
        width_multiplier: of the channels of every layer, above 0; they are made divisible by 8.
        stage_sizes: modules of each stage, the first so many rows of it in `STAGES`, and the last row again for more.
        variant: "paper" or "torchvision".
        use_norm: normalizations in the place of biases; None takes the variant's.
        use_local_response_norm: before the 1x1 and after the 3x3 convolution of the stem; None takes the variant's.
        auxiliary_heads: logits after the first and the last but one module of the second stage, for training.
        auxiliary_weight: what the loss of each counts.
        auxiliary_dropout_rate: before their classifiers.
        stem: "imagenet" (7x7 stride 2, max pools 3x3 stride 2 before and after the other two convolutions) or, for
            images of 8 to 64 pixels, "small" (3x3 stride 1, no pools) or "stride2" (3x3 stride 2, no pools).
        dropout_rate: before the classifier; None takes the variant's.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of all weights; None takes those above.
        features_only: returns maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    width_multiplier: float = 1.0
    stage_sizes: Sequence[int] = (2, 5, 2)
    variant: str = "torchvision"
    use_norm: bool | None = None
    use_local_response_norm: bool | None = None
    auxiliary_heads: bool = False
    auxiliary_weight: float = 0.3
    auxiliary_dropout_rate: float = 0.7
    stem: str = "imagenet"
    dropout_rate: float | None = None
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = functools.partial(BatchNorm, epsilon=1e-3)
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer | None = None
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
            ValueError: integer images; an unknown variant or stem; stages that are not three; a width that is not
                positive.
        """
        self._check_fields()
        dtypes = resolve_dtypes("GoogLeNet", x, self.dtype, self.param_dtype)
        layers = self._layers(dtypes, train, examples)
        features_at = self._stem(x.astype(dtypes.compute), layers)
        stride = max(features_at)
        x = features_at[stride]
        for stage, size in enumerate(self.stage_sizes, start=1):
            if stage > 1:
                x, stride = self._pool(x, last=stage == 3), 2 * stride
            for unit in range(1, size + 1):
                row = STAGES[stage - 1][min(unit, len(STAGES[stage - 1])) - 1]
                branches = widen(module_branches(row, 5 if self.variant == "paper" else 3), self.width_multiplier)
                x = InceptionModule(branches, **layers, name=f"stage{stage}_unit{unit}")(x)
                if stage == 2 and unit in (1, size - 1):
                    self._auxiliary_head(x, unit, layers, dtypes, train, examples)
            features_at[stride] = x
        if self.features_only:
            return features_at
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self._resolve_dropout_rate(),
            train=train,
            examples=examples,
            kernel_init=self._initial_values()[0],
            dtypes=dtypes,
        )

    def _layers(self, dtypes: Dtypes, train: bool, examples: Examples | None) -> dict[str, Callable]:
        """conv, norm and act of every unit."""
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        kernel_init, bias_init = self._initial_values()
        norm = bind(self.norm, train=train, examples=examples, **layer)
        return {
            "conv": functools.partial(
                self.conv, use_bias=not self._uses_norm(), kernel_init=kernel_init, bias_init=bias_init, **layer
            ),
            "norm": norm if self._uses_norm() else lambda name: lambda x: x,
            "act": self.act,
        }

    def _stem(self, x: jax.Array, layers: dict[str, Callable]) -> dict[int, jax.Array]:
        """Maps by stride; that of the largest is for the stages."""
        first, *more = (make_divisible(features * self.width_multiplier) for features in STEM_FEATURES)
        x = image_stem(x, owner="GoogLeNet", kind=self.stem, features=first, kernel_size=7, pool=False, **layers)
        features_at, stride = {}, stem_stride(self.stem, pool=False)
        uses_response = (
            self.variant == "paper" if self.use_local_response_norm is None else self.use_local_response_norm
        )
        respond = local_response_norm if uses_response else lambda x: x
        if self.stem == "imagenet":
            features_at[stride] = x
            x, stride = self._pool(x), 2 * stride
        steps = (ConvStep(more[0]), ConvStep(more[1], 3))
        x = respond(run_steps(respond(x), steps, "stem", first=2, **layers))
        features_at[stride] = x
        if self.stem == "imagenet":
            features_at[2 * stride] = self._pool(x)
        return features_at

    def _pool(self, x: jax.Array, last: bool = False) -> jax.Array:
        """Max pooling of stride 2 between the stages."""
        window = 2 if last and self.variant == "torchvision" else 3
        return max_pool(x, (window, window), (2, 2), ceil_mode_padding(x.shape[1:3], window, 2))

    def _auxiliary_head(
        self,
        x: jax.Array,
        unit: int,
        layers: dict[str, Callable],
        dtypes: Dtypes,
        train: bool,
        examples: Examples | None,
    ) -> None:
        """Logits for training, where they are asked for."""
        if not self.auxiliary_heads or self.features_only or not (train or self.is_initializing()):
            return
        name = "auxiliary1" if unit == 1 else "auxiliary2"
        features, hidden_features = (make_divisible(each * self.width_multiplier) for each in AUXILIARY_FEATURES)
        window = tuple(min(5, size) for size in x.shape[1:3])
        pools = {
            "paper": functools.partial(
                avg_pool, window_shape=window, strides=(3, 3), padding="VALID", count_padding=False
            ),
            "torchvision": functools.partial(adaptive_avg_pool, output_size=4),
        }
        kernel_init, bias_init = self._initial_values()
        logits = HiddenAuxiliaryHead(
            num_classes=self.num_classes,
            features=features,
            hidden_features=hidden_features,
            pool=pools[self.variant],
            dropout_rate=self.auxiliary_dropout_rate,
            kernel_init=kernel_init,
            hidden_bias_init=bias_init,
            dtypes=dtypes,
            **layers,
            name=name,
        )(x, train=train, examples=examples)
        sow_auxiliary(self, f"{name}_logits", logits, self.auxiliary_weight)

    def _initial_values(self) -> tuple[Initializer, Initializer]:
        """Of all weights, and of the biases of convolutions and hidden layers."""
        if self._uses_norm():
            return self.kernel_init or nn.initializers.normal(0.01), nn.initializers.zeros
        xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        return self.kernel_init or xavier, nn.initializers.constant(0.2)

    def _uses_norm(self) -> bool:
        return self.variant == "torchvision" if self.use_norm is None else self.use_norm

    def _resolve_dropout_rate(self) -> float:
        """The rate before the classifier."""
        return {"paper": 0.4, "torchvision": 0.2}[self.variant] if self.dropout_rate is None else self.dropout_rate

    def _check_fields(self) -> None:
        if self.variant not in VARIANTS:
            raise unknown_name("GoogLeNet: variant", self.variant, VARIANTS)
        if len(self.stage_sizes) != len(STAGES) or min(self.stage_sizes) < 1:
            raise ValueError(
                f"GoogLeNet: stage_sizes={tuple(self.stage_sizes)} must be {len(STAGES)} numbers of 1 or more; "
                "(2, 5, 2) is the paper's"
            )
