"""Networks of four complexities, and one of every other family: what they cost here beside what is published."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from arch import models
from arch.efficiency.complexity import total
from arch.efficiency.latency import measure
from arch.efficiency.ranks import rank_correlation
from scripts.efficiency_studies.study import Network, Settings, Work, network, record

# Table 8 of ShuffleNet v2 (arXiv:1807.11164): family, level -> MACs in millions, top-1 error in percent, batches of 8 a
# second on its GPU, images a second on its CPU. Of ShuffleNet v2* it has none for ImageNet.
TABLE_8 = "table 8 of arXiv:1807.11164"
PUBLISHED = {
    ("ShuffleNet v2", 40): (41, 39.7, 417, 57.0),
    ("ShuffleNet v2", 140): (146, 30.6, 341, 24.4),
    ("ShuffleNet v2", 300): (299, 27.4, 255, 11.8),
    ("ShuffleNet v2", 500): (591, 25.1, 217, 6.7),
    ("ShuffleNet v1", 40): (38, 43.2, 347, 56.8),
    ("ShuffleNet v1", 140): (140, 32.6, 213, 21.8),
    ("ShuffleNet v1", 300): (292, 28.5, 164, 10.3),
    ("ShuffleNet v1", 500): (524, 26.3, 133, 6.4),
    ("MobileNet v2", 40): (39, 55.1, 351, 33.6),
    ("MobileNet v2", 140): (141, 33.3, 249, 14.9),
    ("MobileNet v2", 300): (301, 28.3, 180, 8.9),
    ("MobileNet v2", 500): (587, 26.7, 137, 5.4),
    ("Xception", 40): (40, 44.9, 384, 52.9),
    ("Xception", 140): (145, 34.1, 278, 19.5),
    ("Xception", 300): (305, 29.4, 219, 10.5),
    ("Xception", 500): (525, 27.6, 174, 6.7),
}

# The published Xceptions of these sizes are the authors' own, of which no layout is published: these are Chollet's,
# all of whose channels are scaled alike.
XCEPTION_SCALES = {40: 0.0844, 140: 0.1711, 300: 0.2521, 500: 0.3332}

# The authors have MobileNet v2 at 0.15 and 0.6 with 39 and 141 million multiply-adds; of channels divisible by 8 it has
# 31 and 151 there. At 0.27 and 0.56 it has 38 and 147.
LEVELS: dict[tuple[str, int], tuple[str, Mapping[str, Any]]] = {
    **{("ShuffleNet v2", level): (f"shufflenet_v2_x{width}", {})
       for level, width in ((40, "0_5"), (140, "1_0"), (300, "1_5"), (500, "2_0"))},
    **{("ShuffleNet v2*", level): (f"shufflenet_v2_star_x{width}", {})
       for level, width in ((40, "0_5"), (140, "1_0"), (300, "1_5"), (500, "2_0"))},
    **{("ShuffleNet v1", level): ("shufflenet_v1_g3", {"width_multiplier": width})
       for level, width in ((40, 0.5), (140, 1.0), (300, 1.5), (500, 2.0))},
    **{("MobileNet v2", level): ("mobilenet_v2", {"width_multiplier": width})
       for level, width in ((40, 0.27), (140, 0.56), (300, 1.0), (500, 1.4))},
}  # fmt: skip
BATCHES = (1, 2, 4, 8, 16, 32, 64)
QUICK_BATCHES = (1, 8, 64)

# Top-1 accuracy in percent, one crop, and who published it.
_TORCHVISION, _TIMM = "torchvision 0.29.1, IMAGENET1K_V1", "timm's weights"
TOP1 = {
    **{name: (percent, _TORCHVISION) for name, percent in {
        "googlenet": 69.778, "inception_v3": 77.294, "resnet18": 69.758, "resnet34": 73.314, "resnet50": 76.130,
        "resnet101": 77.374, "resnet152": 78.312, "resnext50_32x4d": 77.618, "resnext101_32x8d": 79.312,
        "densenet121": 74.434, "densenet161": 77.138, "densenet169": 75.600, "densenet201": 76.896,
    }.items()},
    "inception_v4": (80.144, _TIMM),
    "inception_resnet_v2": (80.434, _TIMM),
    "xception": (79.058, _TIMM),
    "mobilenet_v1": (70.6, "arXiv:1704.04861"),
    "deep_roots_resnet50_root16": (73.24, "arXiv:1605.06489"),
    "igcv1_l100m2": (73.05, "arXiv:1707.02725"),
    "igcv3_d": (72.2, "arXiv:1806.00178"),
    "clcnet_a": (70.4, "arXiv:1712.06145"),
    "shiftnet_b": (61.2, "arXiv:1711.08141"),
    "gunn_18": (78.35, "arXiv:1711.09280"),
    "condensenet_74": (73.8, "arXiv:1711.09224"),
    "drn_c_26": (75.1, "arXiv:1705.09914"),
    "attention_56": (78.24, "arXiv:1704.06904"),
    "se_resnet50": (77.63, "the authors' README of arXiv:1709.01507"),
    "isqrt_cov_resnet50": (77.86, "arXiv:1712.01034"),
    "shufflenet_v2_plus_small": (74.1, "the authors' README of arXiv:1807.11164"),
    "shufflenet_v2_50": (77.2, "arXiv:1807.11164"),
}  # fmt: skip
# One of each other family, the smallest that is published for ImageNet, else for smaller images.
OTHERS = (
    "googlenet", "inception_v3", "inception_v4", "inception_resnet_v2", "xception", "resnet18", "resnet50",
    "resnetv2_50", "resnext50_32x4d", "se_resnet50", "deep_roots_resnet50_root16", "densenet121", "condensenet_74",
    "mobilenet_v1", "igcv1_l100m2", "igcv3_d", "clcnet_a", "shiftnet_b", "gunn_18", "drn_c_26", "attention_56",
    "nonlocal_resnet50", "deform_resnet50", "shufflenet_v2_plus_small", "shufflenet_v2_50", "stn_classifier", "vgg16",
    "isqrt_cov_resnet50", "attention_resnet50", "addressnet_20", "fractalnet_20", "shiftresnet20_e3", "deep_roots_nin",
)  # fmt: skip
_SMALL = ("cifar_", "addressnet_", "fractalnet_", "shiftresnet", "deep_roots_nin", "gunn_15")


def image_size(name: str) -> int:
    """Height and width of the images that a network is published for, in pixels."""
    if name.startswith(_SMALL):
        return 32
    if name.endswith("_vgg16"):
        return 448
    return 299 if name.startswith(("inception", "xception")) else 224


def xception_fields(level: int) -> dict[str, Any]:
    """Those of Xception with all of its channels scaled."""
    scaled = functools.partial(_scaled, scale=XCEPTION_SCALES[level])
    return {
        "stem_features": scaled(32),
        "more_stem_features": (scaled(64),),
        "entry_features": tuple(map(scaled, (128, 256, 728))),
        "exit_features": tuple(map(scaled, (1024, 1536, 2048))),
    }


def _scaled(features: int, scale: float) -> int:
    return max(4, round(features * scale))


def works(settings: Settings) -> list[Work]:
    """Networks of the levels, folded and not, and the others at batch 1; then the levels at larger batches.

    In the full run also in bfloat16, at batch 1 and 8.
    """
    families = list(dict.fromkeys([*(family for family, _ in LEVELS), "Xception"]))

    def levels(batch: int, folded: bool, dtype: str = "float32") -> list[Work]:
        found = []
        for level in (40, 140, 300, 500):
            for family in families:
                name = f"{family} {level}M batch {batch}{' folded' * folded}{' bfloat16' * (dtype == 'bfloat16')}"
                measured = functools.partial(_measure_level, family, level, batch, folded, dtype, settings)
                found.append(Work("models", name, measured))
        return found

    named = {name for name, _ in LEVELS.values()}
    others = [name for name in models.MODELS if name not in named] if settings.is_full else OTHERS
    found = levels(1, True) + levels(1, False)
    for name in others:
        found.append(Work("models", f"{name} batch 1 folded", functools.partial(_measure_other, name, settings)))
    for batch in (BATCHES if settings.is_full else QUICK_BATCHES)[1:]:
        found += levels(batch, True) + (levels(batch, False) if settings.is_full else [])
    if settings.is_full:
        found += levels(1, True, "bfloat16") + levels(8, True, "bfloat16")
    return found


def level_network(family: str, level: int, *, batch: int, folded: bool, dtype: str = "float32") -> Network:
    """The network of a family at a level, at 224 pixels and 1000 classes."""
    name, fields = ("xception", xception_fields(level)) if family == "Xception" else LEVELS[family, level]
    return network(name, batch=batch, image_size=224, folded=folded, dtype=jnp.dtype(dtype), **fields)


def _measure_level(family: str, level: int, batch: int, folded: bool, dtype: str, settings: Settings) -> dict[str, Any]:
    fields: dict[str, Any] = {"family": family, "level": level, "dtype": dtype, "top1": None, "source": None}
    if (family, level) in PUBLISHED:
        _, error, gpu, cpu = PUBLISHED[family, level]
        fields |= {"top1": 1 - error / 100, "source": TABLE_8, "published_gpu": gpu, "published_cpu": cpu}
    net = level_network(family, level, batch=batch, folded=folded, dtype=dtype)
    return fields | _measure(net, folded, settings)


def _measure_other(name: str, settings: Settings) -> dict[str, Any]:
    percent, source = TOP1.get(name, (None, None))
    top1 = None if percent is None else percent / 100
    fields = {"family": name, "level": None, "dtype": "float32", "source": source, "top1": top1}
    return fields | _measure(network(name, batch=1, image_size=image_size(name), folded=True), True, settings)


def _measure(net: Network, folded: bool, settings: Settings) -> dict[str, Any]:
    batch, size = net.images.shape[:2]
    program = net.build()
    # A call of a large batch takes seconds.
    rounds = settings.rounds if batch < 32 else max(5, settings.rounds // 3)
    timings = measure({"net": program.call}, rounds=rounds, once_s=settings.once_s, reference=settings.reference)
    macs = total(net.trace()).macs // batch
    jax.clear_caches()
    fields = {"batch": batch, "image_size": size, "folded": folded, "macs": macs}
    return fields | {"images_per_s": batch / timings["net"].median_s} | record(timings["net"], program)


def speed_correlation(records: Sequence[Mapping[str, Any]], device: str) -> tuple[float, int]:
    """Of the ranks of published and measured speeds of the levels, folded, in float32; and of how many networks.

    Args:
        records: of the study.
        device: "gpu", whose published speeds are at batch 8, or "cpu", at batch 1.
    """
    batch = {"gpu": 8, "cpu": 1}[device]
    found = [
        (record[f"published_{device}"], record["images_per_s"])
        for record in records
        if record.get(f"published_{device}")
        and record["batch"] == batch
        and record["folded"]
        and record["dtype"] == "float32"
        and not record["is_noisy"]
    ]
    return (rank_correlation(*zip(*found, strict=True)) if len(found) > 1 else math.nan), len(found)


def lines(part: Mapping[str, Any]) -> list[str]:
    """A network, for the terminal."""
    noisy = " (too noisy to quote)" if part["is_noisy"] else ""
    memory = "" if part["peak_bytes"] is None else f", {part['peak_bytes'] / 2**20:.0f} MiB"
    return [
        f"  {part['macs'] / 1e6:.1f}M MACs: {part['ms']:.4g} ms, {part['images_per_s']:.4g} images/s{noisy}, "
        f"compilation {part['compile_s']:.3g} s{memory}"
    ]
