"""How far a batch can grow: 128 to 8,192 images x seven rules for the learning rate x three seeds.

    python scripts/sweep.py --config=configs/shufflenet_v2.py:fashion_mnist --sweep=configs/sweeps/large_batch.py \\
        --parallel=2 --results=docs/large_batch.jsonl
    python scripts/document_large_batch.py

The network of normalization.py, 10 epochs; the rate falls tenfold after 30, 60 and 80 of 90 epochs as in Goyal et al.
(arXiv:1706.02677), shortened. Every batch is made of micro-batches of 64 images, one a worker, whose statistics the
norms see; from them the noise of the gradient is measured. The rules, from the best rate at 128 images of
large_batch_rates.py:

    none, square_root, linear   the rate is that of 128 images times 1, sqrt(B / 128), B / 128
    warmup                      linear, reached from the rate of 128 images in the first 5 of 90 epochs
    long_warmup                 likewise, in the first 25 of 90 epochs; after 30 it falls
    lars                        LARS, linear, with the warm-up of 5 of 90 epochs
    growth                      as warmup, but where the rate would fall first, the batch becomes eight times as large,
                                8,192 at most, and the rate 8/10 (Smith et al., arXiv:1711.00489)

Cells that coincide run once: of 128 images all but lars and growth, of 8,192 warmup and growth.
"""

import math
from typing import Any

from configs.sweeps import grid, normalization

BATCH_SIZES = (128, 512, 2048, 8192)
MICRO_BATCH_SIZE = 64
NUM_EPOCHS = 10.0
LENGTH = NUM_EPOCHS / 90

# At 128 images: the best of large_batch_rates.py.
BASE_LEARNING_RATES = {"momentum": 0.1, "lars": 8.0}

RULES = ("none", "square_root", "linear", "warmup", "long_warmup", "lars", "growth")
WARMUP_EPOCHS = {"warmup": 5.0, "growth": 5.0, "lars": 5.0, "long_warmup": 25.0}  # of 90


def get_sweep() -> grid.Grid:
    """69 runs: 23 different cells of `BATCH_SIZES` x `RULES`, three seeds."""
    cells = [cell(rule, size) for size in BATCH_SIZES for rule in RULES]
    return grid.product(common(), grid.each("seed", range(3)), grid.chain(*cells))


def common() -> grid.Grid:
    """What all runs share."""
    return grid.point(
        {
            "model.fields.stem": "stride2",
            "model.fields.stage_sizes": normalization.STAGE_SIZES,
            "num_epochs": NUM_EPOCHS,
            "eval_batch_size": 1000,
            "measure_noise": True,
            "progress_every_seconds": 60.0,
            "schedule.name": "step",
            "schedule.step_epochs": tuple(round(epochs * LENGTH, 4) for epochs in (30.0, 60.0, 80.0)),
            "schedule.warmup_learning_rate": -1.0,
        }
    )


def cell(rule: str, global_batch_size: int, base_learning_rate: float | None = None) -> grid.Grid:
    """One point; rates are those of `BASE_LEARNING_RATES`, if none is given."""
    first = BATCH_SIZES[0]
    optimizer = "lars" if rule == "lars" else "momentum"
    base = base_learning_rate or BASE_LEARNING_RATES[optimizer]
    warmup_epochs = WARMUP_EPOCHS.get(rule, 0.0) if global_batch_size > first else 0.0
    overrides: dict[str, Any] = {
        "global_batch_size": global_batch_size,
        "num_micro_batches": global_batch_size // MICRO_BATCH_SIZE,
        "optimizer.name": optimizer,
        "schedule.base_learning_rate": base,
        "schedule.base_batch_size": 0 if rule == "none" or global_batch_size == first else first,
        "schedule.warmup_epochs": round(warmup_epochs * LENGTH, 4),
        "schedule.max_batch_size": min(8 * global_batch_size, BATCH_SIZES[-1]) if rule == "growth" else 0,
        "log_every_steps": max(1, 100 * first // global_batch_size),
    }
    if rule == "square_root" and global_batch_size > first:
        scaled = base * math.sqrt(global_batch_size / first)
        overrides |= {"schedule.base_learning_rate": round(scaled, 6), "schedule.base_batch_size": 0}
    if overrides["schedule.max_batch_size"] == global_batch_size:
        overrides["schedule.max_batch_size"] = 0
    return grid.point(overrides)
