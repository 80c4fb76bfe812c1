"""Residual attention network (Wang, Jiang, Qian, Yang, Li, Zhang, Wang, Tang, CVPR 2017, arXiv:1704.06904)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.attention.spatial import ResidualAttention
from arch.blocks.head import classifier_head
from arch.blocks.preactivation import PreactivationUnit
from arch.blocks.residual import BottleneckUnit, check_stages
from arch.blocks.stem import image_stem, stem_stride
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import resolve_dtypes
from arch.ops.pooling import ceil_mode_padding, max_pool
from arch.ops.stochastic import Examples

# Fields of AttentionNeXt: the units of ResNeXt, which end in an activation, 32 groups of 4 channels in the first stage.
ATTENTION_NEXT = {"pre_activation": False, "groups": 32, "bottleneck_ratio": 0.5}


class ResidualAttentionNet(nn.Module):
    """Stages of a unit and attention modules, then units alone; table 2 of the paper, and the authors' prototxt.

    Attention-56 has one module a stage, Attention-92 has 1, 2 and 3. AttentionNeXt, the fields `ATTENTION_NEXT`, has
    units of the kind of `ResNet` instead of pre-activation; its mask branches normalize between their 1x1 convolutions
    only, and no normalization stands before the classifier.

    Differs from the paper: the 3x3 convolution of a unit carries the stride, as in the authors' prototxt. Attention-92
    has 52,466,344 parameters, as counted there, not 51.3 million. Differs from the prototxt: masks end in the sigmoid
    of the paper; the released networks have tanh, which is `attention="signed"`.

    Initial values: convolutions from N(0, 2 / fan-out), classifier weights from N(0, 0.01), its bias 0, norms at scale
    1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: attention modules of each stage.
        stage_features: channels that come out of each stage.
        stage_levels: of pooling in the mask branches of each stage.
        last_size: units of the last stage, which has no attention.
        last_features: channels that come out of it.
        num_outer_units: the paper's p: units of a module before its branches part, and after they meet.
        num_trunk_units: the paper's t: units of a module's trunk.
        num_mask_units: the paper's r: units of the mask branch between two poolings.
        attention: the mask's normalization, "mixed" (sigmoid), "signed" (tanh), "channel" or "spatial"; see
            arch.attention.spatial.
        form: "residual", (1 + mask) * trunk, or "naive", mask * trunk, with which deep networks degrade.
        pre_activation: units of the pre-activation kind, else of the kind of `ResNet`.
        groups: of the units' 3x3 convolutions; 1 with pre-activation.
        bottleneck_ratio: channels of the 3x3 convolutions, in all groups, as a multiple of those of their stage.
        stem_features: channels of the first convolution.
        stem: "imagenet" (7x7 stride 2, max pool 3x3 stride 2 in ceil mode) or, for images of 8 to 64 pixels, "small"
            (3x3 stride 1) or "stride2" (3x3 stride 2).
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
    stage_sizes: Sequence[int] = (1, 1, 1)
    stage_features: Sequence[int] = (256, 512, 1024)
    stage_levels: Sequence[int] = (3, 2, 1)
    last_size: int = 3
    last_features: int = 2048
    num_outer_units: int = 1
    num_trunk_units: int = 2
    num_mask_units: int = 1
    attention: str = "mixed"
    form: str = "residual"
    pre_activation: bool = True
    groups: int = 1
    bottleneck_ratio: float = 0.25
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
            width / stride, features]}, the last map of each stride, from the stem's on; with pre-activation these are
            sums, as the next unit takes them, and the last what the last normalization and activation make of it.

        Raises:
            ValueError: integer images; an unknown stem, attention or form; stages, levels, groups or units that do not
                fit.
        """
        check_stages(
            "ResidualAttentionNet",
            self.stage_sizes,
            stage_features=self.stage_features,
            stage_levels=self.stage_levels,
        )
        dtypes = resolve_dtypes("ResidualAttentionNet", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)
        unit = functools.partial(self._unit, conv=conv, norm=norm)
        x = image_stem(
            x.astype(dtypes.compute),
            owner="ResidualAttentionNet",
            kind=self.stem,
            features=self.stem_features,
            kernel_size=7,
            pool=False,
            conv=conv,
            norm=norm,
            act=self.act,
        )
        if self.stem == "imagenet":
            x = max_pool(x, 3, 2, ceil_mode_padding(x.shape[1:3], 3, 2))
        stride = stem_stride(self.stem, pool=True)
        features_at = {stride: x}
        stages = zip(self.stage_sizes, self.stage_features, self.stage_levels, strict=True)
        for stage, (size, features, levels) in enumerate(stages, start=1):
            strides = 1 if stage == 1 else 2
            x = unit(features, strides=strides, name=f"stage{stage}_unit")(x)
            for number in range(1, size + 1):
                x = self._attention(features, levels, unit, conv, norm, f"stage{stage}_attention{number}")(x)
            stride *= strides
            features_at[stride] = x
        for number in range(1, self.last_size + 1):
            strides = 2 if number == 1 else 1
            x = unit(self.last_features, strides=strides, name=f"last_unit{number}")(x)
            stride *= strides
        if self.pre_activation:
            x = self.act(norm(name="last_norm")(x))
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

    @nn.nowrap  # the unit belongs to the module that calls
    def _unit(self, features: int, *, conv: Callable, norm: Callable, name: str, strides: int = 1) -> nn.Module:
        """A unit of either kind."""
        width = int(features * self.bottleneck_ratio)
        if self.pre_activation and self.groups != 1:
            raise ValueError(
                f"ResidualAttentionNet: groups={self.groups} must be 1 with pre_activation, whose units have no "
                "groups; take pre_activation=False"
            )
        if self.groups < 1 or width < 1 or width % self.groups:
            raise ValueError(
                f"ResidualAttentionNet: groups={self.groups} must divide the {width} channels of 3x3 convolutions that "
                f"bottleneck_ratio={self.bottleneck_ratio} leaves of {features}; change either"
            )
        shared = {
            "features": features,
            "bottleneck_features": width,
            "strides": strides,
            "norm": norm,
            "act": self.act,
            "name": name,
        }
        if self.pre_activation:
            return PreactivationUnit(stride_at="second", shortcut="projection", conv=conv, **shared)
        return BottleneckUnit(groups=self.groups, zero_init_residual=False, conv=conv, **shared)

    def _attention(
        self, features: int, num_levels: int, unit: Callable, conv: Callable, norm: Callable, name: str
    ) -> nn.Module:
        """An attention module of units of these features."""
        return ResidualAttention(
            num_levels=num_levels,
            unit=functools.partial(unit, features),
            norm=norm,
            num_outer_units=self.num_outer_units,
            num_trunk_units=self.num_trunk_units,
            num_mask_units=self.num_mask_units,
            attention=self.attention,
            pre_activation=self.pre_activation,
            form=self.form,
            conv=conv,
            act=self.act,
            name=name,
        )
