"""A network cut into operators that can be measured one by one.

An operator is a convolution, matrix product, pooling, reduction or move, with the element-wise operations that follow
it, as compilers fuse them. What costs no arithmetic, such as a slice or a broadcast, belongs to those that read it.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.extend import core

from arch.efficiency import arithmetic
from arch.efficiency.program import inner_jaxprs

_APART = {"scan", "while", "cond", "shard_map"}  # programs that are not run once, in line
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

# A value: its number in the program, or a literal.
Value = int | core.Literal


@dataclasses.dataclass(frozen=True)
class Operator:
    """A part of a network.

    Attributes:
        key: what it computes, on which shapes and dtypes: equal of equal operators.
        fn: a function of its inputs.
        inputs: their shapes and dtypes.
        reads: which values of the network they are, by number; the network's arguments, flat, come first.
        writes: which values of the network it returns.
    """

    key: str
    fn: Callable[..., Any] = dataclasses.field(repr=False, compare=False)
    inputs: Sequence[jax.ShapeDtypeStruct] = dataclasses.field(repr=False, compare=False)
    reads: Sequence[int] = dataclasses.field(repr=False, compare=False)
    writes: Sequence[int] = dataclasses.field(repr=False, compare=False)


@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
    """An equation that calls no other program, on numbered values."""

    eqn: core.JaxprEqn
    inputs: Sequence[Value]
    outputs: Sequence[int]


class _Program:
    """The steps of a program and of all that it calls, in order.

    Attributes:
        steps: of it.
        avals: of its values, by number.
        outputs: the values that it returns.
        maker: the step that makes each value; arguments and constants have none.
        debug_info: where it comes from.
    """

    def __init__(self, closed: core.ClosedJaxpr, num_parameters: int) -> None:
        self.debug_info = closed.jaxpr.debug_info
        self.steps: list[_Step] = []
        self.avals: list[Any] = []
        inputs = [self._new(var.aval) for var in closed.jaxpr.invars]
        self.outputs = self._inline(closed.jaxpr, inputs)
        self.maker = {value: step for step in self.steps for value in step.outputs}
        self._has_data = set(inputs[num_parameters:])
        for step in self.steps:
            if self._has_data.intersection(value for value in step.inputs if isinstance(value, int)):
                self._has_data.update(step.outputs)

    def _new(self, aval: Any) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def _inline(self, jaxpr: core.Jaxpr, inputs: Sequence[Value]) -> list[Value]:
        """Appends the steps of a program; the values that it returns."""
        values: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        # Constants are inputs of what reads them.
        values |= {var: self._new(var.aval) for var in jaxpr.constvars}

        def read(atom: Any) -> Value:
            return atom if isinstance(atom, core.Literal) else values[atom]

        for eqn in jaxpr.eqns:
            arguments = [read(atom) for atom in eqn.invars]
            inner = [] if eqn.primitive.name in _APART else list(inner_jaxprs(eqn))
            if len(inner) == 1 and len(inner[0].invars) == len(arguments):
                outputs = self._inline(inner[0], arguments)
            else:
                outputs = [self._new(var.aval) for var in eqn.outvars]
                self.steps.append(_Step(eqn, arguments, outputs))
            values |= zip(eqn.outvars, outputs, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def is_lazy(self, step: _Step) -> bool:
        """Those that read it do it on the way: it costs no arithmetic, or is computed from parameters alone."""
        if arithmetic.is_free(step.eqn):
            return True
        return arithmetic.is_fused(step.eqn) and not self._has_data.intersection(step.outputs)

    def sources(self, values: Sequence[Value]) -> list[int]:
        """The values in memory that these are computed from on the way, each once."""
        found: dict[int, None] = {}
        for value in values:
            if isinstance(value, int):
                step = self.maker.get(value)
                known = self.sources(step.inputs) if step is not None and self.is_lazy(step) else [value]
                found |= dict.fromkeys(known)
        return list(found)


def operators(fn: Callable[..., Any], variables: Any, *args: Any) -> list[Operator]:
    """The operators of `fn(variables, *args)`, in their order, found by tracing.

    Args:
        fn: a network, such as a module's `apply`.
        variables: its first argument, the parameters; shapes are enough.
        *args: its other arguments; shapes are enough.
    """
    program = _Program(jax.make_jaxpr(fn)(variables, *args), len(jax.tree.leaves(variables)))
    groups: dict[int, list[_Step]] = {}
    group_of: dict[int, int] = {}
    for number, step in enumerate(program.steps, start=1):
        if program.is_lazy(step):
            continue
        sources = program.sources(step.inputs)
        # An element-wise operation is done by the last of those that it reads.
        group = max((group_of.get(value, 0) for value in sources), default=0)
        group = group if arithmetic.is_fused(step.eqn) else number
        groups.setdefault(group, []).append(step)
        group_of |= dict.fromkeys(step.outputs, group)
    read_by: dict[int, set[int]] = {}
    for group, steps in groups.items():
        for value in program.sources([value for step in steps for value in step.inputs]):
            read_by.setdefault(value, set()).add(group)
    for value in program.sources(program.outputs):
        read_by.setdefault(value, set()).add(-1)
    return [_operator(program, steps, group, read_by) for group, steps in groups.items()]


def _operator(program: _Program, steps: Sequence[_Step], group: int, read_by: Mapping[int, set[int]]) -> Operator:
    own = [value for step in steps for value in step.outputs]
    inputs = [v for v in program.sources([value for step in steps for value in step.inputs]) if v not in own]
    outputs = [value for value in own if read_by.get(value, set()) - {group}]
    ordered = list(_with_lazy(program, steps, set(inputs)))

    def fn(*arrays: jax.Array) -> list[jax.Array]:
        known = dict(zip(inputs, arrays, strict=True))
        for step in ordered:
            arguments = [known[value] if isinstance(value, int) else value.val for value in step.inputs]
            known |= zip(step.outputs, _evaluate(step.eqn, arguments, program.debug_info), strict=True)
        return [known[value] for value in outputs]

    shapes = [jax.ShapeDtypeStruct(program.avals[value].shape, program.avals[value].dtype) for value in inputs]
    return Operator(_key(program, ordered, inputs, outputs), fn, shapes, inputs, outputs)


def _evaluate(eqn: core.JaxprEqn, arguments: Sequence[Any], debug_info: Any) -> Sequence[jax.Array]:
    """The outputs of one equation, as a program of its own."""
    pairs = zip(eqn.invars, arguments, strict=True)
    inputs = {var: value for var, value in pairs if not isinstance(var, core.Literal)}
    names = debug_info.with_unknown_names()
    jaxpr = core.Jaxpr((), list(inputs), eqn.outvars, [eqn], eqn.effects, debug_info=names)
    return core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, ()))(*inputs.values())


def _with_lazy(program: _Program, steps: Sequence[_Step], known: set[int]) -> Iterator[_Step]:
    """The steps, each after those that are done on its way."""
    for step in steps:
        lazy = (program.maker[value] for value in step.inputs if isinstance(value, int) and value not in known)
        yield from _with_lazy(program, list(dict.fromkeys(lazy)), known)
        if not known.issuperset(step.outputs):
            known.update(step.outputs)
            yield step


def _key(program: _Program, steps: Sequence[_Step], inputs: Sequence[int], outputs: Sequence[int]) -> str:
    """A name to read, and a digest of all that the operator does."""
    numbers = {value: number for number, value in enumerate(inputs)}
    lines = [str([program.avals[value].str_short() for value in inputs])]
    for step in steps:
        numbers |= {value: len(numbers) + n for n, value in enumerate(step.outputs)}
        read = [str(value) if isinstance(value, core.Literal) else numbers[value] for value in step.inputs]
        params = sorted((name, str(value)) for name, value in step.eqn.params.items())
        lines.append(f"{step.eqn.primitive.name} {params} {read}")
    lines.append(str([numbers[value] for value in outputs]))
    digest = hashlib.sha256(_ADDRESS.sub("", "\n".join(lines)).encode()).hexdigest()[:12]
    computing = [step for step in steps if not arithmetic.is_free(step.eqn)]
    first = next((step for step in computing if not arithmetic.is_fused(step.eqn)), computing[0])
    macs = arithmetic.macs(first.eqn, (), with_parameter=True)
    name = arithmetic.kind(first.eqn, macs) or first.eqn.primitive.name
    shapes = [program.avals[value] for value in (*inputs[:1], *outputs[:1])]
    sizes = " > ".join("x".join(map(str, aval.shape)) for aval in shapes)
    return f"{name} {sizes} {shapes[-1].dtype} {digest}" if shapes else f"{name} {digest}"
