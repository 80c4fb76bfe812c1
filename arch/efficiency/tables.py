"""The structure tables of ShuffleNet v2 (Ma, Zhang, Zheng, Sun, ECCV 2018, arXiv:1807.11164), section 2 and appendix.

Each guideline compares rows of equal multiply-adds: G1 the ratio of input to output channels (table 1), G2 groups
(table 2), G3 fragments (table 3), G4 element-wise operators (table 4); on maps of 56x56 and 28x28. Speeds are those of
the authors: batches a second of a GeForce GTX 1080 Ti with cuDNN 7, images a second of one thread of a Snapdragon 810.

What the paper leaves open, and how it is read here:
- The batch of the GPU's columns. Of whole networks it is 8 (figure 1); here that would need up to 30 TMACs a second,
  and a GTX 1080 Ti has 5.7. It is 1.
- What lies between the convolutions of G1 to G3: nothing.
- How parallel fragments join: they are added. Joined as channels, they would need no other widths than one fragment,
  and table 3 says that theirs are adjusted.
- How many units of G4 are stacked: ten, as in the others. Its c is the channels of the unit, of which the inner
  convolutions have a quarter, as in ResNet: with c inner ones, ten units would need more than either device has.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
from flax import linen as nn

from arch.efficiency.complexity import count
from arch.ops.conv import Conv

NUM_BLOCKS = 10
PLATFORMS = ("gpu", "cpu")
SIZES = (56, 28)
TOLERANCE = 0.06  # of multiply-adds, between the rows of a column: the published widths leave 5.5%

TITLES = {
    "g1": "Equal channel width: input to output channels",
    "g2": "Group convolution: number of groups",
    "g3": "Fragmentation: convolutions of a block",
    "g4": "Element-wise operators of a bottleneck",
}

# Channels that name the columns.
COLUMNS = {
    "g1": {"gpu": (128, 256, 512), "cpu": (32, 64, 128)},
    "g2": {"gpu": (128, 256, 512), "cpu": (64, 128, 256)},
    "g3": {"gpu": (128, 256, 512), "cpu": (64, 128, 256)},
    "g4": {"gpu": (32, 64, 128), "cpu": (32, 64, 128)},
}

# Input and output channels of the first column, by row; the others are multiples.
RATIO_WIDTHS = {
    "gpu": {"1:1": (128, 128), "1:2": (90, 180), "1:6": (52, 312), "1:12": (36, 432)},
    "cpu": {"1:1": (32, 32), "1:2": (22, 44), "1:6": (13, 78), "1:12": (9, 108)},
}
GROUP_WIDTHS = {
    "gpu": {"g=1": 128, "g=2": 180, "g=4": 256, "g=8": 360},
    "cpu": {"g=1": 64, "g=2": 90, "g=4": 128, "g=8": 180},
}
FRAGMENTS = {
    "1-fragment": (1, False),
    "2-fragment-series": (2, False),
    "4-fragment-series": (4, False),
    "2-fragment-parallel": (2, True),
    "4-fragment-parallel": (4, True),
}
ELEMENTWISE = {  # (ReLU, shortcut)
    "bottleneck": (True, True),
    "without shortcut": (True, False),
    "without ReLU": (False, True),
    "without shortcut and ReLU": (False, False),
}

# Guideline -> size -> row -> speeds of the columns, the GPU's first.
PUBLISHED = {
    "g1": {
        56: {
            "1:1": (1480, 723, 232, 76.2, 21.7, 5.3),
            "1:2": (1296, 586, 206, 72.9, 20.5, 5.1),
            "1:6": (876, 489, 189, 69.1, 17.9, 4.6),
            "1:12": (748, 392, 163, 57.6, 15.1, 4.4),
        },
        28: {
            "1:1": (2314, 1504, 765, 263.9, 82.6, 23.3),
            "1:2": (2239, 1401, 675, 212.8, 78.5, 22.6),
            "1:6": (1931, 1075, 573, 198.8, 75.5, 20.7),
            "1:12": (1646, 975, 521, 194.9, 72.5, 19.5),
        },
    },
    "g2": {
        56: {
            "g=1": (2451, 1289, 437, 40.0, 10.2, 2.3),
            "g=2": (1725, 873, 341, 35.0, 9.5, 2.2),
            "g=4": (1026, 644, 338, 32.9, 8.7, 2.1),
            "g=8": (634, 445, 230, 27.8, 7.5, 1.8),
        },
        28: {
            "g=1": (3546, 2523, 1404, 146.8, 44.3, 10.6),
            "g=2": (2650, 1874, 976, 137.4, 42.2, 10.2),
            "g=4": (1766, 1265, 717, 137.2, 39.4, 10.1),
            "g=8": (1097, 807, 499, 122.9, 33.9, 9.6),
        },
    },
    "g3": {
        56: {
            "1-fragment": (2446, 1274, 434, 40.2, 10.1, 2.3),
            "2-fragment-series": (1790, 909, 336, 38.6, 10.1, 2.2),
            "4-fragment-series": (752, 745, 349, 38.4, 10.1, 2.3),
            "2-fragment-parallel": (1537, 803, 320, 33.4, 9.1, 2.2),
            "4-fragment-parallel": (691, 572, 292, 35.0, 8.4, 2.1),
        },
        28: {
            "1-fragment": (3572, 2508, 1377, 169.8, 44.3, 9.4),
            "2-fragment-series": (2377, 1763, 960, 155.3, 42.9, 9.1),
            "4-fragment-series": (1269, 1134, 776, 156.3, 41.9, 9.4),
            "2-fragment-parallel": (2097, 1587, 887, 146.2, 40.7, 8.7),
            "4-fragment-parallel": (1045, 974, 651, 144.5, 40.3, 8.5),
        },
    },
    "g4": {
        56: {
            "bottleneck": (2427, 2066, 1436, 56.7, 16.9, 5.0),
            "without shortcut": (2647, 2256, 1735, 61.9, 18.8, 5.2),
            "without ReLU": (2672, 2121, 1458, 57.3, 18.2, 5.1),
            "without shortcut and ReLU": (2842, 2376, 1782, 66.3, 20.2, 5.4),
        },
        28: {
            "bottleneck": (2927, 3120, 2845, 261.1, 74.7, 21.6),
            "without shortcut": (3032, 3499, 3102, 274.0, 79.7, 23.5),
            "without ReLU": (3137, 3562, 2905, 274.7, 76.1, 22.4),
            "without shortcut and ReLU": (3342, 3719, 3118, 284.9, 81.6, 24.3),
        },
    },
}


class PointwiseStack(nn.Module):
    """Ten blocks of 1x1 convolutions in a row, without bias: tables 1 to 3.

    Attributes:
        block_features: output channels of each convolution of a block; the last are those that the next block reads.
        groups: of each convolution.
        is_parallel: the convolutions of a block all read its input, and are added.
    """

    block_features: Sequence[int]
    groups: int = 1
    is_parallel: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, block_features[-1]] to the same shape."""
        for block in range(NUM_BLOCKS):
            outputs = []
            for number, features in enumerate(self.block_features):
                name = f"block{block}_conv{number}"
                layer = Conv(features, (1, 1), feature_group_count=self.groups, use_bias=False, name=name)
                outputs.append(layer(x if self.is_parallel or not outputs else outputs[-1]))
            x = sum(outputs[1:], outputs[0]) if self.is_parallel else outputs[-1]
        return x


