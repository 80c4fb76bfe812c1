"""Normalizations against the batch a device has: 2, 4, 8, 32 images x six normalizations x three seeds.

    python scripts/sweep.py --config=configs/shufflenet_v2.py:fashion_mnist --sweep=configs/sweeps/normalization.py \\
        --parallel=2 --results=docs/normalization.jsonl
    python scripts/plot.py docs/normalization.jsonl --x=global_batch_size --by=model.norm.name --lowest=0.87 \\
        --out=docs/normalization_runs

Eight devices, an update being of 8 x 2 to 8 x 32 images, in 5 epochs; after Wu and He (arXiv:1803.08494), figure 5. It
runs on one device, which is the same: statistics of a replica are those of a ghost batch, the running ones averaged;
statistics over eight devices are those of the whole batch. Batch Renormalization takes eight micro-batches, whose
running statistics move one after the other, each by the eighth root of a step; over an update they keep 0.9, as those
of the other norms do. The paper's 0.99 suits its 130,000 steps: here the statistics would still be those of the start
when the plain phase ends, and with rate 0.1 it reached 45% on the validation split instead of 91%.

The rate is linear in the batch, from the best at 8 x 32 for each normalization, see normalization_rates.py.
normalization_devices.py repeats two cells on eight devices. What it came to: docs/normalization.md.
"""

from typing import Any

from configs.sweeps import grid

NUM_DEVICES = 8
PER_DEVICE_BATCH_SIZES = (2, 4, 8, 32)
BASE_BATCH_SIZE = NUM_DEVICES * 32
NUM_EPOCHS = 5.0
STAGE_SIZES = (2, 3, 2)
NUM_TRAIN = 57_000  # 95% of the training images

# At BASE_BATCH_SIZE, of highest accuracy on the validation split, from docs/normalization_rates.jsonl. Without any the
# network learns nothing at rates from 0.0125 to 0.8.
BASE_LEARNING_RATES = {
    "per_replica": 0.2,
    "sync": 0.2,
    "batch_renorm": 0.2,
    "group_norm": 0.2,
    "layer_norm": 0.1,
    "none": 0.2,
}


def get_sweep() -> grid.Grid:
    """72 runs: `BASE_LEARNING_RATES` x `PER_DEVICE_BATCH_SIZES` x seeds."""
    cells = [
        cell(normalization, size, rate)
        for size in reversed(PER_DEVICE_BATCH_SIZES)
        for normalization, rate in BASE_LEARNING_RATES.items()
    ]
    return grid.product(grid.each("seed", range(3)), grid.chain(*cells))


def cell(normalization: str, per_device_batch_size: int, base_learning_rate: float) -> grid.Grid:
    """One point: eight devices with so many images each, on one device."""
    overrides = {
        "global_batch_size": NUM_DEVICES * per_device_batch_size,
        **norm(normalization, per_device_batch_size),
        "schedule.base_learning_rate": base_learning_rate,
    }
    return grid.product(common(), grid.point(overrides))


def common() -> grid.Grid:
    """What all runs share: 24, 48, 96 and 192 channels, 2, 3 and 2 units, on maps of 14, 7, 4 and 2 pixels."""
    return grid.point(
        {
            "model.fields.stem": "stride2",
            "model.fields.stage_sizes": STAGE_SIZES,
            "num_epochs": NUM_EPOCHS,
            "schedule.base_batch_size": BASE_BATCH_SIZE,
            "eval_batch_size": 1000,
            "progress_every_seconds": 60.0,
        }
    )


def norm(normalization: str, per_device_batch_size: int) -> dict[str, Any]:
    """The overrides that name a normalization, a key of `BASE_LEARNING_RATES`."""
    fields = {
        "per_replica": {"ghost_batch_size": per_device_batch_size, "running_rule": "mean"},
        "batch_renorm": renorm_fields(per_device_batch_size),
    }.get(normalization, {})
    names = {"per_replica": "ghost_batch_norm", "sync": "batch_norm", "layer_norm": "layer_norm_hwc"}
    overrides = {"model.norm.name": names.get(normalization, normalization)}
    if normalization == "batch_renorm":
        overrides["num_micro_batches"] = NUM_DEVICES
    return overrides | {f"model.norm.fields.{field}": value for field, value in fields.items()}


def renorm_fields(per_device_batch_size: int) -> dict[str, Any]:
    """The schedule of arXiv:1702.03275 as shares of the run: 5k, 40k and 25k of its 130k steps."""
    updates = NUM_EPOCHS * NUM_TRAIN / per_device_batch_size
    return {
        "momentum": round(0.9 ** (1 / NUM_DEVICES), 6),
        "plain_steps": round(updates * 5 / 130),
        "r_max_steps": round(updates * 40 / 130),
        "d_max_steps": round(updates * 25 / 130),
    }
