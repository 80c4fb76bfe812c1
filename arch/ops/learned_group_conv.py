"""Learned group convolution: a 1x1 convolution that learns which inputs each group of its filters needs.

Filter o belongs to group o mod num_groups. Training starts dense. Over its first half, at the end of each of
condense_factor - 1 equal stages, every group drops the in_features / condense_factor inputs that matter least to its
filters: the training step gives `condense` the parameters and `condensation_stage(progress, condense_factor)`. When all
stages are over, `condensed_variables` makes of the layer an `IndexedGroupConv`, which computes the same with a grouped
convolution.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax

from arch.errors import check_map
from arch.ops.channel import channel_shuffle
from arch.ops.conv2d import conv2d

COLLECTION = "condensation"


class LearnedGroupConv(nn.Module):
    """A 1x1 convolution during whose training each group of filters keeps fewer and fewer inputs.

    y[..., o] = sum over c of mask[c, o mod num_groups] * kernel[0, 0, c, o] * z[..., c], z = act(norm(x)).

    Paper: Huang et al., CondenseNet (arXiv:1711.09224), section 3.1.
    Parameters: kernel [1, 1, in_features, features]; those of the norm, "norm". The mask, bool
        [in_features, num_groups], is no parameter: it is `mask` in the collection "condensation".
    MACs: height * width * in_features * features, as long as it is not converted.
    Differs from the paper: filters are interleaved over groups, as in the authors' program.

    Attributes:
        features: output channels.
        num_groups: of filters; a divisor of in_features and features.
        condense_factor: the share of weights left in the end is 1 / condense_factor; a divisor of in_features. None is
            num_groups.
        norm: makes the normalization before the convolution, a function of x alone, from its name; None leaves it out.
        act: the activation before the convolution; None leaves it out.
        dtype: of the computation; None takes what x and the kernel promote to.
        param_dtype: of the kernel.
        kernel_init: initial values of the kernel.
        implementation: as in `conv2d`.
    """

    features: int
    num_groups: int
    condense_factor: int | None = None
    norm: Callable[..., Callable[[jax.Array], jax.Array]] | None = None
    act: Callable[[jax.Array], jax.Array] | None = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in_features] to [batch, height, width, features].

        Raises:
            ValueError: groups or a factor that do not divide the features; whatever `conv2d` refuses.
        """
        check_map("LearnedGroupConv", x)
        in_features = x.shape[-1]
        _check("LearnedGroupConv", in_features, self.features, self.num_groups, _factor(self))
        kernel = self.param("kernel", self.kernel_init, (1, 1, in_features, self.features), self.param_dtype)
        mask = self.variable(COLLECTION, "mask", jnp.ones, (in_features, self.num_groups), bool).value
        x = _before(self, x)
        kernel = jnp.where(jnp.tile(mask, self.features // self.num_groups), kernel, jnp.zeros_like(kernel))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        return conv2d(x, kernel, padding="VALID", implementation=self.implementation)


class IndexedGroupConv(nn.Module):
    """What a condensed `LearnedGroupConv` becomes: inputs taken by index, a grouped 1x1 convolution, a channel shuffle.

    y = channel_shuffle(conv2d(act(norm(x[..., index])), kernel, num_groups groups), num_groups). Its variables come
    from `condensed_variables`; those of `init` take the inputs in order.

    Paper: Huang et al., CondenseNet (arXiv:1711.09224), section 3.1 and figure 3.
    Parameters: kernel [1, 1, in_features / condense_factor, features]; those of the norm, "norm", at the features that
        are taken. The index, int32 [num_groups * in_features / condense_factor], is no parameter: it is `index` in
        the collection "condensation".
    MACs: height * width * in_features * features / condense_factor.

    Attributes:
        features, num_groups, condense_factor, norm, act, dtype, param_dtype, kernel_init: as in `LearnedGroupConv`;
            the norm must treat each channel alone, as batch norm does: it sees the channels in another order, and some
            of them twice or not at all.
        implementation: as in `conv2d`. The groups come out of the index as "matmul" wants them, so that it is the
            fastest here also where it is not for a grouped convolution alone.
    """

    features: int
    num_groups: int
    condense_factor: int | None = None
    norm: Callable[..., Callable[[jax.Array], jax.Array]] | None = None
    act: Callable[[jax.Array], jax.Array] | None = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    implementation: str = "matmul"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in_features] to [batch, height, width, features].

        Raises:
            ValueError: groups or a factor that do not divide the features; whatever `conv2d` refuses.
        """
        check_map("IndexedGroupConv", x)
        in_features = x.shape[-1]
        _check("IndexedGroupConv", in_features, self.features, self.num_groups, _factor(self))
        taken = in_features // _factor(self)
        kernel = self.param("kernel", self.kernel_init, (1, 1, taken, self.features), self.param_dtype)
        index = self.variable(COLLECTION, "index", _in_order, self.num_groups * taken, in_features).value
        x = _before(self, _take(x, index))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        out = conv2d(
            x,
            kernel,
            padding="VALID",
            feature_group_count=self.num_groups,
            implementation=self.implementation,
        )
        return channel_shuffle(out, self.num_groups)


def condensation_stage(progress: float | jax.Array, condense_factor: int) -> jax.Array:
    """How many condensations are due: they lie evenly over the first half of training, the last at its end.

    stage = number of k in 1 .. condense_factor - 1 with progress >= k / (2 * (condense_factor - 1)).

    Paper: Huang et al., CondenseNet (arXiv:1711.09224), section 3.1.
    Parameters: none.
    MACs: 0.

    Args:
        progress: share of the training that is done, in [0, 1]; may be traced.
        condense_factor: as in `LearnedGroupConv`.

    Returns:
        int32, from 0 to condense_factor - 1.

    Raises:
        ValueError: a factor below 1.
    """
    if condense_factor < 1:
        raise ValueError(f"condensation_stage: condense_factor={condense_factor} must be at least 1; 1 prunes nothing")
    stages = range(1, condense_factor)
    # Against each bound, not rounded down from a product: the quotient step / num_steps may meet a bound exactly.
    due = [jnp.asarray(progress >= stage / (2 * (condense_factor - 1)), jnp.int32) for stage in stages]
    return sum(due, jnp.zeros(jnp.shape(progress), jnp.int32))


def importance(kernel: jax.Array, num_groups: int) -> jax.Array:
    """How much each input matters to each group of filters: the sum of the magnitudes of its weights.

    importance[c, g] = sum over o with o mod num_groups = g of |kernel[0, 0, c, o]|.

    Paper: Huang et al., CondenseNet (arXiv:1711.09224), section 3.1.
    Parameters: none.
    MACs: 0.

    Args:
        kernel: [1, 1, in_features, features].
        num_groups: a divisor of features.

    Returns:
        [in_features, num_groups], float32 or wider.

    Raises:
        ValueError: num_groups that does not divide features.
    """
    if num_groups < 1 or kernel.shape[-1] % num_groups:
        raise ValueError(
            f"importance: num_groups={num_groups} must divide features={kernel.shape[-1]}; choose a divisor of them"
        )
    magnitudes = jnp.abs(kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32)))
    return _by_group(magnitudes, num_groups).sum(1)


def condense(kernel: jax.Array, mask: jax.Array, stage: int | jax.Array, condense_factor: int) -> jax.Array:
    """The mask after `stage` condensations: each group drops what matters least of the inputs that it still has.

    Each time in_features / condense_factor of them; what is dropped never comes back. Where the mask is as condensed
    already, it stays: call it at every step. The stage may be traced, so that nothing compiles anew.

    Paper: Huang et al., CondenseNet (arXiv:1711.09224), section 3.1.
    Parameters: none.
    MACs: 0, a sort of [in_features, num_groups] where a condensation is due.

    Unlike the authors' program it drops a live input whose weights are all zero as any other (there it takes the place
    of one that is dropped already, and the density comes out wrong), and makes up for stages that were jumped over.

    Args:
        kernel: [1, 1, in_features, features].
        mask: [in_features, num_groups], bool: what each group still has.
        stage: from `condensation_stage`; more than condense_factor - 1 stands for that.
        condense_factor: as in `LearnedGroupConv`.

    Returns:
        A new mask.

    Raises:
        ValueError: a kernel and a mask that do not fit; groups or a factor that do not divide the features.
    """
    _check_arrays("condense", kernel, mask, condense_factor)
    num_dropped = jnp.minimum(stage, condense_factor - 1) * (mask.shape[0] // condense_factor)

    def drop(mask: jax.Array) -> jax.Array:
        # What is dropped already comes first: -1 is below the importance of zeros, too.
        scores = jnp.where(mask, lax.stop_gradient(importance(kernel, mask.shape[1])), -1)
        ranks = jnp.argsort(jnp.argsort(scores, axis=0), axis=0)
        return mask & (ranks >= num_dropped)

    # The sort runs in the few steps that need it.
    return lax.cond(jnp.any(jnp.sum(~mask, axis=0) < num_dropped), drop, lambda mask: mask, mask)


def group_lasso(kernel: jax.Array, mask: jax.Array, condense_factor: int) -> jax.Array:
    """A penalty that makes the filters of a group use the same inputs; zero once all condensations are over.

    sum over c, g of sqrt(max(1e-6, sum over o with o mod num_groups = g of (mask[c, g] * kernel[0, 0, c, o])^2)).

    Paper: Huang et al., CondenseNet (arXiv:1711.09224), section 3.1; times 1e-5 on ImageNet.
    Parameters: none.
    MACs: 0, a product a weight.
    Differs from the paper: the bound 1e-6, as in the authors' program: without it the gradient at zero weights is not
        finite. That program stops it at stage num_groups - 1; it is condense_factor - 1 that is the last.

    Args:
        kernel: [1, 1, in_features, features].
        mask: [in_features, num_groups], bool; all true before the first condensation.
        condense_factor: as in `LearnedGroupConv`.

    Returns:
        A scalar, float32 or wider.

    Raises:
        ValueError: as `condense`.
    """
    _check_arrays("group_lasso", kernel, mask, condense_factor)
    wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    squares = jnp.where(mask, jnp.square(_by_group(wide, mask.shape[1])).sum(1), 0)
    norms = jnp.sqrt(jnp.where(squares > 1e-6, squares, 1e-6))
    is_condensed = jnp.all(jnp.sum(mask, axis=0) <= mask.shape[0] // condense_factor)
    return jnp.where(is_condensed, 0, norms.sum())


def to_index_and_grouped_conv(
    kernel: jax.Array, mask: jax.Array, condense_factor: int
) -> tuple[np.ndarray, np.ndarray]:
    """The index of the inputs that the groups kept, group by group, and the kernel of the grouped convolution of them.

    conv2d(x, masked kernel) = channel_shuffle(conv2d(x[..., index], grouped kernel, num_groups groups), num_groups).

    Args:
        kernel: [1, 1, in_features, features], not traced.
        mask: [in_features, num_groups], bool, not traced.
        condense_factor: as in `LearnedGroupConv`.

    Returns:
        index, int32 [num_groups * in_features / condense_factor], and kernel
        [1, 1, in_features / condense_factor, features], whose filters are sorted by group.

    Raises:
        ValueError: a mask whose condensations are not over; else as `condense`.
    """
    owner = "to_index_and_grouped_conv"
    _check_arrays(owner, kernel, mask, condense_factor)
    kernel, mask = np.asarray(kernel), np.asarray(mask)
    (in_features, num_groups), features = mask.shape, kernel.shape[3]
    taken = in_features // condense_factor
    num_live = mask.sum(0)
    if (num_live != taken).any():
        raise ValueError(
            f"{owner}: the groups have {num_live.tolist()} inputs of {in_features} and must have {taken}, with "
            f"condense_factor={condense_factor}; condense to stage {condense_factor - 1} first"
        )
    index = np.stack([np.flatnonzero(group) for group in mask.T]).astype(np.int32)
    filters = kernel.reshape(in_features, features // num_groups, num_groups)
    grouped = np.stack([filters[inputs, :, group] for group, inputs in enumerate(index)], axis=1)
    return index.reshape(-1), grouped.reshape(1, 1, taken, features)


def condensed_variables(variables: Mapping[str, Any], condense_factor: int) -> dict[str, Any]:
    """The variables of an `IndexedGroupConv` that computes what a condensed `LearnedGroupConv` does with `variables`.

    Parameters and running statistics of the norm follow the index. With equal fields both give the same output; the
    norm must be in evaluation, where it treats each channel alone.

    Args:
        variables: all collections of one layer.
        condense_factor: as in `LearnedGroupConv`.

    Raises:
        ValueError: as `to_index_and_grouped_conv`.
    """
    mask = variables[COLLECTION]["mask"]
    index, kernel = to_index_and_grouped_conv(variables["params"]["kernel"], mask, condense_factor)

    def follow(leaf: jax.Array) -> jax.Array:
        # A count of steps, say, has no channels.
        return leaf[..., index] if leaf.shape[-1:] == mask.shape[:1] else leaf

    out = {name: {"norm": jax.tree.map(follow, tree["norm"])} for name, tree in variables.items() if "norm" in tree}
    out["params"] = {**out.get("params", {}), "kernel": jnp.asarray(kernel)}
    out[COLLECTION] = {"index": jnp.asarray(index)}
    return out


def _factor(layer: LearnedGroupConv | IndexedGroupConv) -> int:
    return layer.num_groups if layer.condense_factor is None else layer.condense_factor


def _before(layer: LearnedGroupConv | IndexedGroupConv, x: jax.Array) -> jax.Array:
    """What comes before the convolution of a layer."""
    x = x if layer.norm is None else layer.norm(name="norm")(x)
    return x if layer.act is None else layer.act(x)


def _in_order(num_taken: int, in_features: int) -> jax.Array:
    return jnp.arange(num_taken, dtype=jnp.int32) % in_features


def _take(x: jax.Array, index: jax.Array) -> jax.Array:
    """x[..., index]."""
    # As rows: of single channels XLA on CPU would make the gradient value by value.
    rows = jnp.take(x.reshape(-1, x.shape[-1]).T, index, axis=0, mode="clip")
    return rows.T.reshape(*x.shape[:-1], index.shape[0])


def _by_group(kernel: jax.Array, num_groups: int) -> jax.Array:
    """[1, 1, in_features, features] as [in_features, features / num_groups, num_groups]."""
    return kernel.reshape(kernel.shape[2], -1, num_groups)


def _check(owner: str, in_features: int, features: int, num_groups: int, condense_factor: int) -> None:
    if num_groups < 1 or in_features % num_groups or features % num_groups:
        raise ValueError(
            f"{owner}: num_groups={num_groups} must divide in_features={in_features} and features={features}; choose a "
            "divisor of both"
        )
    if condense_factor < 1 or in_features % condense_factor:
        raise ValueError(
            f"{owner}: condense_factor={condense_factor} must divide in_features={in_features}; choose a divisor"
        )


def _check_arrays(owner: str, kernel: jax.Array, mask: jax.Array, condense_factor: int) -> None:
    if kernel.ndim != 4 or kernel.shape[:2] != (1, 1) or mask.ndim != 2 or mask.shape[0] != kernel.shape[2]:
        raise ValueError(
            f"{owner}: kernel of shape {kernel.shape} and mask of shape {mask.shape} must be "
            "[1, 1, in_features, features] and [in_features, num_groups]; give those of one LearnedGroupConv"
        )
    _check(owner, kernel.shape[2], kernel.shape[3], mask.shape[1], condense_factor)
