"""What a single equation of a traced program costs, from its shapes."""

import dataclasses
import math
from collections.abc import Sequence

from jax.extend import core

from arch.ops._lowerings import primitives
from arch.ops._lowerings.resampling import Resampling
from arch.ops.sampling import INTERPOLATION


@dataclasses.dataclass(frozen=True)
class Macs:
    """Multiply-adds of a program, padded taps included; biases, norms, activations and pooling are not counted.

    Attributes:
        conv: of convolutions.
        linear: of matrix products with a parameter, or with what is computed from parameters alone.
        other: of all other matrix products, such as those of attention, and of reading between pixels.
    """

    conv: int = 0
    linear: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """Of all three kinds."""
        return self.conv + self.linear + self.other

    def __add__(self, more: "Macs") -> "Macs":
        return Macs(self.conv + more.conv, self.linear + more.linear, self.other + more.other)

    def __mul__(self, times: int) -> "Macs":
        return Macs(self.conv * times, self.linear * times, self.other * times)


# The same array under another shape or name.
ALIASES = {"reshape", "squeeze", "expand_dims", "stop_gradient", "copy_p", "pcast", "pvary", "optimization_barrier"}
# What costs no arithmetic, and is done on the way by what reads it.
_FREE = {"broadcast_in_dim", "convert_element_type", "bitcast_convert_type", "reduce_precision", "select_n", "iota",
         "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor", "is_finite", "slice", "dynamic_slice", "split",
         "unstack", "copy", "real", "imag", "complex", "random_wrap", "random_unwrap", "random_seed",
         "random_fold_in", "random_split", "platform_index", "axis_index"}  # fmt: skip
# What writes its output, with none of the arithmetic that is counted.
_MOVES = {"rev", "sort", "transpose", "concatenate", "stack", "pad", "gather", "dynamic_update_slice", "move"}
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor",
               "argmax", "argmin"}  # fmt: skip
_SCANS = {"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"}
_WINDOWS = {"linear_map", "max_pool_pick", "max_pool_place"}
_ALGEBRA = {"fft", "cholesky", "triangular_solve", "lu", "qr", "eigh", "eig", "svd", "householder_product"}
_PRODUCTS = {"dot_general", "conv_general_dilated", *primitives.NAMES}


def is_product(eqn: core.JaxprEqn) -> bool:
    """It is a convolution or a matrix product."""
    return eqn.primitive.name in _PRODUCTS


def is_reduction(eqn: core.JaxprEqn) -> bool:
    """It reduces whole axes, and computes on the way what it reads."""
    return eqn.primitive.name in _REDUCTIONS


def is_free(eqn: core.JaxprEqn) -> bool:
    """It costs no arithmetic, and is done on the way by what reads it; or it gives another shape to the same array."""
    return eqn.primitive.name in _FREE or eqn.primitive.name in ALIASES


def is_fused(eqn: core.JaxprEqn) -> bool:
    """What reads its output computes it on the way: it goes element by element, or only picks or repeats elements."""
    return eqn.primitive.name in _FREE or _is_elementwise(eqn)


def _is_elementwise(eqn: core.JaxprEqn) -> bool:
    name = eqn.primitive.name
    apart = _MOVES | _REDUCTIONS | _SCANS | _WINDOWS | _ALGEBRA | _PRODUCTS
    if len(eqn.outvars) != 1 or name in apart or name.startswith("reduce_window"):
        return False
    shape = eqn.outvars[0].aval.shape
    # Axes of size 1 are repeated on the way.
    return all(
        var.aval.ndim == 0
        or (
            var.aval.ndim == len(shape)
            and all(size in (1, whole) for size, whole in zip(var.aval.shape, shape, strict=True))
        )
        for var in eqn.invars
    )


def macs(eqn: core.JaxprEqn, scopes: Sequence[str], with_parameter: bool) -> Macs:
    """Multiply-adds of one equation.

    Args:
        eqn: the equation.
        scopes: the names of its name stack.
        with_parameter: one of its operands comes from parameters alone.
    """
    name = eqn.primitive.name
    shapes = [var.aval.shape for var in eqn.invars]
    if name == "conv_general_dilated":
        return Macs(conv=_conv_macs(eqn))
    if name in primitives.NAMES:
        count = primitives.macs(name, *shapes, eqn.params["geometry"])
        return Macs(other=count) if any(INTERPOLATION in scope for scope in scopes) else Macs(conv=count)
    if name == "dot_general":
        count = _dot_macs(eqn)
        return Macs(linear=count) if with_parameter else Macs(other=count)
    return Macs(other=_reading_macs(eqn, name, shapes))


