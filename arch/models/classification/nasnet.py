"""NASNet (Zoph et al., CVPR 2018, arXiv:1707.07012), AmoebaNet (Real et al., 1802.01548), PNASNet (Liu et al.,
1712.00559): one skeleton, three searched cells."""

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
from arch.blocks.residual import check_stages
from arch.blocks.stem import image_stem, stem_stride
from arch.models.genotypes import AMOEBANET_A, NASNET_A, PNASNET_5, Genotype, resolve
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from arch.ops.dtypes import Dtypes, resolve_dtypes
from arch.ops.stochastic import Examples

# What the networks for CIFAR have in common, and AmoebaNet-A and PNASNet-5 for ImageNet.
CIFAR = {"stem": "small", "dropout_rate": 0.0}
AMOEBANET = {"genotype": AMOEBANET_A, "auxiliary_features": (51, 307), "drop_path_by_depth": False}
PNASNET = {"genotype": PNASNET_5, "stage_sizes": (4, 3, 3), "features": 216, "stem_features": 96}
# NASNet-A 6@4032: features * 24 are the channels of the last map.
LARGE = {"genotype": NASNET_A, "features": 168, "stem_features": 96, "skip_reduction": True}


class NASNet(nn.Module):
    """NASNet, figure 2 and section 3 of the paper, as in TF-slim: normal cells, and reduction cells between stages.

    With the stem "imagenet" two reduction cells precede the stages, of a quarter and of half of their channels. An
    activation follows the last cell. timm's `nasnetalarge` and `pnasnet5large` are the same, layer by layer, but for
    the average pools of stride 2, which count padding there.

    Initial values: convolutions from a truncated N(0, 2 / fan-in), classifier weights from N(0, 0.01), its bias 0,
    norms at scale 1 and bias 0. TF-slim's variance is 2 / fan-out; that of its depthwise kernels is the fan-in here.

    Attributes:
        num_classes: outputs of the classifier.
        genotype: the cells: an `arch.models.genotypes.Genotype`, its JSON, or a name such as "amoebanet_a".
        stage_sizes: normal cells of each stage.
        features: channels of a state in the first stage; each reduction doubles them.
        skip_reduction: the cell after a reduction has as its older input what the reduction had, as the large NASNet.
        align_first: the first cell, which has no older input, has the stem's map in its place brought to its channels,
            and not as it is, as in TF-slim.
        stem_features: channels of the first convolution; None is 32 with the stem "imagenet", else 3 * features.
        stem: a 3x3 convolution and a normalization: "imagenet" (stride 2 without padding, and two reduction cells) or,
            for images of 8 to 64 pixels, "small" (stride 1, the paper's for CIFAR) or "stride2" (stride 2).
        auxiliary_heads: logits after the last stage but one, for training; their kernel fits images of one size.
        auxiliary_weight: what their loss counts.
        auxiliary_features: channels of their two convolutions.
        drop_path_rate: probability, at the end of training, that an operation of a cell is dropped; it grows linearly
            from 0 (ScheduledDropPath), with what `after_step` says of the training.
        drop_path_by_depth: cell i of n has i / n of that probability, as in TF-slim; else all have the same.
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
    genotype: Genotype | Mapping[str, Any] | str = NASNET_A
    stage_sizes: Sequence[int] = (6, 6, 6)
    features: int = 44
    skip_reduction: bool = False
    align_first: bool = False
    stem_features: int | None = None
    stem: str = "imagenet"
    auxiliary_heads: bool = False
    auxiliary_weight: float = 0.4
    auxiliary_features: Sequence[int] = (128, 768)
    drop_path_rate: float = 0.0
    drop_path_by_depth: bool = True
    dropout_rate: float = 0.5
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = functools.partial(BatchNorm, epsilon=1e-3)
    act: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
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
            [batch, num_classes], float32 or wider; with features_only {stride: [batch, about height / stride, about
            width / stride, features]}, the last map of each stride, from the stem's on.

        Raises:
            ValueError: integer or too small images; an unknown stem; a genotype that is none; stages without cells; too
                few features for a half and a quarter of them; a rate outside [0, 1].
        """
        genotype = self._check()
        dtypes = resolve_dtypes("NASNet", x, self.dtype, self.param_dtype)
        layer = {"dtype": dtypes.compute, "param_dtype": dtypes.param}
        layers = {
            "conv": functools.partial(self.conv, use_bias=False, kernel_init=self.kernel_init, **layer),
            "norm": bind(self.norm, train=train, examples=examples, **layer),
        }
        progress = training_progress(self, dtypes.head) if self.drop_path_rate else None
        x = self._stem(x.astype(dtypes.compute), layers)
        stride = stem_stride(self.stem, pool=False)
        outputs, features_at = [x if self.align_first else None, x], {stride: x}
        plan = list(self._plan())
        for number, (name, kind, features) in enumerate(plan, start=1):
            strides = 2 if kind == "reduction" else 1
            skips = self.skip_reduction and number > 1 and plan[number - 2][0].startswith("reduction")
            cell = SearchedCell(
                plan=getattr(genotype, kind),
                inputs=genotype.inputs,
                features=features,
                strides=strides,
                padding="SAME",
                act=self.act,
                **layers,
                name=name,
            )
            rate = self._rate(progress, number / len(plan))
            x = cell(x, outputs[-3 if skips else -2], train=train, drop_path_rate=rate, examples=examples)
            outputs.append(x)
            stride *= strides
            features_at[stride] = x
            if name == self._auxiliary_cell() and (train or self.is_initializing()):
                self._auxiliary_head(self.act(x), layers, dtypes)
        if self.features_only:
            return features_at
        return classifier_head(
            self.act(x),
            self.num_classes,
            dropout_rate=self.dropout_rate,
            train=train,
            examples=examples,
            kernel_init=nn.initializers.normal(0.01),
            dtypes=dtypes,
        )

    @nn.nowrap
    def after_step(self, variables: Mapping[str, Any], progress: float | jax.Array) -> dict[str, Any]:
        """The variables with the share of the training that is done, for drop path; see `set_progress`."""
        return set_progress(variables, progress)

    def _check(self) -> Genotype:
        """The genotype, once the other fields are known to fit."""
        check_stages("NASNet", self.stage_sizes)
        fewest = 8 if self.stem == "imagenet" else 2
        if self.features < fewest:
            raise ValueError(
                f"NASNet: features={self.features} must be at least {fewest} with stem={self.stem!r}, for what its "
                "cells divide them by; widen the network"
            )
        if not 0.0 <= self.drop_path_rate <= 1.0:
            raise ValueError(f"NASNet: drop_path_rate={self.drop_path_rate} must lie in [0, 1]; it is a probability")
        if self.auxiliary_heads and len(self.stage_sizes) < 2:
            raise ValueError("NASNet: auxiliary_heads=True must have a stage before the last; give two stages or more")
        return resolve(self.genotype)

    def _stem(self, x: jax.Array, layers: Mapping[str, Callable]) -> jax.Array:
        features = self.stem_features
        if features is None:
            features = 32 if self.stem == "imagenet" else 3 * self.features
        stem = {"owner": "NASNet", "kind": self.stem, "features": features, "padded": False}
        return image_stem(x, **stem, kernel_size=3, pool=False, act=lambda x: x, **layers)

    def _plan(self) -> Iterator[tuple[str, str, int]]:
        """Of each cell its name, which cell of the genotype it is, and its features."""
        if self.stem == "imagenet":
            yield "stem_cell1", "reduction", self.features // 4
            yield "stem_cell2", "reduction", self.features // 2
        for stage, size in enumerate(self.stage_sizes):
            features = self.features * 2**stage
            if stage:
                yield f"reduction{stage}", "reduction", features
            for unit in range(1, size + 1):
                yield f"stage{stage + 1}_cell{unit}", "normal", features

    def _rate(self, progress: jax.Array | None, depth: float) -> jax.Array | None:
        """Of drop path, in the cell behind which so much of the depth lies."""
        if progress is None:
            return None
        return progress * (self.drop_path_rate * (depth if self.drop_path_by_depth else 1.0))

    def _auxiliary_cell(self) -> str | None:
        """The name of the cell whose output an auxiliary head sees."""
        if not self.auxiliary_heads or self.features_only:
            return None
        return f"stage{len(self.stage_sizes) - 1}_cell{self.stage_sizes[-2]}"

    def _auxiliary_head(self, x: jax.Array, layers: Mapping[str, Callable], dtypes: Dtypes) -> None:
        """Logits for training."""
        logits = ConvAuxiliaryHead(
            num_classes=self.num_classes,
            features=self.auxiliary_features,
            padding="VALID" if min(x.shape[1:3]) >= 5 else "SAME",
            whole_map=True,
            conv_init=self.kernel_init,
            kernel_init=nn.initializers.normal(0.01),
            dtypes=dtypes,
            act=self.act,
            **layers,
            name="auxiliary",
        )(x)
        sow_auxiliary(self, "auxiliary_logits", logits, self.auxiliary_weight)
