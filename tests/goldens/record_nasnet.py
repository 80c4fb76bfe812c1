"""Records nasnet.npz: outputs of timm's NASNet-A and PNASNet-5, narrow and short, in float64.

    pip install torch==2.14.1 timm==1.0.31
    python tests/goldens/record_nasnet.py

`nasnet_small` and `pnasnet_small` have the cells of timm's networks, of 8 features, two in the first stage and one in
the others, on images of 64 pixels; see fill.py. Average pools of stride 2 count padding in timm, and do not in
TensorFlow, for which these networks were published: here they are TensorFlow's.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record

FEATURES = 8
STEM_FEATURES = 12
IMAGE_SIZE = 64


def main() -> None:
    """Runs both networks and writes the file beside this one."""
    import timm
    import torch

    _average_as_tensorflow()
    recorded = {"versions": f"torch {torch.__version__}, timm {timm.__version__}"}
    record("nasnet_small", _nasnet(), IMAGE_SIZE, recorded)
    record("pnasnet_small", _pnasnet(), IMAGE_SIZE, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("nasnet.npz"), **recorded)


def _average_as_tensorflow() -> None:
    """Makes timm's pools with "same" padding divide by the number of pixels, without those of the padding."""
    import torch
    from timm.layers.padding import pad_same
    from timm.layers.pool2d_same import AvgPool2dSame

    def forward(self, x):
        def mean(x):
            return torch.nn.functional.avg_pool2d(
                pad_same(x, self.kernel_size, self.stride), self.kernel_size, self.stride
            )

        return mean(x) / mean(torch.ones_like(x))

    AvgPool2dSame.forward = forward


def _stem_conv():
    import functools

    import torch
    from timm.layers import ConvNormAct

    norm = functools.partial(torch.nn.BatchNorm2d, eps=1e-3)
    return ConvNormAct(3, STEM_FEATURES, 3, stride=2, padding=0, apply_act=False, norm_layer=norm)


def _nasnet():
    import torch
    from timm.models.nasnet import CellStem0, CellStem1, FirstCell, NormalCell, ReductionCell0, ReductionCell1

    f, same = FEATURES, {"pad_type": "same"}

    class Network(torch.nn.Module):
        """The cell after a reduction has as its older input what the reduction had."""

        def __init__(self):
            super().__init__()
            self.conv0 = _stem_conv()
            self.cell_stem_0 = CellStem0(STEM_FEATURES, f // 4, **same)
            self.cell_stem_1 = CellStem1(STEM_FEATURES, f // 2, **same)
            self.cell_0 = FirstCell(f, f // 2, 2 * f, f, **same)
            self.cell_1 = NormalCell(2 * f, f, 6 * f, f, **same)
            self.reduction_cell_0 = ReductionCell0(6 * f, 2 * f, 6 * f, 2 * f, **same)
            self.cell_2 = FirstCell(6 * f, f, 8 * f, 2 * f, **same)
            self.reduction_cell_1 = ReductionCell1(8 * f, 4 * f, 12 * f, 4 * f, **same)
            self.cell_3 = FirstCell(8 * f, 2 * f, 16 * f, 4 * f, **same)
            self.last_linear = torch.nn.Linear(24 * f, NUM_CLASSES)

        def forward(self, x):
            stem = self.conv0(x)
            stem0 = self.cell_stem_0(stem)
            stem1 = self.cell_stem_1(stem, stem0)
            cell0 = self.cell_0(stem1, stem0)
            cell1 = self.cell_1(cell0, stem1)
            reduction0 = self.reduction_cell_0(cell1, cell0)
            cell2 = self.cell_2(reduction0, cell0)
            reduction1 = self.reduction_cell_1(cell2, reduction0)
            cell3 = self.cell_3(reduction1, reduction0)
            return self.last_linear(cell3.relu().mean((2, 3)))

    return Network()


def _pnasnet():
    import torch
    from timm.models.pnasnet import Cell, CellStem0

    f, same = FEATURES, {"pad_type": "same"}
    reduces, halves = {"is_reduction": True}, {"match_prev_layer_dims": True}

    class Network(torch.nn.Module):
        """A reduction is one of the cells, and counts among them."""

        def __init__(self):
            super().__init__()
            self.conv_0 = _stem_conv()
            self.cell_stem_0 = CellStem0(STEM_FEATURES, f // 4, STEM_FEATURES, f // 4, **same)
            self.cell_stem_1 = Cell(STEM_FEATURES, f // 2, 5 * f // 4, f // 2, **reduces, **halves, **same)
            self.cell_0 = Cell(5 * f // 4, f, 5 * f // 2, f, **halves, **same)
            self.cell_1 = Cell(5 * f // 2, f, 5 * f, f, **same)
            self.cell_2 = Cell(5 * f, 2 * f, 5 * f, 2 * f, **reduces, **same)
            self.cell_3 = Cell(5 * f, 2 * f, 10 * f, 2 * f, **halves, **same)
            self.cell_4 = Cell(10 * f, 4 * f, 10 * f, 4 * f, **reduces, **same)
            self.cell_5 = Cell(10 * f, 4 * f, 20 * f, 4 * f, **halves, **same)
            self.last_linear = torch.nn.Linear(20 * f, NUM_CLASSES)

        def forward(self, x):
            previous = self.conv_0(x)
            x = self.cell_stem_0(previous)
            for cell in (self.cell_stem_1, *(getattr(self, f"cell_{number}") for number in range(6))):
                previous, x = x, cell(previous, x)
            return self.last_linear(x.relu().mean((2, 3)))

    return Network()


if __name__ == "__main__":
    main()