def _reading_macs(eqn: core.JaxprEqn, name: str, shapes: list[tuple[int, ...]]) -> int:
    """Of reading maps between pixels: four a value read, whatever is shared between them."""
    match name:
        case "rows_read" | "rows_write" | "rows_dot":
            return math.prod(shapes[2]) * shapes[0][1]
        case "region_sum" | "region_spread":
            out = eqn.outvars[0].aval.size if name == "region_sum" else math.prod(shapes[0])
            # A number of points that the boxes decide is not known.
            return 4 * out * max(0, getattr(eqn.params["regions"].rule, "sampling_ratio", 0)) ** 2
        case "linear_map":
            function = eqn.params["function"]
            if isinstance(function, Resampling) and function.method == "bilinear":
                return 4 * shapes[0][0] * shapes[0][3] * math.prod(function.out_size)
    return 0


def elementwise(eqn: core.JaxprEqn) -> int:
    """Scalar operations of one equation that are no multiply-adds."""
    name = eqn.primitive.name
    if is_free(eqn):
        return 0
    geometry = eqn.params.get("geometry") or getattr(eqn.params.get("function"), "geometry", None)
    if name in _WINDOWS and geometry is not None:
        batch, *_, channels = eqn.invars[0].aval.shape
        return batch * channels * math.prod(geometry.output_size) * math.prod(geometry.kernel_size)
    if name in _REDUCTIONS:
        return eqn.invars[0].aval.size
    if name.startswith("reduce_window"):
        return eqn.outvars[0].aval.size * math.prod(eqn.params["window_dimensions"])
    if name == "fft":
        return eqn.outvars[0].aval.size * math.ceil(math.log2(max(2, math.prod(eqn.params["fft_lengths"]))))
    return eqn.outvars[0].aval.size if name in _SCANS or _is_elementwise(eqn) else 0


def kind(eqn: core.JaxprEqn, macs: Macs) -> str:
    """What multiplies, in a word or two, such as "conv 3x3/2"; "" of what does not."""
    name = eqn.primitive.name
    if macs.conv and name in primitives.NAMES:
        geometry = eqn.params["geometry"]
        return _conv_kind(geometry.kernel_size, geometry.strides, geometry.groups, eqn.invars[0].aval.shape[3])
    if macs.conv:
        numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
        x, kernel = (var.aval.shape for var in eqn.invars)
        taps = [kernel[axis] for axis in numbers.rhs_spec[2:]]
        return _conv_kind(taps, eqn.params["window_strides"], groups, x[numbers.lhs_spec[1]])
    if macs.linear:
        return "linear"
    return "product" if name == "dot_general" else "reading" if macs.other else ""


def _conv_kind(taps: Sequence[int], strides: Sequence[int], groups: int, in_features: int) -> str:
    kind = "depthwise" if groups == in_features > 1 else "conv"
    kind += " " + "x".join(map(str, taps))
    if max(strides) > 1:
        kind += "/" + "x".join(map(str, dict.fromkeys(strides)))
    return kind + (f" in {groups} groups" if 1 < groups < in_features else "")


def _conv_macs(eqn: core.JaxprEqn) -> int:
    """out_elements * in_channels / groups * taps; of one with dilated input, that of the one whose transpose it is."""
    lhs, rhs = (var.aval for var in eqn.invars)
    out = eqn.outvars[0].aval
    out_features, in_features, *spatial = eqn.params["dimension_numbers"].rhs_spec
    taps = math.prod(rhs.shape[axis] for axis in spatial)
    if math.prod(eqn.params["lhs_dilation"]) > 1:
        # Seen from the other side: each input element meets all taps of all outputs of its group.
        per_element = rhs.shape[out_features] // (eqn.params["feature_group_count"] * eqn.params["batch_group_count"])
        return lhs.size * per_element * taps // math.prod(eqn.params["window_strides"])
    return out.size * rhs.shape[in_features] * taps


def _dot_macs(eqn: core.JaxprEqn) -> int:
    lhs = eqn.invars[0].aval
    (contracting, _), _ = eqn.params["dimension_numbers"]
    return eqn.outvars[0].aval.size * math.prod(lhs.shape[axis] for axis in contracting)
