"""The latency of networks of a search space, predicted from a table of its operators, beside what is measured."""

import functools
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from arch.efficiency.latency import Timing, measure
from arch.efficiency.lookup import measure_operators
from arch.efficiency.operators import operators
from arch.models import create
from scripts.efficiency_studies.study import Network, Settings, Work, network, record

NUM_NETWORKS = {False: 8, True: 24}  # that are predicted, in the full run more


def mobilenets() -> tuple[list[nn.Module], Iterator[nn.Module]]:
    """MobileNet v2 with 1 to 4 units and an expansion of 3 or 6 a stage: some with all operators, and any of it."""
    stages = 6

    def net(sizes: Sequence[int], ratios: Sequence[int]) -> nn.Module:
        return create("mobilenet_v2", stage_sizes=(1, *sizes), expand_ratios=(1, *ratios))

    def drawn() -> Iterator[nn.Module]:
        rng = random.Random(0)
        while True:
            sizes = [rng.randint(1, 4) for _ in range(stages)]
            yield net(sizes, [rng.choice((3, 6)) for _ in range(stages)])

    return [net((size,) * stages, (ratio,) * stages) for size, ratio in ((2, 3), (2, 6), (4, 6))], drawn()


def shufflenets() -> tuple[list[nn.Module], Iterator[nn.Module]]:
    """ShuffleNet v2 1x with 2 to 10 units a stage: a short one has all operators, and any of it."""

    def drawn() -> Iterator[nn.Module]:
        rng = random.Random(0)
        while True:
            yield create("shufflenet_v2_x1_0", stage_sizes=[rng.randint(2, 10) for _ in range(3)])

    return [create("shufflenet_v2_x1_0", stage_sizes=(size,) * 3) for size in (3, 9)], drawn()


SPACES = {"MobileNet v2": mobilenets, "ShuffleNet v2": shufflenets}


def works(settings: Settings) -> list[Work]:
    """A table for each space, and predictions from it."""
    count = NUM_NETWORKS[settings.is_full]
    return [
        Work("predict", f"{name} batch 1 folded, {count} networks", functools.partial(_predict, name, settings))
        for name in SPACES
    ]


def _predict(space: str, settings: Settings) -> dict[str, Any]:
    covering, drawn = SPACES[space]()
    nets = [_network(model) for model in covering]
    found = [operator for net in nets for operator in operators(net.fn, net.variables, net.images)]
    table = measure_operators(found, rounds=settings.rounds)
    # The networks that the operators are from say what sums leave out or count twice; the others were never seen.
    predicted = [table.predict(net.fn, net.variables, net.images) for net in nets]
    scaled = table.calibrate(_pairs(predicted, _measure(nets, settings)))
    tried = [_network(model) for model, _ in zip(drawn, range(NUM_NETWORKS[settings.is_full]), strict=False)]
    timings = _measure(tried, settings)
    pairs = _pairs([scaled.predict(net.fn, net.variables, net.images) for net in tried], timings)
    sums = _pairs([table.predict(net.fn, net.variables, net.images) for net in tried], timings)
    jax.clear_caches()
    return {
        "space": space,
        "operators": len(table.seconds),
        "scale": scaled.scale,
        "error": scaled.with_error(pairs).error,
        "unscaled_error": table.with_error(sums).error,
        "pairs_ms": [[1e3 * predicted, 1e3 * measured] for predicted, measured in pairs],
        "seconds": dict(scaled.seconds),
        "call_s": scaled.call_s,
        "rows": {str(number): record(timing) for number, timing in enumerate(timings)},
    }


def _network(model: nn.Module) -> Network:
    return network(model, batch=1, image_size=224, folded=True)


def _measure(nets: Sequence[Network], settings: Settings) -> list[Timing]:
    """Of all networks, in turn, each call waited for as those of the operators are."""
    calls = {str(number): net.build().waiting_call for number, net in enumerate(nets)}
    timings = measure(calls, rounds=settings.rounds, once_s=settings.once_s, reference=settings.reference)
    return list(timings.values())


def _pairs(predicted: Sequence[float], timings: Sequence[Timing]) -> list[tuple[float, float]]:
    """Predicted and measured seconds."""
    return [(seconds, timing.median_s) for seconds, timing in zip(predicted, timings, strict=True)]


def lines(part: Mapping[str, Any]) -> list[str]:
    """A space, for the terminal."""
    ratios = [predicted / measured for predicted, measured in part["pairs_ms"]]
    return [
        f"  {part['operators']} operators; {len(ratios)} networks that it was not built from: median error "
        f"{part['error']:.1%} (without the scale of {part['scale']:.2f}: {part['unscaled_error']:.1%}), predicted over "
        f"measured {min(ratios):.2f} to {max(ratios):.2f}, median {statistics.median(ratios):.2f}"
    ]
