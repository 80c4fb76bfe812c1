"""What a compiled program spends its time on: by kind of operator, and by layer.

The profiler says when each instruction of the compiled program ran; the text of the program says what the instruction
computes, and which layer asked for it. A fused instruction is one kernel, and has one kind: that of the first in KINDS
that it has a part of.
"""

import dataclasses
import itertools
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jax

from arch.efficiency.latency import Program
from arch.efficiency.layers import Layer
from arch.ops.channel import SHUFFLE

# Convolutions and matrix products; pooling and other reductions; shuffles of channels; what else computes; what only
# moves; instructions of control, random numbers and the like, and waiting for the next instruction.
CONVOLUTION, REDUCTION, SHUFFLING, ELEMENTWISE, MOVEMENT, REST = KINDS = (
    "convolution", "reduction", "shuffle", "element-wise", "data movement", "rest",
)  # fmt: skip

_PRODUCTS = {"dot", "convolution", "ragged-dot"}
_KERNELS = re.compile("conv|gemm|matmul|dot|cudnn|cublas")  # names of what a library multiplies with
_REDUCTIONS = {"reduce", "reduce-window", "select-and-scatter", "sort"}
_MOVES = {"copy", "copy-start", "copy-done", "transpose", "concatenate", "slice", "pad", "gather", "scatter", "reverse",
          "broadcast", "reshape", "bitcast", "bitcast-convert", "dynamic-slice", "dynamic-update-slice",
          "iota", "convert"}  # fmt: skip
_OTHERS = {"parameter", "constant", "tuple", "get-tuple-element", "rng", "rng-bit-generator", "after-all", "infeed",
           "outfeed", "custom-call"}  # fmt: skip
# Their time is that of the instructions that they run.
_CONTROL = {"while", "conditional", "call"}

