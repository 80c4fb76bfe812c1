"""Folded networks against torch and ONNX Runtime, in turn in one process."""

import functools
import importlib.metadata
import importlib.util
import io
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from arch.efficiency.latency import Call, interleave, num_threads
from scripts import _timing, bench_models
from scripts.efficiency_studies.study import Settings, Work, network

NETWORKS = ("shufflenet_v2_x1_0", "mobilenet_v2", "resnet50")
BATCHES = (1, 8)


def works(settings: Settings) -> list[Work]:
    """Every network at batch 1 and 8; none where torch is not installed, for the same device."""
    if not _timing.has_torch("torchvision"):
        print("peers: torch and torchvision are not installed for this device; nothing to compare with", flush=True)
        return []
    return [
        Work("peers", f"{name} batch {batch}", functools.partial(_measure, name, batch, settings))
        for batch in BATCHES
        for name in NETWORKS
    ]


def _measure(name: str, batch: int, settings: Settings) -> dict[str, Any]:
    fields = bench_models.NETWORKS[name]
    net = network(name, batch=batch, image_size=224, folded=True, **fields)
    unfolded = network(name, batch=batch, image_size=224, folded=False, **fields)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(unfolded.variables["params"]))
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
    seconds = interleave(calls, pairs=settings.rounds, once_s=settings.once_s)
    jax.clear_caches()
    return {"model": name, "batch": batch, "compile_s": compile_s, **_timing.compare(seconds)}


def onnx_version() -> dict[str, str]:
    """That of ONNX Runtime, where it can be a peer."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        return {}
    return {"onnxruntime": importlib.metadata.version("onnxruntime")}


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
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=onnxruntime.get_available_providers())
    (argument,) = session.get_inputs()

    def call(times: int) -> None:
        for _ in range(times):
            session.run(None, {argument.name: x})

    return call


def lines(part: Mapping[str, Any]) -> list[str]:
    """A network, for the terminal."""
    ratios = [f"{peer} {_timing.Ratio(**value)}" for peer, value in part["ratio"].items()]
    return [f"  ours {part['ms']['ours']:.4g} ms; peers' time over ours: {', '.join(ratios)}"]
