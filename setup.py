"""`pip install -e '.[train]'` for the trainer; plain `pip install .` for the library alone."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "arch" / "__init__.py").read_text()).group(1)

CORE = ["jax>=0.10.2,<0.13", "flax>=0.12.8,<0.13", "optax>=0.2.8", "numpy>=2.0"]
EXTRAS = {
    "train": [
        "absl-py>=2",
        "clu==0.0.12",
        "grain>=0.2.18,<0.3",
        "importlib_resources",  # needed by tensorflow-datasets, which does not say so
        "matplotlib>=3.8",
        "ml_collections>=1.1",
        "orbax-checkpoint>=0.12.8,<0.13",
        "pillow>=11",
        "scikit-learn>=1.5",
        "tensorboardX>=2.6.5",
        "tensorflow-datasets>=4.9.10",
        "tqdm>=4.66",
    ],
    "cuda": ["jax[cuda13]"],
    "tpu": ["jax[tpu]"],
    "export": ["flatbuffers"],
    "import": ["safetensors>=0.5"],
    "search": ["ray>=2.40"],
    "viz": ["tensorboard"],
    "gcs": ["gcsfs"],
    "tfds-prepare": ["tensorflow-cpu"],
}
EXTRAS["test"] = ["pytest>=8", "pytest-xdist>=3.6", "hypothesis", "ruff"]
EXTRAS["test"] += [*EXTRAS["train"], *EXTRAS["export"], *EXTRAS["import"], *EXTRAS["search"]]

setup(
    name="arch-jax",
    version=VERSION,
    description="CNN architecture design and search in JAX/Flax",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["arch", "arch.*"]),
    python_requires=">=3.11,<3.14",
    install_requires=CORE,
    extras_require=EXTRAS,
)
