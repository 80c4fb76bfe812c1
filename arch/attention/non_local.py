"""The non-local block: at each position of a map, a weighted sum over all its positions."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax

from arch.attention.dot_product import dot_product_attention
from arch.errors import check_map, unknown_name
from arch.ops.conv import Conv
from arch.ops.pooling import max_pool

FORMS = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")
SUBSAMPLINGS = ("after", "before")


def non_local(
    theta: jax.Array,
    phi: jax.Array,
    g: jax.Array,
    *,
    form: str = "embedded_gaussian",
    concat_kernel: jax.Array | None = None,
    scale: float = 1.0,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Sums g over all positions, weighted by what relates each of them to a position of theta.

    out[n, i, :] = sum over j of f(theta[n, i, :], phi[n, j, :]) * g[n, j, :] / C over the N positions of phi and g:
        gaussian, embedded_gaussian: f = exp(scale * <theta[i], phi[j]>), C = sum over j of f: together a softmax;
        dot_product: f = scale * <theta[i], phi[j]>, C = N;
        concatenation: f = relu(scale * <concat_kernel, (theta[i], phi[j])>), C = N.
    In `gaussian` theta and phi are the input itself, in the others embeddings of it. What f takes is never formed for
    all pairs: a product with the concatenation is the sum of a number that belongs to i and one that belongs to j. Nor
    is f itself in dot_product, where theta (phi^T g) takes fewer multiply-adds than (theta phi^T) g. Sums are kept in
    at least float32. `NonLocal` is the block that learns theta, phi, g, and what follows.

    Paper: Wang et al., Non-local Neural Networks (arXiv:1711.07971), section 3.
    Parameters: concat_kernel [2 * features] for concatenation, else none. In the module kernels
        [1, 1, channels, inner_features] of theta, phi (neither in gaussian) and g, [1, 1, inner_features, channels] of
        out, their biases, and the norm's.
    MACs: positions * N * (features + value_features); for concatenation positions * N * value_features + (positions +
        N) * features; for dot_product not above (positions + N) * features * value_features. In the module with H * W
        positions and all forms but gaussian also 4 * H * W * channels * inner_features, less with sub-sampling.

    Args:
        theta: [batch, ..., features], floating point, with one or more axes of positions.
        phi: [batch, ..., features]; its positions may be others.
        g: [batch, ..., value_features], at the positions of phi.
        form: one of `FORMS`.
        concat_kernel: [2 * features], for theta's features first, then for phi's; given for concatenation alone.
        scale: of the products; 1 in the paper.
        precision: of the products, as jax.lax takes it.

    Returns:
        [batch, ..., value_features] at the positions of theta, of the dtype that the arrays promote to.

    Raises:
        ValueError: an unknown form; arrays that are not floating point or whose shapes do not fit; a concat_kernel
            that is missing, or that the form does not take.
    """
    _check_inputs(theta, phi, g, form, concat_kernel)
    theta, phi, g, concat_kernel = nn.dtypes.promote_dtype(theta, phi, g, concat_kernel)
    out_shape = (*theta.shape[:-1], g.shape[-1])
    theta, phi, g = (x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]) for x in (theta, phi, g))
    if form == "dot_product":
        out = _dot_product(theta, phi, g, scale, precision)
    elif form == "concatenation":
        out = _concatenation(theta, phi, g, concat_kernel, scale, precision)
    else:
        heads = (x[:, :, None] for x in (theta, phi, g))
        out = dot_product_attention(*heads, scale=scale, precision=precision)
    return out.reshape(out_shape)


