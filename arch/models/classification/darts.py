"""The networks of DARTS (Liu, Simonyan, Yang, ICLR 2019, arXiv:1806.09055), and of any other searched cell."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.blocks.auxiliary import ConvAuxiliaryHead
from arch.blocks.cells import SearchedCell
from arch.blocks.head import classifier_head, sow_auxiliary
from arch.blocks.progress import set_progress, training_progress
from arch.blocks.stem import bare_stem, stem_stride
from arch.models.genotypes import DARTS_V2, Genotype, resolve
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv, symmetric_padding
from arch.ops.dtypes import Dtypes, resolve_dtypes
from arch.ops.stochastic import Examples

# What the networks for CIFAR have in common, and those for ImageNet.
CIFAR = {"stem": "small", "num_cells": 20, "features": 36}
IMAGENET = {"stem": "imagenet", "num_cells": 14, "features": 48}


def reductions(num_cells: int) -> tuple[int, int]:
    """The reduction cells of a network of so many, counted from 0: after a third and after two thirds."""
    return num_cells // 3, 2 * num_cells // 3


def plan_cells(num_cells: int, features: int) -> Iterator[tuple[str, str, int]]:
    """Of each cell its name, which of both kinds it is, "normal" or "reduction", and its features.

    Args:
        num_cells: at least 3.
        features: before the first reduction; each doubles them.
    """
    for index in range(num_cells):
        reduces = index in reductions(num_cells)
        features *= 2 if reduces else 1
        yield f"cell{index + 1}", "reduction" if reduces else "normal", features


class DARTS(nn.Module):
    """The networks of section 3 of the paper, as the authors' program evaluates a cell, layer by layer.

    Of the cells two are reduction cells, after a third and after two thirds; the others are normal ones. Nothing
    follows the last cell.

    Differs from the authors' program: drop path grows with every step, not with every epoch; the auxiliary head has its
    second normalization for ImageNet, too; odd sizes are halved upwards.

    Initial values: torch's, as the authors have them. Convolutions and classifier weights from U(-1, 1) /
    sqrt(fan-in), its bias 0 (theirs is from U, too), norms at scale 1 and bias 0.

    Attributes:
        num_classes: outputs of the classifier.
        genotype: the cells: an `arch.models.genotypes.Genotype`, its JSON, or a name such as "darts_v1".
        num_cells: in all, at least 3.
        features: channels of a state before the first reduction; each reduction doubles them.
        stem: "imagenet" (3x3 convolutions of stride 2, to half, then all of the features and, behind an activation, as
            many again) or, for images of 8 to 64 pixels, a 3x3 convolution to 3 * features: "small" (stride 1, the
            paper's for CIFAR) or "stride2" (stride 2).
        auxiliary_heads: logits after the second reduction, for training; their kernel fits images of one size.
        auxiliary_weight: what their loss counts.
        auxiliary_features: channels of their two convolutions.
        drop_path_rate: probability, at the end of training, that an operation of a cell is dropped; it grows linearly
            from 0, with what `after_step` says of the training.
        dropout_rate: before the classifier; the authors use none.
        conv: makes a convolution from its fields.
        norm: makes a normalization from its fields; see arch.norm.
        act: the activation.
        kernel_init: initial values of the convolutions and of the classifier.
        features_only: returns maps instead of logits, and makes no head.
        dtype: of the computation; None takes that of x. Statistics, pooling and classifier are at least float32.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_classes: int = 1000
    genotype: Genotype | Mapping[str, Any] | str = DARTS_V2
    num_cells: int = 14
    features: int = 48
    stem: str = "imagenet"
    auxiliary_heads: bool = False
    auxiliary_weight: float = 0.4
    auxiliary_features: Sequence[int] = (128, 768)
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
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
            examples: weights, for the statistics, and ids, for what is dropped, of the examples.

        Returns:
            [batch, num_classes], float32 or wider; with features_only {stride: [batch, height / stride,
            width / stride, features]}, the last map of each stride, from the stem's on.

        Raises:
            ValueError: integer images; an unknown stem; a genotype that is none; too few cells or features; a rate
                outside [0, 1].
        """
        genotype = self._check()
        dtypes = resolve_dtypes("DARTS", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        layers = {
            "conv": functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer),
            "norm": bind(self.norm, train=train, examples=examples, **layer),
        }
        rate = training_progress(self, dtypes.head) * self.drop_path_rate if self.drop_path_rate else None
        features_at = self._stem(x.astype(dtypes.compute), layers)
        stride = max(features_at)
        previous, x = features_at[min(features_at)], features_at[stride]
        for name, kind, features in plan_cells(self.num_cells, self.features):
            strides = 2 if kind == "reduction" else 1
            cell = SearchedCell(
                plan=getattr(genotype, kind),
                inputs=genotype.inputs,
                features=features,
                strides=strides,
                padding="symmetric",
                act=self.act,
                **layers,
                name=name,
            )
            previous, x = x, cell(x, previous, train=train, drop_path_rate=rate, examples=examples)
            stride *= strides
            features_at[stride] = x
            if name == self._auxiliary_cell() and (train or self.is_initializing()):
                self._auxiliary_head(self.act(x), layers, dtypes)
        if self.features_only:
            return features_at
        return classifier_head(
            x,
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=self.kernel_init,
            dtypes=dtypes,
        )

    @nn.nowrap
    def after_step(self, variables: Mapping[str, Any], progress: float | jax.Array) -> dict[str, Any]:
        """The variables with the share of the training that is done, for drop path; see `set_progress`."""
        return set_progress(variables, progress)

    def _check(self) -> Genotype:
        """The genotype, once the other fields are known to fit."""
        if self.num_cells < 3 or self.features < 2:
            raise ValueError(
                f"DARTS: num_cells={self.num_cells} must be at least 3, of which two are reductions, and features="
                f"{self.features} at least 2; change them"
            )
        if not 0.0 <= self.drop_path_rate <= 1.0:
            raise ValueError(f"DARTS: drop_path_rate={self.drop_path_rate} must lie in [0, 1]; it is a probability")
        return resolve(self.genotype)

    def _stem(self, x: jax.Array, layers: Mapping[str, Callable]) -> dict[int, jax.Array]:
        """The two maps that the first cell sees, or one for both, by stride."""
        conv, norm = layers["conv"], layers["norm"]
        if self.stem != "imagenet":
            x = bare_stem(x, owner="DARTS", kind=self.stem, features=3 * self.features, conv=conv)
            return {stem_stride(self.stem, pool=False): norm(name="stem_norm")(x)}
        conv = functools.partial(conv, kernel_size=(3, 3), strides=(2, 2), padding=symmetric_padding((3, 3)))
        x = norm(name="stem_norm1")(conv(features=self.features // 2, name="stem_conv1")(x))
        first = norm(name="stem_norm2")(conv(features=self.features, name="stem_conv2")(self.act(x)))
        second = norm(name="stem_norm3")(conv(features=self.features, name="stem_conv3")(self.act(first)))
        return {4: first, 8: second}

    def _auxiliary_cell(self) -> str | None:
        """The name of the cell whose output an auxiliary head sees."""
        if not self.auxiliary_heads or self.features_only:
            return None
        return f"cell{reductions(self.num_cells)[1] + 1}"

    def _auxiliary_head(self, x: jax.Array, layers: Mapping[str, Callable], dtypes: Dtypes) -> None:
        """Logits for training."""
        logits = ConvAuxiliaryHead(
            num_classes=self.num_classes,
            features=self.auxiliary_features,
            padding="VALID" if min(x.shape[1:3]) >= 5 else "SAME",
            strides=2 if self.stem == "imagenet" else 3,
            whole_map=True,
            conv_init=self.kernel_init,
            kernel_init=self.kernel_init,
            dtypes=dtypes,
            act=self.act,
            **layers,
            name="auxiliary",
        )(x)
        sow_auxiliary(self, "auxiliary_logits", logits, self.auxiliary_weight)
