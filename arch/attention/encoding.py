"""Attention from a codebook: the context encoding layer and module of EncNet, and the loss that goes with them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.typing import Dtype
from jax import lax

from arch.errors import check_map, unknown_name
from arch.ops.conv import Conv

# Makes a normalization, a function of x alone, from its name.
Norm = Callable[..., Callable[[jax.Array], jax.Array]]


def context_encoding(x: jax.Array, codewords: jax.Array, scale: jax.Array) -> jax.Array:
    """Sums what each codeword leaves of the pixels that are assigned to it.

    encoding[n, k] = sum over pixels i of weight[n, i, k] * (x[n, i] - codewords[k]), where weight[n, i] =
    softmax over k of -scale[k] * |x[n, i] - codewords[k]|^2. Neither distances nor sums form the differences
    [batch, pixels, num_codewords, channels]. `Encoding` is the layer that learns codewords and scale, and
    `ContextEncoding` the module around it. Computed in at least float32, at the full precision of the hardware's
    products, because distances are what is left when large numbers cancel.

    Paper: Zhang et al., Context Encoding for Semantic Segmentation (arXiv:1803.08904), section 2, equation 1.
    Parameters: codewords [num_codewords, channels], scale [num_codewords]; in the module also a kernel
        [1, 1, channels, channels] and its norm, the norm of the encoding, and a linear layer [channels, channels].
    MACs: 2 * height * width * num_codewords * channels; in the module also height * width * channels^2 + channels^2.

    Args:
        x: [batch, height, width, channels], floating point.
        codewords: [num_codewords, channels].
        scale: [num_codewords], inverse squared lengths, usually above 0.

    Returns:
        [batch, num_codewords, channels], dtype of x.

    Raises:
        ValueError: x that is not four-dimensional and floating point; codewords or scale that do not fit.
    """
    return _encode(x, codewords, scale).astype(x.dtype)


def class_presence(labels: jax.Array, num_classes: int, ignore_label: int | None = -1) -> jax.Array:
    """Which classes an image shows: the targets of `se_loss`.

    out[n, c] = 1 where any pixel of labels[n] is c, and is not `ignore_label`, else 0. Labels outside
    [0, num_classes) count for no class.

    Paper: Zhang et al., Context Encoding for Semantic Segmentation (arXiv:1803.08904), section 2.
    Parameters: none.
    MACs: 0.

    Args:
        labels: integers [batch, height, width].
        num_classes: 1 or above.
        ignore_label: a label of pixels that count for no class, also where it is below num_classes; None names none.

    Returns:
        float32 [batch, num_classes].

    Raises:
        ValueError: labels that are not integers [batch, height, width]; fewer than one class.
    """
    if labels.ndim != 3 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"class_presence: labels={labels.dtype}{list(labels.shape)} must be integers [batch, height, width]; "
            "convert them"
        )
    if num_classes < 1:
        raise ValueError(f"class_presence: num_classes={num_classes} must be at least 1; count the classes")
    # As bytes the classes would wrap.
    labels = labels.astype(jnp.promote_types(labels.dtype, jnp.int32)).reshape(labels.shape[0], -1)
    classes = jnp.arange(num_classes, dtype=labels.dtype)
    present = jnp.any(labels[:, :, None] == classes, axis=1)
    if ignore_label is not None:
        present &= classes != ignore_label
    return present.astype(jnp.float32)


def se_loss(logits: jax.Array, labels: jax.Array, ignore_label: int | None = -1) -> jax.Array:
    """The semantic encoding loss: the cross-entropy of each class's presence, averaged over classes.

    loss[n] = mean over c of -(t log(p) + (1 - t) log(1 - p)), where p = sigmoid(logits[n, c]) and t is whether the
    image shows class c, see `class_presence`. EncNet adds 0.2 times its mean over examples to the loss of the pixels.

    Paper: Zhang et al., Context Encoding for Semantic Segmentation (arXiv:1803.08904), section 2.
    Parameters: none; of the head in `ContextEncoding`, a linear layer [channels, num_classes] with bias.
    MACs: 0; of the head, channels * num_classes.

    Args:
        logits: [batch, num_classes], floating point.
        labels: integers [batch, height, width], as in `class_presence`.
        ignore_label: as in `class_presence`.

    Returns:
        [batch], in nats, float32 or wider.

    Raises:
        ValueError: logits that are not floating point [batch, num_classes] for the batch of labels; labels as in
            `class_presence`.
    """
    if logits.ndim != 2 or len(logits) != len(labels) or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"se_loss: logits={logits.dtype}{list(logits.shape)} must be floating point [batch, num_classes], for "
            f"labels={list(labels.shape)}; pass the head's output"
        )
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    targets = class_presence(labels, logits.shape[1], ignore_label).astype(logits.dtype)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, targets), axis=1)


class Encoding(nn.Module):
    """The encoding layer: `context_encoding` with codewords and scale to be learned.

    Initial values: codewords from U(-1, 1) / sqrt(num_codewords * channels), scale from U(0, 1), as in the released
    code.

    Differs from the released code: `scale` is the paper's; the code keeps its negative.

    Attributes:
        num_codewords: 1 or above.
        param_dtype: of the parameters.
    """

    num_codewords: int = 32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, num_codewords, channels], float32 or wider.

        Raises:
            ValueError: fewer than one codeword; as in `context_encoding`.
        """
        if self.num_codewords < 1:
            raise ValueError(f"Encoding: num_codewords={self.num_codewords} must be at least 1; raise it")
        shape = (self.num_codewords, x.shape[-1])
        codewords = self.param("codewords", _codeword_init, shape, self.param_dtype)
        scale = self.param("scale", nn.initializers.uniform(1.0), shape[:1], self.param_dtype)
        return _encode(x, codewords, scale)


