"""Records what other libraries compute, the goldens that the tests compare with: tests/goldens/*.npz.

  pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31
  python scripts/record_goldens.py                   # lists what can be recorded
  python scripts/record_goldens.py roi resize        # records these anew
  python scripts/record_goldens.py all

A golden is recorded once, with the script of its name beside it, and never to make a test pass: the tests need neither
torch nor this script.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from a checkout

from arch.errors import unknown_name

VERSIONS = {"torch": "2.14.1", "torchvision": "0.29.1", "timm": "1.0.31"}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all is recorded; 1: one line on stderr says why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="goldens, or all; none lists them")
    names = parser.parse_args(argv).names
    known = [path.stem.removeprefix("record_") for path in sorted((ROOT / "tests/goldens").glob("record_*.py"))]
    try:
        check(names, known)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if not names:
        print("\n".join(known))
    for name in known if "all" in names else names:
        importlib.import_module(f"tests.goldens.record_{name}").main()
        print(f"tests/goldens/{name}.npz", flush=True)
    return 0


def check(names: Sequence[str], known: Sequence[str]) -> None:
    """Nothing is recorded where a name is wrong, or a library is missing or of another version.

    Raises:
        ValueError: one line.
    """
    for name in names:
        if name not in (*known, "all"):
            raise unknown_name("record_goldens", name, (*known, "all"))
    for package, version in VERSIONS.items() if names else ():
        found = importlib.metadata.version(package) if importlib.util.find_spec(package) else "none"
        if found.partition("+")[0] != version:
            raise ValueError(f"record_goldens: {package}={found} must be {version}; pip install {package}=={version}")


if __name__ == "__main__":
    sys.exit(main())
