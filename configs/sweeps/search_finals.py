"""What searches have found, trained anew on Fashion-MNIST at 28 pixels, three seeds each, beside ShuffleNet v2 0.5x.

    python scripts/sweep.py --config=configs/shufflenet_v2.py:fashion_mnist --sweep=configs/sweeps/search_finals.py \\
        --parallel=2 --results=docs/search_finals.jsonl
    python scripts/document_search.py

The recipes of configs/found are the `best.py` of the searches in docs/search. They are made as wide as it takes to have
as many parameters as ShuffleNet v2 0.5x has here, 351,610. Everything else is the same for all: rate, decay,
augmentation and epochs. Results: docs/search.md.
"""

import json

from configs import cli
from configs.sweeps import grid

BASELINE = "shufflenet_v2"


def recipe(name: str) -> str:
    """What the config of a point is."""
    return f"configs/{name}.py:fashion_mnist" if name == BASELINE else f"configs/found/{name}.py"


def wider(name: str, factor: float) -> str:
    """The graph that was found, with so many times the channels."""
    graph = json.loads(cli.load_recipe(recipe(name)).model.fields.graph)
    for node in graph["nodes"]:
        if "features" in node:
            node["features"] = round(factor * node["features"])
    return json.dumps(graph)


# Name of a search that found cells -> the features of its network.
FEATURES = {"random": 18, "evolution": 18, "controller": 17, "darts": 30, "darts_random": 37}
# Name of a search that found graphs -> how many times as many channels the network has.
FACTORS = {"morphisms": 1.55, "morphisms_random": 1.02}
FOUND = (*FEATURES, *FACTORS)


def get_sweep() -> grid.Grid:
    """Three seeds of each."""
    found = [grid.point({"config": recipe(name), "model.fields.features": count}) for name, count in FEATURES.items()]
    found += [
        grid.point({"config": recipe(name), "model.fields.graph": wider(name, factor)})
        for name, factor in FACTORS.items()
    ]
    baseline = grid.point({"config": recipe(BASELINE), "model.fields.stem": "stride2"})
    common = {
        "num_steps": 0,
        "num_epochs": 4.0,
        "data.image_size": 28,
        "data.test_split": "test",
        "schedule.base_learning_rate": 0.1,
        "schedule.warmup_epochs": 0.5,
        "eval_batch_size": 1000,
        "eval_every_epochs": 1.0,
        "progress_every_seconds": 60.0,
    }
    return grid.product(grid.each("seed", (0, 1, 2)), grid.chain(baseline, *found), grid.point(common))
