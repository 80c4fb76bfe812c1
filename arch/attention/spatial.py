"""Attention over positions: the residual attention module, its mask branch and its mask normalizations."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from arch.errors import check_map, unknown_name
from arch.ops.bilinear import l2_normalize
from arch.ops.conv import Conv
from arch.ops.pooling import ceil_mode_padding, max_pool
from arch.ops.resize import resize

# Makes a function of x alone from its name: a normalization, or a residual unit.
Factory = Callable[..., Callable[[jax.Array], jax.Array]]


def mixed_attention(x: jax.Array) -> jax.Array:
    """A mask for each position and channel: sigmoid(x), "f1" of the paper.

    Paper: Wang et al., Residual Attention Network (arXiv:1704.06904), section 3.3.
    Parameters: none.
    MACs: 0.

    Args:
        x: [batch, height, width, channels], floating point.

    Returns:
        The shape and dtype of x, in [0, 1].

    Raises:
        ValueError: x that is not four-dimensional and floating point.
    """
    return nn.sigmoid(_widen("mixed_attention", x)).astype(x.dtype)


def signed_attention(x: jax.Array) -> jax.Array:
    """A mask for each position and channel that may weaken too: tanh(x), as the authors' released networks have it.

    Paper: Wang et al., Residual Attention Network (arXiv:1704.06904), the prototxt files of the authors' code.
    Parameters: none.
    MACs: 0.

    Args:
        x: [batch, height, width, channels], floating point.

    Returns:
        The shape and dtype of x, in [-1, 1].

    Raises:
        ValueError: x that is not four-dimensional and floating point.
    """
    return jnp.tanh(_widen("signed_attention", x)).astype(x.dtype)


def channel_attention(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """A mask of unit length at each position: x / sqrt(sum over channels of x^2 + epsilon), "f2" of the paper.

    Paper: Wang et al., Residual Attention Network (arXiv:1704.06904), section 3.3.
    Parameters: none.
    MACs: 0.
    Differs from the paper: epsilon, so that where x is zero the mask is zero, and its gradient finite.

    Args:
        x: [batch, height, width, channels], floating point.
        epsilon: above 0.

    Returns:
        The shape and dtype of x, in [-1, 1].

    Raises:
        ValueError: x that is not four-dimensional and floating point; epsilon that is not above 0.
    """
    check_map("channel_attention", x)
    return l2_normalize(x, epsilon=epsilon)


def spatial_attention(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """A mask for each position, whatever the scale of the channel: the sigmoid of standardized maps, "f3" of the paper.

    sigmoid((x - mean) / sqrt(var + epsilon)), with the mean and the biased variance of each channel of each example
    over height and width. A constant channel, as that of a map of one pixel, gives 0.5.

    Paper: Wang et al., Residual Attention Network (arXiv:1704.06904), section 3.3.
    Parameters: none.
    MACs: 0.
    Differs from the paper: epsilon.

    Args:
        x: [batch, height, width, channels], floating point.
        epsilon: above 0.

    Returns:
        The shape and dtype of x, in [0, 1].

    Raises:
        ValueError: x that is not four-dimensional and floating point.
    """
    if not epsilon > 0:
        raise ValueError(f"spatial_attention: epsilon={epsilon} must be above 0, for flat maps; leave it out")
    wide = _widen("spatial_attention", x)
    centred = wide - jnp.mean(wide, (1, 2), keepdims=True)
    variance = jnp.mean(lax.square(centred), (1, 2), keepdims=True)
    return nn.sigmoid(centred * lax.rsqrt(variance + epsilon)).astype(x.dtype)


MASKS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "mixed": mixed_attention,
    "signed": signed_attention,
    "channel": channel_attention,
    "spatial": spatial_attention,
}


def residual_attention(trunk: jax.Array, mask: jax.Array, *, form: str = "residual") -> jax.Array:
    """Lets a mask weigh the features of a trunk: (1 + mask) * trunk.

    A mask of zeros leaves the trunk as it is, so that modules can be stacked; the naive form, mask * trunk, puts out
    zeros, and weakens features with every module. `ResidualAttention` is the module around it.

    Paper: Wang et al., Residual Attention Network (arXiv:1704.06904), section 3.1, equation 3 (the naive form: 1).
    Parameters: those of the units and norms, and the mask branch's two kernels [1, 1, channels, channels].
    MACs: those of the units, plus 2 * height * width * channels^2 of the mask branch's convolutions; its resizing as in
        `resize`.

    Args:
        trunk: [batch, height, width, channels], floating point.
        mask: the shape of trunk.
        form: "residual" or "naive".

    Returns:
        The shape and dtype of trunk.

    Raises:
        ValueError: a trunk that is not four-dimensional and floating point; shapes that differ; an unknown form.
    """
    check_map("residual_attention", trunk, "trunk")
    if trunk.shape != mask.shape:
        raise ValueError(
            f"residual_attention: mask={list(mask.shape)} must have the shape of trunk={list(trunk.shape)}; resize it"
        )
    weighted = trunk * mask.astype(trunk.dtype)
    if form == "naive":
        return weighted
    if form != "residual":
        raise unknown_name("residual_attention: form", form, ("residual", "naive"))
    # Not (1 + mask) * trunk: 1 + mask in bfloat16 is 1 for masks below 1/256.
    return trunk + weighted


class MaskBranch(nn.Module):
    """An hourglass that ends in a mask: down by max pooling, up by bilinear resizing, units between.

    On the way down each level pools 3x3 at stride 2, then has `num_units` units; the last has twice as many. On the
    way up each step resizes to the size that its level had on the way down, odd sizes too, adds that level's features
    through a `skip` of one unit, and has `num_units` units; the last step, to the size of the input, does neither. Then
    norm, activation and 1x1 convolution, twice, and the mask's normalization. Units that end in an activation have been
    normalized: after them `pre_activation=False` leaves out the first norm and activation.

    As the authors' networks do, it pools in Caffe's ceil mode and resizes with the corners aligned. Ceil mode pads
    at the end only; where a window does not fit at all, one pixel comes out.

    Attributes:
        num_levels: of pooling, 1 or above; in Attention-56 and -92 3, 2 and 1 for maps of 56, 28 and 14 pixels.
        unit: makes a residual unit that keeps the shape, a function of x alone, from its name. Units of the
            pre-activation kind read sums: the input is not normalized before the first.
        norm: makes a normalization, a function of x alone, from its name.
        num_units: the paper's r: units between two poolings, 1 or above.
        attention: the mask's normalization, "mixed", "signed", "channel" or "spatial"; see `mixed_attention` and so on.
        pre_activation: normalizes before the first 1x1 convolution too.
        conv: makes the 1x1 convolutions from their fields, without bias.
        act: before them.
    """

    num_levels: int
    unit: Factory
    norm: Factory
    num_units: int = 1
    attention: str = "mixed"
    pre_activation: bool = True
    conv: Callable[..., nn.Module] = Conv
    act: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The mask of x [batch, height, width, channels], in its shape.

        Raises:
            ValueError: fewer than one level or unit; a unit that changes the shape; an unknown normalization.
        """
        for name in ("num_levels", "num_units"):
            if getattr(self, name) < 1:
                raise ValueError(f"MaskBranch: {name}={getattr(self, name)} must be at least 1; raise it")
        if self.attention not in MASKS:
            raise unknown_name("MaskBranch: attention", self.attention, MASKS)
        features, size = [], x.shape[1:3]
        for level in range(1, self.num_levels + 1):
            x = max_pool(x, (3, 3), (2, 2), ceil_mode_padding(x.shape[1:3], 3, 2))
            x = self._units(x, f"down{level}", self.num_units)
            features.append(x)
        x = self._units(x, "bottom", self.num_units)
        for level in range(self.num_levels - 1, 0, -1):
            skip = features[level - 1]
            x = _resize(x, skip.shape[1:3]) + self._units(skip, f"skip{level}", 1)
            x = self._units(x, f"up{level}", self.num_units)
        x = _resize(x, size)
        for number in (1, 2):
            if self.pre_activation or number == 2:
                x = self.act(self.norm(name=f"norm{number}")(x))
            x = self.conv(features=x.shape[-1], kernel_size=(1, 1), use_bias=False, name=f"conv{number}")(x)
        return MASKS[self.attention](x)

    def _units(self, x: jax.Array, name: str, count: int) -> jax.Array:
        return _apply_units("MaskBranch", self.unit, x, name, count)


