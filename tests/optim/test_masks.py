"""Masks: what they select, that they must select something, and how they are described."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from arch.optim import masks

PARAMS = {
    "stem": {"conv": {"kernel": jnp.zeros((3, 3, 3, 8))}, "norm": {"scale": jnp.zeros(8), "bias": jnp.zeros(8)}},
    "head": {"kernel": jnp.zeros((8, 10)), "bias": jnp.zeros(10)},
    "temperature": jnp.zeros(()),
}


def tree_of(stem_kernel, scale, norm_bias, head_kernel, head_bias, temperature):
    return {
        "stem": {"conv": {"kernel": stem_kernel}, "norm": {"scale": scale, "bias": norm_bias}},
        "head": {"kernel": head_kernel, "bias": head_bias},
        "temperature": temperature,
    }


@pytest.mark.parametrize(
    ("min_ndim", "expected"),
    [
        (0, tree_of(True, True, True, True, True, True)),
        (1, tree_of(True, True, True, True, True, False)),
        (2, tree_of(True, False, False, True, False, False)),
        (3, tree_of(True, False, False, False, False, False)),
    ],
)
def test_decay_mask_selects_by_dimensions(min_ndim, expected):
    assert masks.decay_mask(PARAMS, min_ndim) == expected
    assert masks.decay_mask(jax.eval_shape(lambda: PARAMS), min_ndim) == expected


def test_select_by_path_and_dimensions():
    assert masks.select(PARAMS, include="^head/") == tree_of(False, False, False, True, True, False)
    assert masks.select(PARAMS, exclude="norm/|/bias$") == tree_of(True, False, False, True, False, True)
    assert masks.select(PARAMS, include="kernel", exclude="^stem", min_ndim=2) == tree_of(
        False, False, False, True, False, False
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: masks.decay_mask(PARAMS, 5), ("decay_mask", "min_ndim=5", "6 parameters")),
        (lambda: masks.select(PARAMS, include="dense", owner="freeze"), ("freeze", "include='dense'", "head/bias")),
        (lambda: masks.select(PARAMS, exclude=""), ("exclude=''",)),
        (lambda: masks.decay_mask({}), ("none given",)),
    ],
)
def test_a_mask_must_match_a_leaf(call, words):
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_paths_and_description():
    mask = masks.decay_mask(PARAMS, 2)
    assert masks.matched_paths(PARAMS, mask) == ["head/kernel", "stem/conv/kernel"]
    expected = "2 of 6 leaves, 296 of 323 parameters (kernel 2; not: bias 2, scale 1, temperature 1)"
    assert masks.describe(PARAMS, mask) == expected
    assert masks.describe(PARAMS, masks.select(PARAMS)).endswith("not: none)")


def test_resolve_takes_functions_trees_and_prefixes():
    mask = tree_of(True, False, False, True, False, False)
    assert masks.resolve(masks.decay_mask, PARAMS) == mask
    assert masks.resolve(mask, PARAMS) == mask
    prefix = {"stem": True, "head": False, "temperature": False}
    assert masks.resolve(prefix, PARAMS) == tree_of(True, True, True, False, False, False)


def test_a_mask_serves_optax_at_init_and_under_jit():
    transform = optax.add_decayed_weights(0.5, mask=functools.partial(masks.select, min_ndim=2, include="head"))
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = jax.jit(transform.update)(jax.tree.map(jnp.zeros_like, PARAMS), transform.init(PARAMS), ones)
    assert jax.tree.map(lambda leaf: float(leaf.max()), updates) == tree_of(0.0, 0.0, 0.0, 0.5, 0.0, 0.0)
