"""ResNet with a Transformer encoder (Vaswani et al., NIPS 2017, arXiv:1706.03762) in place of its last stage."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.attention.dot_product import MultiHeadAttention
from arch.blocks.head import classifier_head
from arch.blocks.transformer import TransformerLayer, sinusoidal_positions
from arch.models.classification.resnet import ResNet
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.norm.layer import LayerNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Dropout, Examples


class TransformerClassifier(nn.Module):
    """The first stages of a ResNet, then layers in which every position of the map attends to all; sizes are "base".

    The pixels of the ResNet's last map are the tokens: a 1x1 convolution gives them the encoder's width, sines and
    cosines their place, and the classifier reads their mean.

    Differs from the paper: it classifies images, so that no token is masked and there is no decoder; three layers, as
    many as the units that they replace; normalization stands before a sublayer and once after the last
    (`pre_norm=False` is the paper's); the encoding is that of a row and a column; embeddings are not scaled.

    Initial values: those of `ResNet`; kernels of the encoder from U(-1, 1) * sqrt(6 / (fan-in + fan-out)), classifier
    weights from N(0, 0.01), biases 0, norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: units of each stage of the ResNet.
        stage_features: as in `ResNet`.
        stem_features: channels of the first convolution.
        stem: as in `ResNet`.
        token_features: of a token; a multiple of 4 and of num_heads.
        num_layers: of the encoder.
        num_heads: of the attention.
        mlp_ratio: features of a layer's hidden dense layer, as a multiple of token_features.
        pre_norm: normalizes what a sublayer reads, else what it leaves.
        use_positions: adds the encoding of positions.
        residual_dropout_rate: of what each sublayer adds, and of the tokens; 0.1 in the paper.
        dropout_rate: before the classifier.
        conv: makes a convolution from its fields.
        norm: makes a normalization of the ResNet from its fields; see arch.norm.
        token_norm: makes a normalization of the encoder from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions.
        features_only: returns maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics, softmax, pooling and classifier are at least
            float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    stage_sizes: Sequence[int] = (3, 4, 6)
    stage_features: Sequence[int] = (64, 128, 256)
    stem_features: int = 64
    stem: str = "imagenet"
    token_features: int = 512
    num_layers: int = 3
    num_heads: int = 8
    mlp_ratio: float = 4.0
    pre_norm: bool = True
    use_positions: bool = True
    residual_dropout_rate: float = 0.0
    dropout_rate: float = 0.0
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    token_norm: Callable[..., nn.Module] = functools.partial(LayerNorm, reading="c")
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
            width / stride, features]}, the last map of each stride, from the stem's on; that of the last stride is the
            encoder's.

        Raises:
            ValueError: integer images; an unknown stem; stages that do not fit; token_features that are no multiple
                of 4 or of num_heads.
        """
        dtypes = resolve_dtypes("TransformerClassifier", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        features_at = ResNet(
            stage_sizes=self.stage_sizes,
            stage_features=self.stage_features,
            stem_features=self.stem_features,
            stem=self.stem,
            conv=self.conv,
            norm=self.norm,
            act=self.act,
            kernel_init=self.kernel_init,
            features_only=True,
            **layer,
            name="resnet",
        )(x, train=train, examples=examples)
        stride = max(features_at)
        x = self.conv(
            features=self.token_features, kernel_size=(1, 1), kernel_init=self.kernel_init, **layer, name="embed"
        )(features_at[stride])
        x = self._encode(x, train, examples, layer)
        if self.features_only:
            return {**features_at, stride: x}
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=nn.initializers.normal(0.01),
            dtypes=dtypes,
        )

    def _encode(self, x: jax.Array, train: bool, examples: Examples | None, layer: dict[str, Dtype]) -> jax.Array:
        """The encoder, on the tokens of the map x, as a map."""
        shape, glorot = x.shape, nn.initializers.xavier_uniform()
        norm = bind(self.token_norm, train=train, examples=examples, **layer)
        drop = bind(functools.partial(Dropout, self.residual_dropout_rate), train=train, examples=examples)
        if self.use_positions:
            x = x + sinusoidal_positions(*shape[1:]).astype(x.dtype)
        x = drop(name="token_dropout")(x.reshape(shape[0], -1, shape[-1]))
        for number in range(1, self.num_layers + 1):
            x = TransformerLayer(
                num_heads=self.num_heads,
                mlp_features=max(1, round(self.mlp_ratio * shape[-1])),
                pre_norm=self.pre_norm,
                norm=norm,
                act=self.act,
                drop=drop,
                attention=functools.partial(MultiHeadAttention, kernel_init=glorot, **layer),
                dense=functools.partial(nn.Dense, kernel_init=glorot, **layer),
                name=f"layer{number}",
            )(x)
        if self.pre_norm:
            x = norm(name="norm")(x)
        return x.reshape(shape)
