"""Draws a searched cell: `python scripts/draw_cell.py darts_v2 [--output=cell.png]`.

The genotype is given by name (nasnet_a, amoebanet_a, pnasnet_5, darts_v1, darts_v2), as the JSON of
`arch.models.genotypes.Genotype.to_json`, as a cell of NAS-Bench-201, '|none~0|+|none~0|none~1|+|none~0|none~1|none~2|',
or as a file that holds one of the latter two.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout

from arch.models.genotypes import resolve
from scripts import _cell_picture
from scripts._results import LineParser, complain


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1: one line on stderr says why not; 2: wrong flags."""
    parser = LineParser("draw_cell", __doc__)
    parser.add_argument("genotype", help="a name, JSON, a cell of NAS-Bench-201, or a file")
    parser.add_argument("--output", type=Path, default=Path("cell.png"), help="the picture, a png; cell.png")
    args = parser.parse_args(argv)
    try:
        path = Path(args.genotype) if len(args.genotype) < 256 else None  # a longer one is no name of a file
        is_file = path is not None and path.is_file()
        text = path.read_text().strip() if is_file else args.genotype.strip()
        title = "" if args.genotype.lstrip().startswith(("{", "|")) else path.stem
        if text.startswith("|"):
            _cell_picture.draw_nas_bench_201(text, args.output, title)
        else:
            _cell_picture.draw(resolve(text), args.output, title)
    except (ValueError, OSError) as error:
        return complain("draw_cell", error)
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
