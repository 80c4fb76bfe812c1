"""CondenseNet (Huang, Liu, van der Maaten, Weinberger, CVPR 2018, arXiv:1711.09224)."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util
from flax.typing import Dtype, Initializer

from arch import PENALTIES
from arch.blocks.dense import CondenseLayer, CondenseLinear, halve
from arch.blocks.head import sow_penalty
from arch.blocks.residual import check_stages
from arch.blocks.stem import bare_stem, stem_stride
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import Dtypes, resolve_dtypes
from arch.ops.learned_group_conv import (
    COLLECTION,
    IndexedGroupConv,
    LearnedGroupConv,
    condensation_stage,
    condense,
    condensed_variables,
    group_lasso,
)
from arch.ops.pooling import global_avg_pool
from arch.ops.stochastic import Examples

# What the authors' networks for CIFAR have in common.
CIFAR = {"stem": "small", "group_lasso_weight": 0.0}

_CLASSIFIER = "classifier"


class CondenseNet(nn.Module):
    """CondenseNet, table 1 and sections 3 and 4 of the paper: the authors' network, layer by layer.

    A DenseNet whose growth rate doubles from block to block, in which nothing but 2x2 averages lies between the blocks,
    so that every layer sees all layers before it. The 1x1 convolutions, and the classifier, learn which inputs they
    need: training starts with all of them, `after_step` drops some over its first half, and `deploy` makes of the
    trained network one that computes what is left, with grouped convolutions.

    Differs from the authors' program: that drops half of the classifier's inputs when it converts the trained network;
    here, as in the paper's experiment on ImageNet, they go halfway through training, and conversion changes nothing.

    Initial values: the authors'. Convolutions from N(0, 2 / fan-out), where the fan-out of a grouped convolution counts
    the channels of all groups, classifier weights from U(-1, 1) / sqrt(fan-in), its bias 0, norms at scale 1 and
    bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        stage_sizes: layers of each dense block.
        growth_rates: channels that a layer of each block adds.
        bottleneck_ratio: channels of a layer's 1x1 convolution, as a multiple of the growth rate.
        num_groups: of the 1x1 and the 3x3 convolutions; a divisor of stem_features and the growth rates.
        condense_factor: 1 / condense_factor of the weights of the 1x1 convolutions is left in the end; a divisor, too.
            None is num_groups.
        classifier_condense_factor: the same of the classifier, of whose inputs it is a divisor; 1 drops none.
        group_lasso_weight: of the penalty that makes the filters of a group need the same inputs; 1e-5 on ImageNet.
        stem_features: channels of the first convolution; None is twice the first growth rate.
        stem: a 3x3 convolution alone, of stride 2 ("imagenet", "stride2") or, for images of 8 to 64 pixels, of stride 1
            ("small").
        dropout_rate: before the 1x1 convolutions; the authors use none.
        deployed: what `deploy` sets: indices and grouped convolutions in the place of what learns them.
        conv: makes a convolution from its fields; the learned ones are `LearnedGroupConv` or `IndexedGroupConv`.
        norm: makes a normalization from its fields; see arch.norm. To be deployed it must treat each channel alone.
        act: the activation.
        kernel_init: initial values of the convolutions.
        features_only: returns maps instead of logits, and makes no head: neither the last normalization.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    stage_sizes: Sequence[int] = (4, 6, 8, 10, 8)
    growth_rates: Sequence[int] = (8, 16, 32, 64, 128)
    bottleneck_ratio: int = 4
    num_groups: int = 4
    condense_factor: int | None = None
    classifier_condense_factor: int = 2
    group_lasso_weight: float = 1e-5
    stem_features: int | None = None
    stem: str = "imagenet"
    dropout_rate: float = 0.0
    deployed: bool = False
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

        In training it gives the group lasso, times its weight, to whoever asks for the collection "penalties".

        Args:
            x: [batch, height, width, channels], floating point, normalized as the data asks.
            train: batch statistics and dropout, else running statistics and none.
            examples: weights, for the statistics, and ids, for dropout, of the examples.

        Returns:
            [batch, num_classes], float32 or wider; with features_only {stride: [batch, height / stride,
            width / stride, features]}, what the stem and the last layer of each block put out, not normalized.

        Raises:
            ValueError: integer images; an unknown stem; blocks, groups or factors that do not fit; images that are too
                small.
        """
        check_stages("CondenseNet", self.stage_sizes, growth_rates=self.growth_rates)
        dtypes = resolve_dtypes("CondenseNet", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        conv = functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer)
        norm = bind(self.norm, train=train, examples=examples, **layer)
        learned_conv = functools.partial(
            self._learned_conv(self._factor()), num_groups=self.num_groups, kernel_init=self.kernel_init, **layer
        )

        stem_features = 2 * self.growth_rates[0] if self.stem_features is None else self.stem_features
        x = x.astype(dtypes.compute)
        x = bare_stem(x, owner="CondenseNet", kind=self.stem, features=stem_features, conv=conv)
        stride = stem_stride(self.stem, pool=False)
        features_at = {stride: x}
        for stage, (size, growth_rate) in enumerate(zip(self.stage_sizes, self.growth_rates, strict=True), start=1):
            if stage > 1:
                x = halve(x, "CondenseNet")
                stride *= 2
            for unit in range(1, size + 1):
                x = CondenseLayer(
                    growth_rate=growth_rate,
                    bottleneck_ratio=self.bottleneck_ratio,
                    num_groups=self.num_groups,
                    dropout_rate=self.dropout_rate,
                    learned_conv=learned_conv,
                    conv=conv,
                    norm=norm,
                    act=self.act,
                    name=f"stage{stage}_unit{unit}",
                )(x, train=train, examples=examples)
            features_at[stride] = x
        if train and self.group_lasso_weight and self.is_mutable_collection(PENALTIES):
            sow_penalty(self, "group_lasso", self.group_lasso_weight * self._group_lasso())
        if self.features_only:
            return features_at
        x = global_avg_pool(self.act(norm(name="head_norm")(x)))
        return self._classifier(x, dtypes)

    @nn.nowrap
    def after_step(self, variables: Mapping[str, Any], progress: float | jax.Array) -> dict[str, Any]:
        """The variables with the inputs dropped that are due; call it after every step of training.

        Over the first half of training, at the end of each of condense_factor - 1 equal stages, every group of filters
        drops 1 / condense_factor of its inputs, those that matter least to it then.

        Args:
            variables: "params", "condensation", and whatever else, which stays.
            progress: share of the training that is done, in [0, 1]; may be traced.
        """
        masks = {}
        for path, mask in _masks(variables):
            factor = self._factor_of(path)
            masks[path] = condense(_kernel(variables, path), mask, condensation_stage(progress, factor), factor)
        return {**variables, COLLECTION: {**variables[COLLECTION], **traverse_util.unflatten_dict(masks)}}

    def _learned_conv(self, condense_factor: int) -> Callable[..., nn.Module]:
        kind = IndexedGroupConv if self.deployed else LearnedGroupConv
        return functools.partial(kind, condense_factor=condense_factor)

    def _classifier(self, x: jax.Array, dtypes: Dtypes) -> jax.Array:
        learned_conv = functools.partial(
            self._learned_conv(self.classifier_condense_factor),
            num_groups=1,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            dtype=dtypes.head,
            param_dtype=dtypes.param,
        )
        return CondenseLinear(
            features=self.num_classes, learned_conv=learned_conv, param_dtype=dtypes.param, name=_CLASSIFIER
        )(x)

    def _group_lasso(self) -> jax.Array:
        """Of all 1x1 convolutions."""
        variables = self.variables
        return sum(
            group_lasso(_kernel(variables, path), mask, self._factor())
            for path, mask in _masks(variables)
            if path[0] != _CLASSIFIER
        )

    def _factor(self) -> int:
        return self.num_groups if self.condense_factor is None else self.condense_factor

    def _factor_of(self, path: tuple[str, ...]) -> int:
        """The factor of the layer to which a mask belongs."""
        return self.classifier_condense_factor if path[0] == _CLASSIFIER else self._factor()


def deploy(model: CondenseNet, variables: Mapping[str, Any]) -> tuple[CondenseNet, dict[str, Any]]:
    """The network that computes in evaluation what a condensed one does, with grouped convolutions.

    Args:
        model: a network whose training is over.
        variables: its "params", "batch_stats" and "condensation", not traced.

    Returns:
        The same network with `deployed`, and its variables.

    Raises:
        ValueError: a network that is deployed already; masks whose condensations are not over.
    """
    if model.deployed:
        raise ValueError("deploy: deployed=True must be False; the network is converted already")
    flat = traverse_util.flatten_dict(dict(variables))
    for (*layer, _), _ in list(_masks(variables)):
        paths = [path for path in flat if path[1 : len(layer) + 1] == tuple(layer)]
        # Beside the convolution the classifier has a bias, which lies one level higher and stays.
        own = traverse_util.unflatten_dict({(path[0], *path[len(layer) + 1 :]): flat.pop(path) for path in paths})
        converted = condensed_variables(own, model._factor_of(tuple(layer)))
        for (collection, *rest), leaf in traverse_util.flatten_dict(converted).items():
            flat[collection, *layer, *rest] = leaf
    return model.clone(deployed=True), traverse_util.unflatten_dict(flat)


def _masks(variables: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], jax.Array]]:
    """Path and value of every mask; a deployed network has none."""
    for path, leaf in traverse_util.flatten_dict(dict(variables.get(COLLECTION, {}))).items():
        if path[-1] == "mask":
            yield path, leaf


def _kernel(variables: Mapping[str, Any], path: tuple[str, ...]) -> jax.Array:
    """The kernel of the layer to which a mask belongs."""
    kernel = variables["params"]
    for name in path[:-1]:
        kernel = kernel[name]
    return kernel["kernel"]
