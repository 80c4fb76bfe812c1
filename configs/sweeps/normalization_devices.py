"""Two cells of normalization.py, per replica and over all devices, on eight devices instead of one.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python scripts/sweep.py \\
        --config=configs/shufflenet_v2.py:fashion_mnist --sweep=configs/sweeps/normalization_devices.py \\
        --results=docs/normalization_devices.jsonl

What it came to: docs/normalization.md.
"""

from configs.sweeps import grid, normalization

PER_DEVICE_BATCH_SIZE = 8


def get_sweep() -> grid.Grid:
    """2 runs, to be compared with those of the same seed on one device."""
    names = {"per_replica": "batch_norm", "sync": "sync_batch_norm"}
    settings = {
        "seed": 0,
        "global_batch_size": normalization.NUM_DEVICES * PER_DEVICE_BATCH_SIZE,
    }
    cells = [
        grid.point(
            {
                "model.norm.name": name,
                "schedule.base_learning_rate": normalization.BASE_LEARNING_RATES[key],
            }
        )
        for key, name in names.items()
    ]
    return grid.product(normalization.common(), grid.point(settings), grid.chain(*cells))
