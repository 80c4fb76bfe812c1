"""ResNet with non-local blocks (Wang, Girshick, Gupta, He, CVPR 2018, arXiv:1711.07971)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn

from arch.attention.non_local import NonLocal
from arch.blocks.residual import check_stages
from arch.models.classification.resnet import ResNet


class NonLocalResNet(ResNet):
    """ResNet with a non-local block behind some of its units, section 3.3 and table 2 of the paper.

    "nonlocal_resnet50" has five blocks, behind every other unit of stages 2 and 3 (the paper's res3 and res4);
    "nonlocal_resnet50_1block" has one, before the last unit of stage 3. A block starts as the identity, so that the
    network starts as the ResNet, whose weights it takes under the same names.

    Differs from the paper: it sees one image, not the frames of a clip.

    Initial values: those of `ResNet`; of a block those of `arch.attention.non_local.NonLocal`, kernels from N(0, 0.01),
    biases 0, and the scale of its norm 0.

    Attributes:
        blocks_after: of each stage, the units, counted from 1, behind which a block stands.
        form: of the block, one of arch.attention.non_local.FORMS.
        subsampling: where the block takes a quarter of the positions, "after" its embeddings, "before" them, or None.
        use_scale: scales the products of embedded_gaussian, as the authors' code can; the paper does not.
        (the others): as in `ResNet`; stages that have blocks take no `context` from unit_fields.
    """

    blocks_after: Sequence[Sequence[int]] = ((), (2, 4), (2, 4, 6), ())
    form: str = "embedded_gaussian"
    subsampling: str | None = "after"
    use_scale: bool = False

    def _fields_of(self, stage: int, name: str) -> dict[str, Any]:
        fields = super()._fields_of(stage, name)
        if int(name.rpartition("unit")[2]) in self.blocks_after[stage]:
            fields["context"] = functools.partial(
                _non_local,
                form=self.form,
                subsampling=self.subsampling,
                use_scale=self.use_scale,
                param_dtype=self.param_dtype,
            )
        return fields

    def _check(self) -> None:
        super()._check()
        check_stages("NonLocalResNet", self.stage_sizes, blocks_after=self.blocks_after)
        for stage, (units, size) in enumerate(zip(self.blocks_after, self.stage_sizes, strict=True), start=1):
            wrong = sorted(set(units) - set(range(1, size + 1)))
            if wrong:
                raise ValueError(
                    f"NonLocalResNet: blocks_after={tuple(units)} of stage {stage} must lie in 1 to {size}, its units; "
                    f"leave {wrong[0]} out"
                )


def _non_local(*, conv: Callable[..., nn.Module], norm: Callable[..., Callable], name: str, **fields: Any) -> NonLocal:
    """A block with the convolutions of a network, biases added, and its norm."""
    return NonLocal(conv=functools.partial(conv, use_bias=True), norm=norm, name=name, **fields)
