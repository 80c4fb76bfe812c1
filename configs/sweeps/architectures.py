"""Small networks of eighteen families on Fashion-MNIST, 5 epochs each, the best three with three seeds.

    python scripts/sweep.py --config=configs/shufflenet_v2.py:fashion_mnist --sweep=configs/sweeps/architectures.py \\
        --parallel=2 --results=docs/architectures.jsonl
    python scripts/bench_sweep.py docs/architectures.jsonl --json=docs/architectures_speed.jsonl

Each is the small variant of its recipe, of 0.2 to 0.4 million parameters, with a stem of stride 2, trained with the
same rate, decay and augmentation (`set_fashion_mnist` in configs/common.py), so that no family was tuned. Results:
docs/architectures.md.
"""

from configs.sweeps import grid

RECIPES = (
    "shufflenet_v2",
    "shufflenet_v1",
    "mobilenet_v1",
    "mobilenet_v2",
    "xception",
    "resnet",
    "senet",
    "igcv3",
    "clcnet",
    "condensenet",
    "shiftnet",
    "densenet",
)
# Of 12 to 17 million multiply-adds; they come last.
HEAVY = (
    "fractalnet",
    "bilinear",
    "residual_attention",
    "drn",
    "inception",
    "gunn",
)
# The three of RECIPES with the highest accuracy on the validation split, which are run with two seeds more.
BEST = ("densenet", "xception", "clcnet")

# What lies between depthwise and pointwise convolutions of MobileNet v1, beside both: the other cases of the lecture.
BETWEEN = ((True, False), (False, True), (False, False))


def get_sweep() -> grid.Grid:
    """A run a family, two more of each of the best, and the cases of what lies between the convolutions."""
    families, heavy = (grid.each("config", [recipe(name) for name in names]) for names in (RECIPES, HEAVY))
    again = grid.product(
        grid.each("config", [recipe(name) for name in dict.fromkeys((*BEST, "mobilenet_v1"))]),
        grid.each("seed", (1, 2)),
    )
    cases = [grid.point({"model.fields.norm_between": norm, "model.fields.act_between": act}) for norm, act in BETWEEN]
    between = grid.product(
        grid.point({"config": recipe("mobilenet_v1")}), grid.chain(*cases), grid.each("seed", (0, 1, 2))
    )
    common = {
        "model.fields.stem": "stride2",
        "num_epochs": 5.0,
        "eval_batch_size": 1000,
        "progress_every_seconds": 60.0,
    }
    return grid.product(grid.chain(families, again, between, heavy), grid.point(common))


def recipe(name: str) -> str:
    """The small variant that a recipe has for Fashion-MNIST."""
    return f"configs/{name}.py:fashion_mnist"
