"""Times the update of our optimisers against optax's, and as a share of the training step.

  python scripts/bench_optim.py                                        # two networks, a step of 32 images of 64 pixels
  python scripts/bench_optim.py --models resnet50 --batch=8 --image_size=224 --json=optim.jsonl
  python scripts/bench_optim.py --markdown=docs/performance.md --json=conv.jsonl --json=optim.jsonl

An update is what comes after the gradient: state and parameters in, both out, in place. Peers: optax.sgd, and
optax.lars in the variant whose arithmetic is the same. The share is that of the forward and backward pass together with
the update, as train.py compiles them. Peers take turns in one process; compilation is not timed.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout

from arch.training.host import prepare_host

if __name__ == "__main__":
    prepare_host()  # now, before JAX has threads

import jax
import jax.numpy as jnp
import numpy as np
import optax

from arch.efficiency.latency import Call, interleave, jax_call
from arch.models import MODELS, create
from arch.optim import lars, masks, momentum
from scripts import _report, _results, _timing

RATE, MOMENTUM, DECAY = 0.1, 0.9, 1e-4
NUM_CLASSES = 1000
MODELS_TIMED = ("shufflenet_v2_x1_0", "resnet50")


def decayed_sgd() -> optax.GradientTransformation:
    """optax's, with the decay of kernels alone."""
    return optax.chain(optax.add_decayed_weights(DECAY, masks.decay_mask), optax.sgd(RATE, MOMENTUM))


# By name: ours, and the peer that computes the same; LARS has none but in the variant optax.
OPTIMIZERS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "sgd": (lambda: momentum.momentum_sgd(RATE, MOMENTUM, weight_decay=DECAY), decayed_sgd),
    "lars optax": (
        lambda: lars.lars(RATE, MOMENTUM, DECAY, variant="optax"),
        lambda: optax.lars(RATE, DECAY, momentum=MOMENTUM),
    ),
    "lars lecture": (
        lambda: lars.lars(RATE, MOMENTUM, DECAY, variant="lecture"),
        lambda: optax.lars(RATE, DECAY, momentum=MOMENTUM),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all is timed; 1: one line on stderr says why not; 130: interrupted, what is done is written."""
    parser = _results.Parser("bench_optim", __doc__)
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=MODELS_TIMED, metavar="NAME")
    parser.add_argument("--batch", type=_results.positive, default=32, help="examples of the training step")
    parser.add_argument("--image_size", type=_results.positive, default=64, help="height and width, in pixels")
    parser.add_argument("--once_s", type=float, default=10.0, help="a call that takes longer is timed once, in seconds")
    args = parser.parse(argv)
    try:
        if args.markdown:
            _report.write(args.markdown, args.json, "bench_optim.py")
            return 0
        fields = {name: getattr(args, name) for name in ("dtype", "batch", "image_size", "pairs", "once_s")}
        header = {"record": "optim_run", **_timing.environment(), **fields}
        log = _results.Log(*args.json[:1] or [None], header, key=("model", "optimizer"))
        _results.announce(header)
        for name in args.models:
            _run(name, args, log)
    except (ValueError, OSError) as error:
        return _results.complain("bench_optim", error)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    return 0


def _run(name: str, args: argparse.Namespace, log: _results.Log) -> None:
    """A line an optimiser; what the log has is not timed."""
    for optimizer in OPTIMIZERS:
        row, start = log.done.get((name, optimizer)), time.perf_counter()
        if row is None:
            row = measure(name, optimizer, args)
            log.append(row)
        print(f"{_results.optim_line(row)} [took {_results.clock(time.perf_counter() - start)}]", flush=True)


def measure(name: str, optimizer: str, args: argparse.Namespace) -> dict[str, Any]:
    """The record of one network and optimiser: milliseconds of an update, ours and optax's, and of a whole step."""
    rng = np.random.default_rng(0)
    shape = (args.batch, args.image_size, args.image_size, 3)
    images = jnp.asarray(rng.standard_normal(shape, dtype=np.float32))
    labels = jnp.asarray(rng.integers(0, NUM_CLASSES, args.batch))
    model = create(name, num_classes=NUM_CLASSES, dtype=jnp.dtype(args.dtype))
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), images[:1])
    params = variables.pop("params")
    ours, peer = (make() for make in OPTIMIZERS[optimizer])

    def gradient(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            options = {"train": True, "mutable": list(variables), "rngs": {"dropout": jax.random.key(1)}}
            logits, _ = model.apply({"params": params, **variables}, images, **options)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.grad(loss)(params)

    given = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1e-3), params)
    calls = {
        "ours": update_call(ours, params, lambda params: given),
        "optax": update_call(peer, params, lambda params: given),
        "step": update_call(ours, params, gradient),
    }
    taken = interleave(calls, pairs=args.pairs, once_s=args.once_s)
    step = taken.pop("step")
    compared = _timing.compare(taken)
    row = {"record": "optim", "model": name, "optimizer": optimizer, **compared}
    row["num_params"] = sum(leaf.size for leaf in jax.tree.leaves(params))
    row["step_ms"] = 1e3 * float(np.median(step))
    row["share"] = row["ms"]["ours"] / row["step_ms"]
    return row


def update_call(tx: optax.GradientTransformation, params: Any, gradient: Callable[[Any], Any]) -> Call:
    """One update after the other, each of a gradient of the parameters that the last has left."""
    state = jax.tree.map(jnp.copy, (params, tx.init(params)))

    def update(state: Any) -> Any:
        params, opt_state = state
        updates, opt_state = tx.update(gradient(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    compiled = jax.jit(update, donate_argnums=0).lower(state).compile()

    def step() -> Any:
        nonlocal state
        state = compiled(state)
        return state

    return jax_call(step)


if __name__ == "__main__":
    sys.exit(main())
