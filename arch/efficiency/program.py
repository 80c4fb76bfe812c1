"""What a traced program computes: its operations, one after the other, each with the layer that it belongs to.

A walk over the equations of a jaxpr, into all that they call. It follows two things from value to value: where a value
comes from (constants, parameters or data), and which arrays in memory are read to compute it.
"""

import dataclasses
import enum
import math
from collections.abc import Iterator, Sequence
from typing import Any

from jax.extend import core

from arch.efficiency import arithmetic
from arch.efficiency.arithmetic import Macs

Layer = tuple[str, ...]


class Origin(enum.IntEnum):
    """What a value depends on; of several, the greatest counts."""

    CONSTANT = 0
    PARAMETER = 1
    DATA = 2


@dataclasses.dataclass(frozen=True)
class Operation:
    """One equation, as often as it runs.

    Attributes:
        layer: names of the modules that it is in, from the top.
        kind: of what multiplies: a convolution such as "conv 3x3/2", "linear", "product" or "reading"; else "".
        shape: of its output.
        macs: multiply-adds.
        elementwise: scalar operations of other kinds.
        activations: scalars that it writes, if it is a convolution or matrix product of data.
        bytes: read and written.
    """

    layer: Layer
    kind: str = ""
    shape: tuple[int, ...] = ()
    macs: Macs = dataclasses.field(default_factory=Macs)
    elementwise: int = 0
    activations: int = 0
    bytes: int = 0

    def __mul__(self, times: int) -> "Operation":
        return dataclasses.replace(
            self,
            macs=self.macs * times,
            elementwise=self.elementwise * times,
            activations=self.activations * times,
            bytes=self.bytes * times,
        )


class _Value:
    """A value of the program.

    Attributes:
        origin: what it depends on.
        num_bytes: its size in memory.
        reads: the arrays in memory that it is computed from: itself alone, once it is there.
    """

    def __init__(self, aval: Any, origin: Origin, reads: "frozenset[_Value] | None" = None):
        self.origin = origin
        self.num_bytes = math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 0)
        self.reads = frozenset([self]) if reads is None else reads

    def write(self) -> int:
        """Bytes moved to have it in memory: what it is computed from, and itself; 0 if it is there."""
        if self in self.reads:
            return 0
        moved = _num_bytes(self.reads) + self.num_bytes
        self.reads = frozenset([self])
        return moved


def operations(closed: core.ClosedJaxpr, origins: Sequence[Origin]) -> list[Operation]:
    """The operations of a program whose arguments, flat, have these origins.

    Loops are counted as often as they run, of a `cond` the dearest branch, and a program mapped over devices on all.

    Raises:
        ValueError: multiply-adds in a `while_loop`, because how often it runs is not known.
    """
    return _apart(closed.jaxpr, origins, ())[0]


def _apart(jaxpr: core.Jaxpr, origins: Sequence[Origin], layer: Layer) -> tuple[list[Operation], list[Origin]]:
    """The operations of a program whose inputs are in memory, and whose outputs are written; their origins."""
    done: list[Operation] = []
    inputs = [_Value(var.aval, origin) for var, origin in zip(jaxpr.invars, origins, strict=True)]
    outputs = _run(jaxpr, inputs, layer, done)
    moved = sum(value.write() for value in outputs)
    return [*done, Operation(layer, bytes=moved)], [value.origin for value in outputs]


