"""Programs that others run for what they say."""

import pathlib
import subprocess
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]


def last_line(command: Sequence[str], owner: str, environment: Mapping[str, str] | None = None) -> str:
    """What a program writes last.

    Args:
      command: that is run in the root of the checkout.
      owner: of an error.
      environment: of it; None is ours.

    Raises:
      RuntimeError: it failed; with the last line that it wrote.
    """
    child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if child.returncode:
        lines = child.stderr.strip().splitlines()
        raise RuntimeError(f"{owner} ended with status {child.returncode}: {lines[-1] if lines else ''}")
    return child.stdout.splitlines()[-1]
