"""What a search leaves at its end: the best as a recipe, a picture of its cells, and the curves of the searches."""

import itertools
import json
import math
import operator
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from arch.models import genotypes
from arch.search import trials
from arch.search.trials import Trial
from arch.training import workdir
from scripts import _cell_picture
from scripts._search_morphing import write_start
from scripts._search_training import fields_of

RECIPE = '''"""{found}

Written by scripts/search.py.
"""

from configs import cli

OVERRIDES = {{
{overrides}
}}


def get_config():
    return cli.override(cli.load_recipe("{recipe}"), OVERRIDES, "best.py")
'''


def read_others(folders: Sequence[str], own: str) -> dict[str, Mapping[int, Trial]]:
    """The trials of other searches, by the name of the folder, or by its path where a name is there twice.

    Args:
      folders: of --compare.
      own: name that is taken, of the search itself.

    Raises:
      ValueError: a folder without trials.
    """
    searches: dict[str, Mapping[int, Trial]] = {}
    for folder in folders:
        path = pathlib.Path(folder)
        found = trials.read(path / "trials.jsonl")
        if not found:
            raise ValueError(f"--compare={folder} has no trials in a trials.jsonl; name the folder of a search")
        searches[folder if path.name in (own, *searches) else path.name] = found
    return searches


def write_best(config: ml_collections.ConfigDict, folder: pathlib.Path, best: Trial, count: int) -> pathlib.Path:
    """`best.py`, a recipe of train.py, of cells `best_cell.png`, of graphs their weights; returns the recipe's path.

    Args:
      config: of the search.
      folder: of the search.
      best: the trial.
      count: of how many.
    """
    fields: dict[str, Any] = {**config.overrides.to_dict(), **fields_of(config.space.name, best.architecture)}
    if config.space.name == "graphs":  # whose weights were made with it
        fields["init_from"] = str(folder / "best.safetensors")
        write_start(folder / "trials" / f"{best.id:04d}", [], pathlib.Path(fields["init_from"]))
    told = f"Trial {best.id} of a search: reward {best.reward:.4f}, the highest of {count}."
    path = write_recipe(folder, told, config.recipe, fields)
    title = f"{folder.name}: trial {best.id}, {label(config)} {best.reward:.4f}"
    if config.space.name in ("cells", "darts"):
        _cell_picture.draw(genotypes.from_json(best.architecture), folder / "best_cell.png", title)
    elif config.space.name == "nas_bench_201":
        _cell_picture.draw_nas_bench_201(best.architecture, folder / "best_cell.png", title)
    return path


def write_recipe(folder: pathlib.Path, found: str, recipe: str, overrides: Mapping[str, Any]) -> pathlib.Path:
    """`best.py`, a recipe of train.py; returns its path.

    Args:
      folder: of the search.
      found: a sentence on it.
      recipe: FILE.py[:ARGS], on which it is based.
      overrides: fields of that.
    """
    lines = "\n".join(f"    {_literal(name)}: {_literal(value)}," for name, value in overrides.items())
    text = RECIPE.format(found=found, recipe=recipe, overrides=lines)
    workdir.write_atomically(folder / "best.py", text)
    return folder / "best.py"


def _literal(value: Any) -> str:
    """In Python, a text in the quotes that formatters leave alone."""
    return json.dumps(value) if isinstance(value, str) and not set(value) & {'"', "\\"} else repr(value)


def label(config: ml_collections.ConfigDict) -> str:
    """What a reward is."""
    if not config.reward.cost:
        return config.metric
    relation = "at most" if config.reward.kind == "hard" else "around"
    return f"{config.metric}, {config.reward.cost} {relation} {config.reward.limit:g}"


def unit(config: ml_collections.ConfigDict) -> str:
    """What a cost is."""
    return ("seconds of training" if config.evaluator == "table" else "training examples") + ", of all trials"


def shown(rewards: Sequence[float]) -> tuple[float, float]:
    """The limits between which rewards are drawn: all but those further below the median than twice the best is above.

    A cell that does not reach its output is at chance; where it is drawn, the others are all the same. Where there are
    more than a fifth of such, they are what the figure is about, as the first steps of a climb, and are drawn.
    """
    if not rewards:
        return 0.0, 1.0
    middle, high = statistics.median(rewards), max(rewards)
    above = high - middle
    near = [reward for reward in rewards if reward >= middle - (2 * above or math.inf)]
    low = min(near if 5 * len(near) >= 4 * len(rewards) else rewards)
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin


def plot(
    searches: Mapping[str, Mapping[int, Trial]], path: pathlib.Path, name: str, unit: str, *, is_timed: bool = True
) -> None:
    """The best so far of each search against what its trials took, added up in the order of proposals: cost and time.

    The few trials that lie far below the others are not shown, and counted.

    Args:
      searches: trials by id, by the name of the search.
      path: of the figure.
      name: of the reward.
      unit: of the cost.
      is_timed: whether the seconds of trials mean something, and are drawn; those of a table are of looking them up.
    """
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    panels = {unit: operator.attrgetter("cost")}
    if is_timed:
        panels["seconds of this machine, of all trials"] = operator.attrgetter("seconds")
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    (row,) = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    for search, found in searches.items():
        told = [trial for _, trial in sorted(found.items())]
        rewards = [trial.reward for trial in told]
        bests = list(itertools.accumulate(rewards, max))
        for axes, spent_by in zip(row, panels.values(), strict=True):
            spent = list(itertools.accumulate(map(spent_by, told)))
            (line,) = axes.step(spent, bests, where="post", label=search)
            axes.plot(spent, rewards, ".", color=line.get_color(), alpha=0.4)
    row[0].set_ylabel(f"{name}, best so far")
    row[0].legend(loc="lower right")
    rewards = [trial.reward for found in searches.values() for trial in found.values() if trial.succeeded]
    low, high = shown(rewards)
    row[0].set_ylim(low, high)
    if hidden := sum(reward < low for reward in rewards):
        row[0].text(0.02, 0.02, f"{hidden} of {len(rewards)} trials are below", transform=row[0].transAxes)
    for axes, label in zip(row, panels, strict=True):
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, format="png")