_LINE = re.compile(r"\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?:\(.*?\)|\S+) (?P<opcode>[\w\-]+)\(")
_START = re.compile(r"(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_CALLS = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_CALL = "arch.efficiency.breakdown"

Scopes = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a compiled program.

    Attributes:
        kind: of KINDS; "" of one whose time is that of others.
        layer: path of the layer that it multiplies for, or else that asked for it; "" of what lies between layers.
    """

    kind: str
    layer: str


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """Where the time of one call goes: of several calls, of the one of median length.

    Attributes:
        total_s: from the start of the first instruction to the end of the last, in seconds.
        kinds: seconds by kind. Of instructions that run at the same time, each has its share.
        layers: seconds of the instructions of each layer, by its path.
    """

    total_s: float
    kinds: Mapping[str, float]
    layers: Mapping[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """Parts of the whole, by kind."""
        return {kind: seconds / self.total_s for kind, seconds in self.kinds.items()}


def breakdown(program: Program, layers: Sequence[Layer], *, num_calls: int = 11) -> Breakdown:
    """Profiles a program.

    Args:
        program: a compiled network.
        layers: of the network, as `arch.efficiency.layers.layers` finds them.
        num_calls: that are profiled.

    Raises:
        ValueError: a platform whose profile does not name instructions.
    """
    found = instructions(program.compiled.as_text(), layers)
    program.call(2)
    calls = list(_profiled(program, found, num_calls))
    if not calls or not all(calls):
        raise ValueError(
            f"breakdown: the profile on {jax.default_backend()} names no instruction of the program; "
            "measure its operators apart, by arch.efficiency.lookup"
        )
    split = [_split(spans, found) for spans in calls]
    return sorted(split, key=lambda one: one.total_s)[len(split) // 2]


def instructions(text: str, layers: Sequence[Layer]) -> dict[str, Instruction]:
    """The instructions of a compiled program, by name.

    Args:
        text: of the program, `compiled.as_text()`.
        layers: of the network.
    """
    multiplying = {tuple(layer.path.split("/")) for layer in layers if layer.macs.total and layer.path}
    computations: dict[str, list[tuple[str, str, str]]] = {}
    current: list[tuple[str, str, str]] = []
    for line in text.splitlines():
        if start := _START.match(line):
            current = computations.setdefault(start["name"], [])
        elif match := _LINE.match(line):
            current.append((match["name"], match["opcode"], line))
    computations = {name: _named(lines) for name, lines in computations.items()}
    found = {}
    for name, opcode, line in itertools.chain.from_iterable(computations.values()):
        called = _CALLS.search(line) if opcode == "fusion" else None
        parts = computations.get(called[1], []) if called else [(name, opcode, line)]
        kinds = [(_kind(opcode, line, multiplying), line) for _, opcode, line in parts]
        kind, decisive = min(kinds, key=lambda one: KINDS.index(one[0]), default=(REST, line))
        # What multiplies is of its layer, wherever its result goes; other kernels are of the layer that asks for them.
        layer = _layer(decisive if kind == CONVOLUTION else line, multiplying)
        found[name] = Instruction("" if opcode in _CONTROL else kind, "/".join(layer))
    return found


def _named(lines: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The instructions of a computation; a product that was rewritten and lost its name has that of what reads it."""
    found: list[tuple[str, str, str]] = []
    for name, opcode, line in reversed(lines):
        if opcode in _PRODUCTS and not _OP_NAME.search(line):
            operand = re.compile(rf"[(,] ?%?{re.escape(name)}[,)]")
            names = (_OP_NAME.search(other) for _, _, other in reversed(found) if operand.search(other))
            line += next((f" {match[0]}" for match in names if match), "")
        found.append((name, opcode, line))
    return found[::-1]


def _kind(opcode: str, line: str, multiplying: set[Scopes]) -> str:
    """Of one instruction, or of one part of a fused one."""
    if opcode in _PRODUCTS or (opcode == "custom-call" and _KERNELS.search((_TARGET.search(line) or [""])[0].lower())):
        return CONVOLUTION
    if opcode == "multiply" and _layer(line, multiplying):
        return CONVOLUTION  # one that is a loop over taps
    if opcode in _REDUCTIONS:
        return REDUCTION
    if SHUFFLE in _scopes(line):
        return SHUFFLING
    if opcode in _MOVES:
        return MOVEMENT
    return REST if opcode in _OTHERS | _CONTROL else ELEMENTWISE


def _scopes(line: str) -> Scopes:
    """Names of modules and scopes around what an instruction was made of, from the top, without the primitive."""
    name = _OP_NAME.search(line)
    parts = name[1].split("/")[:-1] if name else []
    return tuple(part for part in parts if "(" not in part and "." not in part)


def _layer(line: str, multiplying: set[Scopes]) -> Scopes:
    """The innermost layer that multiplies around an instruction."""
    path = _scopes(line)[1:]
    while path and path not in multiplying:
        path = path[:-1]
    return path


def _profiled(
    program: Program, found: Mapping[str, Instruction], num_calls: int
) -> Iterator[list[tuple[str, float, float]]]:
    """Of each call the instructions that ran: name, start and end in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(num_calls):
                with jax.profiler.TraceAnnotation(_CALL):
                    program.call(1)
        (file,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(file))
        events = [
            (event, plane.name.startswith("/device:"))
            for plane in data.planes
            for line in plane.lines
            for event in line.events
        ]
        windows = sorted((event.start_ns, event.end_ns) for event, _ in events if event.name == _CALL)
        spans = sorted(_spans(events, found), key=lambda span: span[1])
    for start, end in windows:
        yield [(name, first * 1e-9, last * 1e-9) for name, first, last in spans if start <= first <= end]


def _spans(events: Iterable[tuple], found: Mapping[str, Instruction]) -> list[tuple[str, float, float]]:
    """Name, start and end of each instruction that ran, in nanoseconds.

    On a CPU an instruction may go on in other threads after its own event; another event tells its end.

    Args:
        events: each with whether it is of an accelerator. There it is named by its kernel, and a statistic has the
            instruction; on the host it has the instruction's name, and reading statistics ends jax 0.12 at times.
        found: instructions by name.
    """
    spans: dict[str, list[tuple[str, float, float]]] = {}
    ends: dict[str, list[float]] = {}
    for event, on_device in events:
        if event.name.startswith("end: "):
            ends.setdefault(event.name.removeprefix("end: "), []).append(event.end_ns)
            continue
        name = event.name.partition(" ")[0].removeprefix("%")
        if name not in found and on_device:
            name = next((value for key, value in event.stats if key == "hlo_op"), "")
        if name in found and found[name].kind:
            spans.setdefault(name, []).append((name, event.start_ns, event.end_ns))
    for name, own in spans.items():
        if len(ends.get(name, ())) == len(own):
            pairs = zip(sorted(own, key=lambda span: span[1]), sorted(ends[name]), strict=True)
            spans[name] = [(name, start, max(end, last)) for (_, start, end), last in pairs]
    return list(itertools.chain.from_iterable(spans.values()))


def _split(spans: Sequence[tuple[str, float, float]], found: Mapping[str, Instruction]) -> Breakdown:
    """Splits the time of one call over the instructions; where several run, evenly; where none does, it is the rest."""
    moments = sorted({moment for _, start, end in spans for moment in (start, end)})
    kinds, layers = dict.fromkeys(KINDS, 0.0), {}
    waiting, running = sorted(spans, key=lambda span: span[1], reverse=True), []
    for now, then in itertools.pairwise(moments):
        running = [span for span in running if span[2] > now]
        while waiting and waiting[-1][1] <= now:
            running.append(waiting.pop())
        for name, _, _ in running:
            kinds[found[name].kind] += (then - now) / len(running)
            layers[found[name].layer] = layers.get(found[name].layer, 0.0) + (then - now) / len(running)
        if not running:
            kinds[REST] += then - now
    return Breakdown(moments[-1] - moments[0], kinds, layers)