class BottleneckStack(nn.Module):
    """Ten bottlenecks of ResNet, without norms and biases: table 4.

    Attributes:
        features: channels of a unit; its inner convolutions have a quarter.
        use_relu: a ReLU follows each convolution, the last one after the shortcut is added.
        use_shortcut: the input of a unit is added to its output.
    """

    features: int
    use_relu: bool
    use_shortcut: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, features] to the same shape."""
        act: Callable[[jax.Array], jax.Array] = nn.relu if self.use_relu else lambda x: x
        inner = self.features // 4
        for block in range(NUM_BLOCKS):
            shortcut = x
            x = act(Conv(inner, (1, 1), use_bias=False, name=f"block{block}_reduce")(x))
            x = act(Conv(inner, (3, 3), use_bias=False, name=f"block{block}_conv")(x))
            x = Conv(self.features, (1, 1), use_bias=False, name=f"block{block}_expand")(x)
            x = act(x + shortcut if self.use_shortcut else x)
        return x


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        table: "g1", "g2", "g3" or "g4".
        platform: whose widths: "gpu" or "cpu".
        size: height and width of the map.
        channels: that name the column.
        row: the structure.
        published: batches a second of the paper's GPU, or images a second of its CPU.
    """

    table: str
    platform: str
    size: int
    channels: int
    row: str
    published: float

    @property
    def column(self) -> tuple[str, str, int, int]:
        """What the rows that are compared have in common."""
        return self.table, self.platform, self.size, self.channels

    def module(self) -> nn.Module:
        """The benchmark network."""
        scale = self.channels // COLUMNS[self.table][self.platform][0]
        match self.table:
            case "g1":
                first, second = (scale * width for width in RATIO_WIDTHS[self.platform][self.row])
                return PointwiseStack((second, first))
            case "g2":
                groups = int(self.row.removeprefix("g="))
                width = scale * GROUP_WIDTHS[self.platform][self.row]
                # 180 channels are not in 8 groups: the next multiple.
                return PointwiseStack((math.ceil(width / groups) * groups,), groups)
            case "g3":
                num_fragments, is_parallel = FRAGMENTS[self.row]
                width = round(self.channels / math.sqrt(num_fragments))
                return PointwiseStack((width,) * num_fragments, is_parallel=is_parallel)
            case _:
                return BottleneckStack(self.channels, *ELEMENTWISE[self.row])

    def input_shape(self, batch: int = 1) -> tuple[int, int, int, int]:
        """[batch, height, width, channels] of what the network reads."""
        module = self.module()
        features = module.features if isinstance(module, BottleneckStack) else module.block_features[-1]
        return batch, self.size, self.size, features

    @property
    def macs(self) -> int:
        """Multiply-adds of one image, by tracing."""
        return count(self.module(), self.input_shape()).macs


def cells(table: str) -> list[Cell]:
    """All numbers of a table, row by row within each column."""
    found = []
    for size in SIZES:
        rows = PUBLISHED[table][size]
        columns = [(platform, channels) for platform in PLATFORMS for channels in COLUMNS[table][platform]]
        for number, (platform, channels) in enumerate(columns):
            found += [Cell(table, platform, size, channels, row, speeds[number]) for row, speeds in rows.items()]
    return found


def deviations(column: Sequence[Cell]) -> dict[str, float]:
    """Of each row the multiply-adds, relative to those of the first, less one.

    Raises:
        ValueError: a row that is more than TOLERANCE from the first.
    """
    macs = {cell.row: cell.macs for cell in column}
    first = macs[column[0].row]
    found = {row: value / first - 1 for row, value in macs.items()}
    for row, deviation in found.items():
        if abs(deviation) > TOLERANCE:
            raise ValueError(
                f"tables: {row} of {column[0].column} has {deviation:+.1%} multiply-adds of {column[0].row}, over "
                f"{TOLERANCE:.0%}; change its widths"
            )
    return found
