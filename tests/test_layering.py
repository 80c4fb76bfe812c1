"""Imports run one way, and what a light install imports is light."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = sorted(p.name for p in (ROOT / "arch").iterdir() if p.is_dir() and (p / "__init__.py").exists())

# package of arch -> packages of arch that it may import, beside itself and arch's own errors and constants
ALLOWED = {
    "ops": set(),
    "norm": {"ops"},
    "attention": {"ops", "norm"},
    "blocks": {"ops", "norm", "attention"},
    "models": {"ops", "norm", "attention", "blocks"},
    "optim": set(),
    "training": {"ops", "norm", "optim"},
    "efficiency": {"ops"},
    "weights": {"ops", "norm", "attention", "blocks", "models"},
    "search": {"ops", "norm", "attention", "blocks", "models", "optim", "training", "efficiency", "weights"},
}
FORBIDDEN = {"absl", "ml_collections", "tensorflow", "tensorflow_datasets", "grain", "PIL", "configs", "input_pipeline",
             "train"}  # fmt: skip
LIGHT = {"jax", "jaxlib", "flax", "optax", "numpy", "arch"}
# Imported where they are used alone, so that a plain install imports all modules.
LAZY = {"weights": {"safetensors"}, "search": {"ray"}}
TRAINING = LIGHT | {"clu", "orbax", "tensorboardX", "matplotlib", "tqdm"}


def imports(path):
    """Dotted names of all that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(package):
    return sorted((ROOT / "arch" / package).rglob("*.py"))


def test_every_package_has_its_place():
    assert set(PACKAGES) == set(ALLOWED)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package):
    for path in files(package):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "arch" and len(parts) > 1 and parts[1] in PACKAGES:
                assert parts[1] in ALLOWED[package] | {package}, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_arch_imports_only_what_its_install_brings(package):
    known = (TRAINING if package == "training" else LIGHT) | LAZY.get(package, set())
    for path in files(package):
        for name in imports(path):
            top = name.split(".")[0]
            assert top not in FORBIDDEN, f"{path.relative_to(ROOT)} imports {name}"
            assert top in known or top in sys.stdlib_module_names, f"{path.relative_to(ROOT)} imports {name}"


def test_only_training_says_pmap():
    for package in PACKAGES:
        if package != "training":
            for path in files(package):
                names = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute | ast.Name)]
                assert not any(getattr(n, "attr", getattr(n, "id", "")) == "pmap" for n in names), path


def loaded_by(code):
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "arch").rglob("*.py"))
]


TRAINERS = ("arch.training", "arch.search.one_program", "arch.search.oneshot.step")  # what trains


def test_importing_the_library_loads_no_data_or_training_package():
    """All modules but those that train, with the heavy packages made impossible to import."""
    own_needs = {"absl", "train"}  # optax imports absl; other things may be called train
    heavy = sorted({"clu", "matplotlib", "tensorboardX", "tqdm", "sklearn", "safetensors"} | FORBIDDEN - own_needs)
    light = [name for name in MODULES if not name.startswith(TRAINERS)]
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in heavy)
    code = f"import sys; {blocked}; import importlib; [importlib.import_module(m) for m in {light!r}]; print('done')"
    assert loaded_by(code) == {"done"}


def test_importing_training_loads_no_data_package_and_no_tensorflow():
    training = [name for name in MODULES if name.startswith(TRAINERS)]
    code = f"import sys, importlib; [importlib.import_module(m) for m in {training!r}]; print(*sys.modules)"
    loaded = loaded_by(code)
    assert not loaded & {"tensorflow", "tensorflow_datasets", "grain", "ml_collections", "matplotlib", "PIL"}


def test_the_trainer_runs_without_tensorflow():
    code = "import sys; sys.argv = ['train.py']; import train, input_pipeline; print(*sys.modules)"
    assert "tensorflow" not in loaded_by(code)
