"""The last layers of second-order networks: products of channels, pooled over the map, and a classifier of them."""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from arch.blocks.head import symmetric_uniform
from arch.errors import unknown_name
from arch.ops.bilinear import LowRankBilinear, l2_normalize, signed_sqrt
from arch.ops.compact_bilinear import CompactBilinear
from arch.ops.covariance import covariance_pool, gaussian_embedding, second_moment, vectorize_symmetric
from arch.ops.dtypes import Dtypes
from arch.ops.matrix_power import matrix_power, newton_schulz_sqrt
from arch.ops.stochastic import Dropout, Examples


class _Pooling(NamedTuple):
    """A pooling, with what its paper does to the result.

    Attributes:
        matrix: [batch, height, width, features] -> symmetric matrices; None where the pooling makes none.
        whitening: of these matrices.
        triangle: their upper triangle alone is classified.
        normalize: signed square root and L2 norm; None where there is no vector.
    """

    matrix: Callable[..., jax.Array] | None = None
    whitening: str | None = None
    triangle: bool | None = None
    normalize: bool | None = None


POOLINGS = {
    "bilinear": _Pooling(second_moment, "none", False, True),
    "compact_random_maclaurin": _Pooling(normalize=True),
    "compact_tensor_sketch": _Pooling(normalize=True),
    "covariance_power": _Pooling(covariance_pool, "power", True, False),
    "gaussian": _Pooling(gaussian_embedding, "power", False, False),
    "improved": _Pooling(second_moment, "power", False, True),
    "isqrt": _Pooling(covariance_pool, "newton_schulz", True, False),
    "low_rank": _Pooling(),
    "two_stream": _Pooling(normalize=True),
}
WHITENINGS = ("newton_schulz", "none", "power")


