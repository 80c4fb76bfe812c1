import jax.numpy as jnp
import pytest

from arch import models
from arch.models.classification.shufflenet_v2 import ShuffleNetV2


def test_names_and_overrides():
    assert models.create("shufflenet_v2_x1_5") == ShuffleNetV2(width_multiplier=1.5)
    model = models.create("shufflenet_v2_x0_5", num_classes=10, dtype=jnp.bfloat16, width_multiplier=2.0)
    assert model == ShuffleNetV2(num_classes=10, dtype=jnp.bfloat16, width_multiplier=2.0)


@pytest.mark.parametrize(
    "name,overrides,message",
    [
        (
            "shufflenet_v2_1x0",
            {},
            "arch.models.create: unknown name 'shufflenet_v2_1x0'; did you mean 'shufflenet_v2_x",
        ),
        ("", {}, "arch.models.create: unknown name ''; one of addressnet_20, addressnet_44, amoebanet_a_4_50, "),
        (
            "shufflenet_v2_x1_0",
            {"num_class": 10},
            "arch.models.create: fields of shufflenet_v2_x1_0: unknown name 'num_class'; did you mean 'num_classes'",
        ),
    ],
)
def test_unknown_names_and_fields_are_one_line_with_a_hint(name, overrides, message):
    with pytest.raises(ValueError) as error:
        models.create(name, **overrides)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
