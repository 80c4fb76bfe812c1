"""Bilinear and covariance features."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from arch.ops.bilinear import LowRankBilinear, bilinear_pool, l2_normalize, low_rank_bilinear, signed_sqrt
from arch.ops.compact_bilinear import (
    CompactBilinear,
    RandomMaclaurin,
    TensorSketch,
    compact_bilinear_pool,
    draw_random_maclaurin,
    draw_tensor_sketch,
)
from arch.ops.covariance import covariance_pool, gaussian_embedding, second_moment, vectorize_symmetric
from arch.ops.matrix_power import matrix_power, matrix_sqrt, newton_schulz_sqrt
from tests.catalogue.row import Case, Inputs, Operator, filled, image

LOW_RANK = LowRankBilinear(features=3, rank=4, middle_features=4)
COMPACT = CompactBilinear(features=7)
MAP = jnp.zeros((1, 2, 2, 3))


def _map(random: np.random.Generator, height: int, width: int) -> Inputs:
    return (image(random, 2, height, width, 5),)


def _two_maps(random: np.random.Generator, height: int, width: int) -> Inputs:
    return image(random, 2, height, width, 5), image(random, 2, height, width, 3)


def _matrices(random: np.random.Generator, height: int, width: int) -> Inputs:
    """Covariances of as many samples as pixels: of few, they lack rank."""
    samples = image(random, 2, 5, height * width)
    return (samples @ samples.swapaxes(1, 2) / (height * width),)


def _identities(inputs: Inputs) -> Inputs:
    """All eigenvalues are one."""
    a, *rest = inputs
    return np.broadcast_to(np.eye(a.shape[-1], dtype=a.dtype), a.shape), *rest


def _low_rank_inputs(random: np.random.Generator, height: int, width: int) -> Inputs:
    x = image(random, 2, height, width, 5)
    return x, filled(LOW_RANK, random, x)


def _sketched(random: np.random.Generator, height: int, width: int) -> Inputs:
    """Two maps, and bins and signs."""
    bins = [random.integers(0, 7, count, np.int32) for count in (5, 3)]
    signs = [random.choice(np.int8([-1, 1]), count) for count in (5, 3)]
    return *_two_maps(random, height, width), TensorSketch(bins[0], signs[0], bins[1], signs[1], 7)


def _projected(random: np.random.Generator, height: int, width: int) -> Inputs:
    """A map, and two matrices of signs."""
    signs = [random.choice(np.int8([-1, 1]), (5, 7)) for _ in range(2)]
    return *_map(random, height, width), RandomMaclaurin(*signs)


def _compact_variables(random: np.random.Generator, height: int, width: int) -> Inputs:
    """A map, and the variables of a layer."""
    bins = [random.integers(0, 7, 5, np.int32) for _ in range(2)]
    signs = [random.choice(np.int8([-1, 1]), 5) for _ in range(2)]
    projection = dict(x_indices=bins[0], x_signs=signs[0], y_indices=bins[1], y_signs=signs[1])
    return *_map(random, height, width), {"projections": {"projection": projection}}


def _always(*shape: int) -> Callable[[int, int], tuple[int, ...]]:
    return lambda height, width: shape


def _power(a: jax.Array) -> jax.Array:
    return matrix_power(a, 0.7, normalization="frobenius")


ROWS: tuple[Operator, ...] = (
    Operator(
        topic="Bilinear feature",
        functions=(bilinear_pool,),
        modules=(),
        oracle="outer products summed in NumPy, a pixel at a time; gradients in closed form",
        cases={
            "one stream": Case(_map, bilinear_pool, out_shape=_always(25)),
            "two streams": Case(_two_maps, bilinear_pool, out_shape=_always(15), linear=True),
            "triangle": Case(_map, functools.partial(bilinear_pool, triangle=True), out_shape=_always(15)),
        },
        refusals=(
            (lambda: bilinear_pool(MAP, MAP[:, :1]), r"^bilinear_pool: .*, not \(1, 4\) and \(1, 2\); resize one$"),
            (lambda: bilinear_pool(MAP[0]), r"^bilinear_pool: x=float32\[2, 2, 3\] must .*; convert it$"),
        ),
    ),
    Operator(
        topic="Bilinear feature",
        functions=(second_moment,),
        modules=(),
        oracle="outer products summed in NumPy, a pixel at a time; gradients in closed form",
        cases={"sum": Case(_map, functools.partial(second_moment, reduction="sum"), out_shape=_always(5, 5))},
        refusals=((lambda: second_moment(MAP[:, :0]), "^second_moment: height=0 and width=2 must be at least 1; .*$"),),
    ),
    Operator(
        topic="Bilinear feature",
        functions=(signed_sqrt,),
        modules=(),
        oracle="the formula in extended precision; its slope in closed form",
        cases={"map": Case(_map, signed_sqrt, out_shape=lambda height, width: (height, width, 5))},
        refusals=((lambda: signed_sqrt(MAP, 0.0), "^signed_sqrt: epsilon=0.0 must be above 0, .*$"),),
    ),
    Operator(
        topic="Bilinear feature",
        functions=(l2_normalize,),
        modules=(),
        oracle="NumPy's norm; gradients in closed form",
        cases={"map": Case(_map, l2_normalize, out_shape=lambda height, width: (height, width, 5))},
        refusals=((lambda: l2_normalize(MAP, epsilon=0.0), "^l2_normalize: epsilon=0.0 must be above 0, .*$"),),
    ),
    Operator(
        topic="Bilinear feature: low-rank tricks",
        functions=(low_rank_bilinear,),
        modules=(LowRankBilinear,),
        oracle="full matrices against the second moment in NumPy; gradients in closed form",
        cases={
            "module": Case(_low_rank_inputs, lambda x, variables: LOW_RANK.apply(variables, x), out_shape=_always(3))
        },
        refusals=(
            (
                lambda: low_rank_bilinear(MAP, jnp.zeros((5, 2, 1)), jnp.zeros((3, 2, 1))),
                r"^low_rank_bilinear: positive=\(5, 2, 1\) must have channels=3; .*$",
            ),
            (
                lambda: LowRankBilinear(2, rank=5).init(jax.random.key(0), MAP),
                "^LowRankBilinear: rank=5 must be even and above 0; give 6",
            ),
        ),
    ),
    Operator(
        topic="Bilinear feature: low-rank tricks",
        functions=(compact_bilinear_pool, draw_tensor_sketch, draw_random_maclaurin),
        modules=(CompactBilinear,),
        oracle="the projection as a bilinear form, and products of NumPy's spectra; inner products averaged over draws",
        cases={
            "tensor sketch": Case(
                _sketched,
                lambda x, y, projection: compact_bilinear_pool(x, y, projection=projection),
                out_shape=_always(7),
                linear=True,
            ),
            "random Maclaurin": Case(
                _projected, lambda x, projection: compact_bilinear_pool(x, projection=projection), out_shape=_always(7)
            ),
            "module": Case(_compact_variables, lambda x, variables: COMPACT.apply(variables, x), out_shape=_always(7)),
        },
        refusals=(
            (
                lambda: compact_bilinear_pool(MAP, projection=draw_tensor_sketch(jax.random.key(0), 4, 4, 7)),
                r"^compact_bilinear_pool: channels=\(3, 3\) must be those of the projection, \(4, 4\); draw another$",
            ),
            (lambda: draw_random_maclaurin(jax.random.key(0), 3, 3, 0), "^draw_random_maclaurin: features=0 must .*$"),
        ),
    ),
    Operator(
        topic="Bilinear feature: whitening",
        functions=(covariance_pool,),
        modules=(),
        oracle="numpy.cov; gradients in closed form",
        cases={"map": Case(_map, covariance_pool, out_shape=_always(5, 5))},
        refusals=((lambda: covariance_pool(MAP[0]), r"^covariance_pool: x=float32\[2, 2, 3\] must .*; convert it$"),),
    ),
    Operator(
        topic="Bilinear feature: whitening",
        functions=(gaussian_embedding,),
        modules=(),
        oracle="blocks of numpy.cov and the mean; gradients in closed form",
        cases={
            "map": Case(_map, gaussian_embedding, out_shape=_always(6, 6)),
            "root": Case(_map, lambda x: matrix_sqrt(gaussian_embedding(x)), half=False),
        },
        refusals=((lambda: gaussian_embedding(MAP[0]), r"^gaussian_embedding: x=float32\[2, 2, 3\] must .*$"),),
    ),
    Operator(
        topic="Bilinear feature",
        functions=(vectorize_symmetric,),
        modules=(),
        oracle="entries by hand; inner products of the matrices",
        cases={"triangle": Case(_matrices, vectorize_symmetric, out_shape=_always(15), linear=True)},
        refusals=(
            (lambda: vectorize_symmetric(MAP[0]), r"^vectorize_symmetric: a=float32\[2, 2, 3\] must be square .*$"),
        ),
    ),
    Operator(
        topic="Bilinear feature: whitening",
        functions=(matrix_power,),
        modules=(),
        oracle="numpy.linalg.eigh and its central differences; divided differences at repeated eigenvalues",
        cases={"frobenius": Case(_matrices, _power, out_shape=_always(5, 5), adverse=(_identities,))},
        refusals=(
            (lambda: matrix_power(MAP[0]), r"^matrix_power: a=float32\[2, 2, 3\] must be square .*$"),
            (lambda: matrix_power(jnp.eye(3), -0.5), "^matrix_power: alpha=-0.5 must be above 0, .*$"),
        ),
    ),
    Operator(
        topic="Bilinear feature: whitening",
        functions=(matrix_sqrt,),
        modules=(),
        oracle="numpy.linalg.eigh; the gradient solves the Lyapunov equation",
        cases={"covariances": Case(_matrices, matrix_sqrt, out_shape=_always(5, 5), adverse=(_identities,))},
        refusals=((lambda: matrix_sqrt(MAP[0]), r"^matrix_sqrt: a=float32\[2, 2, 3\] must be square .*$"),),
    ),
    Operator(
        topic="Bilinear feature: whitening",
        functions=(newton_schulz_sqrt,),
        modules=(),
        oracle="the published loop in NumPy and its central differences; recorded errors",
        cases={
            "five steps": Case(_matrices, newton_schulz_sqrt, out_shape=_always(5, 5), adverse=(_identities,)),
            "from a map": Case(_map, lambda x: vectorize_symmetric(newton_schulz_sqrt(covariance_pool(x))), half=False),
        },
        refusals=((lambda: newton_schulz_sqrt(jnp.eye(3), 30), "^newton_schulz_sqrt: num_iterations=30 must .*$"),),
    ),
)
