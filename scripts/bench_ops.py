"""Times operators, forward and forward+backward, against the same of torch and torchvision.

  python scripts/bench_ops.py                                    # every operator that torch has
  python scripts/bench_ops.py --ops roi_align deform_conv2d --pairs=5
  python scripts/bench_ops.py --json=docs/ops_cpu.jsonl          # goes on where it stopped
  python scripts/bench_ops.py --markdown=docs/performance.md --json=conv.jsonl --json=ops.jsonl

Both take the same numbers, each in its own layout, in one process, in turn, with the same number of threads; before
they are timed their outputs are compared. Compilation is not timed.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout

from arch.training.host import prepare_host

if __name__ == "__main__":
    # Now, before JAX has threads; torch, in the same process, gains too.
    prepare_host()

import jax
import jax.numpy as jnp
import numpy as np

from arch.efficiency import latency
from arch.errors import unknown_name
from scripts import _report, _results, _timing
from scripts.op_cases import CASES
from scripts.op_cases.case import OpCase

ONCE_S = 5.0  # a call that takes longer is timed once
TOLERANCE = 1e-3  # of the two outputs, as a share of the largest value


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all is timed; 1: one line on stderr says why not; 130: interrupted, what is done is written."""
    args = _parse(argv)
    try:
        if args.markdown:
            _report.write(args.markdown, args.json, "bench_ops.py")
            return 0
        cases = select(args.ops)
        peers = ["torch"] if _timing.has_torch("torchvision") else []
        header = {"record": "op_run", **_timing.environment(), "dtype": args.dtype, "pairs": args.pairs, "peers": peers}
        log = _results.Log(*args.json[:1] or [None], header, key=("op", "size"))
        _results.announce(header)
        return _run(cases, args, peers, log)
    except (ValueError, OSError) as error:
        return _results.complain("bench_ops", error)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _results.Parser("bench_ops", __doc__)
    parser.add_argument("--ops", nargs="+", default=[], metavar="NAME", help="operators; all")
    directions = tuple(_results.DIRECTIONS)
    parser.add_argument("--directions", nargs="+", choices=directions, default=directions)
    return parser.parse(argv)


def select(names: Sequence[str]) -> list[OpCase]:
    """The cases of these operators; of all, where none is named.

    Raises:
        ValueError: a name without a case.
    """
    known = {case.name for case in CASES}
    for name in names:
        if name not in known:
            raise unknown_name("--ops", name, known)
    return [case for case in CASES if not names or case.name in names]


def _run(cases: Sequence[OpCase], args: argparse.Namespace, peers: Sequence[str], log: _results.Log) -> int:
    """Times what the log does not have, a line a case."""
    todo = [case for case in cases if (case.name, case.size) not in log.done]
    if len(todo) < len(cases):
        print(f"{len(cases) - len(todo)} of {len(cases)} are in {args.json[0]} already", flush=True)
    start = time.perf_counter()
    try:
        for number, case in enumerate(todo, start=1):
            row = measure(case, args, peers)
            log.append(row)
            left = (time.perf_counter() - start) / number * (len(todo) - number)
            print(f"{number:3d}/{len(todo)} {_results.op_line(row)} [{_results.clock(left)} left]", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    return 0


def measure(case: OpCase, args: argparse.Namespace, peers: Sequence[str]) -> dict[str, Any]:
    """The record of one operator: milliseconds and ratios of each direction.

    Args:
        case: of `scripts.op_cases`.
        args: dtype, directions and pairs, as the flags have them.
        peers: "torch", or none.

    Raises:
        ValueError: torch computes something else.
    """
    inputs = case.make(np.random.default_rng(0))
    ours = np.asarray(jax.jit(case.ours)(*_jax_inputs(inputs, args.dtype)), np.float64)
    if peers:
        _compare(case, ours, _torch_output(case, inputs, args.dtype), args.dtype)
    gradient = np.random.default_rng(1).standard_normal(ours.shape, np.float32)
    row = {"record": "op", "op": case.name, "size": case.size}
    for direction in args.directions:
        if direction == "forward_backward" and not case.differentiated:
            continue
        calls = {"ours": jax_call(case, inputs, gradient, direction, args.dtype)}
        if peers:
            calls["torch"] = torch_call(case, inputs, direction, args.dtype)
        row[direction] = _timing.compare(latency.interleave(calls, pairs=args.pairs, once_s=ONCE_S))
    jax.clear_caches()
    return row


def _compare(case: OpCase, ours: np.ndarray, theirs: np.ndarray, dtype: str) -> None:
    if ours.shape != theirs.shape:
        raise ValueError(f"{case.name}: shape {ours.shape} must be torch's {theirs.shape}; compare equal operators")
    tolerance = TOLERANCE if dtype == "float32" else 30 * TOLERANCE
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if not error <= tolerance:
        raise ValueError(f"{case.name}: ours is {error:.1e} off torch's, over {tolerance}; compare equal operators")


def _jax_inputs(inputs: Sequence[np.ndarray], dtype: str) -> list[jax.Array]:
    return [jnp.asarray(x, dtype if np.issubdtype(x.dtype, np.floating) else None) for x in inputs]


def jax_call(
    case: OpCase, inputs: Sequence[np.ndarray], gradient: np.ndarray, direction: str, dtype: str
) -> latency.Call:
    """Our operator, compiled; with its gradients where the direction asks for them."""
    arrays = _jax_inputs(inputs, dtype)
    if direction == "forward":
        return latency.jax_call(jax.jit(case.ours).lower(*arrays).compile(), *arrays)

    def forward_backward(gradient: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        def forward(*wanted: jax.Array) -> jax.Array:
            replaced = dict(zip(case.differentiated, wanted, strict=True))
            return case.ours(*(replaced.get(i, array) for i, array in enumerate(arrays)))

        # The gradients may not need the output: it is returned, or the compiler would drop it.
        out, pull = jax.vjp(forward, *(arrays[i] for i in case.differentiated))
        return out, *pull(gradient)

    arguments = (jnp.asarray(gradient, dtype), *arrays)
    return latency.jax_call(jax.jit(forward_backward).lower(*arguments).compile(), *arguments)


def _torch_inputs(case: OpCase, inputs: Sequence[np.ndarray], dtype: str) -> list[Any]:
    torch, device = _timing.load_torch(), _timing.torch_device()
    tensors = [torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in case.to_peer(*inputs)]
    return [x.to(getattr(torch, dtype)) if x.is_floating_point() else x for x in tensors]


def _torch_output(case: OpCase, inputs: Sequence[np.ndarray], dtype: str) -> np.ndarray:
    """The peer's output in our layout, float64."""
    return case.from_peer(case.peer(*_torch_inputs(case, inputs, dtype)).detach().double().cpu().numpy())


def torch_call(case: OpCase, inputs: Sequence[np.ndarray], direction: str, dtype: str) -> latency.Call:
    """The peer; with its gradients where the direction asks for them."""
    torch = _timing.load_torch()
    tensors = _torch_inputs(case, inputs, dtype)

    @torch.inference_mode()
    def forward() -> None:
        case.peer(*tensors)

    if direction == "forward":
        return _timing.torch_call(forward)
    wanted = [tensors[i].requires_grad_() for i in case.differentiated]
    gradient = torch.randn_like(case.peer(*tensors))

    def forward_backward() -> None:
        torch.autograd.grad(case.peer(*tensors), wanted, gradient)

    return _timing.torch_call(forward_backward)


if __name__ == "__main__":
    sys.exit(main())
