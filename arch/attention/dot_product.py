"""Attention of positions to one another: scaled dot products, and the layer of many heads."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax


def dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    scale: float | None = None,
    query_chunk_size: int | None = None,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Means of the values, weighted by how well their keys fit a query; in each head alone.

    out[..., i, h, :] = sum over j of weight[h, i, j] * value[..., j, h, :], where weight[h, i, :] = softmax over j of
    scale * <query[..., i, h, :], key[..., j, h, :]>, over the keys that the mask leaves: where it leaves none, out is 0
    and has no gradient. Logits, softmax and sums are kept in at least float32. `MultiHeadAttention` is the layer that
    learns the projections to queries, keys, values and outputs.

    Paper: Vaswani et al., Attention Is All You Need (arXiv:1706.03762), section 3.2.
    Parameters: none; in the module kernels [in_features, num_heads, head_features] of query, key and value, and
        [num_heads, head_features, out_features] of out, with biases [num_heads, head_features] and [out_features].
    MACs: query_tokens * key_tokens * num_heads * (head_features + value_features); in the module, of T tokens to one
        another, with D features everywhere, 4 * T * D^2 + 2 * T^2 * D.

    Args:
        query: [..., query_tokens, num_heads, head_features], floating point.
        key: [..., key_tokens, num_heads, head_features].
        value: [..., key_tokens, num_heads, value_features].
        mask: booleans that broadcast to [..., num_heads, query_tokens, key_tokens], True where a query sees a key, as
            `flax.linen.make_causal_mask` makes them with dtype=bool; None lets each see all.
        scale: of the products; None takes head_features ** -0.5.
        query_chunk_size: queries handled at a time, so that only [..., num_heads, query_chunk_size, key_tokens] weights
            exist at a time, also in the gradient, which computes them again; None handles all at once, which is faster.
        precision: of the products, as jax.lax takes it.

    Returns:
        [..., query_tokens, num_heads, value_features], of the dtype that query, key and value promote to.

    Raises:
        ValueError: arrays that are not floating point or whose shapes do not fit; a mask that is not of booleans; a
            query_chunk_size below 1.
    """
    _check_inputs(query, key, value)
    if mask is not None:
        _check_mask(mask, (*query.shape[:-3], query.shape[-2], query.shape[-3], key.shape[-3]))
    query, key, value = nn.dtypes.promote_dtype(query, key, value)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    attend = functools.partial(_attend, key=key, value=value, scale=scale, precision=precision)
    if query_chunk_size is None:
        return attend(query, mask)
    return _in_chunks(attend, query, mask, query_chunk_size)


class MultiHeadAttention(nn.Module):
    """`dot_product_attention` between learned projections, in several heads at once.

    Parameters and their initial values are those of `flax.linen.MultiHeadDotProductAttention`. The projections of
    torch's `MultiheadAttention` become kernels by `weight[i * E : (i + 1) * E].T.reshape(E, num_heads, E // num_heads)`
    for i = 0, 1, 2 and `out_proj.weight.T.reshape(num_heads, E // num_heads, E)`.

    Differs from the paper: biases, as in the released code of later models; `use_bias=False` is the paper's.

    Attributes:
        num_heads: a divisor of qkv_features.
        qkv_features: of all heads together; None takes those of the queries' inputs.
        out_features: None takes those of the queries' inputs.
        use_bias: adds biases to the four projections.
        query_chunk_size: as in `dot_product_attention`.
        dtype: of the computation; None takes what inputs and parameters promote to.
        param_dtype: of the parameters.
        precision: of the products, as jax.lax takes it.
        kernel_init: initial values of the four kernels.
        bias_init: initial values of the four biases.
    """

    num_heads: int
    qkv_features: int | None = None
    out_features: int | None = None
    use_bias: bool = True
    query_chunk_size: int | None = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: lax.PrecisionLike = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self,
        inputs_q: jax.Array,
        inputs_k: jax.Array | None = None,
        inputs_v: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Maps [..., query_tokens, in_features] to [..., query_tokens, out_features].

        Args:
            inputs_q: what the queries are made of, [..., query_tokens, features].
            inputs_k: the keys, [..., key_tokens, features]; None takes inputs_q.
            inputs_v: the values, [..., key_tokens, features]; None takes inputs_k.
            mask: as in `dot_product_attention`.

        Raises:
            ValueError: num_heads that does not divide qkv_features; inputs that are not floating point; inputs_v
                without inputs_k; whatever `dot_product_attention` refuses.
        """
        for name, inputs in {"inputs_q": inputs_q, "inputs_k": inputs_k, "inputs_v": inputs_v}.items():
            if inputs is not None and not jnp.issubdtype(inputs.dtype, jnp.floating):
                raise ValueError(f"MultiHeadAttention: {name} must be floating point, not {inputs.dtype}; embed it")
        qkv_features = inputs_q.shape[-1] if self.qkv_features is None else self.qkv_features
        if self.num_heads < 1 or qkv_features % self.num_heads:
            raise ValueError(
                f"MultiHeadAttention: num_heads={self.num_heads} must divide qkv_features={qkv_features}; choose a "
                f"divisor of {qkv_features}"
            )
        if inputs_k is None and inputs_v is not None:
            raise ValueError("MultiHeadAttention: inputs_v has no inputs_k to go with; give both, or inputs_k alone")
        inputs_k = inputs_q if inputs_k is None else inputs_k
        inputs_v = inputs_k if inputs_v is None else inputs_v
        dense = functools.partial(
            nn.DenseGeneral,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            precision=self.precision,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
        )
        heads = (self.num_heads, qkv_features // self.num_heads)
        out = dot_product_attention(
            dense(features=heads, name="query")(inputs_q),
            dense(features=heads, name="key")(inputs_k),
            dense(features=heads, name="value")(inputs_v),
            mask=mask,
            query_chunk_size=self.query_chunk_size,
            precision=self.precision,
        )
        out_features = inputs_q.shape[-1] if self.out_features is None else self.out_features
        return dense(features=out_features, axis=(-2, -1), name="out")(out)


def _attend(
    query: jax.Array,
    mask: jax.Array | None,
    *,
    key: jax.Array,
    value: jax.Array,
    scale: float,
    precision: lax.PrecisionLike,
) -> jax.Array:
    """`dot_product_attention` of arrays that fit."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    einsum = functools.partial(jnp.einsum, precision=precision, preferred_element_type=wide)
    logits = einsum("...qhd,...khd->...hqk", query, key) * scale
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    # The largest logit cancels in the quotient below. It stays finite where the mask leaves no key.
    largest = jnp.max(lax.stop_gradient(logits), -1, keepdims=True, initial=jnp.finfo(wide).min)
    weights = jnp.exp(logits - largest)
    # To divide the sum of the values, not each weight, saves a pass over the largest array. The total is 1 or more, as
    # the largest weight is 1, or 0, where no key is left: then so is the sum, and any divisor will do.
    total = jnp.maximum(jnp.sum(weights, -1, keepdims=True), 0.5)
    out = einsum("...hqk,...khd->...hqd", weights.astype(value.dtype), value) / total
    return jnp.swapaxes(out, -2, -3).astype(value.dtype)


