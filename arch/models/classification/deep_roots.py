"""Network in Network with root modules (Ioannou, Robertson, Cipolla, Criminisi, CVPR 2017, arXiv:1605.06489)."""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.stem import SMALL_STRIDES
from arch.errors import unknown_name
from arch.norm import bind
from arch.ops.conv import Conv, symmetric_padding
from arch.ops.dtypes import resolve_dtypes
from arch.ops.pooling import avg_pool, ceil_mode_padding, global_avg_pool, max_pool
from arch.ops.stochastic import Dropout, Examples

# What follows the stages but the last: 3x3, stride 2, in windows that may reach over the end of the map.
POOLS = {"max": max_pool, "avg": functools.partial(avg_pool, count_padding=False)}


class NetworkInNetwork(nn.Module):
    """Network in Network (Lin, Chen, Yan, ICLR 2014, arXiv:1312.4400) for CIFAR, of which convolutions have groups.

    A stage is a convolution over a window and 1x1 convolutions, each with an activation. A root module, section 3 of
    the paper, is a convolution in groups and the 1x1 one behind it, which mixes them; the number of groups halves from
    one to the next ("root"), and as many filters are left. The last 1x1 convolution puts out the classes, and their
    means over the map are the logits. With other convolutions in groups: `arch.models.classification.resnet.ResNet`,
    whose `groups` may differ from stage to stage.

    Differs from the paper: without a norm the convolutions have biases, which is what the authors' tables count; with
    one, every convolution but the last is followed by it, and has none. The reference network for CIFAR (mavenlin's, as
    in Lasagne's cifar10_nin) has a ReLU on the scores of the classes, before their means; ours has none.

    Initial values: convolutions from N(0, 2 / fan-in), where the fan-in of a convolution in groups counts the channels
    of a group, section 4 of the paper; biases 0.

    Attributes:
        num_classes: outputs of the last convolution.
        stage_features: channels of each stage's convolutions; the last stage has one convolution more, the classifier.
        kernel_sizes: taps along height and width of each stage's first convolution; odd.
        pools: what follows each stage but the last, "max" or "avg"; padding is never counted.
        groups: of each stage's first convolution.
        stem: stride of the first convolution, "small" (1) or "stride2" (2).
        dropout_rate: after each pool.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields, see arch.norm; None leaves them out.
        act: the activation.
        kernel_init: initial values of the convolutions.
        features_only: returns maps instead of logits, and makes no classifier.
        dtype: of the computation; None takes that of x. The classifier's output and its means are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    stage_features: Sequence[Sequence[int]] = ((192, 160, 96), (192, 192, 192), (192, 192))
    kernel_sizes: Sequence[int] = (5, 5, 3)
    pools: Sequence[str] = ("max", "avg")
    groups: Sequence[int] = (1, 1, 1)
    stem: str = "small"
    dropout_rate: float = 0.5
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] | None = None
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
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
            width / stride, features]}, the map of each stage.

        Raises:
            ValueError: integer images; an unknown stem or pool; stages or groups that do not fit.
        """
        self._check()
        dtypes = resolve_dtypes("NetworkInNetwork", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, kernel_init=self.kernel_init, **layer)
        norm = None if self.norm is None else bind(self.norm, train=train, examples=examples, **layer)

        x, stride = x.astype(dtypes.compute), SMALL_STRIDES[self.stem]
        features_at = {}
        for stage, stage_features in enumerate(self.stage_features):
            if stage:
                x = self._pool(x, self.pools[stage - 1])
                x = Dropout(self.dropout_rate, name=f"dropout{stage}")(x, train=train, examples=examples)
                stride *= 2
            for place, features in enumerate(stage_features):
                name = f"conv{stage + 1}_{place + 1}"
                window = (1, 1) if place else (self.kernel_sizes[stage],) * 2
                x = conv(
                    features=features,
                    kernel_size=window,
                    strides=1 if stage or place else SMALL_STRIDES[self.stem],
                    padding=symmetric_padding(window),
                    feature_group_count=1 if place else self.groups[stage],
                    use_bias=norm is None,
                    name=name,
                )(x)
                x = self.act(x if norm is None else norm(name=f"{name}_norm")(x))
            features_at[stride] = x
        if self.features_only:
            return features_at
        x = conv(features=self.num_classes, kernel_size=(1, 1), dtype=dtypes.head, name="classifier")(x)
        return global_avg_pool(x)

    @staticmethod
    def _pool(x: jax.Array, kind: str) -> jax.Array:
        return POOLS[kind](x, 3, strides=2, padding=ceil_mode_padding(x.shape[1:3], 3, 2))

    def _check(self) -> None:
        if self.stem not in SMALL_STRIDES:
            raise unknown_name("NetworkInNetwork: stem", self.stem, SMALL_STRIDES)
        for kind in self.pools:
            if kind not in POOLS:
                raise unknown_name("NetworkInNetwork: pools", kind, POOLS)
        stages = len(self.stage_features)
        for name, needed in (("kernel_sizes", stages), ("groups", stages), ("pools", stages - 1)):
            if len(getattr(self, name)) != needed:
                raise ValueError(
                    f"NetworkInNetwork: {name}={tuple(getattr(self, name))} must have {needed} values, for "
                    f"stage_features={self.stage_features}; change either"
                )
