"""The structure tables against the published widths and speeds, and against what the devices can do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.efficiency import tables
from arch.efficiency.tables import Cell, cells, deviations

TABLES = ("g1", "g2", "g3", "g4")


def columns(table):
    found = {}
    for cell in cells(table):
        found.setdefault(cell.column, []).append(cell)
    return found


@pytest.mark.parametrize("table,rows", [("g1", 4), ("g2", 4), ("g3", 5), ("g4", 4)])
def test_every_cell_of_a_table_is_there_once(table, rows):
    found = cells(table)
    assert len(found) == len(set(found)) == rows * 2 * 6


@pytest.mark.parametrize("table", TABLES)
def test_rows_of_a_column_have_equal_macs(table):
    """Within 6%, and within 2% where the published widths, which are whole numbers, allow it."""
    for key, column in columns(table).items():
        found = deviations(column)
        # 9 * 108, 22 * 44 and 36 * 432 are published, and 180 channels are not in 8 groups.
        limit = {"g1": 0.056, "g2": 0.034 if key[1] == "cpu" else 0.02, "g3": 0.02, "g4": 0.0}[table]
        assert max(map(abs, found.values())) <= limit, (key, found)


def test_macs_are_those_of_the_published_widths():
    """Ten blocks of c1 * c2 multiply-adds a pixel, twice in table 1."""
    pixels = 56 * 56
    assert Cell("g1", "gpu", 56, 128, "1:6", 876).macs == 2 * 10 * pixels * 52 * 312
    assert Cell("g1", "cpu", 56, 128, "1:12", 4.4).macs == 2 * 10 * pixels * (4 * 9) * (4 * 108)
    assert Cell("g2", "gpu", 56, 512, "g=8", 230).macs == 10 * pixels * (4 * 360) ** 2 // 8
    assert Cell("g2", "cpu", 56, 64, "g=8", 27.8).macs == 10 * pixels * 184**2 // 8
    assert Cell("g3", "gpu", 56, 128, "4-fragment-parallel", 691).macs == 10 * pixels * 4 * 64**2
    assert Cell("g4", "gpu", 56, 128, "bottleneck", 1436).macs == 10 * pixels * (2 * 128 * 32 + 9 * 32**2)


def test_no_published_speed_is_beyond_what_its_device_can_do():
    """A GTX 1080 Ti multiplies 5.7e12 pairs a second (11.3 TFLOPS), a Cortex-A57 at 2 GHz four a cycle: 8e9.

    At batch 8 the former would not do; and with c channels inside the bottlenecks, neither would.
    """
    peaks = {"gpu": 5.7e12, "cpu": 8e9}
    rates = {"gpu": 0.0, "cpu": 0.0}
    for table in TABLES:
        for column in columns(table).values():
            # Rows have equal ones.
            rate = max(cell.published for cell in column) * column[0].macs
            rates[column[0].platform] = max(rates[column[0].platform], rate)
    assert rates["gpu"] < peaks["gpu"] < 8 * rates["gpu"] and rates["cpu"] < peaks["cpu"]
    narrow = 5.0 * 10 * 56**2 * (4 + 9 + 4) * 128**2
    assert narrow > peaks["cpu"]


def _numpy_pointwise(x, kernel, groups):
    parts = np.split(x, groups, axis=-1)
    kernels = np.split(np.asarray(kernel)[0, 0], groups, axis=-1)
    return np.concatenate([part @ kernel for part, kernel in zip(parts, kernels, strict=True)], axis=-1)


@pytest.mark.parametrize(
    "table,row", [("g1", "1:6"), ("g2", "g=4"), ("g3", "4-fragment-series"), ("g3", "2-fragment-parallel")]
)
def test_a_stack_is_its_products_in_order(table, row):
    cell = Cell(table, "cpu", 3, 64 if table != "g1" else 32, row, 1.0)
    module, shape = cell.module(), cell.input_shape(2)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    variables = module.init(jax.random.key(0), x)
    expected, params = x, variables["params"]
    for block in range(10):
        kernels = [params[f"block{block}_conv{n}"]["kernel"] for n in range(len(module.block_features))]
        if module.is_parallel:
            expected = sum(_numpy_pointwise(expected, kernel, module.groups) for kernel in kernels)
        else:
            for kernel in kernels:
                expected = _numpy_pointwise(expected, kernel, module.groups)
    np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-3, atol=1e-4)


def test_a_bottleneck_has_what_its_row_says():
    counted = {}
    for row in tables.ELEMENTWISE:
        cell = Cell("g4", "cpu", 28, 32, row, 1.0)
        module, x = cell.module(), jnp.ones(cell.input_shape())
        variables = jax.eval_shape(module.init, jax.random.key(0), x)
        text = str(jax.make_jaxpr(module.apply)(variables, x))
        counted[row] = (text.count("name=relu"), text.count("= add "))
    assert {row: (relu > 0, add) for row, (relu, add) in counted.items()} == {
        "bottleneck": (True, 10),
        "without shortcut": (True, 0),
        "without ReLU": (False, 10),
        "without shortcut and ReLU": (False, 0),
    }


def test_the_compiler_merges_no_convolutions():
    """What is timed has as many products as the table says, not their sum or product calculated beforehand."""
    for row, products in (("1-fragment", 10), ("4-fragment-series", 40), ("4-fragment-parallel", 40)):
        cell = Cell("g3", "cpu", 4, 64, row, 1.0)
        module, x = cell.module(), jnp.ones(cell.input_shape())
        variables = module.init(jax.random.key(0), x)
        text = jax.jit(module.apply).lower(variables, x).compile().as_text()
        assert sum(" dot(" in line or " convolution(" in line for line in text.splitlines()) == products, row


def test_rows_of_unequal_macs_are_refused(monkeypatch):
    monkeypatch.setitem(tables.RATIO_WIDTHS["cpu"], "1:6", (14, 80))
    with pytest.raises(ValueError, match=r"^tables: 1:6 of .* has \+9\.4% multiply-adds of 1:1, over 6%; [^\n]*$"):
        deviations(columns("g1")["g1", "cpu", 56, 32])