class ResidualAttention(nn.Module):
    """The residual attention module: units, a trunk beside a mask branch, their product, units.

    x -> `pre` units -> residual_attention(`trunk` units, `mask` branch) -> `post` units. With units of the
    pre-activation kind x and the output are sums, not yet normalized.

    Attributes:
        num_levels: of pooling in the mask branch; see `MaskBranch`.
        unit: makes a residual unit that keeps the shape, a function of x alone, from its name.
        norm: makes a normalization, a function of x alone, from its name.
        num_outer_units: the paper's p: units before the branches part, and after they meet; 0 or above.
        num_trunk_units: the paper's t: units of the trunk; 0 or above.
        num_mask_units: the paper's r: units of the mask branch between two poolings; 1 or above.
        attention: as in `MaskBranch`.
        pre_activation: as in `MaskBranch`.
        form: as in `residual_attention`.
        conv: as in `MaskBranch`.
        act: as in `MaskBranch`.
    """

    num_levels: int
    unit: Factory
    norm: Factory
    num_outer_units: int = 1
    num_trunk_units: int = 2
    num_mask_units: int = 1
    attention: str = "mixed"
    pre_activation: bool = True
    form: str = "residual"
    conv: Callable[..., nn.Module] = Conv
    act: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to the same shape and dtype.

        Raises:
            ValueError: fewer than no units; as in `MaskBranch` and `residual_attention`.
        """
        for name in ("num_outer_units", "num_trunk_units"):
            if getattr(self, name) < 0:
                raise ValueError(f"ResidualAttention: {name}={getattr(self, name)} must be at least 0; raise it")
        x = self._units(x, "pre", self.num_outer_units)
        mask = MaskBranch(
            num_levels=self.num_levels,
            unit=self.unit,
            norm=self.norm,
            num_units=self.num_mask_units,
            attention=self.attention,
            pre_activation=self.pre_activation,
            conv=self.conv,
            act=self.act,
            name="mask",
        )(x)
        x = residual_attention(self._units(x, "trunk", self.num_trunk_units), mask, form=self.form)
        return self._units(x, "post", self.num_outer_units)

    def _units(self, x: jax.Array, name: str, count: int) -> jax.Array:
        return _apply_units("ResidualAttention", self.unit, x, name, count)


def _apply_units(owner: str, unit: Factory, x: jax.Array, name: str, count: int) -> jax.Array:
    """`count` units, named `name`_unit1 and so on, one after the other."""
    for number in range(1, count + 1):
        out = unit(name=f"{name}_unit{number}")(x)
        if out.shape != x.shape:
            raise ValueError(
                f"{owner}: unit must keep the shape {list(x.shape)}, not make {list(out.shape)} of it; bind its "
                f"features to {x.shape[-1]} and its strides to 1"
            )
        x = out
    return x


def _resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    return resize(x, size, method="bilinear", align_corners=True)


def _widen(owner: str, x: jax.Array) -> jax.Array:
    """x in at least float32."""
    check_map(owner, x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