class NonLocal(nn.Module):
    """The non-local block: x + norm(out(non_local(theta(x), phi(x), g(x)))), where theta, phi, g, out are 1x1.

    It starts as the identity: the norm's scale starts at 0 or, without a norm, the kernel of `out`.

    Differs from the paper: embedded_gaussian scales its products as the authors' code does; `use_scale=False` is the
    paper's formula.

    Attributes:
        form: of `non_local`, one of `FORMS`; gaussian has neither theta nor phi.
        inner_features: channels of theta, phi and g; None takes half of those of x, rounded down, at least 1.
        subsampling: takes phi and g at a quarter of the positions, the largest values of 2x2 pixels without overlap,
            an odd last row or column left out: "after" pools phi and g, as the paper says (section 3.3), "before" x, as
            the authors' code does, for a quarter of their multiply-adds; None takes all positions.
        use_scale: scales the products of embedded_gaussian by inner_features ** -0.5.
        conv: makes a convolution from its fields; bind here what they share: `functools.partial(Conv, use_bias=False)`.
        norm: makes the normalization of what is added, a function of x alone, from its name and fields; None leaves it
            out.
        kernel_init: initial values of the kernels.
        param_dtype: of concat_kernel; None takes that of x, at least float32.
        precision: of the products between positions, as jax.lax takes it.
    """

    form: str = "embedded_gaussian"
    inner_features: int | None = None
    subsampling: str | None = None
    use_scale: bool = True
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., Callable[[jax.Array], jax.Array]] | None = None
    kernel_init: Initializer = nn.initializers.normal(0.01)
    param_dtype: Dtype | None = None
    precision: lax.PrecisionLike = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to the shape and dtype of x.

        Raises:
            ValueError: x that is not four-dimensional and floating point; an unknown form or sub-sampling;
                inner_features below 1.
        """
        inner = max(1, x.shape[-1] // 2) if self.inner_features is None else self.inner_features
        self._check(x, inner)
        embed = functools.partial(self.conv, features=inner, kernel_size=(1, 1), kernel_init=self.kernel_init)
        first, second = (_max_pool if self.subsampling == when else lambda x: x for when in ("before", "after"))
        source = first(x)
        if self.form == "gaussian":
            theta, phi = x, second(source)
        else:
            theta, phi = embed(name="theta")(x), second(embed(name="phi")(source))
        g = second(embed(name="g")(source))

        concat_kernel = None
        if self.form == "concatenation":
            param_dtype = self.param_dtype or jnp.promote_types(x.dtype, jnp.float32)
            # A matrix, since most initial values need to know inputs from outputs.
            concat_kernel = self.param("concat_kernel", self.kernel_init, (2 * inner, 1), param_dtype)
            concat_kernel = concat_kernel[:, 0].astype(theta.dtype)
        scale = inner**-0.5 if self.use_scale and self.form == "embedded_gaussian" else 1.0
        out = non_local(
            theta, phi, g, form=self.form, concat_kernel=concat_kernel, scale=scale, precision=self.precision
        )

        zeros = nn.initializers.zeros_init()
        out_init = zeros if self.norm is None else self.kernel_init
        out = self.conv(features=x.shape[-1], kernel_size=(1, 1), kernel_init=out_init, name="out")(out)
        if self.norm is not None:
            out = self.norm(name="norm", scale_init=zeros)(out)
        return x + out.astype(x.dtype)

    def _check(self, x: jax.Array, inner_features: int) -> None:
        check_map("NonLocal", x)
        if self.form not in FORMS:
            raise unknown_name("NonLocal: form", self.form, FORMS)
        if self.subsampling not in (None, *SUBSAMPLINGS):
            raise unknown_name("NonLocal: subsampling", self.subsampling, SUBSAMPLINGS)
        if inner_features < 1:
            raise ValueError(f"NonLocal: inner_features={inner_features} must be at least 1; None takes half of x's")


def _max_pool(x: jax.Array) -> jax.Array:
    """The largest values of 2x2 pixels; a side of one pixel stays."""
    window = tuple(min(2, side) for side in x.shape[1:3])
    return max_pool(x, window, window, "VALID")


def _dot_product(
    theta: jax.Array, phi: jax.Array, g: jax.Array, scale: float, precision: lax.PrecisionLike
) -> jax.Array:
    """The sum over positions of <theta, phi> g, in the order that takes fewer multiply-adds."""
    einsum = functools.partial(jnp.einsum, precision=precision, preferred_element_type=_wide(theta))
    (_, queries, features), (_, keys, value_features) = theta.shape, g.shape
    scale = scale / keys
    if queries * keys * (features + value_features) < (queries + keys) * features * value_features:
        weights = einsum("bqc,bkc->bqk", theta, phi) * scale
        return einsum("bqk,bkd->bqd", weights.astype(g.dtype), g).astype(g.dtype)
    context = einsum("bkc,bkd->bcd", phi, g) * scale
    return einsum("bqc,bcd->bqd", theta, context.astype(g.dtype)).astype(g.dtype)


def _concatenation(
    theta: jax.Array,
    phi: jax.Array,
    g: jax.Array,
    kernel: jax.Array,
    scale: float,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """The sum over positions of relu(<kernel, (theta, phi)>) g."""
    einsum = functools.partial(jnp.einsum, precision=precision, preferred_element_type=_wide(theta))
    of_theta, of_phi = jnp.split(kernel, 2)
    from_theta, from_phi = einsum("bqc,c->bq", theta, of_theta), einsum("bkc,c->bk", phi, of_phi)
    weights = jax.nn.relu((from_theta[:, :, None] + from_phi[:, None]) * scale) / phi.shape[1]
    return einsum("bqk,bkd->bqd", weights.astype(g.dtype), g).astype(g.dtype)


def _wide(x: jax.Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _check_inputs(theta: jax.Array, phi: jax.Array, g: jax.Array, form: str, concat_kernel: jax.Array | None) -> None:
    if form not in FORMS:
        raise unknown_name("non_local: form", form, FORMS)
    for name, x in {"theta": theta, "phi": phi, "g": g}.items():
        if x.ndim < 3 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"non_local: {name}={x.dtype}{list(x.shape)} must be floating point [batch, ..., features]; convert it"
            )
    if (theta.shape[0], theta.shape[-1]) != (phi.shape[0], phi.shape[-1]):
        raise ValueError(
            f"non_local: phi={list(phi.shape)} must have the batch and the features of theta={list(theta.shape)}; "
            "embed both alike"
        )
    if g.shape[:-1] != phi.shape[:-1] or math.prod(phi.shape[1:-1]) < 1:
        raise ValueError(
            f"non_local: g={list(g.shape)} must have the batch and the positions of phi={list(phi.shape)}, one or "
            "more; sub-sample both alike"
        )
    if (concat_kernel is not None) != (form == "concatenation"):
        given = "no concat_kernel" if concat_kernel is None else f"concat_kernel={list(concat_kernel.shape)}"
        raise ValueError(
            f"non_local: form={form!r} has {given}, but only concatenation takes one, of [{2 * theta.shape[-1]}]; give "
            "it with that form"
        )
    if concat_kernel is not None and concat_kernel.shape != (2 * theta.shape[-1],):
        raise ValueError(
            f"non_local: concat_kernel={list(concat_kernel.shape)} must be [{2 * theta.shape[-1]}], for the features "
            f"of theta={list(theta.shape)} and those of phi; reshape it"
        )
