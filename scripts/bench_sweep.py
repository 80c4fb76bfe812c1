"""What the networks of a sweep cost, beside the accuracy they came to: parameters, MACs, images/s in both directions.

    python scripts/bench_sweep.py docs/architectures.jsonl --json=docs/architectures_speed.jsonl

The sweep is the file of --results of scripts/sweep.py; of runs that differ in their seed one is measured. Training is
train.py's step on all devices here, at the recipe's batch, without augmentation; inference is the network alone on the
first device, on as many images, norms not folded. The two take turns; compilation is timed apart. --json keeps what is
measured, and the same command goes on from it. Written: OUT.md, a row a network, and OUT.png, accuracy against MACs and
against time.
"""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout

from arch.training.host import prepare_host

if __name__ == "__main__":
    prepare_host()  # now, before JAX has threads

import jax
import jax.numpy as jnp
import numpy as np
import optax

from arch import optim
from arch.efficiency import complexity, latency
from arch.training.checkpoint import to_devices
from arch.training.step import pmap_train_step
from configs import default
from input_pipeline.sources import open_source
from scripts import _results, _timing, plot
from scripts._sweep_points import RECIPE, Point, batch_shapes, expand, image_shape, program
from scripts._sweep_results import read, telling_fields

METRIC = "test/accuracy"
HEAD = ("network", f"{METRIC}, %", "runs", "params", "MACs", "training, images/s", "inference, images/s")


class Network(NamedTuple):
    """What runs trained that differ in their seed alone: the first of them, and the final accuracies of all, in %."""

    point: Point
    accuracies: list[float]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all is timed; 1: one line on stderr says why not; 130: interrupted, what is done is written."""
    parser = _results.LineParser("bench_sweep", __doc__)
    parser.add_argument("results", type=Path, help="what scripts/sweep.py wrote to --results")
    parser.add_argument("--json", help="file that keeps what is measured")
    parser.add_argument("--rounds", type=_results.positive, default=20, help="samples of each time")
    parser.add_argument("--out", help="the beginning of the names of the files; default: that of RESULTS, and _costs")
    args = parser.parse_args(argv)
    try:
        networks = networks_of(args.results)
        header = {"record": "sweep_run", **_timing.environment(), "rounds": args.rounds}
        header |= {"devices": devices} if (devices := jax.local_device_count()) > 1 else {}  # that share a step
        log = _results.Log(args.json, header, key=("network",))
        rows = measure_all(networks, log, args.rounds)
        for path in write(networks, rows, args.out or f"{args.results.with_suffix('')}_costs"):
            print(path)
    except (ValueError, OSError) as error:
        return _results.complain("bench_sweep", error)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    return 0


def networks_of(path: Path) -> dict[str, Network]:
    """{label: network} of the results of a sweep; those that differ in their seed alone are one.

    Raises:
      ValueError: there are no results, or some without a recipe of their own or without METRIC.
    """
    results = read(path)
    if not results:
        raise ValueError(f"{path} has no results; write it with scripts/sweep.py --results={path}")
    if any(RECIPE not in result.overrides for result in results):
        raise ValueError(f"{path}: its points do not name their recipe, as those of configs/sweeps/architectures.py do")
    if any(METRIC not in result.rows[-1] for result in results):
        raise ValueError(f"{path}: its runs have no {METRIC}; set config.data.test_split")
    fields = telling_fields([result.overrides for result in results])
    points = expand(default.get_config(), [result.overrides for result in results])
    found: dict[str, Network] = {}
    for result, point in zip(results, points, strict=True):
        network = found.setdefault(label(result.overrides, fields), Network(point, []))
        network.accuracies.append(100 * result.rows[-1][METRIC])
    return found


def label(overrides: Mapping[str, Any], fields: Sequence[str]) -> str:
    """`mobilenet_v1, norm_between=False`: the recipe, and what tells the point from others of that recipe."""
    names = [field for field in fields if field not in (RECIPE, plot.SEED) and field in overrides]
    recipe = Path(overrides[RECIPE].partition(":")[0]).stem
    return ", ".join([recipe, *(f"{name.rpartition('.')[2]}={overrides[name]}" for name in names)])


def measure_all(networks: Mapping[str, Network], log: _results.Log, rounds: int) -> list[dict[str, Any]]:
    """The records of all networks, those of the log as they are."""
    rows = []
    if any((name,) not in log.done for name in networks) and (warning := _timing.warning()):
        print(warning, flush=True)
    for number, (name, network) in enumerate(networks.items(), start=1):
        start, row = time.perf_counter(), log.done.get((name,))
        if row is None:
            row = {"record": "network", "network": name, **measure(network.point, rounds)}
            log.append(row)
        spent = _results.clock(time.perf_counter() - start)
        print(f"[{number}/{len(networks)}] {line(row)}, in {spent}", flush=True)
        rows.append(row)
    return rows


def measure(point: Point, rounds: int) -> dict[str, Any]:
    """Parameters and MACs of a network, and milliseconds of its training step and of its inference."""
    config, devices = point.config, jax.local_device_count()
    if config.global_batch_size % devices:
        raise ValueError(
            f"{point.name}: global_batch_size={config.global_batch_size} must be a multiple of the {devices}"
            " devices here; show JAX fewer"
        )
    with jax.enable_x64(config.model.dtype == "float64"):
        return _measure(config, rounds)


def _measure(config: Any, rounds: int) -> dict[str, Any]:
    data = config.data
    num_classes = open_source(data.name, data.dir, data.train_split).num_classes
    model, make_state, step = program(config, optimizer(config), num_classes)
    cost = complexity.count(model, input_shape=(1, *image_shape(config)), train=False)
    jax.clear_caches()
    state = jax.jit(make_state)()
    variables = {"params": state.params, "batch_stats": state.batch_stats, **state.other}
    images = jnp.zeros((config.global_batch_size, *image_shape(config)), jnp.dtype(config.model.dtype))
    inference = latency.build(lambda v, x: model.apply(v, x, train=False), variables, images)
    start = time.perf_counter()
    training = training_call(config, state, step, num_classes)
    compile_s = time.perf_counter() - start
    timings = latency.measure({"training": training, "inference": inference.call}, rounds=rounds)
    return {
        "params": cost.params,
        "macs": cost.macs,
        "batch": config.global_batch_size,
        "compile_s": {"training": compile_s, "inference": inference.compile_s},
        "ms": {name: 1e3 * timing.median_s for name, timing in timings.items()},
        "spread": {name: timing.spread for name, timing in timings.items()},
    }


def optimizer(config: Any) -> optax.GradientTransformation:
    """Of a recipe, in a run so long that it does not end while it is timed."""
    size = config.global_batch_size
    plan = optim.plan_batches(
        config.schedule, num_examples=size, global_batch_size=size, num_epochs=None, num_steps=10**6
    )
    return optim.create(config.optimizer, config.schedule, plan)[0]


def training_call(config: Any, state: Any, step: Any, num_classes: int) -> latency.Call:
    """train.py's step on all devices here, compiled; each call goes on from the last."""
    rng = np.random.default_rng(0)
    shapes = batch_shapes(config, jax.local_device_count())
    batch = {
        "image": rng.integers(0, 256, shapes["image"].shape, np.uint8),
        "label": rng.integers(0, num_classes, shapes["label"].shape, np.int32),
        "weight": np.ones(shapes["weight"].shape, np.float32),
    }
    batch, state = jax.pmap(lambda x: x)(batch), to_devices(state)
    compiled = pmap_train_step(step).lower(state, batch).compile()

    def call() -> Any:
        nonlocal state
        state = compiled(state, batch)
        return state

    return latency.jax_call(call)


