"""Attention of positions to one another: dot products with one and many heads, and the non-local block."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from arch.attention.dot_product import MultiHeadAttention, dot_product_attention
from arch.attention.non_local import NonLocal, non_local
from arch.norm import bind
from arch.norm.batch import BatchNorm
from tests.catalogue.row import Case, Inputs, Operator, filled, image

HEADS, FEATURES, VALUE_FEATURES, CHANNELS = 2, 3, 4, 6
NORM = bind(BatchNorm, train=False)


def _heads(random: np.random.Generator, height: int, width: int) -> Inputs:
    """Queries, keys and values of the pixels of a map."""
    sizes = FEATURES, FEATURES, VALUE_FEATURES
    return tuple(image(random, 2, height * width, HEADS, size) for size in sizes)


def _heads_and_mask(random: np.random.Generator, height: int, width: int) -> Inputs:
    mask = random.random((2, HEADS, height * width, height * width)) < 0.5
    mask[0, :, 0] = False
    return *_heads(random, height, width), mask


def _heads_out(height: int, width: int) -> tuple[int, ...]:
    return height * width, HEADS, VALUE_FEATURES


def _values_first(random: np.random.Generator, height: int, width: int) -> Inputs:
    return _heads(random, height, width)[::-1]


def _tokens(layer: MultiHeadAttention) -> Case:
    def make(random: np.random.Generator, height: int, width: int) -> Inputs:
        x = image(random, 2, height * width, CHANNELS)
        return x, filled(layer, random, x)

    def call(x: jax.Array, variables: Any) -> jax.Array:
        return layer.apply(variables, x)

    return Case(make=make, call=call, out_shape=lambda height, width: (height * width, CHANNELS))


def _embeddings(random: np.random.Generator, height: int, width: int) -> Inputs:
    """theta, phi, g and a concat_kernel, with half as many positions in phi and g."""
    smaller = height, (width + 1) // 2
    theta, phi = image(random, 2, height, width, FEATURES), image(random, 2, *smaller, FEATURES)
    return theta, phi, image(random, 2, *smaller, VALUE_FEATURES), image(random, 2 * FEATURES)


def _form(form: str) -> Case:
    def call(theta: jax.Array, phi: jax.Array, g: jax.Array, concat_kernel: jax.Array) -> jax.Array:
        return non_local(theta, phi, g, form=form, concat_kernel=concat_kernel if form == "concatenation" else None)

    return Case(
        make=_embeddings,
        call=call,
        out_shape=lambda height, width: (height, width, VALUE_FEATURES),
        linear=form == "dot_product",
    )


def _block(block: NonLocal) -> Case:
    def make(random: np.random.Generator, height: int, width: int) -> Inputs:
        x = image(random, 2, height, width, CHANNELS)
        return x, filled(block, random, x)

    def call(x: jax.Array, variables: Any) -> jax.Array:
        return block.apply(variables, x)

    return Case(make=make, call=call, out_shape=lambda height, width: (height, width, CHANNELS))


def _refused(function: Callable[..., Any], *shapes: tuple[int, ...], **options: Any) -> Callable[[], Any]:
    return lambda: function(*(np.zeros(shape, np.float32) for shape in shapes), **options)


ROWS: tuple[Operator, ...] = (
    Operator(
        topic="Transformer: scaled dot-product attention, multi-head attention",
        functions=(dot_product_attention,),
        modules=(MultiHeadAttention,),
        oracle="torch's scaled_dot_product_attention and nn.MultiheadAttention, recorded; a NumPy loop; flax",
        cases={
            "function": Case(make=_heads, call=dot_product_attention, out_shape=_heads_out),
            "values": Case(
                make=_values_first,
                call=lambda value, key, query: dot_product_attention(query, key, value),
                out_shape=_heads_out,
                linear=True,
            ),
            "mask": Case(
                make=_heads_and_mask,
                call=lambda query, key, value, mask: dot_product_attention(query, key, value, mask=mask),
                out_shape=_heads_out,
            ),
            "module": _tokens(MultiHeadAttention(num_heads=2)),
        },
        refusals=(
            (_refused(dot_product_attention, (4, 3, 2), (5, 2, 2), (5, 2, 2)), r"key=\[5, 2, 2\].*query=\[4, 3, 2\]"),
            (_refused(dot_product_attention, *3 * [(4, 3, 2)], query_chunk_size=0), "query_chunk_size=0 .* 4 queries"),
            (
                _refused(lambda x: MultiHeadAttention(4).init(jax.random.key(0), x), (5, 6)),
                "num_heads=4 must divide qkv_features=6",
            ),
        ),
    ),
    Operator(
        topic="Non-local network",
        functions=(non_local,),
        modules=(NonLocal,),
        oracle="a NumPy loop over pairs of positions; published numbers of parameters",
        cases={
            "gaussian": _form("gaussian"),
            "dot_product": _form("dot_product"),
            "concatenation": _form("concatenation"),
            "module_gaussian": _block(NonLocal("gaussian", subsampling="after")),
            "module_embedded_gaussian": _block(NonLocal(subsampling="before", norm=NORM)),
            "module_concatenation": _block(NonLocal("concatenation", inner_features=2)),
        },
        refusals=(
            (_refused(non_local, (2, 3, 4), (2, 5, 3), (2, 5, 6)), r"phi=\[2, 5, 3\] .* theta=\[2, 3, 4\]"),
            (_refused(non_local, (2, 3, 4), (2, 5, 4), (2, 4, 6)), r"g=\[2, 4, 6\] .* phi=\[2, 5, 4\]"),
            (_refused(functools.partial(non_local, form="dot"), *3 * [(2, 3, 4)]), "unknown name 'dot'"),
        ),
    ),
)
