"""Reads a pickle of tensors without running anything that it says.

A pickle is a program, and Python's own reader runs whatever it names. This one knows the instructions that make
numbers, texts and containers, and of functions only those by which torch puts a tensor together; all else is refused.
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@dataclasses.dataclass(frozen=True)
class _Global:
    """A name that a pickle gave, of the few that are known; it is never imported."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """Numbers that lie elsewhere in the file, of one dtype, under a key."""

    key: str
    dtype: np.dtype
    size: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage, as torch has it: everything is counted in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_MARK = object()
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
             "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES",
             "SHORT_BINBYTES", "BINBYTES8"}  # fmt: skip
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Machine:
    """The stack machine that a pickle is a program for, with the harmless ones of its instructions.

    Attributes:
        storages: all that were named, by key.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def load(self, file: BinaryIO) -> Any:
        """Runs one pickle, up to its end."""
        for instruction, argument, _ in pickletools.genops(file):
            if instruction.name == "STOP":
                return self.stack[-1]
            self.run(instruction.name, argument)
        raise EOFError("a pickle without an end")

    def run(self, name: str, argument: Any) -> None:
        """Executes one instruction.

        Raises:
            ValueError: any that is not known.
        """
        stack = self.stack
        if name in _VALUES:
            stack.append(_VALUES[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif (step := getattr(self, f"_{name.lower()}", None)) is not None:
            step(argument)
        else:
            raise ValueError(f"its pickle has the instruction {name}, which no state of a network needs; refused")

    def _after_mark(self) -> list[Any]:
        at = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _container(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError("its pickle is broken: an item for no container")
        return self.stack[-1]

    def _proto(self, argument: Any) -> None:
        del argument

    _frame = _proto

    def _mark(self, argument: Any) -> None:
        self.stack.append(_MARK)

    def _pop(self, argument: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, argument: Any) -> None:
        self._after_mark()

    def _dup(self, argument: Any) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self, argument: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _tuple(self, argument: Any) -> None:
        self.stack.append(tuple(self._after_mark()))

    def _list(self, argument: Any) -> None:
        self.stack.append(self._after_mark())

    def _dict(self, argument: Any) -> None:
        items = self._after_mark()
        self.stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _append(self, argument: Any) -> None:
        item = self.stack.pop()
        self._container(list).append(item)

    def _appends(self, argument: Any) -> None:
        items = self._after_mark()
        self._container(list).extend(items)

    def _setitem(self, argument: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._container(dict)[key] = value

    def _setitems(self, argument: Any) -> None:
        items = self._after_mark()
        self._container(dict).update(zip(items[::2], items[1::2], strict=True))

    def _global(self, argument: str) -> None:
        self.stack.append(_known(*argument.split(" ", 1)))

    def _stack_global(self, argument: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_known(module, name))

    def _reduce(self, argument: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Global) or (function.module, function.name) not in _FUNCTIONS:
            raise ValueError("its pickle calls something that makes no tensor; refused")
        self.stack.append(_FUNCTIONS[function.module, function.name](*arguments))

    def _build(self, argument: Any) -> None:
        """The attributes of a state: versions of its modules, which nothing here needs."""
        self.stack.pop()
        self._container(dict)

    def _binpersid(self, argument: Any) -> None:
        kind, storage, key, _, size, *view = self.stack.pop()
        if kind != "storage" or not isinstance(storage, _Global) or any(item is not None for item in view):
            raise ValueError("its pickle refers to something that is no storage; refused")
        if type(key) is not str or type(size) is not int or size < 0:
            raise ValueError("its pickle refers to a storage wrongly; the file is broken")
        self.storages[key] = Storage(key, np.dtype(_DTYPES[storage.name]), size)
        self.stack.append(self.storages[key])


def _known(module: Any, name: Any) -> _Global:
    if (module, name) in _FUNCTIONS or (module == "torch" and name in _DTYPES):
        return _Global(module, name)
    raise ValueError(
        f"its pickle names {module}.{name}, which is no part of a tensor: refused, as reading it could run code; save "
        "model.state_dict() alone"
    )


def _tensor(storage: Storage, offset: int, shape: tuple, strides: tuple, *rest: Any) -> Tensor:
    del rest  # whether a gradient is wanted, hooks, metadata
    whole = all(type(number) is int for number in (offset, *shape, *strides))
    if not isinstance(storage, Storage) or not whole or len(shape) != len(strides):
        raise ValueError("its pickle puts a tensor together wrongly; the file is broken")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Tensor, *rest: Any) -> Tensor:
    return data


def _ordered(items: Any = ()) -> dict[Any, Any]:
    return dict(items)


_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
