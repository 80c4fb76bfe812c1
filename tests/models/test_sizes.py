"""Every network has its published parameters and multiply-adds, and the maps that it declares; by tracing alone."""

import collections
import re

import jax
import pytest

from arch import models
from arch.efficiency.complexity import abstract_variables, count
from tests.models.checks import image, step
from tests.models.families import CASES, MAPS, one_fast_each
from tests.models.families.row import Row

NUMBER = r"\d+\.?\d*"


@one_fast_each("ROWS", "row", Row.label)
def test_published_sizes(row):
    cost = count(models.create(row.name, **row.fields), (1, row.image_size, row.image_size, 3), train=False)
    for name in ("params", "batch_stats", "conv_macs", "macs"):
        published = getattr(row, name)
        assert published is None or getattr(cost, name) == published, name


@one_fast_each("MAPS", "name")
def test_maps_are_those_declared(name):
    """At every stride, and no head is made for them."""
    declared = MAPS[name]
    x = image(declared.image_size)
    model = models.create(name, features_only=True)
    # In one trace; a second one, of `apply`, would take as long again.
    maps, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), x)
    assert {stride: leaf.shape for stride, leaf in maps.items()} == {
        stride: (1, size, size, channels) for stride, (size, channels) in declared.shapes.items()
    }
    assert "classifier" not in variables["params"]


def one_of_each_kind():
    """Of networks whose class and fields differ in numbers beyond 1 alone, the smallest: they run the same code.

    A 0 or a 1, as of groups or of a rate, may switch something off.
    """
    kinds = collections.defaultdict(list)
    for name, make in models.MODELS.items():
        fields = repr(sorted(make.keywords.items()))
        size = sum(map(float, re.findall(NUMBER, fields)))
        kind = re.sub(NUMBER, lambda found: found[0] if float(found[0]) in (0, 1) else "n", fields)
        kinds[make.func, kind].append((size, name))
    return [min(kind)[1] for kind in kinds.values()]


@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_each_kind())
def test_loss_and_gradient_trace(name):
    """At the size that the network was published for."""
    model, x = models.create(name), image(MAPS[name].image_size, batch=2)
    variables = abstract_variables(model, x, train=False)
    key = jax.eval_shape(lambda: jax.random.key(0))
    grads, logits = jax.eval_shape(step(model), variables, x, key)
    assert logits.shape == (2, 1000)
    assert jax.tree.map(lambda leaf: leaf.shape, grads) == jax.tree.map(lambda leaf: leaf.shape, variables["params"])


def test_every_network_is_declared_and_has_a_case_of_its_family():
    assert set(MAPS) == set(models.MODELS)
    classes = {type(models.create(case.name, **case.fields)) for case in CASES}
    assert {type(models.create(name)) for name in models.MODELS} <= classes
