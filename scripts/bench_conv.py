"""Times convolutions, forward and forward+backward, against flax.linen.Conv and torch.

  python scripts/bench_conv.py                                   # 40 shapes, batch 8: under 15 minutes on two cores
  python scripts/bench_conv.py --suite=full --json=conv.jsonl    # every shape; the same command again goes on
  python scripts/bench_conv.py --filter=k3s2 --implementation=grouped --peers torch
  python scripts/bench_conv.py --markdown=docs/performance.md --json=conv.jsonl --json=models.jsonl

One line a shape: the lowering that was chosen (for the convolution, its input and its kernel gradient, where they
differ), our milliseconds, and each peer's time over ours with the quartiles of that ratio; at the end the geometric
means of each class. Peers take turns in one process with the same arrays, the same number of threads and everything
compiled; a call over 2 s is timed once. torch runs channels_last, in inference mode where it computes no gradient.
"""

import argparse
import functools
import re
import sys
import time
from collections.abc import Callable, Sequence
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
from flax import linen as nn

from arch.efficiency import latency
from arch.ops._lowerings import choice, primitives
from arch.ops.conv import Conv
from scripts import _report, _results, _timing
from scripts.conv_shapes import ConvShape, suite

PEERS = ("flax", "torch")
BATCHES = {"quick": (8,), "full": (8, 32)}
ONCE_S = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all is timed; 1: one line on stderr says why not; 130: interrupted, what is done is written."""
    args = _parse(argv)
    try:
        if args.markdown:
            _report.write(args.markdown, args.json, "bench_conv.py")
            return 0
        work = select(args.suite, args.filter, args.batch or BATCHES[args.suite])
        args.peers = [peer for peer in args.peers if peer != "torch" or _timing.has_torch()]
        fields = {name: getattr(args, name) for name in ("dtype", "implementation", "peers", "directions", "pairs")}
        header = {"record": "conv_run", **_timing.environment(), **fields}
        log = _results.Log(*args.json[:1] or [None], header, key=("shape", "batch"))
        _results.announce(header)
        return _run(work, args, log)
    except (ValueError, OSError) as error:
        return _results.complain("bench_conv", error)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _results.Parser("bench_conv", __doc__)
    parser.add_argument("--suite", choices=tuple(BATCHES), default="quick", help="40 shapes, or every one")
    parser.add_argument("--batch", type=_results.positive, nargs="+", help="examples; 8, in the full suite 8 and 32")
    parser.add_argument("--filter", default="", help="regular expression: shapes with a match in their name or class")
    parser.add_argument("--implementation", choices=choice.IMPLEMENTATIONS, default="auto", help="as in conv2d")
    directions = tuple(_results.DIRECTIONS)
    parser.add_argument("--directions", nargs="+", choices=directions, default=directions)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="torch only where it is installed")
    return parser.parse(argv)


def select(suite_name: str, pattern: str, batches: Sequence[int]) -> list[tuple[ConvShape, int]]:
    """Shapes of a suite with a match of `pattern` in their name or class, at every batch.

    Raises:
        ValueError: a pattern that is none, or that nothing matches.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--filter={pattern} must be a regular expression: {error}; escape it") from None
    shapes = [shape for shape in suite(suite_name) if expression.search(f"{shape.name} {shape.kind}")]
    if not shapes:
        raise ValueError(
            f"--filter={pattern} must match a shape of --suite={suite_name}, such as 28x58>58k3g58; loosen it"
        )
    return [(shape, batch) for batch in batches for shape in shapes]


