"""The base learning rates of large_batch.py, at 128 images, by the validation split.

    python scripts/sweep.py --config=configs/shufflenet_v2.py:fashion_mnist \\
        --sweep=configs/sweeps/large_batch_rates.py --parallel=2 --results=docs/large_batch_rates.jsonl
    python scripts/plot.py docs/large_batch_rates.jsonl --x=schedule.base_learning_rate --by=optimizer.name \\
        --metric=val/accuracy

The best of each goes into BASE_LEARNING_RATES there. The test split is not looked at.
"""

from configs.sweeps import grid, large_batch

RATES = {"none": (0.0125, 0.025, 0.05, 0.1, 0.2), "lars": (1.0, 2.0, 4.0, 8.0, 16.0)}


def get_sweep() -> grid.Grid:
    """10 runs: momentum and LARS x five rates; a seed that the study does not use."""
    cells = [
        large_batch.cell(rule, large_batch.BATCH_SIZES[0], rate) for rule, rates in RATES.items() for rate in rates
    ]
    settings = grid.point({"seed": 100, "data.test_split": ""})
    return grid.product(large_batch.common(), settings, grid.chain(*cells))