def line(row: Mapping[str, Any]) -> str:
    """Of a network, for the terminal."""
    times = ", ".join(f"{name} {1e3 * row['batch'] / ms:,.0f} images/s" for name, ms in row["ms"].items())
    return f"{row['network']}: {row['params']:,} parameters, {row['macs']:,} MACs, {times}"


def write(networks: Mapping[str, Network], rows: Sequence[Mapping[str, Any]], out: str) -> list[Path]:
    """Makes the table and the figure, best accuracy first; returns their paths."""
    accuracies = {name: network.accuracies for name, network in networks.items()}
    rows = sorted(rows, key=lambda row: -statistics.fmean(accuracies[row["network"]]))
    table, figure = Path(f"{out}.md"), Path(f"{out}.png")
    cells = [HEAD, ["---"] * len(HEAD), *(cells_of(row, accuracies[row["network"]]) for row in rows)]
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("".join(f"| {' | '.join(row)} |\n" for row in cells))
    draw(rows, accuracies, figure)
    return [table, figure]


def cells_of(row: Mapping[str, Any], accuracies: Sequence[float]) -> list[str]:
    """A line of the table; ~ before a rate whose samples spread too far to be quoted."""
    mean = f"{statistics.fmean(accuracies):.2f}"
    deviation = f" ± {statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    rates = [
        f"{'~' if row['spread'][name] > latency.NOISY else ''}{1e3 * row['batch'] / row['ms'][name]:,.0f}"
        for name in ("training", "inference")
    ]
    return [row["network"], mean + deviation, str(len(accuracies)), f"{row['params']:,}", f"{row['macs']:,}", *rates]


def draw(rows: Sequence[Mapping[str, Any]], accuracies: Mapping[str, Sequence[float]], path: Path) -> None:
    """Accuracy against MACs, and against the time of an image in inference and in training."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    figure = Figure(figsize=(12.5, 4.8), layout="constrained")
    panels = {
        "million MACs of an image": lambda row: row["macs"] / 1e6,
        "microseconds of an image, inference": lambda row: 1e3 * row["ms"]["inference"] / row["batch"],
        "microseconds of an image, training": lambda row: 1e3 * row["ms"]["training"] / row["batch"],
    }
    for axes, (title, x) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        for number, row in enumerate(rows, start=1):
            mean = statistics.fmean(accuracies[row["network"]])
            axes.plot(x(row), mean, "o", markersize=4, color=f"C{number % 10}", label=f"{number}  {row['network']}")
            axes.annotate(str(number), (x(row), mean), (4, 3), textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set_xlabel(title)
        axes.margins(x=0.1)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test: top-1 accuracy, %")
    figure.axes[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1)
    figure.savefig(path, dpi=120, format="png")


if __name__ == "__main__":
    sys.exit(main())
