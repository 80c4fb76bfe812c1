"""The names that the authors of iSQRT-COV have for its layers (github.com/jiangtaoxie/fast-MPN-COV)."""

from collections.abc import Sequence

from arch.models.classification.bilinear import TRUNKS, BilinearCNN
from arch.weights.names import resnet

_HEAD = {"reduction": "layer_reduce", "reduction_norm": "layer_reduce_bn", "classifier": "fc"}


def authors(model: BilinearCNN, layers: Sequence[str]) -> str:
    """The module of the authors' `mpncovresnet50` and `mpncovresnet101` that holds the tensors of one of our layers."""
    part, *rest = layers
    if part == "head":
        return _HEAD[rest[0]]
    return resnet.torchvision(TRUNKS["resnet"](stage_sizes=model.stage_sizes), rest)
