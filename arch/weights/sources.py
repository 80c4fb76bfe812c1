"""Which of our networks torchvision or timm has too, by which name, and what makes ours the same."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from arch import models, norm
from arch.errors import unknown_name
from arch.weights.convert import Names
from arch.weights.names import (
    densenet,
    googlenet,
    inception_resnet_v2,
    inception_v3,
    inception_v4,
    mobilenet_v1,
    mobilenet_v2,
    nasnet,
    resnet,
    resnet_v2,
    senet,
    shufflenet_v2,
    vgg,
    xception,
)


@dataclasses.dataclass(frozen=True)
class Source:
    """A network of another library.

    Attributes:
        library: torchvision or timm.
        name: of the network there.
        names: of our layers there.
        fields: of our network, without which it is another one.
        norm_fields: of our batch norm, likewise.
        image_size: that it was published for, in pixels.
        unneeded: regular expression of the beginnings of tensors that may be left out: auxiliary heads.
        pointwise: regular expression of the names of our linear layers' kernels that are 1x1 convolutions there.
    """

    library: str
    name: str
    names: Names
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    norm_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    image_size: int = 224
    unneeded: str = ""
    pointwise: str = ""

    def create(self, model_name: str, **fields: Any) -> nn.Module:
        """Our network of that name as this one is."""
        return models.create(
            model_name, **{"norm": norm.create("batch_norm", **self.norm_fields), **self.fields, **fields}
        )


_INCEPTION = {"norm_fields": {"epsilon": 1e-3}, "image_size": 299}
_NASNET = {"norm_fields": {"epsilon": 1e-3}, "image_size": 331}
_SE = {"pointwise": r"\.(se|se_module)\.fc\d\.weight$"}
_BASIC_SE = {**_SE, "fields": {"act_before_gate": True}}
_TIMM_SE = {**_SE, "fields": {"stride_at": "second", "pool": "symmetric"}}
_V2_HEAD = r"^head\.fc\.weight$"
_TORCHVISION = {"fields": {"variant": "torchvision"}}

# Our name -> the libraries' networks with its layers, the one that is taken where none is asked for first. ImageNet's
# weights that torchvision has for googlenet and inception_v3 want images scaled to [-1, 1], mean and std 0.5, as timm's
# of inception_v4, inception_resnet_v2, legacy_xception, nasnetalarge and pnasnet5large do.
SOURCES: Mapping[str, tuple[Source, ...]] = {
    "densenet121": (Source("torchvision", "densenet121", densenet.torchvision),),
    "densenet161": (Source("torchvision", "densenet161", densenet.torchvision),),
    "densenet169": (Source("torchvision", "densenet169", densenet.torchvision),),
    "densenet201": (Source("torchvision", "densenet201", densenet.torchvision),),
    "googlenet": (
        Source(
            "torchvision",
            "googlenet",
            googlenet.torchvision,
            norm_fields={"epsilon": 1e-3},
            unneeded=r"aux[12]\.",
        ),
    ),
    "inception_resnet_v2": (Source("timm", "inception_resnet_v2", inception_resnet_v2.timm, **_INCEPTION),),
    "inception_v3": (
        Source("torchvision", "inception_v3", inception_v3.torchvision, **_INCEPTION, unneeded=r"AuxLogits\."),
        Source("timm", "inception_v3", inception_v3.torchvision, **_INCEPTION, unneeded=r"AuxLogits\."),
    ),
    "inception_v4": (Source("timm", "inception_v4", inception_v4.timm, **_INCEPTION),),
    "mobilenet_v1": (Source("timm", "mobilenetv1_100", mobilenet_v1.timm),),
    "mobilenet_v2": (Source("torchvision", "mobilenet_v2", mobilenet_v2.torchvision),),
    "nasnet_a_large": (Source("timm", "nasnetalarge", nasnet.timm, **_NASNET),),
    "pnasnet_5_large": (Source("timm", "pnasnet5large", nasnet.timm_pnasnet, **_NASNET),),
    "resnet18": (Source("torchvision", "resnet18", resnet.torchvision), Source("timm", "resnet18", resnet.torchvision)),
    "resnet34": (Source("torchvision", "resnet34", resnet.torchvision), Source("timm", "resnet34", resnet.torchvision)),
    "resnet50": (Source("torchvision", "resnet50", resnet.torchvision), Source("timm", "resnet50", resnet.torchvision)),
    "resnet101": (
        Source("torchvision", "resnet101", resnet.torchvision),
        Source("timm", "resnet101", resnet.torchvision),
    ),
    "resnet152": (
        Source("torchvision", "resnet152", resnet.torchvision),
        Source("timm", "resnet152", resnet.torchvision),
    ),
    "resnet200": (Source("timm", "resnet200", resnet.torchvision),),
    "resnetv2_18": (Source("timm", "resnetv2_18", resnet_v2.timm, pointwise=_V2_HEAD),),
    "resnetv2_34": (Source("timm", "resnetv2_34", resnet_v2.timm, pointwise=_V2_HEAD),),
    "resnetv2_50": (Source("timm", "resnetv2_50", resnet_v2.timm, pointwise=_V2_HEAD),),
    "resnetv2_101": (Source("timm", "resnetv2_101", resnet_v2.timm, pointwise=_V2_HEAD),),
    "resnetv2_152": (Source("timm", "resnetv2_152", resnet_v2.timm, pointwise=_V2_HEAD),),
    "resnext50_32x4d": (
        Source("torchvision", "resnext50_32x4d", resnet.torchvision),
        Source("timm", "resnext50_32x4d", resnet.torchvision),
    ),
    "resnext101_32x4d": (Source("timm", "resnext101_32x4d", resnet.torchvision),),
    "resnext101_32x8d": (
        Source("torchvision", "resnext101_32x8d", resnet.torchvision),
        Source("timm", "resnext101_32x8d", resnet.torchvision),
    ),
    "resnext101_64x4d": (
        Source("torchvision", "resnext101_64x4d", resnet.torchvision),
        Source("timm", "resnext101_64x4d", resnet.torchvision),
    ),
    "se_resnet18": (Source("timm", "legacy_seresnet18", senet.timm, **_BASIC_SE),),
    "se_resnet34": (Source("timm", "legacy_seresnet34", senet.timm, **_BASIC_SE),),
    "se_resnet50": (
        Source("timm", "legacy_seresnet50", senet.timm, **_SE),
        Source("timm", "seresnet50", senet.timm_seresnet, **_TIMM_SE),
    ),
    "se_resnet101": (
        Source("timm", "legacy_seresnet101", senet.timm, **_SE),
        Source("timm", "seresnet101", senet.timm_seresnet, **_TIMM_SE),
    ),
    "se_resnet152": (
        Source("timm", "legacy_seresnet152", senet.timm, **_SE),
        Source("timm", "seresnet152", senet.timm_seresnet, **_TIMM_SE),
    ),
    "se_resnext50_32x4d": (Source("timm", "legacy_seresnext50_32x4d", senet.timm, **_SE),),
    "se_resnext101_32x4d": (Source("timm", "legacy_seresnext101_32x4d", senet.timm, **_SE),),
    "senet154": (Source("timm", "legacy_senet154", senet.timm, **_SE),),
    "shufflenet_v2_x0_5": (Source("torchvision", "shufflenet_v2_x0_5", shufflenet_v2.torchvision, **_TORCHVISION),),
    "shufflenet_v2_x1_0": (Source("torchvision", "shufflenet_v2_x1_0", shufflenet_v2.torchvision, **_TORCHVISION),),
    "shufflenet_v2_x1_5": (Source("torchvision", "shufflenet_v2_x1_5", shufflenet_v2.torchvision, **_TORCHVISION),),
    "shufflenet_v2_x2_0": (Source("torchvision", "shufflenet_v2_x2_0", shufflenet_v2.torchvision, **_TORCHVISION),),
    "vgg11": (Source("torchvision", "vgg11", vgg.torchvision),),
    "vgg11_bn": (Source("torchvision", "vgg11_bn", vgg.torchvision),),
    "vgg13": (Source("torchvision", "vgg13", vgg.torchvision),),
    "vgg13_bn": (Source("torchvision", "vgg13_bn", vgg.torchvision),),
    "vgg16": (Source("torchvision", "vgg16", vgg.torchvision),),
    "vgg16_bn": (Source("torchvision", "vgg16_bn", vgg.torchvision),),
    "vgg19": (Source("torchvision", "vgg19", vgg.torchvision),),
    "vgg19_bn": (Source("torchvision", "vgg19_bn", vgg.torchvision),),
    "xception": (Source("timm", "legacy_xception", xception.timm, image_size=299),),
}


def find(model_name: str, source_name: str = "") -> Source:
    """The network of another library that ours of that name has the layers of.

    Args:
        model_name: of arch.models.MODELS.
        source_name: LIBRARY/NAME, such as timm/seresnet50; "" takes the first.

    Raises:
        ValueError: one line: no library has it, or not under that name.
    """
    if model_name not in SOURCES:
        if model_name not in models.MODELS:
            raise unknown_name("arch.weights", model_name, models.MODELS)
        raise ValueError(
            f"arch.weights: neither torchvision nor timm has {model_name}; those that one of them has: "
            + ", ".join(SOURCES)
        )
    found = {f"{source.library}/{source.name}": source for source in SOURCES[model_name]}
    if source_name and source_name not in found:
        raise unknown_name(f"arch.weights: sources of {model_name}", source_name, found)
    return found[source_name] if source_name else SOURCES[model_name][0]
