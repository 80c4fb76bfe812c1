"""The convolutions of the networks that the benchmarks measure: literal tables, from the papers' architectures.

One word is one convolution, `[count*]SIZExIN>OUTkTAPS[sSTRIDE][dDILATION][gGROUPS][pPADDING]`, square in every respect:
`3*28x240>60k1g3` are three 1x1 convolutions in 3 groups of a 28x28 map from 240 to 60 features. Padding is symmetric,
half the dilated kernel where p does not say otherwise, also in MobileNet v1 and Xception, where TensorFlow pads more
after the image: torch has no such padding, and the work is the same.
"""

import dataclasses
import re

WORD = re.compile(r"(?:(\d+)\*)?(\d+)x(\d+)>(\d+)k(\d+)(?:s(\d+))?(?:d(\d+))?(?:g(\d+))?(?:p(\d+))?")
KINDS = ("dense", "1x1", "grouped KxK", "grouped 1x1", "depthwise")


@dataclasses.dataclass(frozen=True)
class ConvShape:
    """One convolution, for any batch.

    Attributes:
        name: its word in the tables, without a count.
        size: height and width of the input, in pixels.
        in_features: input channels.
        features: output channels.
        taps: of the kernel, along height and along width.
        stride: step between windows, in pixels.
        dilation: distance between taps, in pixels.
        groups: feature groups.
        padding: on all four sides, in pixels.
    """

    name: str
    size: int
    in_features: int
    features: int
    taps: int
    stride: int
    dilation: int
    groups: int
    padding: int

    @property
    def kind(self) -> str:
        """The class of KINDS over which means are taken."""
        if self.groups == 1:
            return "1x1" if self.taps == 1 else "dense"
        if self.groups == self.in_features:
            return "depthwise"
        return "grouped 1x1" if self.taps == 1 else "grouped KxK"

    @property
    def out_size(self) -> int:
        """Height and width of the output, in pixels."""
        return (self.size + 2 * self.padding - self.dilation * (self.taps - 1) - 1) // self.stride + 1

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """[taps, taps, in_features / groups, features]."""
        return (self.taps, self.taps, self.in_features // self.groups, self.features)

    @property
    def macs(self) -> int:
        """Multiply-adds for one image; taps on padding count."""
        return self.out_size**2 * self.features * self.taps**2 * self.in_features // self.groups


def parse(word: str) -> tuple[ConvShape, int]:
    """The convolution of a word, and how often the network has it.

    Raises:
        ValueError: something else than the notation at the top of this file.
    """
    match = WORD.fullmatch(word)
    if match is None:
        raise ValueError(
            f"parse: {word!r} must be a convolution such as 28x128>128k3s2g128; see scripts/conv_shapes.py"
        )
    count, size, in_features, features, taps, stride, dilation, groups, padding = (
        None if field is None else int(field) for field in match.groups()
    )
    stride, dilation, groups = stride or 1, dilation or 1, groups or 1
    padding = dilation * (taps // 2) if padding is None else padding
    name = word.partition("*")[2] or word
    return ConvShape(name, size, in_features, features, taps, stride, dilation, groups, padding), count or 1


def network(name: str) -> dict[ConvShape, int]:
    """The convolutions of one network of NETWORKS, and how often it has each."""
    return dict(parse(word) for word in NETWORKS[name].split())


def suite(name: str) -> tuple[ConvShape, ...]:
    """The distinct convolutions of "quick" or "full", in the order of the tables."""
    words = QUICK.split() if name == "quick" else [word for table in NETWORKS.values() for word in table.split()]
    return tuple(dict.fromkeys(parse(word)[0] for word in words))


# At 224 pixels, Xception at 299; the classifier only where it is a convolution (DRN). ShuffleNet v2 is the authors'
# variant, ResNet's stride is on the 3x3, CondenseNet is converted (an index layer gathers the inputs of the 1x1). Of
# each network the multiply-adds add up to the published number exactly.
NETWORKS = {
    "shufflenet_v1_g1": """
        224x3>24k3s2 56x24>36k1 56x36>36k3s2g36 28x36>120k1 3*28x144>36k1 3*28x36>36k3g36 3*28x36>144k1 28x144>72k1
        28x72>72k3s2g72 14x72>144k1 7*14x288>72k1 7*14x72>72k3g72 7*14x72>288k1 14x288>144k1 14x144>144k3s2g144
        7x144>288k1 3*7x576>144k1 3*7x144>144k3g144 3*7x144>576k1
    """,
    "shufflenet_v1_g2": """
        224x3>24k3s2 56x24>50k1 56x50>50k3s2g50 28x50>176k1g2 3*28x200>50k1g2 3*28x50>50k3g50 3*28x50>200k1g2
        28x200>100k1g2 28x100>100k3s2g100 14x100>200k1g2 7*14x400>100k1g2 7*14x100>100k3g100 7*14x100>400k1g2
        14x400>200k1g2 14x200>200k3s2g200 7x200>400k1g2 3*7x800>200k1g2 3*7x200>200k3g200 3*7x200>800k1g2
    """,
    "shufflenet_v1_g3": """
        224x3>24k3s2 56x24>60k1 56x60>60k3s2g60 28x60>216k1g3 3*28x240>60k1g3 3*28x60>60k3g60 3*28x60>240k1g3
        28x240>120k1g3 28x120>120k3s2g120 14x120>240k1g3 7*14x480>120k1g3 7*14x120>120k3g120 7*14x120>480k1g3
        14x480>240k1g3 14x240>240k3s2g240 7x240>480k1g3 3*7x960>240k1g3 3*7x240>240k3g240 3*7x240>960k1g3
    """,
    "shufflenet_v1_g4": """
        224x3>24k3s2 56x24>68k1 56x68>68k3s2g68 28x68>248k1g4 3*28x272>68k1g4 3*28x68>68k3g68 3*28x68>272k1g4
        28x272>136k1g4 28x136>136k3s2g136 14x136>272k1g4 7*14x544>136k1g4 7*14x136>136k3g136 7*14x136>544k1g4
        14x544>272k1g4 14x272>272k3s2g272 7x272>544k1g4 3*7x1088>272k1g4 3*7x272>272k3g272 3*7x272>1088k1g4
    """,
    "shufflenet_v1_g8": """
        224x3>24k3s2 56x24>96k1 56x96>96k3s2g96 28x96>360k1g8 3*28x384>96k1g8 3*28x96>96k3g96 3*28x96>384k1g8
        28x384>192k1g8 28x192>192k3s2g192 14x192>384k1g8 7*14x768>192k1g8 7*14x192>192k3g192 7*14x192>768k1g8
        14x768>384k1g8 14x384>384k3s2g384 7x384>768k1g8 3*7x1536>384k1g8 3*7x384>384k3g384 3*7x384>1536k1g8
    """,
    "shufflenet_v2_x0_5": """
        224x3>24k3s2 2*56x24>24k3s2g24 8*28x24>24k1 56x24>24k1 3*28x24>24k3g24 2*28x48>48k3s2g48 16*14x48>48k1
        28x48>48k1 7*14x48>48k3g48 2*14x96>96k3s2g96 8*7x96>96k1 14x96>96k1 3*7x96>96k3g96 7x192>1024k1
    """,
    "shufflenet_v2_x1_0": """
        224x3>24k3s2 56x24>24k3s2g24 28x24>24k1 56x24>58k1 56x58>58k3s2g58 28x58>92k1 6*28x58>58k1 3*28x58>58k3g58
        2*28x116>116k3s2g116 16*14x116>116k1 28x116>116k1 7*14x116>116k3g116 2*14x232>232k3s2g232 8*7x232>232k1
        14x232>232k1 3*7x232>232k3g232 7x464>1024k1
    """,
    "shufflenet_v2_x1_5": """
        224x3>24k3s2 56x24>24k3s2g24 28x24>24k1 56x24>88k1 56x88>88k3s2g88 28x88>152k1 6*28x88>88k1 3*28x88>88k3g88
        2*28x176>176k3s2g176 16*14x176>176k1 28x176>176k1 7*14x176>176k3g176 2*14x352>352k3s2g352 8*7x352>352k1
        14x352>352k1 3*7x352>352k3g352 7x704>1024k1
    """,
    "shufflenet_v2_x2_0": """
        224x3>24k3s2 56x24>24k3s2g24 28x24>24k1 56x24>122k1 56x122>122k3s2g122 28x122>220k1 6*28x122>122k1
        3*28x122>122k3g122 2*28x244>244k3s2g244 16*14x244>244k1 28x244>244k1 7*14x244>244k3g244 2*14x488>488k3s2g488
        8*7x488>488k1 14x488>488k1 3*7x488>488k3g488 7x976>2048k1
    """,
    "mobilenet_v1": """
        224x3>32k3s2 112x32>32k3g32 112x32>64k1 112x64>64k3s2g64 56x64>128k1 56x128>128k3g128 56x128>128k1
        56x128>128k3s2g128 28x128>256k1 28x256>256k3g256 28x256>256k1 28x256>256k3s2g256 14x256>512k1
        5*14x512>512k3g512 5*14x512>512k1 14x512>512k3s2g512 7x512>1024k1 7x1024>1024k3g1024 7x1024>1024k1
    """,
    "mobilenet_v2": """
        224x3>32k3s2 112x32>32k3g32 112x32>16k1 112x16>96k1 112x96>96k3s2g96 56x96>24k1 2*56x24>144k1 56x144>144k3g144
        56x144>24k1 56x144>144k3s2g144 28x144>32k1 3*28x32>192k1 2*28x192>192k3g192 2*28x192>32k1 28x192>192k3s2g192
        14x192>64k1 4*14x64>384k1 4*14x384>384k3g384 3*14x384>64k1 14x384>96k1 3*14x96>576k1 2*14x576>576k3g576
        2*14x576>96k1 14x576>576k3s2g576 7x576>160k1 3*7x160>960k1 3*7x960>960k3g960 2*7x960>160k1 7x960>320k1
        7x320>1280k1
    """,
    "resnet50": """
        224x3>64k7s2 56x64>64k1 3*56x64>64k3 4*56x64>256k1 2*56x256>64k1 56x256>128k1 56x128>128k3s2 4*28x128>512k1
        56x256>512k1s2 3*28x512>128k1 3*28x128>128k3 28x512>256k1 28x256>256k3s2 6*14x256>1024k1 28x512>1024k1s2
        5*14x1024>256k1 5*14x256>256k3 14x1024>512k1 14x512>512k3s2 3*7x512>2048k1 14x1024>2048k1s2 2*7x2048>512k1
        2*7x512>512k3
    """,
    "resnext50_32x4d": """
        224x3>64k7s2 56x64>128k1 3*56x128>128k3g32 3*56x128>256k1 56x64>256k1 2*56x256>128k1 56x256>256k1
        56x256>256k3s2g32 4*28x256>512k1 56x256>512k1s2 3*28x512>256k1 3*28x256>256k3g32 28x512>512k1
        28x512>512k3s2g32 6*14x512>1024k1 28x512>1024k1s2 5*14x1024>512k1 5*14x512>512k3g32 14x1024>1024k1
        14x1024>1024k3s2g32 3*7x1024>2048k1 14x1024>2048k1s2 2*7x2048>1024k1 2*7x1024>1024k3g32
    """,
    "xception": """
        299x3>32k3s2p0 149x32>64k3p0 147x64>64k3g64 147x64>128k1 147x128>128k3g128 147x128>128k1 147x64>128k1s2
        74x128>128k3g128 74x128>256k1 74x256>256k3g256 74x256>256k1 74x128>256k1s2 37x256>256k3g256 37x256>728k1
        37x728>728k3g728 37x728>728k1 37x256>728k1s2 26*19x728>728k3g728 25*19x728>728k1 19x728>1024k1 19x728>1024k1s2
        10x1024>1024k3g1024 10x1024>1536k1 10x1536>1536k3g1536 10x1536>2048k1
    """,
    "condensenet_g4": """
        224x3>16k3s2 112x16>32k1g4 4*112x32>8k3g4 112x24>32k1g4 112x32>32k1g4 112x40>32k1g4 56x48>64k1g4
        6*56x64>16k3g4 56x64>64k1g4 56x80>64k1g4 56x96>64k1g4 56x112>64k1g4 56x128>64k1g4 28x144>128k1g4
        8*28x128>32k3g4 28x176>128k1g4 28x208>128k1g4 28x240>128k1g4 28x272>128k1g4 28x304>128k1g4 28x336>128k1g4
        28x368>128k1g4 14x400>256k1g4 10*14x256>64k3g4 14x464>256k1g4 14x528>256k1g4 14x592>256k1g4 14x656>256k1g4
        14x720>256k1g4 14x784>256k1g4 14x848>256k1g4 14x912>256k1g4 14x976>256k1g4 7x1040>512k1g4 8*7x512>128k3g4
        7x1168>512k1g4 7x1296>512k1g4 7x1424>512k1g4 7x1552>512k1g4 7x1680>512k1g4 7x1808>512k1g4 7x1936>512k1g4
    """,
    "condensenet_g8": """
        224x3>16k3s2 112x16>32k1g8 4*112x32>8k3g8 112x24>32k1g8 112x32>32k1g8 112x40>32k1g8 56x48>64k1g8
        6*56x64>16k3g8 56x64>64k1g8 56x80>64k1g8 56x96>64k1g8 56x112>64k1g8 56x128>64k1g8 28x144>128k1g8
        8*28x128>32k3g8 28x176>128k1g8 28x208>128k1g8 28x240>128k1g8 28x272>128k1g8 28x304>128k1g8 28x336>128k1g8
        28x368>128k1g8 14x400>256k1g8 10*14x256>64k3g8 14x464>256k1g8 14x528>256k1g8 14x592>256k1g8 14x656>256k1g8
        14x720>256k1g8 14x784>256k1g8 14x848>256k1g8 14x912>256k1g8 14x976>256k1g8 7x1040>512k1g8 8*7x512>128k3g8
        7x1168>512k1g8 7x1296>512k1g8 7x1424>512k1g8 7x1552>512k1g8 7x1680>512k1g8 7x1808>512k1g8 7x1936>512k1g8
    """,
    "drn_a_50": """
        224x3>64k7s2 56x64>64k1 3*56x64>64k3 4*56x64>256k1 2*56x256>64k1 56x256>128k1 56x128>128k3s2 4*28x128>512k1
        56x256>512k1s2 3*28x512>128k1 3*28x128>128k3 28x512>256k1 28x256>256k3 6*28x256>1024k1 28x512>1024k1
        5*28x1024>256k1 5*28x256>256k3d2 28x1024>512k1 28x512>512k3 3*28x512>2048k1 28x1024>2048k1 2*28x2048>512k1
        2*28x512>512k3d4
    """,
    "drn_c_26": """
        224x3>16k7 2*224x16>16k3 224x16>32k3s2 112x32>32k3 224x16>32k1s2 112x32>64k3s2 3*56x64>64k3 112x32>64k1s2
        56x64>128k3s2 3*28x128>128k3 56x64>128k1s2 28x128>256k3d2 3*28x256>256k3d2 28x128>256k1 28x256>512k3d4
        3*28x512>512k3d4 28x256>512k1 2*28x512>512k3d2 2*28x512>512k3 1x512>1000k1
    """,
    "drn_d_54": """
        224x3>16k7 224x16>16k3 224x16>32k3s2 112x32>64k1 112x64>64k3s2 3*56x64>256k1 112x32>256k1s2 2*56x256>64k1
        2*56x64>64k3 56x256>128k1 56x128>128k3s2 4*28x128>512k1 56x256>512k1s2 3*28x512>128k1 3*28x128>128k3
        28x512>256k1 6*28x256>256k3d2 6*28x256>1024k1 28x512>1024k1 5*28x1024>256k1 28x1024>512k1 3*28x512>512k3d4
        3*28x512>2048k1 28x1024>2048k1 2*28x2048>512k1 28x2048>512k3d2 28x512>512k3 1x512>1000k1
    """,
    "drn_d_22": """
        224x3>16k7 224x16>16k3 224x16>32k3s2 112x32>64k3s2 3*56x64>64k3 112x32>64k1s2 56x64>128k3s2 3*28x128>128k3
        56x64>128k1s2 28x128>256k3d2 3*28x256>256k3d2 28x128>256k1 28x256>512k3d4 3*28x512>512k3d4 28x256>512k1
        28x512>512k3d2 28x512>512k3 1x512>1000k1
    """,
}

# Forty of them: every class, every network family, large and small maps, strides and dilation.
QUICK = """
    224x3>24k3s2 224x3>64k7s2 56x64>64k3 28x128>128k3 28x256>256k3s2 14x256>256k3 7x512>512k3 28x256>256k3d2
    56x64>256k1 56x24>144k1 56x256>512k1s2 28x116>116k1 14x232>232k1 14x384>64k1 14x1024>256k1 19x728>728k1
    7x464>1024k1
    56x128>128k3g32 56x256>256k3s2g32 28x256>256k3g32 14x512>512k3g32 7x1024>1024k3g32 112x32>8k3g4 14x256>64k3g8
    28x240>60k1g3 28x272>68k1g4 28x96>384k1g8 14x120>480k1g3 14x768>192k1g8 7x384>1536k1g8
    112x32>32k3g32 112x96>96k3s2g96 56x58>58k3s2g58 56x144>144k3g144 28x58>58k3g58 28x192>192k3s2g192
    19x728>728k3g728 14x116>116k3g116 14x512>512k3g512 7x960>960k3g960
"""
