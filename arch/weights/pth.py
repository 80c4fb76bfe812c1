"""Reads the tensors of a checkpoint of torch, .pth or .pt, without torch and without running anything that it says.

Both formats are read: the archive that torch.save writes since version 1.6, and the sequence of pickles from before.
"""

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from arch.weights.unpickle import Machine, Storage, Tensor

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the format before 1.6

# Where a checkpoint holds the state of its network, if that is not all that it holds.
_STATES = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
_MAX_DEPTH = 3  # of these in one another; a dictionary may hold itself


def read_pth(path: str) -> dict[str, np.ndarray]:
    """The tensors of a network's state by name, in their own dtypes; counters of batches are among them.

    Raises:
        ValueError: one line: a file that is neither format, is cut short, holds no state of a network, or names
            something else than tensors.
        OSError: of a file that cannot be read.
    """
    with open(path, "rb") as file:
        try:
            if file.read(4) == b"PK\x03\x04":
                return _read_archive(file)
            file.seek(0)
            return _read_sequence(file)
        except (zipfile.BadZipFile, EOFError, UnicodeDecodeError, LookupError, TypeError, RuntimeError) as error:
            raise ValueError(f"{path}: no checkpoint of torch, or cut short: {error}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _read_archive(file: BinaryIO) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        pickled = next((name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"), None)
        if pickled is None:
            raise ValueError("an archive without data.pkl is no checkpoint of torch")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("an archive that is compressed is no checkpoint of torch")
        folder = pickled.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("written on a machine of the other byte order; save it anew on a common one")

        def content(storage: Storage) -> np.ndarray:
            entry = archive.getinfo(f"{folder}data/{storage.key}")
            size = storage.size * storage.dtype.itemsize
            if entry.file_size < size:
                raise ValueError(f"storage {storage.key} has {entry.file_size} bytes, not {size}; the file is broken")
            return np.frombuffer(archive.read(entry), storage.dtype, storage.size)

        return _arrays(_state(Machine().load(io.BytesIO(archive.read(pickled)))), content)


def _read_sequence(file: BinaryIO) -> dict[str, np.ndarray]:
    """Pickles of a magic number, a version, what wrote it, the state, and the keys of storages; then the storages."""
    try:
        begins = Machine().load(file) == _MAGIC and Machine().load(file) == _PROTOCOL
    except (ValueError, LookupError, EOFError):
        begins = False
    if not begins:
        raise ValueError("no checkpoint of torch: it does not begin as one does")
    Machine().load(file)
    machine = Machine()
    state, keys = _state(machine.load(file)), Machine().load(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its list of storages is broken")
    contents = {}
    for key in keys:
        size = int.from_bytes(_exactly(file, 8), "little", signed=True)
        if size != machine.storages[key].size:
            raise ValueError(f"storage {key} has {size} elements, not {machine.storages[key].size}; the file is broken")
        dtype = machine.storages[key].dtype
        contents[key] = np.frombuffer(_exactly(file, size * dtype.itemsize), dtype)
    return _arrays(state, lambda storage: contents[storage.key])


def _exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size) if size >= 0 else b""
    if len(content) != size:
        raise ValueError("the file is cut short")
    return content


def _state(found: Any) -> dict[str, Tensor]:
    """The state of the network in what was unpickled, without the prefix of DataParallel."""
    depth = 0
    while isinstance(found, dict) and not any(isinstance(value, Tensor) for value in found.values()):
        found = next((found[name] for name in _STATES if name in found), None) if depth < _MAX_DEPTH else None
        depth += 1
    if not isinstance(found, dict):
        raise ValueError("it holds no state of a network; save model.state_dict()")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{name!r} is no tensor; save model.state_dict()")
    whole = all(name.startswith("module.") for name in found)
    return {name.removeprefix("module.") if whole else name: value for name, value in found.items()}


def _arrays(tensors: Mapping[str, Tensor], content: Callable[[Storage], np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors themselves, each in memory of its own."""
    return {name: _array(name, tensor, content(tensor.storage)) for name, tensor in tensors.items()}


def _array(name: str, tensor: Tensor, content: np.ndarray) -> np.ndarray:
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))
    # Checked here, as a view of memory is not.
    if min(numbers) < 0 or math.prod(tensor.shape) > content.size or (0 not in tensor.shape and last >= content.size):
        raise ValueError(f"{name} reaches beyond its storage; the file is broken")
    steps = zip(tensor.shape, tensor.strides, strict=True)
    strides = [step * content.itemsize if size > 1 else 0 for size, step in steps]
    return np.lib.stride_tricks.as_strided(content[tensor.offset :], tensor.shape, strides, writeable=False).copy()
