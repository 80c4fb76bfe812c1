"""Files of weights: tensors by name. Our own are .safetensors whose names are our paths, as params/stem_conv/kernel."""

import os
from collections.abc import Mapping

import numpy as np

from arch.weights.pth import read_pth


def read(path: str) -> dict[str, np.ndarray]:
    """The tensors of a file by name, whatever its format: .safetensors, or a checkpoint of torch.

    Raises:
        ValueError: one line: what the file is not.
        OSError: of a file that cannot be read.
    """
    if path.endswith(".safetensors"):
        library = _safetensors(path)
        with open(path, "rb"):  # one kind of error for what is not there
            pass
        try:
            return library.load_file(path)
        except Exception as error:  # the library has a class of its own, which is not exported everywhere
            raise ValueError(f"{path}: no safetensors file, or cut short: {error}") from error
    return read_pth(path)


def write(path: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a .safetensors file, whole or not at all.

    Args:
        path: that ends with .safetensors.
        tensors: by name.
        metadata: texts for whoever reads it; `load_file` of safetensors leaves them out.

    Raises:
        ValueError: another ending.
    """
    if not path.endswith(".safetensors"):
        raise ValueError(f"{path}: weights are written as .safetensors; name the file so")
    unfinished = f"{path}.tmp"
    _safetensors(path).save_file({k: np.asarray(v, order="C") for k, v in tensors.items()}, unfinished, dict(metadata))
    os.replace(unfinished, path)


def _safetensors(path: str):
    """The library, which only who reads or writes such files needs to have."""
    try:
        from safetensors import numpy
    except ImportError as error:
        raise ValueError(f"{path}: needs the package safetensors; pip install safetensors") from error
    return numpy
