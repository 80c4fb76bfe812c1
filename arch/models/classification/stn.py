"""A classifier with spatial transformers (Jaderberg, Simonyan, Zisserman, Kavukcuoglu, NIPS 2015, arXiv:1506.02025)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.head import classifier_head
from arch.blocks.residual import check_stages
from arch.blocks.stem import image_stem, stem_stride
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv, symmetric_padding
from arch.ops.dtypes import resolve_dtypes
from arch.ops.pooling import max_pool
from arch.ops.spatial_transformer import LocalizationNet, SpatialTransformer
from arch.ops.stochastic import Examples


class STNClassifier(nn.Module):
    """Convolutions and pooling that read an image, or a map, after a spatial transformer has moved it; section 4.

    The image goes through a transformer, the stem, and stages of convolutions, each with normalization and activation;
    from the second on a stage begins with a 2x2 max pool. `transformers` says where transformers stand: the paper has
    one at the image ("ST-CNN single"), or one at the image and others at deeper maps ("multi", section 4.2). A
    transformer ties the network to one image size, since its localization network is dense.

    Differs from the paper: sizes. The paper leaves widths to an appendix, and gives no counts to check them by; here
    they are those of a network for house numbers, as fields. Convolutions are normalized, and the mean of the map
    stands in place of the hidden dense layers before the classifier.

    Initial values: convolutions of the classifier from N(0, 2 / fan-out), its last weights from N(0, 0.01), biases 0,
    norms at scale 1 and bias 0. A transformer starts as the identity; its localization network as
    `arch.ops.spatial_transformer.LocalizationNet` does.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: convolutions of each stage.
        stage_features: channels of each stage.
        kernel_size: height and width of the convolutions of stages, and of the large stem, in taps; odd.
        stem_features: channels of the first convolution.
        stem: "imagenet" (kernel_size, stride 2, max pool 3x3 stride 2) or, for images of 8 to 64 pixels, "small" (3x3
            stride 1) or "stride2" (3x3 stride 2).
        transformers: where one stands: 0 is the image, 1 the input of the first stage, and so on.
        align_corners: which convention normalized coordinates have; the paper's has corners.
        localization_features: output channels of the convolutions of each localization network.
        localization_kernel_size: height and width of their kernels, in taps.
        localization_hidden_features: of its dense layer.
        dropout_rate: before the classifier.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions of the classifier.
        features_only: returns maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics, coordinates, pooling over the map and classifier
            are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    stage_sizes: Sequence[int] = (1, 2, 2, 2)
    stage_features: Sequence[int] = (64, 128, 192, 192)
    kernel_size: int = 5
    stem_features: int = 48
    stem: str = "imagenet"
    transformers: Sequence[int] = (0,)
    align_corners: bool = True
    localization_features: Sequence[int] = (20, 20)
    localization_kernel_size: int = 5
    localization_hidden_features: int = 20
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
            x: [batch, height, width, channels], floating point, normalized as the data asks: 0, which is read outside
                of the image, is then its mean.
            train: batch statistics and dropout, else running statistics and none.
            examples: weights, for the statistics, and ids, for dropout, of the examples.

        Returns:
            [batch, num_classes], float32 or wider; with features_only {stride: [batch, height / stride,
            width / stride, features]}, the last map of each stride, from the stem's on.

        Raises:
            ValueError: integer images; an unknown stem; stages that do not fit; a transformer at no stage.
        """
        self._check()
        dtypes = resolve_dtypes("STNClassifier", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)
        localization = functools.partial(
            LocalizationNet,
            features=self.localization_features,
            kernel_size=self.localization_kernel_size,
            hidden_features=self.localization_hidden_features,
            conv=self.conv,
            act=self.act,
            **layer,
        )
        transformer = functools.partial(
            SpatialTransformer,
            align_corners=self.align_corners,
            localization=localization,
            param_dtype=dtypes.param,
        )

        x = x.astype(dtypes.compute)
        if 0 in self.transformers:
            x = transformer(name="transformer0")(x)
        x = image_stem(
            x,
            owner="STNClassifier",
            kind=self.stem,
            features=self.stem_features,
            kernel_size=self.kernel_size,
            pool=True,
            conv=conv,
            norm=norm,
            act=self.act,
        )
        stride = stem_stride(self.stem, pool=True)
        features_at = {stride: x}
        for stage, (size, features) in enumerate(zip(self.stage_sizes, self.stage_features, strict=True), start=1):
            if stage in self.transformers:
                x = transformer(name=f"transformer{stage}")(x)
            if stage > 1:
                x = max_pool(x, (2, 2), (2, 2), "SAME")
                stride *= 2
            for unit in range(1, size + 1):
                window = (self.kernel_size, self.kernel_size)
                name = f"stage{stage}_conv{unit}"
                x = conv(features=features, kernel_size=window, padding=symmetric_padding(window), name=name)(x)
                x = self.act(norm(name=f"stage{stage}_norm{unit}")(x))
            features_at[stride] = x
        if self.features_only:
            return features_at
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=nn.initializers.normal(0.01),
            dtypes=dtypes,
        )

    def _check(self) -> None:
        check_stages("STNClassifier", self.stage_sizes, stage_features=self.stage_features)
        wrong = sorted(set(self.transformers) - set(range(len(self.stage_sizes) + 1)))
        if wrong:
            raise ValueError(
                f"STNClassifier: transformers={tuple(self.transformers)} must lie in 0 to {len(self.stage_sizes)}, the "
                f"stages, with 0 the image; leave {wrong[0]} out"
            )
