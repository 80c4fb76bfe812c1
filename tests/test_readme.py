"""What the README shows works as it stands; its two commands are run by .ci/run."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_ci_finds_the_two_commands():
    """By the function of .ci/run itself."""
    function = next(line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("readme()"))
    found = [
        subprocess.run(["bash", "-c", f"{function}\nreadme {n}"], cwd=ROOT, capture_output=True, text=True).stdout
        for n in (1, 2, 3)
    ]
    assert found == [*blocks("sh"), ""]
    assert found[0].splitlines()[-1] == ".venv/bin/python train.py --config=configs/shufflenet_v2.py"
    assert "pytest" in found[1].splitlines()[-1]


@pytest.mark.slow
def test_the_example_runs():
    (example,) = blocks("python")
    result = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    # 1x with ten classes: the published 2,279,760 less 990 rows of 1,024 weights and a bias.
    assert f"params={2_279_760 - 990 * 1025}" in result.stdout


def test_the_paths_it_names_exist():
    for path in re.findall(r"(?<![\w/.])((?:configs|scripts|arch|input_pipeline)/[\w/]+(?:\.(?:py|sh))?)", README):
        assert (ROOT / path).exists(), path
