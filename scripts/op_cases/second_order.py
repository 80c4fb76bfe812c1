"""Bilinear and covariance features, against their formulas in torch."""

import functools
from typing import Any

import numpy as np

from arch.ops.bilinear import bilinear_pool, low_rank_bilinear
from arch.ops.compact_bilinear import TensorSketch, compact_bilinear_pool
from arch.ops.covariance import covariance_pool, vectorize_symmetric
from arch.ops.matrix_power import matrix_sqrt, newton_schulz_sqrt
from scripts.op_cases.case import OpCase, image

as_it_is = lambda out: out  # noqa: E731


def _same(*inputs: np.ndarray) -> tuple[np.ndarray, ...]:
    return inputs


def _covariances(size: int, random: np.random.Generator) -> tuple[np.ndarray]:
    samples = image(random, 8, size, 2 * size)
    return (samples @ samples.swapaxes(1, 2) / np.float32(2 * size),)


def _bilinear(size: int, channels: int) -> OpCase:
    def peer(x: Any) -> Any:
        flat = x.flatten(2)
        return flat.bmm(flat.mT).flatten(1) / flat.shape[2]

    return OpCase(
        name="bilinear_pool",
        size=f"8x{size}x{size}x{channels}",
        make=lambda random: (image(random, 8, size, size, channels),),
        ours=bilinear_pool,
        peer=peer,
        from_peer=as_it_is,
    )


def _two_streams(size: int, x_features: int, y_features: int) -> OpCase:
    return OpCase(
        name="bilinear_pool",
        size=f"8x{size}x{size}x{x_features} and {y_features}",
        make=lambda random: tuple(image(random, 8, size, size, channels) for channels in (x_features, y_features)),
        ours=bilinear_pool,
        peer=lambda x, y: x.flatten(2).bmm(y.flatten(2).mT).flatten(1) / size**2,
        from_peer=as_it_is,
        differentiated=(0, 1),
    )


def _covariance(size: int, channels: int) -> OpCase:
    def peer(x: Any) -> Any:
        flat = x.flatten(2)
        centred = flat - flat.mean(2, keepdim=True)
        return centred.bmm(centred.mT) / flat.shape[2]

    return OpCase(
        name="covariance_pool",
        size=f"8x{size}x{size}x{channels}",
        make=lambda random: (image(random, 8, size, size, channels),),
        ours=covariance_pool,
        peer=peer,
        from_peer=as_it_is,
    )


def _triangle(size: int) -> OpCase:
    def peer(a: Any) -> Any:
        import torch

        rows, columns = torch.triu_indices(size, size, device=a.device)
        return a[:, rows, columns]

    return OpCase(
        name="vectorize_symmetric",
        size=f"8x{size}x{size}",
        make=functools.partial(_covariances, size),
        ours=vectorize_symmetric,
        peer=peer,
        to_peer=_same,
        from_peer=as_it_is,
    )


def _sqrt(size: int) -> OpCase:
    def peer(a: Any) -> Any:
        import torch

        values, vectors = torch.linalg.eigh(a)
        return (vectors * values.clamp_min(0).sqrt()[:, None]).bmm(vectors.mT)

    return OpCase(
        name="matrix_sqrt",
        size=f"8x{size}x{size}",
        make=functools.partial(_covariances, size),
        ours=matrix_sqrt,
        peer=peer,
        to_peer=_same,
        from_peer=as_it_is,
    )


def _newton_schulz(size: int, num_iterations: int = 5) -> OpCase:
    def peer(a: Any) -> Any:
        import torch

        identity = torch.eye(size, device=a.device)
        trace = a.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        y = a / trace
        z = 0.5 * (3 * identity - y)
        y = y.bmm(z)
        for step in range(1, num_iterations):
            t = 0.5 * (3 * identity - z.bmm(y))
            y = y.bmm(t)
            if step + 1 < num_iterations:
                z = t.bmm(z)
        return y * trace.sqrt()

    return OpCase(
        name="newton_schulz_sqrt",
        size=f"8x{size}x{size}, {num_iterations} steps",
        make=functools.partial(_covariances, size),
        ours=lambda a: newton_schulz_sqrt(a, num_iterations),
        peer=peer,
        to_peer=_same,
        from_peer=as_it_is,
    )


def _low_rank(size: int, channels: int, middle: int, num_classes: int, half_rank: int) -> OpCase:
    def make(random: np.random.Generator) -> tuple[np.ndarray, ...]:
        factors = [image(random, middle, num_classes, half_rank) for _ in range(2)]
        return image(random, 8, size, size, channels), *factors, image(random, channels, middle) * np.float32(0.1)

    def peer(x: Any, positive: Any, negative: Any, projection: Any) -> Any:
        import torch

        reduced = torch.einsum("nchw,cm->nmhw", x, projection).flatten(2)

        def energy(factors: Any) -> Any:
            parts = factors.flatten(1).mT @ reduced
            return parts.square().sum(2).unflatten(1, (num_classes, half_rank)).sum(2)

        return energy(positive) - energy(negative)

    return OpCase(
        name="low_rank_bilinear",
        size=f"8x{size}x{size}x{channels}, {middle} shared, {num_classes} classes of rank {2 * half_rank}",
        make=make,
        ours=lambda x, positive, negative, projection: low_rank_bilinear(x, positive, negative, projection=projection),
        peer=peer,
        from_peer=as_it_is,
        differentiated=(0, 1, 2, 3),
    )


def _tensor_sketch(size: int, channels: int, features: int) -> OpCase:
    """As the paper and its ports have it: two dense matrices, a transform of every pixel."""

    def make(random: np.random.Generator) -> tuple[np.ndarray, ...]:
        bins = random.integers(0, features, (2, channels), np.int32)
        signs = random.choice(np.int8([-1, 1]), (2, channels))
        return image(random, 8, size, size, channels), bins, signs

    def ours(x: Any, bins: Any, signs: Any) -> Any:
        return compact_bilinear_pool(x, projection=TensorSketch(bins[0], signs[0], bins[1], signs[1], features))

    def peer(x: Any, bins: Any, signs: Any) -> Any:
        import torch

        pixels = x.flatten(2).mT
        spectra = []
        for each_bins, each_signs in zip(bins, signs, strict=True):
            matrix = torch.zeros(channels, features, device=x.device)
            matrix[torch.arange(channels, device=x.device), each_bins.long()] = each_signs.float()
            spectra.append(torch.fft.rfft(pixels @ matrix))
        return torch.fft.irfft((spectra[0] * spectra[1]).mean(1), n=features)

    return OpCase(
        name="compact_bilinear_pool",
        size=f"8x{size}x{size}x{channels}, sketch of {features}",
        make=make,
        ours=ours,
        peer=peer,
        from_peer=as_it_is,
    )


CASES: tuple[OpCase, ...] = (
    _bilinear(28, 256),
    _two_streams(28, 256, 128),
    _covariance(28, 256),
    _triangle(256),
    _sqrt(256),
    _newton_schulz(256),
    _low_rank(14, 512, 100, 200, 4),
    _tensor_sketch(14, 512, 4096),
)
