import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from arch import AXIS_NAME, norm
from arch.norm.batch import BatchNorm
from arch.norm.group import GroupNorm
from arch.ops.stochastic import Examples


def test_every_name_makes_its_module_with_its_fields():
    assert norm.create("batch_norm", momentum=0.5)(name="n") == BatchNorm(momentum=0.5, name="n")
    assert norm.create("sync_batch_norm")().axis_name == AXIS_NAME
    assert norm.create("sync_batch_norm", axis_name="other")().axis_name == "other"
    assert norm.create("group_norm", group_size=4)() == GroupNorm(group_size=4)


@pytest.mark.parametrize("name", list(norm.NORMS))
def test_every_norm_is_called_alike(name):
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 8), jnp.bfloat16)
    layer = norm.create(name)(dtype=jnp.float32, param_dtype=jnp.float32)
    variables = layer.init(jax.random.key(0), x, train=True, examples=Examples(weight=jnp.ones(4)))
    assert set(variables["params"]) == ({"bias"} if name in ("mean_only_batch_norm", "none") else {"scale", "bias"})
    assert layer.apply(variables, x, train=False).dtype == jnp.float32


@pytest.mark.parametrize(
    "name,fields,message",
    [
        (
            "batchnorm",
            {},
            "arch.norm.create: unknown name 'batchnorm'; "
            "did you mean 'batch_norm' or 'batch_renorm' or 'sync_batch_norm'?",
        ),
        ("zzz", {}, f"arch.norm.create: unknown name 'zzz'; one of {', '.join(sorted(norm.NORMS))}"),
        (
            "batch_norm",
            {"momentun": 0.9},
            "arch.norm.create: fields of batch_norm: unknown name 'momentun'; did you mean 'momentum'?",
        ),
    ],
)
def test_unknown_names_and_fields_are_one_line_with_a_hint(name, fields, message):
    with pytest.raises(ValueError) as error:
        norm.create(name, **fields)
    assert str(error.value) == message


class _Block(nn.Module):
    norm: object

    @nn.compact
    def __call__(self, x):
        return self.norm(name="norm1")(x)


def test_a_bound_norm_is_a_function_of_x_alone():
    x = 5 + jax.random.normal(jax.random.key(0), (4, 3, 3, 8))
    examples = Examples(weight=jnp.array([1.0, 1.0, 0.0, 0.0]))
    bound = norm.bind(norm.create("batch_norm"), train=True, examples=examples, dtype=jnp.float32)
    variables = _Block(bound).init(jax.random.key(0), x)
    assert set(variables["params"]) == {"norm1"}
    out, _ = _Block(bound).apply(variables, x, mutable=["batch_stats"])
    assert abs(float(out[:2].mean())) < 1e-5 < abs(float(out[2:].mean()))
