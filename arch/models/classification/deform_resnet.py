"""ResNet with deformable convolutions (Dai et al., arXiv:1703.06211), and version 2 (Zhu et al., arXiv:1811.11168)."""

import functools
from collections.abc import Sequence
from typing import Any

from arch.models.classification.resnet import ResNet
from arch.ops.deformable import DeformConv

# Fields of version 1, the trunk of a detector: the last stage has no stride, and its 3x3 convolutions are dilated by 2.
DEFORM_V1 = {
    "deform_stages": (4,),
    "num_offset_groups": 4,
    "modulated": False,
    "stage_strides": (1, 2, 2, 1),
    "stage_dilations": (1, 1, 1, 2),
}


class DeformResNet(ResNet):
    """ResNet whose 3x3 convolutions are deformable in some stages.

    "deform_resnet50" is version 1: the three of the last stage (the papers' conv5), which are dilated by 2 and have no
    stride, with offsets for each of four groups of channels. "deform_resnet50_v2" is version 2: all of stages 2 to 4,
    13 in number, with factors too (modulated), and one group. Offsets start at zero, so that version 1 starts as the
    dilated ResNet; factors start at 0.5, so that the 3x3 convolutions of version 2 start at half their output.

    Differs from the papers: they train these trunks in detectors and for segmentation, from weights of a ResNet.

    Initial values: those of `ResNet`, whose weights it takes under the same names; the layers that tell offsets and
    factors are plain convolutions, whatever `conv` makes, and start at zero. The papers train those with 0.1 times the
    learning rate of the rest: their parameters lie under "offset" and "mask".

    Attributes:
        deform_stages: whose 3x3 convolutions are deformable, counted from 1.
        num_offset_groups: groups of input channels with offsets, and factors, of their own.
        modulated: the samples have factors too; version 2.
        (the others): as in `ResNet`; stages that are deformable take no `spatial_conv` from unit_fields.
    """

    deform_stages: Sequence[int] = (2, 3, 4)
    num_offset_groups: int = 1
    modulated: bool = True

    def _fields_of(self, stage: int, name: str) -> dict[str, Any]:
        fields = super()._fields_of(stage, name)
        if stage + 1 in self.deform_stages:
            # Offsets and masks keep DeformConv's own `Conv`, for layers that must start at zero cannot be
            # reparametrized: a kernel that is a length times a direction, as in arch.norm.weight, would stay there.
            fields["spatial_conv"] = functools.partial(
                DeformConv, num_offset_groups=self.num_offset_groups, modulated=self.modulated
            )
        return fields

    def _check(self) -> None:
        super()._check()
        wrong = sorted(set(self.deform_stages) - set(range(1, len(self.stage_sizes) + 1)))
        if wrong:
            raise ValueError(
                f"DeformResNet: deform_stages={tuple(self.deform_stages)} must lie in 1 to {len(self.stage_sizes)}; "
                f"leave {wrong[0]} out"
            )