def _in_chunks(
    attend: Callable[[jax.Array, jax.Array | None], jax.Array],
    query: jax.Array,
    mask: jax.Array | None,
    query_chunk_size: int,
) -> jax.Array:
    """`attend` of a few queries at a time, with their rows of the mask; its gradient runs it again."""
    if query_chunk_size < 1:
        raise ValueError(
            f"dot_product_attention: query_chunk_size={query_chunk_size} must be at least 1; leave it out to handle "
            f"all {query.shape[-3]} queries at once"
        )
    # A query to a step, of which `lax.map` takes many together.
    rows = (jnp.moveaxis(query, -3, 0)[..., None, :, :],)
    if mask is not None and mask.ndim > 1 and mask.shape[-2] > 1:
        rows += (jnp.moveaxis(mask, -2, 0)[..., None, :],)

    @jax.checkpoint
    def step(row: tuple[jax.Array, ...]) -> jax.Array:
        return attend(row[0], row[1] if len(row) > 1 else mask)

    out = lax.map(step, rows, batch_size=max(1, min(query_chunk_size, query.shape[-3])))
    return jnp.moveaxis(out.squeeze(-3), 0, -3)


def _check_inputs(query: jax.Array, key: jax.Array, value: jax.Array) -> None:
    arrays = {"query": query, "key": key, "value": value}
    for name, array in arrays.items():
        if array.ndim < 3 or not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"dot_product_attention: {name}={array.dtype}{list(array.shape)} must be floating point "
                "[..., tokens, num_heads, features]; convert it"
            )
    for name, agree in (
        ("key", query.shape[:-3] + query.shape[-2:] == key.shape[:-3] + key.shape[-2:]),
        ("value", key.shape[:-1] == value.shape[:-1]),
    ):
        if not agree:
            other = "query" if name == "key" else "key"
            what = "all but the tokens" if name == "key" else "all but the features"
            raise ValueError(
                f"dot_product_attention: {name}={list(arrays[name].shape)} must have {what} of "
                f"{other}={list(arrays[other].shape)}; broadcast or project it"
            )


def _check_mask(mask: jax.Array, shape: tuple[int, ...]) -> None:
    if mask.dtype != jnp.bool_:
        raise ValueError(
            f"dot_product_attention: mask={mask.dtype}{list(mask.shape)} must be of booleans, True where a query sees "
            "a key; compare it with 0"
        )
    sizes = shape[len(shape) - mask.ndim :]
    if mask.ndim > len(shape) or any(size not in (1, full) for size, full in zip(mask.shape, sizes, strict=True)):
        raise ValueError(
            f"dot_product_attention: mask={list(mask.shape)} must broadcast to {list(shape)}, [..., num_heads, "
            "query_tokens, key_tokens]; insert axes of size 1"
        )
