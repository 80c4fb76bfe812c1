"""Says what networks cost: parameters, multiply-adds, activations, bytes; nothing is compiled, nothing runs.

  python scripts/summarize.py resnet50 mobilenet_v2 shufflenet_v2_x1_0
  python scripts/summarize.py inception_v3 --size=299 --layers
  python scripts/summarize.py shufflenet_v2_x1_0 --size=28 --classes=10 --field=width_multiplier=0.25 --field=stem=small
  python scripts/summarize.py resnet50 --json

For one image, in evaluation. MACs are multiply-adds of convolutions and linear layers, biases, norms and activations
apart; "other MACs" those of attention, second-order pooling and reading between pixels; "activations" are what
convolutions and matrix products write; "bytes" is the traffic with memory, as arch.efficiency.complexity.Complexity
estimates it. --json prints an object a network, a line each.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout

import jax

from arch import models
from arch.efficiency.complexity import Complexity, Traced, total, trace
from arch.efficiency.layers import Layer, layers
from scripts import _fields

USAGE_ERROR = 2

# Title -> field of Complexity.
COLUMNS = {
    "params": "params",
    "statistics": "batch_stats",
    "MACs": "macs",
    "conv MACs": "conv_macs",
    "linear MACs": "linear_macs",
    "other MACs": "other_macs",
    "elementwise": "elementwise",
    "activations": "activations",
    "bytes": "bytes_moved",
}


class _Parser(argparse.ArgumentParser):
    """A wrong flag is told in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"summarize: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all is told; 2: one line on stderr says why not."""
    args = _parse(argv)
    jax.config.update("jax_platforms", "cpu")  # nothing here computes, and a TPU admits one process
    try:
        fields = _fields.parse(args.field)
        traced = {name: _trace(name, args.size, {"num_classes": args.classes, **fields}) for name in args.names}
    except ValueError as error:
        print(f"summarize: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    if args.json:
        for name, network in traced.items():
            print(json.dumps(_record(name, network, args)))
        return 0
    print(f"{args.size} x {args.size} pixels, {args.classes} classes\n")
    print(_network_table({name: total(network) for name, network in traced.items()}))
    for name, network in traced.items() if args.layers else ():
        print(f"\n{name}\n\n{_layer_table(network)}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser("summarize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="of arch.models.MODELS")
    parser.add_argument("--size", type=_positive, default=224, help="height and width of the image, in pixels")
    parser.add_argument("--classes", type=_positive, default=1000)
    parser.add_argument("--field", action="append", default=[], metavar="NAME=VALUE", help="a field of the networks")
    parser.add_argument("--layers", action="store_true", help="a table of its layers for each network")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each network")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 1 on")
    return int(text)


def _trace(name: str, size: int, fields: dict[str, Any]) -> Traced:
    model = models.create(name, **fields)
    try:
        return trace(model, (1, size, size, 3), train=False)
    except (TypeError, ZeroDivisionError) as error:  # a value that fits no rule of the network's own
        raise ValueError(f"{name}: {str(error) or type(error).__name__}") from error


def _record(name: str, network: Traced, args: argparse.Namespace) -> dict[str, Any]:
    cost = total(network)
    sizes = {field: getattr(cost, field) for field in COLUMNS.values()}
    record = {"name": name, "image_size": args.size, "num_classes": args.classes, "fields": args.field, **sizes}
    if args.layers:
        record["layers"] = [dataclasses.asdict(layer) for layer in layers(network)]
    return record


def _network_table(costs: dict[str, Complexity]) -> str:
    rows = [[name, *(_readable(getattr(cost, field)) for field in COLUMNS.values())] for name, cost in costs.items()]
    return table(["network", *COLUMNS], rows)


def _layer_table(network: Traced) -> str:
    found = layers(network)
    rows = [
        [layer.path or "(itself)", layer.kind, _shape(layer), f"{layer.params:,}", f"{layer.macs.total:,}"]
        for layer in found
    ]
    params, macs = sum(layer.params for layer in found), sum(layer.macs.total for layer in found)
    rows.append(["total", "", "", f"{params:,}", f"{macs:,}"])
    return table(["layer", "kind", "output", "params", "MACs"], rows, num_texts=3)


def _shape(layer: Layer) -> str:
    """Of the output for one image, height x width x channels."""
    return " x ".join(map(str, layer.shape[1:])) if layer.shape else "not run"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], num_texts: int = 1) -> str:
    """Columns of equal width: the first ones are texts, to the left; the others numbers, to the right."""
    lines = [titles, ["-" * len(title) for title in titles], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    lines[1] = ["-" * width for width in widths]

    def pad(column: int, text: str) -> str:
        return text.ljust(widths[column]) if column < num_texts else text.rjust(widths[column])

    return "\n".join("  ".join(pad(*cell) for cell in enumerate(line)).rstrip() for line in lines)


def _readable(number: int) -> str:
    """Four digits and a unit: 25.56M."""
    for factor, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= factor:
            return f"{number / factor:.4g}{unit}" if number < 1000 * factor else f"{number / factor:,.0f}{unit}"
    return str(number)


if __name__ == "__main__":
    sys.exit(main())
