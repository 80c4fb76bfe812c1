"""GraphNet: its chain counted by hand; the cases have nodes of all kinds, and both heads."""

from tests.models.families.row import Case, Maps, Row

# Kernels 9 (3 * 64 + 64 * 128 + 128 * 256), norms 2 (64 + 128 + 256), and 257 rows of 1000 classes.
ROWS = [
    Row(
        "graph_net",
        params=1_728 + 73_728 + 294_912 + 896 + 257_000,
        batch_stats=896,
        conv_macs=224**2 * 1_728 + 112**2 * 73_728 + 56**2 * 294_912,
        macs=224**2 * 1_728 + 112**2 * 73_728 + 56**2 * 294_912 + 256_000,
    )
]

MAPS = {"graph_net": Maps({1: (224, 64), 2: (112, 128), 4: (56, 256)})}

_ALL_KINDS = {
    "nodes": [
        {"name": "conv1", "kind": "conv", "inputs": ["image"], "features": 4, "kernel_size": 4},
        {"name": "depthwise1", "kind": "depthwise", "inputs": ["conv1"], "kernel_size": 3},
        {"name": "conv2", "kind": "conv", "inputs": ["depthwise1"], "features": 4, "kernel_size": 1},
        {"name": "add1", "kind": "add", "inputs": ["conv1", "conv2"]},
        {"name": "max_pool1", "kind": "max_pool", "inputs": ["add1"]},
        {"name": "conv3", "kind": "conv", "inputs": ["max_pool1"], "features": 4, "kernel_size": 3},
        {"name": "blend1", "kind": "blend", "inputs": ["conv3", "max_pool1"]},
        {"name": "concat1", "kind": "concat", "inputs": ["blend1", "conv3"]},
        {"name": "conv4", "kind": "conv", "inputs": ["concat1"], "features": 6, "kernel_size": 3},
    ]
}
CASES = [
    Case("graph_net", {"graph": "4,6"}, 6),
    Case("graph_net", {"graph": _ALL_KINDS | {"head": "flatten"}}, 6),
]
