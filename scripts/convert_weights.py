"""Converts the weights of a network: torchvision's or timm's to ours, ours to theirs.

  python scripts/convert_weights.py resnet50-0676ba61.pth resnet50.safetensors --model=resnet50
  python scripts/convert_weights.py model.safetensors se.safetensors --model=se_resnet50 --source=timm/seresnet50
  python scripts/convert_weights.py ours.safetensors theirs.safetensors --model=resnet50 --to=torch
  python scripts/convert_weights.py --list

What is read is a .pth or .safetensors file; a .pth is read without torch, and nothing in it is run. What is written is
.safetensors: ours, whose names are the paths of our variables joined by "/", or with --to=torch that of the library,
for its load_state_dict. A conversion is complete, or refused with the names of what does not fit. The number of classes
is that of the file. `--config.init_from=FILE` of train.py starts from either.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from arch import models
from arch.weights import sources
from arch.weights.convert import HEAD, TENSORS, is_ours, to_ours, to_torch
from arch.weights.files import read, write
from arch.weights.load import place
from scripts import _fields

USAGE_ERROR = 2


class _Parser(argparse.ArgumentParser):
    """A wrong flag is told in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"convert_weights: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: it is written; 2: one line on stderr says why not."""
    args = _parse(argv)
    jax.config.update("jax_platforms", "cpu")
    try:
        if args.list:
            print("\n".join(_listed()))
            return 0
        if not (args.input and args.output and args.model):
            raise ValueError("give a file to read, one to write, and --model=NAME; or --list")
        print(convert(args))
        return 0
    except (ValueError, OSError) as error:
        print(f"convert_weights: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser("convert_weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", help=".pth or .safetensors")
    parser.add_argument("output", nargs="?", help=".safetensors")
    parser.add_argument("--model", help="our name of the network")
    parser.add_argument("--source", default="", help="LIBRARY/NAME, where several networks have our layers")
    parser.add_argument("--to", choices=("arch", "torch"), default="arch", help="whose names and layout are written")
    parser.add_argument("--field", action="append", default=[], metavar="NAME=VALUE", help="a field of the network")
    parser.add_argument("--list", action="store_true", help="the networks that a library shares with us")
    return parser.parse_args(argv)


def _listed() -> list[str]:
    """A line a pair of networks, with what makes ours the same."""
    lines = []
    for name, found in sources.SOURCES.items():
        for source in found:
            fields = {**source.fields, **{f"norm.{key}": value for key, value in source.norm_fields.items()}}
            told = ", ".join(f"{key}={value}" for key, value in fields.items())
            lines.append(f"{name:20} {source.library}/{source.name}" + (f" with {told}" if told else ""))
    return lines


def convert(args: argparse.Namespace) -> str:
    """Reads, converts and writes; what was done, in a line."""
    tensors = read(args.input)
    source = None
    if args.to == "torch" or not is_ours(tensors):
        source = sources.find(args.model, args.source)
    fields = {"num_classes": _num_classes(args, source, tensors), **_fields.parse(args.field)}
    model = source.create(args.model, **fields) if source else models.create(args.model, **fields)
    shapes = _shapes(model, source.image_size if source else 224)
    loaded = place(args.input, tensors, args.model, model, shapes, source=args.source)
    if args.to == "torch":
        written = to_torch(model, loaded.variables, source.names, source.pointwise)
    else:
        written = to_ours(loaded.variables)
    metadata = {"model": args.model, "format": f"{source.library}/{source.name}" if args.to == "torch" else "arch"}
    write(args.output, written, metadata)
    return f"{args.output}: {len(written)} tensors of {args.model}, {fields['num_classes']} classes"


def _num_classes(args: argparse.Namespace, source: sources.Source | None, tensors: dict[str, np.ndarray]) -> int:
    """As many as the classifier of the file has."""
    if is_ours(tensors):
        found = {name: value.shape[-1] for name, value in tensors.items() if name.endswith(f"{HEAD}/kernel")}
        name = min(found, key=len, default=None)  # that of the network, not of an auxiliary head
    else:
        model = source.create(args.model)
        name = f"{source.names(model, [HEAD])}.{TENSORS['params', 'kernel']}"
        found = {name: tensors[name].shape[0]} if name in tensors and tensors[name].ndim else {}
    if name not in found:
        raise ValueError(f"{args.input}: not the weights of {args.model}; there is no classifier {name}")
    return found[name]


def _shapes(model: nn.Module, image_size: int) -> Any:
    x = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init({"params": jax.random.key(0)}, x, train=False), x)


if __name__ == "__main__":
    sys.exit(main())
