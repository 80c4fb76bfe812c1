"""Where the time of a network goes: by kind of operator, and layer by layer beside the limits of the device."""

import functools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from arch.efficiency.breakdown import breakdown
from arch.efficiency.latency import measure
from arch.efficiency.layers import layers
from arch.efficiency.roofline import Peaks, measure_peaks, roofs
from scripts.efficiency_studies.study import Settings, Work, network, record

# The networks of figure 2 of ShuffleNet v2, whose shares are drawn there, not told.
BREAKDOWN = {"ShuffleNet v1 1x (g=3)": "shufflenet_v1_g3", "MobileNet v2 1x": "mobilenet_v2"}
ROOFLINE = ("shufflenet_v2_x1_0", "mobilenet_v2", "resnet50")


def breakdown_works(settings: Settings) -> list[Work]:
    """Both networks at batch 1 and 8, folded, and as they are trained."""
    return [
        Work("breakdown", f"{title} batch {batch}{' folded' * folded}",
             functools.partial(_break_down, name, batch, folded, settings))
        for title, name in BREAKDOWN.items()
        for batch in (1, 8)
        for folded in (True, False)
    ]  # fmt: skip


def _break_down(name: str, batch: int, folded: bool, settings: Settings) -> dict[str, Any]:
    net = network(name, batch=batch, image_size=224, folded=folded)
    program = net.build()
    found = breakdown(program, layers(net.trace()), num_calls=max(3, settings.rounds))
    timing = measure({name: program.call}, rounds=settings.rounds, reference=settings.reference)[name]
    jax.clear_caches()
    fields = {"model": name, "batch": batch, "folded": folded, "total_ms": 1e3 * found.total_s, "shares": found.shares}
    return fields | {"rows": {"whole": record(timing, program)}}


def breakdown_lines(part: Mapping[str, Any]) -> list[str]:
    """A network, for the terminal."""
    whole = part["rows"]["whole"]["ms"]
    return [
        f"  {whole:.4g} ms, {part['total_ms']:.4g} while profiled: "
        + ", ".join(f"{kind} {share:.1%}" for kind, share in part["shares"].items())
    ]


def roofline_works(settings: Settings) -> list[Work]:
    """The rates of the device, with the layers of each network, so that both are of the same minutes."""
    return [Work("roofline", f"{name} batch 1 folded", functools.partial(_roof, name, settings)) for name in ROOFLINE]


def _roof(name: str, settings: Settings) -> dict[str, Any]:
    peaks = measure_peaks(rounds=settings.rounds)
    net = network(name, batch=1, image_size=224, folded=True)
    found = layers(net.trace())
    program = net.build()
    seconds = breakdown(program, found, num_calls=max(3, settings.rounds)).layers
    timing = measure({name: program.call}, rounds=settings.rounds, reference=settings.reference)[name]
    jax.clear_caches()
    rows = [
        {
            "layer": roof.layer.path,
            "kind": roof.layer.kind,
            "macs": roof.layer.macs.total,
            "bytes": roof.layer.bytes_moved,
            "ms": 1e3 * roof.seconds,
            "limit_ms": 1e3 * roof.limit_s,
            "bound": roof.bound,
            "reached": roof.reached,
        }
        for roof in roofs(found, seconds, peaks)
    ]
    untimed = sum(bool(layer.macs.total) for layer in found) - len(rows)
    fields = {"model": name, "macs_per_s": peaks.macs_per_s, "bytes_per_s": peaks.bytes_per_s, "layers": rows}
    return fields | {"untimed": untimed, "rows": {"whole": record(timing, program)}}


def roofline_lines(part: Mapping[str, Any]) -> list[str]:
    """The rates and every layer, for the terminal."""
    peaks = Peaks(part["macs_per_s"], part["bytes_per_s"])
    found = [f"  {peaks.macs_per_s / 1e9:.4g} GMACs/s, {peaks.bytes_per_s / 1e9:.4g} GB/s"]
    found += [
        f"  {row['layer']:32s} {row['kind']:24s} {row['ms']:8.4f} ms, limit {row['limit_ms']:.4f} ms "
        f"by {row['bound']}: {row['reached']:.0%}"
        for row in part["layers"]
    ]
    return found


def by_kind(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Layers of one kind together: number, time, limit, what bounds most of them, the median of what is reached."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row)
    return [
        {
            "kind": kind,
            "layers": len(members),
            "ms": sum(row["ms"] for row in members),
            "limit_ms": sum(row["limit_ms"] for row in members),
            "bound": statistics.mode(row["bound"] for row in members),
            "reached": statistics.median(row["reached"] for row in members),
        }
        for kind, members in kinds.items()
    ]