def _run(work: Sequence[tuple[ConvShape, int]], args: argparse.Namespace, log: _results.Log) -> int:
    """Times what the log does not have, then prints the means of all of it."""
    rows = [log.done[shape.name, batch] for shape, batch in work if (shape.name, batch) in log.done]
    todo = [(shape, batch) for shape, batch in work if (shape.name, batch) not in log.done]
    if rows:
        print(f"{len(rows)} of {len(work)} are in {args.json[0]} already", flush=True)
    start, status = time.perf_counter(), 0
    try:
        for number, (shape, batch) in enumerate(todo, start=1):
            row = measure(shape, batch, args)
            log.append(row)
            rows.append(row)
            left = (time.perf_counter() - start) / number * (len(todo) - number)
            print(f"{number:3d}/{len(todo)} {_results.conv_line(row)} [{_results.clock(left)} left]", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        status = 130
    print(_results.conv_summary(rows), flush=True)
    return status


def measure(shape: ConvShape, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """The record of one shape: lowerings, milliseconds and ratios of each direction.

    Args:
        shape: of the convolution.
        batch: examples.
        args: dtype, implementation, directions, peers and pairs, as the flags have them.
    """
    ours = functools.partial(Conv, implementation=args.implementation)
    makers = {"ours": functools.partial(flax_call, conv=ours), "flax": flax_call, "torch": torch_call}
    arrays = example(shape, batch)
    chosen = lowerings(shape, batch, args.dtype, ours)
    row = {"record": "conv", "shape": shape.name, "class": shape.kind, "batch": batch, "macs": shape.macs * batch}
    for direction in args.directions:
        calls = {name: makers[name](shape, arrays, direction, args.dtype) for name in ("ours", *args.peers)}
        seconds = latency.interleave(calls, pairs=args.pairs, once_s=ONCE_S)
        row[direction] = {"lowerings": chosen[direction], **_timing.compare(seconds)}
    jax.clear_caches()
    return row


def example(shape: ConvShape, batch: int) -> list[np.ndarray]:
    """Input [batch, size, size, in], kernel [taps, taps, in / groups, out] and gradient of the output, all normal."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(sizes, dtype=np.float32) for sizes in _sizes(shape, batch)]


def _sizes(shape: ConvShape, batch: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of input, kernel and output."""
    x = (batch, shape.size, shape.size, shape.in_features)
    return x, shape.kernel_shape, (batch, shape.out_size, shape.out_size, shape.features)


def flax_call(
    shape: ConvShape, arrays: Sequence[np.ndarray], direction: str, dtype: str, conv: Callable[..., nn.Module] = nn.Conv
) -> latency.Call:
    """A linen convolution, compiled."""
    arrays = [jnp.asarray(array, dtype) for array in arrays]
    function, arguments = _functions(shape, dtype, conv)[direction], arrays[: 2 if direction == "forward" else 3]
    return latency.jax_call(jax.jit(function).lower(*arguments).compile(), *arguments)


def _functions(shape: ConvShape, dtype: str, conv: Callable[..., nn.Module]) -> dict[str, Callable[..., Any]]:
    """The convolution as a function of input and kernel; with its gradients, also of the gradient of the output."""
    module = conv(
        features=shape.features,
        kernel_size=(shape.taps, shape.taps),
        strides=(shape.stride, shape.stride),
        padding=((shape.padding, shape.padding),) * 2,
        kernel_dilation=(shape.dilation, shape.dilation),
        feature_group_count=shape.groups,
        use_bias=False,
        dtype=dtype,
    )

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return module.apply({"params": {"kernel": kernel}}, x)

    def forward_backward(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, ...]:
        # The gradients do not need the output: it is returned, or the compiler would drop it.
        out, pull = jax.vjp(forward, x, kernel)
        return out, *pull(gradient)

    return {"forward": forward, "forward_backward": forward_backward}


def torch_call(shape: ConvShape, arrays: Sequence[np.ndarray], direction: str, dtype: str) -> latency.Call:
    """torch's convolution of the same arrays, channels_last."""
    torch, device = _timing.load_torch(), _timing.torch_device()
    x, kernel, gradient = (
        torch.from_numpy(array.transpose(axes)).to(device, getattr(torch, dtype), memory_format=torch.channels_last)
        for array, axes in zip(arrays, ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)), strict=True)
    )
    geometry = {"stride": shape.stride, "padding": shape.padding, "dilation": shape.dilation, "groups": shape.groups}
    conv = functools.partial(torch.nn.functional.conv2d, **geometry)

    @torch.inference_mode()
    def forward() -> None:
        conv(x, kernel)

    def forward_backward() -> None:
        torch.autograd.grad(conv(x, kernel), (x, kernel), gradient)

    if direction == "forward":
        return _timing.torch_call(forward)
    for operand in (x, kernel):
        operand.requires_grad_()
    return _timing.torch_call(forward_backward)


def lowerings(shape: ConvShape, batch: int, dtype: str, conv: Callable[..., nn.Module]) -> dict[str, list[str]]:
    """Names of the paths of arch.ops._lowerings that run: of the convolution; of it and of its two gradients."""
    arrays = [jax.ShapeDtypeStruct(sizes, dtype) for sizes in _sizes(shape, batch)]
    on_cpu, names = jax.default_backend() == "cpu", {}
    for direction, function in _functions(shape, dtype, conv).items():
        names[direction] = []
        eqns = jax.make_jaxpr(function)(*arrays[: 2 if direction == "forward" else 3]).jaxpr.eqns
        geometries = {eqn.primitive.name: eqn.params.get("geometry") for eqn in eqns}
        for name in filter(geometries.get, primitives.NAMES):
            part, geometry = name.removeprefix("conv2d_"), geometries[name]
            path = choice.choose(part, geometry, batch, shape.kernel_shape, jnp.dtype(dtype), on_cpu=on_cpu)
            names[direction].append(path.__name__.rpartition(".")[2])
    return names


if __name__ == "__main__":
    sys.exit(main())
