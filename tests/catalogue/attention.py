"""Attention over channels and positions, and from a codebook."""

import functools

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from arch.attention.channel import SqueezeExcite, squeeze_excite
from arch.attention.encoding import ContextEncoding, Encoding, class_presence, context_encoding, se_loss
from arch.attention.spatial import (
    MaskBranch,
    ResidualAttention,
    channel_attention,
    mixed_attention,
    residual_attention,
    signed_attention,
    spatial_attention,
)
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv
from tests.catalogue.row import Case, Inputs, Operator, filled, image

CHANNELS, REDUCED, CODEWORDS = 6, 2, 3
NORM = bind(BatchNorm, train=False)


class _Unit(nn.Module):
    """A residual unit of the pre-activation kind."""

    @nn.compact
    def __call__(self, x):
        return x + Conv(x.shape[-1], 1, use_bias=False, name="conv")(nn.relu(x))


def _map(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    return image(random, 2, height, width, CHANNELS)


def _same(height: int, width: int) -> tuple[int, ...]:
    return height, width, CHANNELS


def _weights(random: np.random.Generator, height: int, width: int) -> Inputs:
    shapes = (CHANNELS, REDUCED), (REDUCED, CHANNELS), (REDUCED,), (CHANNELS,)
    return _map(random, height, width), *(image(random, *shape) for shape in shapes)


def _module(module: nn.Module) -> Case:
    """A module that keeps the shape; its variables are an input."""

    def make(random: np.random.Generator, height: int, width: int) -> Inputs:
        x = _map(random, height, width)
        return x, filled(module, random, x)

    def call(x, variables):
        out = module.apply(variables, x)
        return out[0] if isinstance(out, tuple) else out

    return Case(make=make, call=call, out_shape=_same)


def _codebook(random: np.random.Generator, height: int, width: int) -> Inputs:
    scale = random.uniform(0.1, 1.0, CODEWORDS).astype(np.float32)
    return _map(random, height, width), image(random, CODEWORDS, CHANNELS), scale


def _labels(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    return random.integers(-1, 5, (2, height, width), np.int32)


_RESIDUAL = functools.partial(ResidualAttention, num_levels=2, unit=_Unit, norm=NORM)
_ZEROS = np.zeros((1, 2, 2, 8), np.float32)

ROWS: tuple[Operator, ...] = (
    Operator(
        topic="Channel attention (SENet), with and without norm",
        functions=(squeeze_excite,),
        modules=(SqueezeExcite,),
        oracle="torchvision.ops.SqueezeExcitation and torch's layers with batch norms, recorded; a NumPy loop",
        cases={
            "function": Case(make=_weights, call=squeeze_excite, out_shape=_same),
            "without_norm": _module(SqueezeExcite(reduction=3)),
            "with_norm": _module(SqueezeExcite(reduction=3, norm=NORM)),
        },
        refusals=(
            (lambda: squeeze_excite(_ZEROS, np.zeros((8, 2)), np.zeros((2, 6))), r"expand_kernel=\[2, 6\].*channels=8"),
            (lambda: squeeze_excite(_ZEROS[0], np.zeros((8, 2)), np.zeros((2, 8))), r"x=float32\[2, 2, 8\]"),
        ),
    ),
    Operator(
        topic="Spatial attention (Residual Attention Network)",
        functions=(residual_attention,),
        modules=(ResidualAttention, MaskBranch),
        oracle="a NumPy loop; parameters and multiply-adds of Attention-56 and -92 in the authors' prototxt",
        cases={
            "residual": Case(
                make=lambda random, height, width: (_map(random, height, width), _map(random, height, width)),
                call=residual_attention,
                out_shape=_same,
                linear=True,
            ),
            "naive": Case(
                make=lambda random, height, width: (_map(random, height, width), _map(random, height, width)),
                call=functools.partial(residual_attention, form="naive"),
                out_shape=_same,
                linear=True,
            ),
            "module": _module(_RESIDUAL()),
            "module_spatial": _module(_RESIDUAL(num_levels=1, attention="spatial")),
            "mask": _module(MaskBranch(num_levels=3, unit=_Unit, norm=NORM)),
        },
        refusals=(
            (lambda: residual_attention(_ZEROS, _ZEROS[:, :1]), r"mask=\[1, 1, 2, 8\].*trunk=\[1, 2, 2, 8\]"),
            (lambda: residual_attention(_ZEROS, _ZEROS, form="native"), "unknown name 'native'; did you mean 'naive'"),
        ),
    ),
    Operator(
        topic="Spatial attention: mixed, channel and spatial masks",
        functions=(mixed_attention, signed_attention, channel_attention, spatial_attention),
        modules=(),
        oracle="NumPy loops",
        cases={
            mask.__name__.removesuffix("_attention"): Case(
                make=lambda random, height, width: (_map(random, height, width),), call=mask, out_shape=_same
            )
            for mask in (mixed_attention, signed_attention, channel_attention, spatial_attention)
        },
        refusals=((lambda: channel_attention(np.zeros((2, 8), np.float32)), r"x=float32\[2, 8\]"),),
    ),
    Operator(
        topic="Context encoding (EncNet)",
        functions=(context_encoding,),
        modules=(Encoding, ContextEncoding),
        oracle="a NumPy loop over all differences; parameters of the released module",
        cases={
            "function": Case(
                make=_codebook, call=context_encoding, out_shape=lambda height, width: (CODEWORDS, CHANNELS)
            ),
            "released": _module(ContextEncoding(4, NORM, num_codewords=CODEWORDS)),
            "paper": _module(
                ContextEncoding(4, NORM, num_codewords=3, aggregate="sum", norm_axis="channels", form="scale")
            ),
        },
        refusals=(
            (
                lambda: context_encoding(_ZEROS, np.zeros((3, 6)), np.zeros(3)),
                r"codewords=\[3, 6\] must be .*channels=8",
            ),
            (lambda: context_encoding(_ZEROS, np.zeros((3, 8)), np.zeros(4)), r"scale=\[4\] must be .*=3"),
        ),
    ),
    Operator(
        topic="Semantic encoding loss (EncNet)",
        functions=(se_loss, class_presence),
        modules=(),
        oracle="a NumPy loop",
        cases={
            "loss": Case(
                make=lambda random, height, width: (image(random, 2, 4), _labels(random, height, width)),
                call=se_loss,
                out_shape=lambda height, width: (),
                half=False,  # a loss: float32 by rule
            ),
            "presence": Case(
                make=lambda random, height, width: (_labels(random, height, width),),
                call=lambda labels: class_presence(labels, 4),
                out_shape=lambda height, width: (4,),
                half=False,
            ),
        },
        refusals=(
            (lambda: se_loss(jnp.zeros((3, 4)), jnp.zeros((2, 3, 3), int)), r"logits=float32\[3, 4\].*\[2, 3, 3\]"),
            (lambda: class_presence(jnp.zeros((2, 3, 3), int), 0), "num_classes=0 must be at least 1"),
        ),
    ),
)
