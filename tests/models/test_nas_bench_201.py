"""NAS-Bench-201's network against its definition in NumPy, and its cells as text."""

import numpy as np
import pytest

from arch import models
from arch.models.classification.nas_bench_201 import DEFAULT_CELL, EDGES, cell_operations, cell_text
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, random_variables
from tests.ops.numpy_conv import convolve

SMALL = {"stage_sizes": (2, 1), "features": 4, "num_classes": 3}
ALL_FIVE = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"


def reference(variables, x):
    """The logits by the authors' description, edge by edge, in evaluation mode."""
    params, stats = variables["params"], variables["batch_stats"]

    def norm(x, layer, running):
        return (x - running["mean"]) / np.sqrt(running["var"] + 1e-5) * layer["scale"] + layer["bias"]

    def conv_unit(x, layer, running, stride=1):
        return norm(convolve(np.maximum(x, 0), layer["conv"]["kernel"], stride=stride), layer["norm"], running["norm"])

    def mean_pool(x):
        ones, kernel = np.ones((*x.shape[:3], 1)), np.ones((3, 3, 1, 1))
        sums = [convolve(x[..., c : c + 1], kernel) for c in range(x.shape[3])]
        return np.concatenate(sums, 3) / convolve(ones, kernel)

    def edge(name, operation, x):
        if operation == "skip_connect":
            return x
        if operation == "none":
            return 0 * x
        if operation == "avg_pool_3x3":
            return mean_pool(x)
        return conv_unit(x, params[name][operation], stats[name][operation])

    def cell(prefix, x):
        zero = edge(f"{prefix}_edge01", "nor_conv_3x3", x)
        two = x + edge(f"{prefix}_edge12", "nor_conv_1x1", zero)
        return mean_pool(zero) + edge(f"{prefix}_edge23", "nor_conv_3x3", two)

    x = norm(convolve(x, params["stem_conv"]["kernel"]), params["stem_norm"], stats["stem_norm"])
    x = cell("stage1_cell2", cell("stage1_cell1", x))
    layer, running = params["reduction1"], stats["reduction1"]
    y = conv_unit(conv_unit(x, layer["conv1"], running["conv1"], stride=2), layer["conv2"], running["conv2"])
    halves = x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, x.shape[3]).mean((2, 4))
    x = cell("stage2_cell1", y + convolve(halves, layer["shortcut_conv"]["kernel"]))
    x = np.maximum(norm(x, params["final_norm"], stats["final_norm"]), 0).mean((1, 2))
    return x @ params["classifier"]["kernel"] + params["classifier"]["bias"]


def test_it_computes_what_its_cell_says(x64):
    model = models.create("nas_bench_201", cell=ALL_FIVE, **SMALL)
    x = np.random.default_rng(1).standard_normal((2, 8, 8, 3))
    variables = random_variables(model, x)
    logits = quick_jit(lambda variables: model.apply(variables, x, train=False))(variables)
    np.testing.assert_allclose(logits, reference(variables, x), rtol=1e-10, atol=1e-10)


def test_examples_reach_norms_and_dropout():
    check_examples_reach_norms_and_dropout(models.create("nas_bench_201", **SMALL, dropout_rate=0.5))


def test_a_cell_as_text():
    operations = cell_operations(ALL_FIVE)
    assert operations == ("nor_conv_3x3", "skip_connect", "nor_conv_1x1", "none", "avg_pool_3x3", "nor_conv_3x3")
    assert cell_text(operations) == ALL_FIVE and EDGES == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell": DEFAULT_CELL.replace("skip_connect", "skip")}, "operation of the cell: unknown name 'skip'"),
        ({"cell": "|none~0|"}, r"cell='\|none~0\|' must have the form of \|nor_conv"),
        ({"cell": np.zeros(5, np.int32)}, r"cell of shape \(5,\) must be \(6,\), a choice for each edge"),
        ({"operations": ("none", "conv")}, "NASBench201: operations: unknown name 'conv'"),
        ({"stage_sizes": ()}, r"stage_sizes=\(\) must not be empty"),
    ],
)
def test_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        models.create("nas_bench_201", **fields).init({}, np.zeros((1, 8, 8, 3), np.float32), train=False)
