"""The base learning rate of each normalization of normalization.py, at 8 x 32 images, by the validation split.

    python scripts/sweep.py --config=configs/shufflenet_v2.py:fashion_mnist \\
        --sweep=configs/sweeps/normalization_rates.py --parallel=2 --results=docs/normalization_rates.jsonl
    python scripts/plot.py docs/normalization_rates.jsonl --x=schedule.base_learning_rate --by=model.norm.name \\
        --metric=val/accuracy

The best of each goes into BASE_LEARNING_RATES there. The test split is not looked at.
"""

from configs.sweeps import grid, normalization

BASE_LEARNING_RATES = (0.05, 0.1, 0.2, 0.4, 0.8)
# The lowest of them was the best of these.
LOWER_RATES = {"batch_renorm": (0.0125, 0.025), "none": (0.0125, 0.025)}


def get_sweep() -> grid.Grid:
    """34 runs: six normalizations x five rates, and lower ones; a seed that the study does not use."""
    size = normalization.BASE_BATCH_SIZE // normalization.NUM_DEVICES
    cells = [
        normalization.cell(name, size, rate)
        for rate in BASE_LEARNING_RATES
        for name in normalization.BASE_LEARNING_RATES
    ]
    cells += [normalization.cell(name, size, rate) for name, rates in LOWER_RATES.items() for rate in rates]
    return grid.product(grid.point({"seed": 100, "data.test_split": ""}), grid.chain(*cells))
