import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch.attention.dot_product import MultiHeadAttention, dot_product_attention
from arch.efficiency.complexity import count_macs
from tests.compiling import quick_jit
from tests.programs import largest_array

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "goldens" / "dot_product.npz")
OUTPUTS = ("out", "grad_query", "grad_key", "grad_value")
CASES = sorted({key.split("/")[0] for key in GOLDEN if "/" in key and not key.startswith("layer_")})


def golden(case):
    return {key.split("/")[1]: GOLDEN[key] for key in GOLDEN if key.startswith(f"{case}/")}


def normal(*shapes, seed=0):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape, np.float32) for shape in shapes]


def mask_with_empty_rows():
    """[batch 2, heads 3, queries 5, keys 7]."""
    mask = np.random.default_rng(0).random((2, 3, 5, 7)) < 0.6
    mask[0, 1, 3] = mask[1, :, 0] = mask[:, 2, 4] = False
    return mask


def attention_loop(query, key, value, mask=None, scale=None):
    """The formula in float64, a query at a time."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    batch, queries, heads, _ = query.shape
    sees = np.broadcast_to(True if mask is None else mask, (batch, heads, queries, key.shape[1]))
    out = np.zeros((batch, queries, heads, value.shape[-1]))
    for n, i, h in np.ndindex(batch, queries, heads):
        keys = np.flatnonzero(sees[n, h, i])
        if keys.size:
            logits = scale * key[n, keys, h] @ query[n, i, h]
            weights = np.exp(logits - logits.max())
            out[n, i, h] = weights @ value[n, keys, h] / weights.sum()
    return out


def test_torch_parity_forward_and_backward(x64):
    recorded = {case: golden(case) for case in CASES}
    assert {"random", "mask_and_scale", "row_without_keys", "zeros", "one_key", "extreme"} <= set(CASES)

    @quick_jit
    def results(recorded):
        results = {}
        for name, case in recorded.items():
            attend = functools.partial(dot_product_attention, mask=case.get("mask"), scale=case.get("scale"))
            out, pull_back = jax.vjp(attend, case["query"], case["key"], case["value"])
            results[name] = dict(zip(OUTPUTS, (out, *pull_back(case["probe"])), strict=True))
        return results

    for name, ours in results(recorded).items():
        for output, value in ours.items():
            expected = recorded[name][output]
            tolerance = 1e-13 * max(1, np.abs(expected).max())
            np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance, err_msg=f"{name}: {output}")


def from_torch(recorded, prefix=""):
    """Parameters, or with "grad_" their gradients, of torch's MultiheadAttention in ours."""
    weight = recorded[f"{prefix}in_proj_weight"]
    size, heads = weight.shape[1], 2
    params = {"out": {"kernel": recorded[f"{prefix}out_proj.weight"].T.reshape(heads, size // heads, size)}}
    for i, name in enumerate(("query", "key", "value")):
        rows = slice(i * size, (i + 1) * size)
        params[name] = {"kernel": weight[rows].T.reshape(size, heads, size // heads)}
        if f"{prefix}in_proj_bias" in recorded:
            params[name]["bias"] = recorded[f"{prefix}in_proj_bias"][rows].reshape(heads, size // heads)
    if f"{prefix}out_proj.bias" in recorded:
        params["out"]["bias"] = recorded[f"{prefix}out_proj.bias"]
    return params


@pytest.mark.parametrize("case", ["layer_causal", "layer_cross"])
def test_layer_torch_parity_forward_and_backward(x64, case):
    recorded = golden(case)
    inputs = [recorded[name] for name in ("input0", "input1", "input2") if name in recorded]
    layer = MultiHeadAttention(num_heads=2, use_bias="in_proj_bias" in recorded)

    @quick_jit
    def results(params, *inputs):
        apply = functools.partial(layer.apply, mask=recorded.get("mask"))
        out, pull_back = jax.vjp(lambda params, *inputs: apply({"params": params}, *inputs), params, *inputs)
        return out, *pull_back(recorded["probe"])

    results = results(from_torch(recorded), *inputs)
    gradients = (recorded[f"grad_input{i}"] for i in range(len(inputs)))
    expected = recorded["out"], from_torch(recorded, "grad_"), *gradients

    def compare(ours, theirs):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13 * max(1, np.abs(theirs).max()))

    jax.tree.map(compare, results, expected)


def test_layer_has_parameters_and_values_of_flax():
    fields = {"qkv_features": 8, "out_features": 5}
    query, keys = normal((2, 5, 6), (2, 7, 4))
    mask = np.random.default_rng(0).random((2, 1, 5, 7)) < 0.7
    ours, theirs = MultiHeadAttention(2, **fields), nn.MultiHeadDotProductAttention(2, **fields)

    @quick_jit
    def both(query, keys):
        variables = [layer.init(jax.random.key(3), query, keys) for layer in (ours, theirs)]
        return variables, [layer.apply(variables[1], query, keys, mask=mask) for layer in (ours, theirs)]

    (ours, theirs), (out, expected) = both(query, keys)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_published_value():
    eye = np.eye(2, dtype=np.float32)[:, None]
    out = quick_jit(dot_product_attention)(eye, eye, np.float32([[1, 2], [3, 4]])[:, None])
    np.testing.assert_allclose(out[:, 0], [[1.66047690, 2.66047690], [2.33952310, 3.33952310]], rtol=1e-6)


def test_order_of_tokens_does_not_matter():
    query, key, value = normal((2, 5, 3, 4), (2, 7, 3, 4), (2, 7, 3, 2))
    queries, keys = np.random.default_rng(1).permutation(5), np.random.default_rng(2).permutation(7)
    attend = quick_jit(dot_product_attention)
    np.testing.assert_allclose(
        attend(query[:, queries], key[:, keys], value[:, keys]), attend(query, key, value)[:, queries], atol=1e-6
    )


def test_one_key_gives_its_value():
    query, key, value = normal((2, 5, 3, 4), (2, 1, 3, 4), (2, 1, 3, 2))
    out = quick_jit(dot_product_attention)(query, key, value)
    np.testing.assert_array_equal(out, np.broadcast_to(value, (2, 5, 3, 2)))


@pytest.mark.parametrize("features", [1, 4, 9])
def test_products_are_scaled_by_the_root_of_the_features(features):
    query, key, value = normal((2, 5, 3, features), (2, 7, 3, features), (2, 7, 3, 2))
    out = quick_jit(dot_product_attention)(query, key, value)
    np.testing.assert_allclose(out, attention_loop(query, key, value, scale=1 / np.sqrt(features)), atol=1e-6)


def test_a_causal_mask_leaks_nothing():
    query, key, value = normal((1, 5, 2, 4), (1, 5, 2, 4), (1, 5, 2, 3))
    mask = np.asarray(nn.make_causal_mask(np.zeros((1, 5)), dtype=bool))[0, 0]
    np.testing.assert_array_equal(mask, np.tril(np.ones((5, 5), bool)))

    def attend(key, value):
        return dot_product_attention(query, key, value, mask=mask).sum((0, 2, 3))

    by_key, by_value = quick_jit(jax.jacrev(attend, argnums=(0, 1)))(key, value)
    seen = mask.copy()
    np.testing.assert_array_equal(np.abs(by_value).sum((1, 3, 4)) > 0, seen)
    seen[0] = False  # its only weight is 1, whatever the key
    np.testing.assert_array_equal(np.abs(by_key).sum((1, 3, 4)) > 0, seen)


def test_a_row_without_keys_is_zero_and_has_no_derivative():
    query, key, value = normal((2, 5, 3, 4), (2, 7, 3, 4), (2, 7, 3, 2))
    mask = mask_with_empty_rows()
    empty = np.moveaxis(~mask.any(-1), 1, 2)
    assert 5 < empty.sum() < empty.size

    def attend(query, key, value):
        # Logits beyond the range of exp, on either side: what is masked must not count, in derivatives neither.
        return dot_product_attention(1e3 * query, key, value, mask=mask)

    @quick_jit
    def results(*inputs):
        out, pushed = jax.jvp(attend, inputs, inputs)
        return out, pushed, jax.vjp(attend, *inputs)[1](jnp.ones_like(out))

    out, pushed, gradients = results(query, key, value)
    np.testing.assert_allclose(out, attention_loop(1e3 * query, key, value, mask), atol=1e-5)
    for zeros in (out, pushed, gradients[0]):
        np.testing.assert_array_equal(zeros[empty], 0)
    assert all(np.isfinite(leaf).all() for leaf in (pushed, *gradients))


def test_without_any_key_all_is_zero():
    out = quick_jit(dot_product_attention)(*normal((2, 5, 3, 4), (2, 0, 3, 4), (2, 0, 3, 2)))
    np.testing.assert_array_equal(out, np.zeros((2, 5, 3, 2)))


def test_chunks_of_queries_change_nothing(x64):
    *inputs, probe = (x.astype(float) for x in normal((2, 5, 3, 4), (2, 7, 3, 4), (2, 7, 3, 2), (2, 5, 3, 2)))
    full = mask_with_empty_rows()
    cases = {
        "keys": (full[0, 0, 0], 100),
        "all": (full, 3),
    }

    @quick_jit
    def results(*inputs):
        results = {}
        for name, (mask, size) in cases.items():
            for each in (None, size):
                attend = functools.partial(dot_product_attention, mask=mask, query_chunk_size=each)
                out, pull_back = jax.vjp(attend, *inputs)
                results[name, str(each)] = out, *pull_back(probe)
        return results

    results = results(*inputs)
    for name, (mask, size) in cases.items():
        np.testing.assert_allclose(results[name, "None"][0], attention_loop(*inputs, mask), atol=1e-13, err_msg=name)
        for ours, whole in zip(results[name, str(size)], results[name, "None"], strict=True):
            np.testing.assert_allclose(ours, whole, atol=1e-13, err_msg=name)


def test_chunks_of_queries_bound_the_memory():
    inputs = [jax.ShapeDtypeStruct((2, 64, 1, 4), jnp.float32)] * 3

    def largest(size):
        def loss(*inputs):
            return jnp.sum(dot_product_attention(*inputs, query_chunk_size=size))

        return largest_array(jax.grad(loss, argnums=(0, 1, 2)), *inputs)

    assert largest(None) == 2 * 64 * 64
    assert largest(8) == 2 * 8 * 64


def test_multiply_adds_are_as_documented():
    tokens, features = 5, 6
    x = jax.ShapeDtypeStruct((1, tokens, features), jnp.float32)
    shapes = ((1, 5, 3, 4), (1, 7, 3, 4), (1, 7, 3, 2))
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    assert count_macs(dot_product_attention, *inputs).total == 5 * 7 * 3 * (4 + 2)
    layer = MultiHeadAttention(num_heads=2)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert count_macs(layer.apply, variables, x).total == 4 * tokens * features**2 + 2 * tokens**2 * features


def test_forward_mode_reverse_mode_and_second_order_agree(x64):
    inputs, tangents, others = (np.random.default_rng(seed).standard_normal((3, 5, 2, 3)) for seed in range(3))
    probe = np.random.default_rng(3).standard_normal((5, 2, 3))

    def loss(inputs):
        return jnp.sum(dot_product_attention(*inputs) ** 2 * probe)

    @quick_jit
    def results(inputs):
        difference = (loss(inputs + 1e-5 * tangents) - loss(inputs - 1e-5 * tangents)) / 2e-5
        gradient = jax.grad(loss)
        slopes = [jax.jvp(gradient, (inputs,), (direction,))[1] for direction in (tangents, others)]
        return difference, jax.jvp(loss, (inputs,), (tangents,))[1], gradient(inputs), slopes

    difference, pushed, gradient, (by_tangents, by_others) = results(inputs)
    np.testing.assert_allclose(pushed, difference, rtol=1e-7)
    np.testing.assert_allclose(np.vdot(gradient, tangents), pushed, rtol=1e-12)
    np.testing.assert_allclose(np.vdot(by_others, tangents), np.vdot(by_tangents, others), rtol=1e-10)


def test_bfloat16_is_summed_in_float32():
    inputs = [jnp.asarray(x, jnp.bfloat16) for x in normal((2, 5, 3, 16), (2, 300, 3, 16), (2, 300, 3, 2))]
    inputs[2] += 8  # sums of 300 values about 8 are beyond the digits of bfloat16

    @quick_jit
    def results(*inputs):
        out, pull_back = jax.vjp(dot_product_attention, *inputs)
        return out, *pull_back(out)

    out, *gradients = results(*inputs)
    assert all(x.dtype == jnp.bfloat16 for x in (out, *gradients))
    np.testing.assert_allclose(out.astype(jnp.float32), attention_loop(*inputs), rtol=2**-8)


def test_under_vmap_and_shard_map():
    query, key, value = normal((4, 5, 3, 4), (4, 7, 3, 4), (4, 7, 3, 2))
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("batch",))
    spec = jax.sharding.PartitionSpec("batch")

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=(spec, spec))
    def attend(*inputs):
        chunked = functools.partial(dot_product_attention, query_chunk_size=2)
        return dot_product_attention(*inputs), jax.vmap(chunked)(*inputs)

    for out in quick_jit(attend)(query, key, value):
        np.testing.assert_allclose(out, attention_loop(query, key, value), atol=1e-6)


@pytest.mark.parametrize(
    "shapes,options,message",
    [
        (((4, 3, 2), (4, 2), (4, 3, 2)), {}, r"key=float32\[4, 2\] must be floating point \[..., tokens, .*"),
        (((4, 3, 2), (5, 2, 2), (5, 2, 2)), {}, r"key=\[5, 2, 2\] must have .* of query=\[4, 3, 2\]; .*"),
        (((2, 4, 3, 2), (5, 3, 2), (5, 3, 2)), {}, r"key=\[5, 3, 2\] must have .* of query=\[2, 4, 3, 2\]; .*"),
        (((4, 3, 2), (5, 3, 2), (6, 3, 2)), {}, r"value=\[6, 3, 2\] must have .* of key=\[5, 3, 2\]; .*"),
        (((4, 3, 2),) * 3, {"mask": np.ones((4, 4))}, r"mask=float64\[4, 4\] must be of booleans, .*"),
        (((4, 3, 2),) * 3, {"mask": np.ones((4, 5), bool)}, r"mask=\[4, 5\] must broadcast to \[3, 4, 4\], .*"),
        (((4, 3, 2),) * 3, {"mask": np.ones((1, 1, 4, 4), bool)}, r"mask=\[1, 1, 4, 4\] must broadcast to .*"),
        (((4, 3, 2),) * 3, {"query_chunk_size": 0}, r"query_chunk_size=0 must be at least 1; .* all 4 queries .*"),
    ],
)
def test_dot_product_attention_refuses_in_one_line(shapes, options, message):
    with pytest.raises(ValueError, match=f"^dot_product_attention: {message}$"):
        dot_product_attention(*map(np.zeros, shapes, 3 * [np.float32]), **options)


@pytest.mark.parametrize(
    "inputs,fields,message",
    [
        ([np.zeros((4, 6))], {"num_heads": 4}, "num_heads=4 must divide qkv_features=6; choose a divisor of 6"),
        ([np.zeros((4, 6))], {"num_heads": 2, "qkv_features": 7}, "num_heads=2 must divide qkv_features=7; .*"),
        ([np.zeros((4, 6), int)], {"num_heads": 2}, "inputs_q must be floating point, not int.*; .*"),
        ([np.zeros((4, 6)), None, np.zeros((4, 6))], {"num_heads": 2}, "inputs_v has no inputs_k .*"),
    ],
)
def test_layer_refuses_in_one_line(inputs, fields, message):
    with pytest.raises(ValueError) as caught:
        MultiHeadAttention(**fields).init(jax.random.key(0), *inputs)
    assert re.fullmatch(f"MultiHeadAttention: {message}", str(caught.value))
