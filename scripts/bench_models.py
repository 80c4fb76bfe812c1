"""Times whole networks, inference and training step, against the same with flax.linen.Conv and against torchvision.

  python scripts/bench_models.py                                  # four networks, batch 8, 224 pixels
  python scripts/bench_models.py --models resnet50 --peers torch torch_channels_last --json=models.jsonl
  python scripts/bench_models.py --markdown=docs/performance.md --json=conv.jsonl --json=models.jsonl

A training step is forward, loss, backward and an update by SGD with momentum. Peers: `flax`, our network with
flax.linen.Conv; `torch` and `torch_channels_last`, torchvision's own definition run eagerly in both memory layouts, of
which the faster is the one to beat; with --torch_compile, `torch_compile`, channels_last; with --folded, in inference,
`folded`: our network with its norms in its convolutions. Peers take turns in one
process, with the same number of threads; compilation is timed apart; a call over --once_s is timed once.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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
import optax
from flax import linen as nn

from arch.efficiency import latency
from arch.models import create
from arch.norm.fold import fold
from scripts import _report, _results, _timing

# By torchvision's names, with the fields that make ours the same network.
NETWORKS = {
    "shufflenet_v2_x1_0": {"variant": "torchvision"},
    "mobilenet_v2": {},
    "resnet50": {},
    "resnext50_32x4d": {},
}
PEERS = ("flax", "torch", "torch_channels_last")
LEARNING_RATE, MOMENTUM = 1e-3, 0.9
NUM_CLASSES = 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all is timed; 1: one line on stderr says why not; 130: interrupted, what is done is written."""
    args = _parse(argv)
    try:
        if args.markdown:
            _report.write(args.markdown, args.json, "bench_models.py")
            return 0
        asked = [*args.peers, *["torch_compile"] * args.torch_compile, *["folded"] * args.folded]
        args.peers = [peer for peer in asked if not peer.startswith("torch") or _timing.has_torch("torchvision")]
        fields = {name: getattr(args, name) for name in ("dtype", "peers", "modes", "pairs", "once_s")}
        header = {"record": "model_run", **_timing.environment(), **fields}
        log = _results.Log(*args.json[:1] or [None], header, key=("model", "batch", "image_size"))
        _results.announce(header)
        return _run(args, log)
    except (ValueError, OSError) as error:
        return _results.complain("bench_models", error)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _results.Parser("bench_models", __doc__)
    modes = tuple(_results.MODES)
    parser.add_argument("--models", nargs="+", choices=tuple(NETWORKS), default=tuple(NETWORKS))
    parser.add_argument("--batch", type=_results.positive, default=8, help="examples")
    parser.add_argument("--image_size", type=_results.positive, default=224, help="height and width, in pixels")
    parser.add_argument("--modes", nargs="+", choices=modes, default=modes)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="torchvision only where installed")
    parser.add_argument("--torch_compile", action="store_true", help="torch.compile as one more peer")
    parser.add_argument("--folded", action="store_true", help="our network with norms folded as one more peer")
    parser.add_argument("--once_s", type=float, default=10.0, help="a call that takes longer is timed once, in seconds")
    return parser.parse(argv)


