"""The table of operators: sums of an injected clock's times, and a prediction of the right order."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from arch.efficiency import lookup
from arch.efficiency.complexity import abstract_variables
from arch.efficiency.latency import Timing, build, device_name, measure
from arch.efficiency.lookup import LatencyTable, measure_operators
from arch.efficiency.operators import operators
from arch.ops.conv import Conv

X = jax.ShapeDtypeStruct((1, 16, 16, 8), jnp.float32)


class _Net(nn.Module):
    """A network of a small space: so many units of 3x3, with a ReLU each."""

    num_units: int

    @nn.compact
    def __call__(self, x):
        for _ in range(self.num_units):
            x = nn.relu(Conv(8, 3)(x))
        return nn.Dense(4)(x.mean((1, 2)))


def _network(num_units):
    net = _Net(num_units)
    return net.apply, abstract_variables(net, X), X


def _found(*sizes):
    return [operator for size in sizes for operator in operators(*_network(size))]


@pytest.fixture
def seconds(monkeypatch):
    """A convolution takes 5 s, a mean 2 s, a product 3 s, and a call that computes nothing 1 s of each."""
    measured = []

    def fake(calls, *, rounds):
        measured.extend(name for name in calls if name != "nothing")
        return {name: Timing(1.0 if name == "nothing" else call) for name, call in calls.items()}

    costs = {"conv": 6.0, "reduce_sum": 3.0, "linear": 4.0}
    monkeypatch.setattr(lookup, "measure", fake)
    monkeypatch.setattr(lookup, "_call", lambda operator: costs[operator.key.split()[0]])
    return measured


def test_a_network_takes_the_sum_of_its_operators_and_one_call(seconds):
    table = measure_operators(_found(1, 3))
    assert len(table.seconds) == 3 == len(seconds) and table.call_s == 1.0
    # From networks of one and of three units, one of seven is known.
    assert table.predict(*_network(7)) == 1 + 7 * 5 + 2 + 3
    again = measure_operators(_found(2), known=table.seconds)
    assert len(seconds) == 3 and again.seconds == table.seconds


def test_an_operator_that_was_not_measured_is_told(seconds):
    table = measure_operators(_found(1))
    wide = jax.ShapeDtypeStruct((2, 16, 16, 8), jnp.float32)
    with pytest.raises(ValueError, match=r"^LatencyTable: 3 of 3 operators were not measured on [^\n]*, such as "):
        table.predict(*_network(2)[:2], wide)


@pytest.mark.parametrize(
    ("pairs", "call_s", "scale"),
    [
        ([(3.0, 9.0), (5.0, 13.0), (11.0, 25.0)], 5.0, 2.0),  # 5 + 2 * (predicted - 1)
        ([(3.0, 5.0)], 1.0, 2.0),
        ([(2.0, 1.0), (4.0, 5.0)], 0.0, 1.6 / 1.36),  # the line would begin at -1; least squares without one
    ],
)
def test_a_line_through_networks_calibrates(pairs, call_s, scale):
    table = LatencyTable("here", {}, call_s=1.0).calibrate(pairs)
    assert table.call_s == pytest.approx(call_s, abs=1e-9)
    assert table.scale == pytest.approx(scale)


def test_the_error_is_a_median():
    table = LatencyTable("here", {}, call_s=1.0)
    assert table.with_error([(1.1, 1.0), (0.7, 1.0), (1.0, 1.0)]).error == pytest.approx(0.1)
    assert table.error is None


def test_a_table_is_kept_as_json(tmp_path, monkeypatch):
    table = LatencyTable(device_name(), {"conv 1x1 abc": 0.25}, 1e-5, 1.5, 0.07)
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == table
    assert json.loads((tmp_path / "table.json").read_text())["seconds"] == {"conv 1x1 abc": 0.25}
    dataclasses.replace(table, device="another").save(tmp_path / "other.json")
    (tmp_path / "broken.json").write_text("{}")
    for name, said in (("other", "is of another, and this is"), ("broken", "must be a table that save wrote")):
        with pytest.raises(ValueError, match=rf"^LatencyTable: [^\n]*{said}[^\n]*$"):
            LatencyTable.load(tmp_path / f"{name}.json")


def test_a_prediction_is_of_the_order_of_the_measurement():
    """Within a factor of five, which a busy machine leaves; the error of a quiet one is told by the script."""
    x = jnp.ones((8, 64, 64, 8))
    net = _Net(6)
    variables = net.init(jax.random.key(0), x)
    small = _Net(1)
    table = measure_operators(operators(small.apply, abstract_variables(small, x), x), rounds=5)
    found = measure({"net": build(functools.partial(net.apply), variables, x).call}, rounds=5)["net"].median_s
    assert found / 5 < table.predict(net.apply, variables, x) < found * 5