class ContextEncoding(nn.Module):
    """The context encoding module: channels gated by what the whole image holds, and which classes that suggests.

    x -> 1x1 convolution, norm, act -> `Encoding` -> norm, act -> one value a channel -> linear layer, sigmoid: gates;
    out = act(x + x * gates). A second linear layer makes the logits of the classes' presence, for `se_loss`.

    The defaults are the released code (with 512 channels and 59 classes 572,571 parameters). The paper's text reads
    aggregate="sum", form="scale" and, if "batch normalization with ReLU" is of channels, norm_axis="channels".

    Attributes:
        num_classes: of the presence logits; None leaves them out.
        norm: makes a normalization, a function of x alone, from its name.
        num_codewords: 1 or above.
        aggregate: over codewords, "mean" or "sum".
        norm_axis: of the encoding's norm: "codewords" has a scale and bias for each codeword, "channels" for each
            channel.
        form: "residual", act(x + x * gates), or "scale", x * gates.
        conv: makes the 1x1 convolution from its fields, without bias.
        act: after the norms and, in the residual form, at the end.
        param_dtype: of the encoding and the linear layers. They compute in at least float32.
    """

    num_classes: int | None
    norm: Norm
    num_codewords: int = 32
    aggregate: str = "mean"
    norm_axis: str = "codewords"
    form: str = "residual"
    conv: Callable[..., nn.Module] = Conv
    act: Callable[[jax.Array], jax.Array] = nn.relu
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """The gated map and the logits.

        Args:
            x: [batch, height, width, channels], floating point.

        Returns:
            The shape and dtype of x, and [batch, num_classes] in float32 or wider, None without classes.

        Raises:
            ValueError: x that is not four-dimensional and floating point; an unknown option; as in `Encoding`.
        """
        check_map("ContextEncoding", x)
        for name, choices in _OPTIONS.items():
            if getattr(self, name) not in choices:
                raise unknown_name(f"ContextEncoding: {name}", getattr(self, name), choices)
        channels = x.shape[-1]
        h = self.conv(features=channels, kernel_size=(1, 1), use_bias=False, name="project")(x)
        h = self.act(self.norm(name="project_norm")(h))
        codes = Encoding(self.num_codewords, param_dtype=self.param_dtype, name="encoding")(h)
        code = self._aggregate(codes)
        gates = nn.sigmoid(nn.Dense(channels, param_dtype=self.param_dtype, name="gate")(code))
        weighted = x * gates.astype(x.dtype)[:, None, None]
        out = weighted if self.form == "scale" else self.act(x + weighted)
        if self.num_classes is None:
            return out, None
        return out, nn.Dense(self.num_classes, param_dtype=self.param_dtype, name="presence")(code)

    def _aggregate(self, codes: jax.Array) -> jax.Array:
        """One value a channel, [batch, channels], of [batch, num_codewords, channels]; in the dtype of codes."""
        norm = self.norm(name="encoding_norm")
        normed = norm(codes) if self.norm_axis == "channels" else norm(codes.mT).mT
        normed = self.act(normed).astype(codes.dtype)
        return normed.mean(1) if self.aggregate == "mean" else normed.sum(1)


_OPTIONS = {
    "aggregate": ("mean", "sum"),
    "norm_axis": ("codewords", "channels"),
    "form": ("residual", "scale"),
}


def _encode(x: jax.Array, codewords: jax.Array, scale: jax.Array) -> jax.Array:
    """`context_encoding`, in at least float32."""
    check_map("context_encoding", x)
    if codewords.ndim != 2 or codewords.shape[1] != x.shape[-1]:
        raise ValueError(
            f"context_encoding: codewords={list(codewords.shape)} must be [num_codewords, channels={x.shape[-1]}]; "
            "reshape them"
        )
    if scale.shape != codewords.shape[:1]:
        raise ValueError(
            f"context_encoding: scale={list(scale.shape)} must be [num_codewords={len(codewords)}]; reshape it"
        )
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x = x.astype(dtype).reshape(x.shape[0], -1, x.shape[-1])
    codewords, scale = codewords.astype(dtype), scale.astype(dtype)
    weights = nn.softmax(_logits(x, codewords, scale))
    # The sum over i of a_ik (x_i - d_k) is the sum of a_ik x_i less d_k times the sum of a_ik.
    sums = jnp.einsum("nik,nic->nkc", weights, x, precision=lax.Precision.HIGHEST)
    return sums - weights.sum(1)[:, :, None] * codewords


def _logits(x: jax.Array, codewords: jax.Array, scale: jax.Array) -> jax.Array:
    """-s_k |x_i - d_k|^2, [batch, pixels, num_codewords]; distances are expanded, what rounding makes negative is 0."""
    products = jnp.einsum("nic,kc->nik", x, codewords, precision=lax.Precision.HIGHEST)
    distances = jnp.sum(x * x, -1, keepdims=True) - 2.0 * products + jnp.sum(codewords * codewords, -1)
    # The clamp comes after the product: compilers compute logits again where the softmax subtracts their maximum, and
    # would there round product and difference at once. At 10^9 that is 64 off the maximum, too much for exp.
    return jnp.where(distances > 0, -scale * distances, 0.0)


def _codeword_init(key: jax.Array, shape: tuple[int, int], dtype: Dtype) -> jax.Array:
    bound = (shape[0] * shape[1]) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)