def _run(args: argparse.Namespace, log: _results.Log) -> int:
    """Times what the log does not have, a line a network."""
    try:
        for name in args.models:
            row = log.done.get((name, args.batch, args.image_size))
            if row is None:
                start = time.perf_counter()
                row = measure(name, args)
                log.append(row)
                print(f"{_results.model_line(row)} [took {_results.clock(time.perf_counter() - start)}]", flush=True)
            else:
                print(f"{_results.model_line(row)} [from {args.json[0]}]", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    return 0


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The record of one network: milliseconds, ratios and seconds of compilation of each mode.

    Args:
        name: of NETWORKS.
        args: batch, image_size, dtype, modes, peers, pairs and once_s, as the flags have them.
    """
    rng = np.random.default_rng(0)
    images = rng.standard_normal((args.batch, args.image_size, args.image_size, 3), dtype=np.float32)
    labels = rng.integers(0, NUM_CLASSES, args.batch)
    ours = create(name, num_classes=NUM_CLASSES, dtype=jnp.dtype(args.dtype), **NETWORKS[name])
    networks = {"ours": ours, "flax": ours.clone(conv=nn.Conv)}
    # The same for both: parameters have the same names. Their values do not depend on the size of the images.
    variables = jax.jit(functools.partial(ours.init, train=False))(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    row = {"record": "model", "model": name, "batch": args.batch, "image_size": args.image_size}
    for mode in args.modes:
        calls, compile_s = {}, {}
        for peer in ("ours", *args.peers):
            if peer == "folded" and mode == "training":
                continue
            jax.clear_caches()  # nothing that one peer traced helps the next
            start = time.perf_counter()
            if peer in networks:
                calls[peer] = jax_call(networks[peer], variables, images, labels, mode)
            elif peer == "folded":
                calls[peer] = folded_call(ours, variables, images)
            else:
                num_params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
                calls[peer] = torch_call(peer, name, images, labels, mode, args.dtype, num_params)
            if not peer.startswith("torch") or peer == "torch_compile":
                compile_s[peer] = time.perf_counter() - start
        seconds = latency.interleave(calls, pairs=args.pairs, once_s=args.once_s)
        row[mode] = {"compile_s": compile_s, **_timing.compare(seconds)}
    return row


def jax_call(
    model: nn.Module, variables: Mapping[str, Any], images: np.ndarray, labels: np.ndarray, mode: str
) -> latency.Call:
    """A network of linen modules, traced and compiled; in training, each call goes on from the last."""
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    if mode == "inference":
        function = jax.jit(functools.partial(model.apply, train=False))
        return latency.jax_call(function.lower(variables, images).compile(), variables, images)
    optimizer = optax.sgd(LEARNING_RATE, MOMENTUM)
    # A copy, because a step overwrites its state.
    state = jax.tree.map(jnp.copy, (variables, optimizer.init(variables["params"])))
    function = jax.jit(training_step(model, optimizer), donate_argnums=0)
    compiled = function.lower(state, images, labels).compile()

    def step() -> Any:
        nonlocal state
        state, loss = compiled(state, images, labels)
        return state, loss

    return latency.jax_call(step)


def folded_call(model: nn.Module, variables: Mapping[str, Any], images: np.ndarray) -> latency.Call:
    """Inference with the norms folded into the convolutions before them."""
    images = jnp.asarray(images)
    apply, folded = fold(model, variables, images, train=False)
    return latency.jax_call(jax.jit(apply).lower(folded, images).compile(), folded, images)


def training_step(model: nn.Module, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """(variables, optimizer state), images, labels -> the next state and the loss."""

    def step(state: tuple[Any, Any], images: jax.Array, labels: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
        variables, optimizer_state = state

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            logits, updates = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

        (loss, new), gradients = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
        updates, optimizer_state = optimizer.update(gradients, optimizer_state)
        return ({**new, "params": optax.apply_updates(variables["params"], updates)}, optimizer_state), loss

    return step


def torch_call(
    peer: str, name: str, images: np.ndarray, labels: np.ndarray, mode: str, dtype: str, num_params: int
) -> latency.Call:
    """torchvision's network, channels_last but for the peer "torch"; run once, where it is compiled.

    Raises:
        ValueError: a network of another size than ours.
    """
    torch, device = _timing.load_torch(), _timing.torch_device()
    import torchvision

    layout = torch.contiguous_format if peer == "torch" else torch.channels_last
    model = torchvision.models.get_model(name, weights=None, num_classes=NUM_CLASSES)
    found = sum(parameter.numel() for parameter in model.parameters())
    if found != num_params:
        raise ValueError(f"{name}: torchvision's has {found} parameters and ours {num_params}; compare equal networks")
    model = model.to(device, memory_format=layout).train(mode == "training")
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).to(device).contiguous(memory_format=layout)
    y = torch.from_numpy(labels).to(device)
    forward = model
    if peer == "torch_compile":  # of this shape alone; in inference with its norms folded and its weights laid out
        forward = torch.compile(model, dynamic=False, options={"freezing": mode == "inference"})
    autocast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=dtype == "bfloat16")
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def infer() -> None:
        with torch.inference_mode(), autocast():
            forward(x)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            loss = torch.nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()

    call = _timing.torch_call(infer if mode == "inference" else train)
    if peer == "torch_compile":
        call(1)
    return call


if __name__ == "__main__":
    sys.exit(main())
