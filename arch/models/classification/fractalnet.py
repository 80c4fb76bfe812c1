"""FractalNet (Larsson, Maire, Shakhnarovich, ICLR 2017, arXiv:1605.07648)."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.fractal import FractalBlock
from arch.blocks.head import classifier_head
from arch.blocks.stem import image_stem, stem_stride
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.drop_path import sample_columns
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples

_RATES = {
    "dropout_rate": "that of the last block",
    "drop_path_rate": "the share of a join's inputs that are dropped",
    "global_drop_path_ratio": "the share of the examples that keep to one column",
}


class FractalNet(nn.Module):
    """FractalNet, sections 3 and 4 of the paper: columns of different depth, joined by means; no shortcuts.

    The depth is that of the deepest column, number of blocks * 2^(num_columns - 1). In training half of the examples
    keep to one column through the whole network (global drop path), the others lose single paths at the joins (local).
    Evaluation joins all paths; with `only_column` the network is one column alone, with the same parameters: give it
    the variables of the whole.

    The parameters that the paper states (38.6 million for 20 layers, 22.9 million for 40) do not follow from the widths
    that it and the authors' generator give; those of the generator are the default here, for both depths.

    Differs from the paper: drop path is drawn for each example, not for the batch; examples whose ids are all 0 draw
    for the batch.

    Initial values: Caffe's "xavier", as in the paper: weights from U(-1, 1) * sqrt(3 / fan-in), biases 0, norms at
    scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        num_columns: of each block; column c, from 0, has 2^c convolutions.
        stage_features: channels of each block.
        only_column: makes this column alone; None makes all.
        drop_path_rate: of local drop path, the share of a join's inputs that are dropped, in [0, 1].
        global_drop_path_ratio: share of the examples that keep to one column, in [0, 1].
        dropout_rate: in the units of the last block; it rises from 0 in the first by equal steps. 0.4 in the paper.
        pool: at the end of each block, "before_join" (the authors') or "after_join".
        use_bias: of the convolutions, as in the authors' network, though a normalization follows that takes it out.
        stem_features: channels of the first convolution of a stem that has one.
        stem: "small" (none: the first block sees the image, as in the paper for CIFAR), "stride2" (3x3 stride 2) or
            "imagenet" (7x7 stride 2, max pool 3x3 stride 2, as in ResNet).
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions and of the classifier.
        features_only: returns maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    num_columns: int = 3
    stage_features: Sequence[int] = (64, 128, 256, 512, 512)
    only_column: int | None = None
    drop_path_rate: float = 0.15
    global_drop_path_ratio: float = 0.5
    dropout_rate: float = 0.4
    pool: str = "before_join"
    use_bias: bool = True
    stem_features: int = 64
    stem: str = "small"
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
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
            train: batch statistics, drop path and dropout, else running statistics and none.
            examples: weights, for the statistics, and ids, for drop path and dropout, of the examples.

        Returns:
            [batch, num_classes], float32 or wider; with features_only {stride: [batch, height / stride,
            width / stride, features]}, what the stem, if there is one, and each block put out.

        Raises:
            ValueError: integer images; an unknown stem or pool; columns that do not exist; an image that is too small;
                a rate or share outside [0, 1].
        """
        for name, meaning in _RATES.items():
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"FractalNet: {name}={getattr(self, name)} must lie in [0, 1]; it is {meaning}")
        dtypes = resolve_dtypes("FractalNet", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)
        parts = {"norm": norm, "act": self.act}

        x = x.astype(dtypes.compute)
        stride, features_at = 1, {}
        if self.stem != "small":
            stem = {"owner": "FractalNet", "kind": self.stem, "features": self.stem_features}
            x = image_stem(x, **stem, kernel_size=7, pool=True, conv=functools.partial(conv, use_bias=False), **parts)
            stride = stem_stride(self.stem, pool=True)
            features_at[stride] = x
        column = self._sample_columns(x.shape[0], examples) if train else None
        for stage, features in enumerate(self.stage_features, start=1):
            x = FractalBlock(
                features=features,
                num_columns=self.num_columns,
                only_column=self.only_column,
                drop_path_rate=self.drop_path_rate,
                dropout_rate=self.dropout_rate * (stage - 1) / max(1, len(self.stage_features) - 1),
                pool=self.pool,
                conv=functools.partial(conv, use_bias=self.use_bias),
                **parts,
                name=f"stage{stage}",
            )(x, train=train, column=column, examples=examples)
            stride *= 2
            features_at[stride] = x
        if self.features_only:
            return features_at
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=0.0,
            train=train,
            examples=examples,
            kernel_init=self.kernel_init,
            dtypes=dtypes,
        )

    def _sample_columns(self, batch_size: int, examples: Examples | None) -> jax.Array | None:
        """[batch], the column that each example keeps to, or -1; None where none keeps to any."""
        if self.global_drop_path_ratio == 0 or self.only_column is not None:
            return None
        ids = jnp.arange(batch_size) if examples is None or examples.id is None else examples.id
        return sample_columns(self.make_rng("dropout"), self.num_columns, ids, self.global_drop_path_ratio)
