"""Folded networks against torch and ONNX Runtime, in turn in one process."""

import functools
import importlib.util
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from arch.efficiency.complexity import count
from arch.efficiency.latency import REFERENCE, Call, interleave, num_threads, summarize
from arch.models import create
from scripts import _timing, bench_models
from scripts.efficiency_studies.study import Settings, Work, network, record

NETWORKS = ("shufflenet_v2_x1_0", "mobilenet_v2", "resnet50")
BATCHES = (1, 8)


def works(settings: Settings) -> list[Work]:
    """Every network at batch 1 and 8; none where torch is not installed, for the same device."""
    if not _timing.has_torch("torchvision"):
        print("peers: torch and torchvision are not installed for this device; nothing to compare with", flush=True)
        return []
    if not onnx_version():
        print("peers: ONNX Runtime is not among them; pip install onnx onnxruntime", flush=True)
    return [
        Work("peers", f"{name} batch {batch}", functools.partial(_measure, name, batch, settings))
        for batch in BATCHES
        for name in NETWORKS
    ]


def _measure(name: str, batch: int, settings: Settings) -> dict[str, Any]:
    fields = bench_models.NETWORKS[name]
    net = network(name, batch=batch, image_size=224, folded=True, **fields)
    num_params = count(create(name, **fields), (1, 224, 224, 3), train=False).params
    images = np.asarray(net.images)
    start = time.perf_counter()
    calls: dict[str, Call] = {"ours": net.build().call}
    compile_s = {"ours": time.perf_counter() - start}
    labels = np.zeros(batch, np.int64)
    for peer in ("torch", "torch_channels_last", "torch_compile"):
        start = time.perf_counter()
        calls[peer] = bench_models.torch_call(peer, name, images, labels, "inference", "float32", num_params)
        if peer == "torch_compile":
            compile_s[peer] = time.perf_counter() - start
    calls["torch_folded"] = _folded_torch(name, images)
    if onnx_version():
        calls["onnxruntime"] = _onnx(name, images)
    calls[REFERENCE] = settings.reference
    seconds = interleave(calls, pairs=settings.rounds, once_s=settings.once_s)
    reference = seconds.pop(REFERENCE)
    jax.clear_caches()
    rows = {peer: record(summarize(samples, reference)) for peer, samples in seconds.items()}
    return {"model": name, "batch": batch, "compile_s": compile_s, "rows": rows, **_timing.compare(seconds)}


def onnx_version() -> dict[str, str]:
    """That of ONNX Runtime, where it can be a peer: on a CPU. Elsewhere its `run` would copy images there each time."""
    if jax.default_backend() != "cpu" or not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        return {}
    import onnxruntime  # of several packages: onnxruntime, onnxruntime-gpu

    return {"onnxruntime": onnxruntime.__version__}


def _torch_model(name: str) -> Any:
    import torchvision

    return torchvision.models.get_model(name, weights=None).eval()


def _folded_torch(name: str, images: np.ndarray) -> Call:
    """torch eager, channels_last, its norms folded by torch.fx."""
    torch, device = _timing.load_torch(), _timing.torch_device()
    from torch.fx.experimental.optimization import fuse

    model = fuse(_torch_model(name)).to(device, memory_format=torch.channels_last)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).to(device).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def infer() -> None:
        model(x)

    return _timing.torch_call(infer)


def _onnx(name: str, images: np.ndarray) -> Call:
    """ONNX Runtime, of torchvision's network, which it folds itself."""
    import onnxruntime

    torch, file = _timing.load_torch(), io.BytesIO()
    x = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    torch.onnx.export(_torch_model(name), torch.from_numpy(x), file, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads()
    # Else its threads go on spinning, for far longer than the pause before the next peer.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=onnxruntime.get_available_providers())
    (argument,) = session.get_inputs()

    def call(times: int) -> None:
        for _ in range(times):
            session.run(None, {argument.name: x})

    return call


def fastest(part: Mapping[str, Any]) -> tuple[str, _timing.Ratio]:
    """The fastest peer, and its time over ours."""
    name = min(part["ratio"], key=lambda peer: part["ms"][peer])
    return name, _timing.Ratio(**part["ratio"][name])


def sentence(parts: Sequence[Mapping[str, Any]]) -> str:
    """Whether ours is as fast as the fastest, and as each of them, in plain words."""
    found = {f"{part['model']} at batch {part['batch']}": fastest(part) for part in parts}
    slower = [f"{cell} {ratio} of {peer}" for cell, (peer, ratio) in found.items() if ratio.median < 1]
    told = f"Ours is at least as fast as the fastest peer in {len(found) - len(slower)} of {len(found)} cells"
    told += f"; slower in {', '.join(slower)}" if slower else ""
    names = list(dict.fromkeys(peer for part in parts for peer in part["ratio"]))
    won = [sum(part["ratio"][name]["median"] >= 1 for part in parts if name in part["ratio"]) for name in names]
    each = ", ".join(f"{name} in {count}" for name, count in zip(names, won, strict=True))
    return f"{told}. It is at least as fast as {each} of them."


def lines(part: Mapping[str, Any]) -> list[str]:
    """A network, for the terminal."""
    ratios = [f"{peer} {_timing.Ratio(**value)}" for peer, value in part["ratio"].items()]
    return [f"  ours {part['ms']['ours']:.4g} ms; peers' time over ours: {', '.join(ratios)}"]
