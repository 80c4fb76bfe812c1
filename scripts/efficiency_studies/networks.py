"""Networks of four complexities, and one of every other family: what they cost here beside what is published."""

import functools
from collections.abc import Mapping
from typing import Any

import jax

from arch import models
from arch.efficiency.complexity import total
from arch.efficiency.latency import measure
from arch.models.classification.xception import Xception
from scripts.efficiency_studies.study import Network, Settings, Work, network, record

# Table 8 of ShuffleNet v2 (arXiv:1807.11164): family, level -> MACs in millions, top-1 error in percent, batches of 8 a
# second on its GPU, images a second on its CPU. Of ShuffleNet v2* it has none for ImageNet.
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

# Top-1 accuracy in percent of torchvision 0.29.1's IMAGENET1K_V1 weights.
TORCHVISION_TOP1 = {
    "googlenet": 69.778, "inception_v3": 77.294, "resnet18": 69.758, "resnet34": 73.314, "resnet50": 76.130,
    "resnet101": 77.374, "resnet152": 78.312, "resnext50_32x4d": 77.618, "resnext101_32x8d": 79.312,
    "densenet121": 74.434, "densenet161": 77.138, "densenet169": 75.600, "densenet201": 76.896,
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


def xception(level: int) -> Xception:
    """Xception with all of its channels scaled."""
    scaled = functools.partial(_scaled, scale=XCEPTION_SCALES[level])
    return Xception(
        stem_features=scaled(32),
        more_stem_features=(scaled(64),),
        entry_features=tuple(map(scaled, (128, 256, 728))),
        exit_features=tuple(map(scaled, (1024, 1536, 2048))),
    )


def _scaled(features: int, scale: float) -> int:
    return max(4, round(features * scale))


def works(settings: Settings) -> list[Work]:
    """Networks of the levels at every batch, folded and not; then the others at batch 1, folded."""
    batches = BATCHES if settings.is_full else QUICK_BATCHES
    families = list(dict.fromkeys([*(family for family, _ in LEVELS), "Xception"]))
    found = []
    for batch in batches:
        for folded in (True, False) if settings.is_full or batch == 1 else (True,):
            for level in (40, 140, 300, 500):
                for family in families:
                    name = f"{family} {level}M batch {batch}{' folded' * folded}"
                    measured = functools.partial(_measure_level, family, level, batch, folded, settings)
                    found.append(Work("models", name, measured))
    named = {name for name, _ in LEVELS.values()}
    others = [name for name in models.MODELS if name not in named] if settings.is_full else OTHERS
    for name in others:
        found.append(Work("models", f"{name} batch 1 folded", functools.partial(_measure_other, name, settings)))
    return found


def level_network(family: str, level: int, *, batch: int, folded: bool) -> Network:
    """The network of a family at a level, at 224 pixels and 1000 classes."""
    name, fields = (xception(level), {}) if family == "Xception" else LEVELS[family, level]
    return network(name, batch=batch, image_size=224, folded=folded, **fields)


def _measure_level(family: str, level: int, batch: int, folded: bool, settings: Settings) -> dict[str, Any]:
    published = PUBLISHED.get((family, level))
    top1 = None if published is None else 1 - published[1] / 100
    fields = {"family": family, "level": level, "source": "table 8 of arXiv:1807.11164", "top1": top1}
    return fields | _measure(level_network(family, level, batch=batch, folded=folded), folded, settings)


def _measure_other(name: str, settings: Settings) -> dict[str, Any]:
    percent = TORCHVISION_TOP1.get(name)
    top1 = None if percent is None else percent / 100
    fields = {"family": name, "level": None, "source": "torchvision 0.29.1, IMAGENET1K_V1", "top1": top1}
    return fields | _measure(network(name, batch=1, image_size=image_size(name), folded=True), True, settings)


def _measure(net: Network, folded: bool, settings: Settings) -> dict[str, Any]:
    batch, size = net.images.shape[:2]
    program = net.build()
    # A call of a large batch takes seconds.
    rounds = settings.rounds if batch < 32 else max(3, settings.rounds // 3)
    timings = measure({"net": program.call}, rounds=rounds, once_s=settings.once_s, reference=settings.reference)
    macs = total(net.trace()).macs // batch
    jax.clear_caches()
    fields = {"batch": batch, "image_size": size, "folded": folded, "macs": macs}
    return fields | {"images_per_s": batch / timings["net"].median_s} | record(timings["net"], program)


def lines(part: Mapping[str, Any]) -> list[str]:
    """A network, for the terminal."""
    noisy = " (too noisy to quote)" if part["is_noisy"] else ""
    memory = "" if part["peak_bytes"] is None else f", {part['peak_bytes'] / 2**20:.0f} MiB"
    return [
        f"  {part['macs'] / 1e6:.1f}M MACs: {part['ms']:.4g} ms, {part['images_per_s']:.4g} images/s{noisy}, "
        f"compilation {part['compile_s']:.3g} s{memory}"
    ]
