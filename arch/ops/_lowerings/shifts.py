"""Shifted windows of an image, one for each tap of a kernel, and their transpose."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops._lowerings.geometry import Geometry, Pair


def pad(array: jax.Array, padding: Sequence[Pair], fill: float = 0.0) -> jax.Array:
    """Around height and width; negative padding crops."""
    spatial = [(before, after, 0) for before, after in padding]
    return lax.pad(array, jnp.asarray(fill, array.dtype), [(0, 0, 0), *spatial, (0, 0, 0)])


def wide(array: jax.Array) -> jax.Array:
    """In at least float32, so that sums are not rounded on the way."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def windows(x: jax.Array, geometry: Geometry, fill: float = 0.0) -> Iterator[tuple[Pair, jax.Array]]:
    """Each tap, and the pixels that it meets: one for every pixel of the output; `fill` lies around the image.

    The barrier keeps whatever produces x from being fused in, and so computed anew for every tap.
    """
    padded = lax.optimization_barrier(pad(x, geometry.padding, fill))
    for tap in itertools.product(*map(range, geometry.kernel_size)):
        rows, columns = (
            slice(index * dilation, index * dilation + (out_size - 1) * stride + 1, stride)
            for index, dilation, stride, out_size in zip(
                tap, geometry.kernel_dilation, geometry.strides, geometry.output_size, strict=True
            )
        )
        yield tap, padded[:, rows, columns]


def sum_into_inputs(outputs: Sequence[jax.Array], geometry: Geometry, term: Callable[..., jax.Array]) -> jax.Array:
    """For every pixel of the input, the sum over the taps that meet it of `term(tap, *pixels of outputs)`.

    The pixels of each residue modulo the strides meet taps of their own; so there is a sum for each, and all are
    interleaved at the end.

    Args:
        outputs: arrays of [batch, out_height, out_width, any].
        geometry: of the windows.
        term: a function of (tap, *arrays of [batch, rows, columns, any]) to [batch, rows, columns, features]; zero
            where all of its arrays are.
    """
    phases = [_phases(geometry, axis) for axis in (0, 1)]
    sizes = [-(-size // stride) for size, stride in zip(geometry.input_size, geometry.strides, strict=True)]
    paddings = [_phase_padding(*args) for args in zip(phases, sizes, geometry.output_size, strict=True)]
    (top, _), (left, _) = paddings
    padded = [lax.optimization_barrier(pad(output, paddings)) for output in outputs]

    def pixels(row: int, column: int) -> list[jax.Array]:
        return [a[:, top + row : top + row + sizes[0], left + column : left + column + sizes[1]] for a in padded]

    # The features are those of any term; a residue that no tap meets has none.
    like = jax.eval_shape(lambda: term((0, 0), *pixels(0, 0)))

    def phase(rows: list[Pair], columns: list[Pair]) -> jax.Array:
        terms = (term((i, j), *pixels(row, column)) for (i, row), (j, column) in itertools.product(rows, columns))
        return sum(terms, start=jnp.zeros(like.shape, like.dtype))

    # [batch, rows, row residues, columns, column residues, features]
    out = jnp.stack([jnp.stack([phase(row, column) for column in phases[1]], axis=3) for row in phases[0]], axis=2)
    height, width = (size * stride for size, stride in zip(sizes, geometry.strides, strict=True))
    out = out.reshape(like.shape[0], height, width, like.shape[3])
    return out[:, : geometry.input_size[0], : geometry.input_size[1]]


def _phases(geometry: Geometry, axis: int) -> list[list[Pair]]:
    """For each residue of an input pixel modulo the stride: its taps, with the output pixel they lead to.

    Pixel stride * n + residue meets tap t in output pixel n + offset; listed are (t, offset).
    """
    stride, dilation = geometry.strides[axis], geometry.kernel_dilation[axis]
    phases = []
    for residue in range(stride):
        distances = (
            (tap, residue + geometry.padding[axis][0] - tap * dilation) for tap in range(geometry.kernel_size[axis])
        )
        phases.append([(tap, distance // stride) for tap, distance in distances if distance % stride == 0])
    return phases


def _phase_padding(phases: list[list[Pair]], size: int, output_size: int) -> Pair:
    """(before, after) around the output, so that every offset can be taken from all `size` pixels of a phase."""
    offsets = [0, *(offset for phase in phases for _, offset in phase)]
    return max(0, -min(offsets)), max(0, max(offsets) + size - output_size)