class BilinearHead(nn.Module):
    """Reduction, second-order pooling, whitening, normalization of the vector, and a linear classifier.

    The poolings, of a map x of `features` channels, and what their papers do with the result:

        bilinear: the second moment of x; signed square root, L2 norm (Lin et al., B-CNN, arXiv:1504.07889).
        two_stream: the products of two reductions of x; the same (section 3 of that paper, on one trunk).
        low_rank: classifiers of the second moment whose matrices have a low rank, without that moment; the reduction is
            what all classes share (Kong and Fowlkes, LRBP, arXiv:1611.05109).
        compact_tensor_sketch, compact_random_maclaurin: random projections of the second moment; signed square root, L2
            norm (Gao et al., CBP, arXiv:1511.06062).
        covariance_power: the covariance to a power, its upper triangle (Li et al., MPN-COV, arXiv:1703.08050).
        gaussian: the root of the matrix of mean and covariance (Wang et al., G2DeNet, CVPR 2017).
        isqrt: the covariance's root by Newton and Schulz, its upper triangle (Li et al., iSQRT-COV, arXiv:1712.01034).
        improved: the root of the second moment; signed square root, L2 norm (Lin and Maji, arXiv:1707.06772).

    The lecture's best practice is pooling="bilinear" behind a linear reduction to so many channels that their square
    exceeds the number of classes, with whitening where needed; fewer channels give a warning.

    Differs from the paper: moments are means over positions where B-CNN, CBP and LRBP have sums, so that logits do not
    grow with the image. Whether G2DeNet classifies the whole matrix or its upper triangle is not sure: `triangle`.

    Initial values: those of `conv` for a reduction that an activation follows, N(0, 1 / fan-in) for a linear one;
    classifier weights and bias from U(-1, 1) / sqrt(fan-in), torch's for a linear layer, those of low_rank from
    N(0, 1 / fan-in) and 0.

    Attributes:
        num_classes: outputs.
        pooling: a key of POOLINGS.
        conv: makes the reduction from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
        dtypes: of the network; all that follows the reduction is computed in `dtypes.head`.
        reduction_features: outputs of a 1x1 convolution without bias before the pooling; None leaves it out.
        activate_reduction: a normalization and the activation follow it, as in MPN-COV and iSQRT-COV; else the
            reduction is linear.
        whitening: "none", "power" (by eigenvalues) or "newton_schulz" (the root), of a symmetric matrix; None takes the
            pooling's.
        power: of the whitening "power", above 0.
        num_iterations: of the whitening "newton_schulz".
        triangle: classifies the upper triangle of a symmetric matrix alone; None takes the pooling's.
        use_signed_sqrt: of the vector; None takes the pooling's.
        use_l2: divides the vector by its length; None takes the pooling's.
        compact_features: of a compact pooling.
        rank: of a class's matrix in low_rank; even, half of it positive and half negative.
        dropout_rate: before the classifier: of the vector or, in low_rank, of the reduced map.
    """

    num_classes: int
    pooling: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]
    dtypes: Dtypes
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

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        """Maps [batch, height, width, channels] to logits [batch, num_classes], float32 or wider.

        Raises:
            ValueError: an unknown pooling or whitening; fields that the pooling does not have; whatever its operators
                refuse.
        """
        settings = self._resolve()
        dropout = functools.partial(Dropout(self.dropout_rate, name="dropout"), train=train, examples=examples)
        if self.pooling == "two_stream":
            streams = self._reduce(x, "reduction_first"), self._reduce(x, "reduction_second")
        else:
            streams = (self._reduce(x, "reduction") if self.reduction_features is not None else x,)
        self._warn_of_few_products(streams[0].shape[-1])
        if self.pooling == "low_rank":
            x = dropout(streams[0])
            return LowRankBilinear(
                self.num_classes,
                rank=self.rank,
                reduction="mean",
                dtype=self.dtypes.head,
                param_dtype=self.dtypes.param,
                precision=jax.lax.Precision.HIGHEST,
                name="classifier",
            )(x)

        x = self._pool(streams, settings)
        if settings["use_signed_sqrt"]:
            x = signed_sqrt(x)
        if settings["use_l2"]:
            x = l2_normalize(x)
        uniform = symmetric_uniform(1 / math.sqrt(x.shape[-1]))
        return nn.Dense(
            self.num_classes,
            kernel_init=uniform,
            bias_init=uniform,
            dtype=self.dtypes.head,
            param_dtype=self.dtypes.param,
            name="classifier",
        )(dropout(x))

    def _reduce(self, x: jax.Array, name: str) -> jax.Array:
        layer = {"features": self.reduction_features, "kernel_size": (1, 1), "use_bias": False, "name": name}
        if self.activate_reduction:
            return self.act(self.norm(name=f"{name}_norm")(self.conv(**layer)(x)))
        return self.conv(kernel_init=nn.initializers.lecun_normal(), **layer)(x)

    def _pool(self, streams: tuple[jax.Array, ...], settings: dict[str, Any]) -> jax.Array:
        """One map or two -> [batch, length of the vector]."""
        dtype = self.dtypes.head
        if self.pooling.startswith("compact_"):
            method = self.pooling.removeprefix("compact_")
            return CompactBilinear(self.compact_features, method, dtype=dtype, name="compact")(*streams)
        if self.pooling == "two_stream":
            return second_moment(*streams, dtype=dtype).reshape(streams[0].shape[0], -1)
        matrix = POOLINGS[self.pooling].matrix(streams[0], dtype=dtype)
        if settings["whitening"] == "power":
            matrix = matrix_power(matrix, self.power)
        elif settings["whitening"] == "newton_schulz":
            matrix = newton_schulz_sqrt(matrix, self.num_iterations)
        return vectorize_symmetric(matrix) if settings["triangle"] else matrix.reshape(matrix.shape[0], -1)

    def _resolve(self) -> dict[str, Any]:
        """The fields that are None from the pooling, those that it does not have refused."""
        if self.pooling not in POOLINGS:
            raise unknown_name("BilinearHead: pooling", self.pooling, POOLINGS)
        if self.whitening is not None and self.whitening not in WHITENINGS:
            raise unknown_name("BilinearHead: whitening", self.whitening, WHITENINGS)
        if self.reduction_features is None and (self.activate_reduction or self.pooling == "two_stream"):
            raise ValueError(
                f"BilinearHead: activate_reduction={self.activate_reduction} with pooling={self.pooling!r} needs a "
                "reduction; give reduction_features"
            )
        pooling = POOLINGS[self.pooling]
        settings = {"whitening": pooling.whitening, "triangle": pooling.triangle}
        settings |= {"use_signed_sqrt": pooling.normalize, "use_l2": pooling.normalize}
        for name, default in settings.items():
            given = getattr(self, name)
            if given is None:
                continue
            if default is None:
                raise ValueError(
                    f"BilinearHead: {name}={given!r} has no meaning with pooling={self.pooling!r}; leave it out"
                )
            settings[name] = given
        return settings

    def _warn_of_few_products(self, features: int) -> None:
        """The lecture's rule for the channels that are pooled."""
        if features**2 <= self.num_classes:
            enough = math.isqrt(self.num_classes) + 1
            warnings.warn(
                f"BilinearHead: the {features**2} products of {features} channels should exceed "
                f"num_classes={self.num_classes}; give reduction_features={enough} or more",
                stacklevel=2,
            )