def _run(jaxpr: core.Jaxpr, inputs: Sequence[_Value], layer: Layer, done: list[Operation]) -> list[_Value]:
    """Follows a program from its inputs to its outputs, and appends its operations."""
    values = dict(zip(jaxpr.invars, inputs, strict=True))
    values |= {var: _Value(var.aval, Origin.CONSTANT) for var in jaxpr.constvars}

    def read(atom: Any) -> _Value:
        return _Value(atom.aval, Origin.CONSTANT, frozenset()) if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        within = layer + _layer(str(eqn.source_info.name_stack))
        outputs = _follow(eqn, [read(atom) for atom in eqn.invars], within, done)
        values |= zip(eqn.outvars, outputs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _follow(eqn: core.JaxprEqn, inputs: list[_Value], layer: Layer, done: list[Operation]) -> list[_Value]:
    """The outputs of one equation; appends its operations, and those of all that it calls."""
    origins = [value.origin for value in inputs]
    match eqn.primitive.name:
        case "scan":
            ran, outputs = _scan(eqn, origins, layer)
        case "while":
            ran, outputs = _while(eqn, origins, layer)
        case "cond":
            branches = [_apart(_open(branch), origins[1:], layer) for branch in eqn.params["branches"]]
            ran = max((branch[0] for branch in branches), key=_cost)
            outputs = [max(origins[0], *each) for each in zip(*(branch[1] for branch in branches), strict=True)]
        case _:
            inner = list(inner_jaxprs(eqn))
            if not inner:
                return _leaf(eqn, inputs, layer, done)
            fits = len(inner) == 1 and len(inner[0].invars) == len(inputs)
            if fits and eqn.primitive.name != "shard_map":
                return _run(inner[0], inputs, layer, done)
            ran, outputs = _opaque(inner, origins, layer, len(eqn.outvars))
            ran = [operation * _devices(eqn) for operation in ran]
    # A program apart reads its inputs from memory.
    done += [*ran, Operation(layer, bytes=sum(value.write() for value in inputs if value.reads))]
    return [_Value(var.aval, origin) for var, origin in zip(eqn.outvars, outputs, strict=True)]


def _scan(eqn: core.JaxprEqn, origins: list[Origin], layer: Layer) -> tuple[list[Operation], list[Origin]]:
    body = _open(eqn.params["jaxpr"])
    # What is carried has the same shape inside and outside; what is scanned has one axis more outside.
    carried = sum(var.aval.shape == inner.aval.shape for var, inner in zip(eqn.outvars, body.outvars, strict=True))
    scanned = sum(var.aval.shape != inner.aval.shape for var, inner in zip(eqn.invars, body.invars, strict=True))
    first = len(origins) - scanned - carried
    ran, outputs = _until_settled(body, origins, slice(first, first + carried), layer)
    return [operation * eqn.params["length"] for operation in ran], outputs


def _while(eqn: core.JaxprEqn, origins: list[Origin], layer: Layer) -> tuple[list[Operation], list[Origin]]:
    first, second = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    carried = slice(second, None)
    ran, outputs = _until_settled(_open(eqn.params["body_jaxpr"]), origins[first:], carried, layer)
    asked, _ = _apart(_open(eqn.params["cond_jaxpr"]), [*origins[:first], *outputs], layer)
    if any(operation.macs.total for operation in ran + asked):
        raise ValueError("count_macs: a while_loop runs an unknown number of times; use scan, or fori_loop over range")
    return ran, outputs


def _until_settled(
    body: core.Jaxpr, origins: list[Origin], carried: slice, layer: Layer
) -> tuple[list[Operation], list[Origin]]:
    """One turn of a loop, when what is carried comes from no more than it did a turn before."""
    while True:
        ran, outputs = _apart(body, origins, layer)
        before = origins[carried]
        after = [max(pair) for pair in zip(before, outputs, strict=False)]
        if after == before:
            return ran, [*after, *outputs[len(after) :]]
        origins = [*origins]
        origins[carried] = after


def _opaque(
    inner: list[core.Jaxpr], origins: list[Origin], layer: Layer, num_outputs: int
) -> tuple[list[Operation], list[Origin]]:
    """Programs of which it is only known that each runs once; shard_map's, which sees a part of each array."""
    if len(inner) == 1 and len(inner[0].invars) == len(origins):
        return _apart(inner[0], origins, layer)
    greatest = max(origins, default=Origin.CONSTANT)
    ran = [operation for jaxpr in inner for operation in _apart(jaxpr, [greatest] * len(jaxpr.invars), layer)[0]]
    return ran, [greatest] * num_outputs


def _leaf(eqn: core.JaxprEqn, inputs: list[_Value], layer: Layer, done: list[Operation]) -> list[_Value]:
    """An equation that calls nothing."""
    if eqn.primitive.name in arithmetic.ALIASES:
        return inputs[: len(eqn.outvars)]
    origin = max((value.origin for value in inputs), default=Origin.CONSTANT)
    reads = frozenset().union(*(value.reads for value in inputs))
    if arithmetic.is_fused(eqn):
        moved, outputs = 0, [_Value(var.aval, origin, reads) for var in eqn.outvars]
    else:
        if arithmetic.is_reduction(eqn):
            moved = _num_bytes(reads)
        else:
            moved = sum(value.write() for value in inputs) + _num_bytes(set(inputs))
        outputs = [_Value(var.aval, origin) for var in eqn.outvars]
        moved += _num_bytes(outputs)
    shape = eqn.outvars[0].aval.shape
    macs = arithmetic.macs(eqn, layer, any(value.origin == Origin.PARAMETER for value in inputs))
    written = math.prod(shape) if arithmetic.is_product(eqn) and origin == Origin.DATA else 0
    layer = tuple(name for name in layer if arithmetic.INTERPOLATION not in name)
    done.append(Operation(layer, arithmetic.kind(eqn, macs), shape, macs, arithmetic.elementwise(eqn), written, moved))
    return outputs


def _num_bytes(values: Any) -> int:
    return sum(value.num_bytes for value in values)


def _cost(ran: list[Operation]) -> tuple[int, int]:
    return sum(operation.macs.total for operation in ran), sum(operation.elementwise for operation in ran)


def _devices(eqn: core.JaxprEqn) -> int:
    """How many run the program that an equation holds."""
    if eqn.primitive.name != "shard_map":  # pmap is one too
        return 1
    mesh = eqn.params["mesh"]
    return math.prod(mesh.shape[axis] for axis in eqn.params["newly_manual_axes"])


def inner_jaxprs(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs among an equation's parameters."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr | core.Jaxpr):
                yield _open(item)


def _open(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> core.Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def _layer(stack: str) -> Layer:
    """The modules of a name stack, without the methods that call them."""
    return tuple(name for name in stack.split("/") if name and "." not in name)
