"""Second-order networks: a trunk, and a classifier of the products of its channels. B-CNN, its kin, and MPN-COV's."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.bilinear_head import BilinearHead
from arch.errors import named_factory
from arch.models.classification.resnet import ResNet
from arch.models.classification.vgg import VGG
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.stochastic import Examples

TRUNKS = {
    "resnet": functools.partial(ResNet),
    "vgg": functools.partial(VGG, final_pool=False),
    "vgg_bn": functools.partial(VGG, final_pool=False, use_norm=True),
}


class BilinearCNN(nn.Module):
    """A trunk and a `BilinearHead`, which pools the trunk's last map; see there for the papers.

    B-CNN (Lin et al., ICCV 2015, arXiv:1504.07889), its low-rank (CVPR 2017, arXiv:1611.05109), compact (CVPR 2016,
    arXiv:1511.06062) and improved forms (BMVC 2017, arXiv:1707.06772) and G2DeNet (CVPR 2017) stand on VGG-16 up to
    "conv5_3", with its activation and without the last pooling. MPN-COV (ICCV 2017, arXiv:1703.08050) and iSQRT-COV
    (CVPR 2018, arXiv:1712.01034) stand on ResNet, where the last stage keeps stride 16, with a reduction to 256
    channels.

    Differs from the paper: see `BilinearHead`; and on VGG-16 the authors of iSQRT-COV train ImageNet with batch
    normalization (trunk="vgg_bn") and two hidden linear layers of 4096 before the classifier, which are not here.

    Initial values: those of the trunk and of the head.

    Attributes:
        num_classes: outputs of the classifier.
        trunk: a key of TRUNKS; "vgg_bn" is VGG with normalizations.
        stage_sizes, stage_features, stage_strides: of the trunk; None takes its own. VGG has no stage_strides.
        stem: of the trunk: "imagenet" or, for images of 8 to 64 pixels, "small" or "stride2".
        pooling: a key of arch.blocks.bilinear_head.POOLINGS.
        reduction_features, activate_reduction, whitening, power, num_iterations, triangle, use_signed_sqrt, use_l2,
            compact_features, rank: as in `BilinearHead`.
        dropout_rate: before the classifier.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions but a linear reduction.
        features_only: returns the trunk's maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics, second-order features and classifier are at least
            float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    trunk: str = "vgg"
    stage_sizes: Sequence[int] | None = None
    stage_features: Sequence[int] | None = None
    stage_strides: Sequence[int] | None = None
    stem: str = "imagenet"
    pooling: str = "bilinear"
    reduction_features: int | None = None
    activate_reduction: bool = False
    whitening: str | None = None
    power: float = 0.5
    num_iterations: int = 5
    triangle: bool | None = None
    use_signed_sqrt: bool | None = None
    use_l2: bool | None = None
    compact_features: int = 8192
    rank: int = 8
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
            [batch, num_classes], float32 or wider; with features_only the trunk's {stride: [batch, height / stride,
            width / stride, features]}.

        Raises:
            ValueError: integer images; an unknown trunk, stem or pooling; fields that trunk or pooling do not have.
        """
        dtypes = resolve_dtypes("BilinearCNN", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        given = {name: getattr(self, name) for name in ("stage_sizes", "stage_features", "stage_strides")}
        stages = {name: values for name, values in given.items() if values is not None}
        trunk = named_factory("BilinearCNN: trunk", TRUNKS, self.trunk, stages)
        maps = trunk(
            **stages,
            stem=self.stem,
            conv=self.conv,
            norm=self.norm,
            act=self.act,
            kernel_init=self.kernel_init,
            features_only=True,
            **layer,
            name="trunk",
        )(x, train=train, examples=examples)
        if self.features_only:
            return maps
        return BilinearHead(
            num_classes=self.num_classes,
            pooling=self.pooling,
            conv=functools.partial(self.conv, kernel_init=self.kernel_init, **layer),
            norm=bind(self.norm, train=train, examples=examples, **layer),
            act=self.act,
            dtypes=dtypes,
            reduction_features=self.reduction_features,
            activate_reduction=self.activate_reduction,
            whitening=self.whitening,
            power=self.power,
            num_iterations=self.num_iterations,
            triangle=self.triangle,
            use_signed_sqrt=self.use_signed_sqrt,
            use_l2=self.use_l2,
            compact_features=self.compact_features,
            rank=self.rank,
            dropout_rate=self.dropout_rate,
            name="head",
        )(maps[max(maps)], train=train, examples=examples)
