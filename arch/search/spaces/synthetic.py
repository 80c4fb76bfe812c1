"""Spaces whose best is known, to test strategies on in milliseconds; with their evaluators."""

import dataclasses

import numpy as np

from arch.search.space import CategoricalSpace, Choices
from arch.search.trials import Evaluation, Job


@dataclasses.dataclass(frozen=True)
class OneMax:
    """The share of ones in bits, with normal noise: the toy problem of Real et al. (arXiv:1802.01548), appendix A.

    Attributes:
      num_bits: of an architecture.
      noise: standard deviation of what is added to a reward; 0.01 in the paper.
    """

    num_bits: int = 100
    noise: float = 0.01

    @property
    def space(self) -> CategoricalSpace:
        """All strings of bits."""
        return CategoricalSpace((2,) * self.num_bits)

    def value(self, architecture: Choices) -> float:
        """Without noise; 1 is the best."""
        return sum(architecture.values) / self.num_bits

    def __call__(self, job: Job) -> Evaluation:
        """The value with the noise of the job's seed."""
        value = self.value(Choices(tuple(job.architecture)))
        noise = np.random.default_rng(job.seed).normal() * self.noise
        return Evaluation(value + noise, metrics={"value": value})


@dataclasses.dataclass(frozen=True)
class NkLandscape:
    """The mean over bits of random numbers that depend on the bit and on the K after it: the larger K, the rougher.

    Paper: Kauffman and Levin, Towards a general theory of adaptive walks on rugged landscapes (1987).

    Attributes:
      num_bits: N.
      num_others: K, below N; 0 has one maximum, N - 1 is random.
      seed: of the landscape.
      noise: standard deviation of what is added to a reward.
    """

    num_bits: int = 20
    num_others: int = 4
    seed: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.num_others < self.num_bits:
            raise ValueError(
                f"NkLandscape: num_others={self.num_others} must be from 0 to num_bits={self.num_bits} - 1; lower it"
            )

    @property
    def space(self) -> CategoricalSpace:
        """All strings of bits."""
        return CategoricalSpace((2,) * self.num_bits)

    def tables(self) -> np.ndarray:
        """float64 [N, 2^(K + 1)] in [0, 1): what bit i contributes, by the number that it and the K after it make."""
        return np.random.default_rng(self.seed).random((self.num_bits, 2 ** (self.num_others + 1)))

    def values(self, bits: np.ndarray) -> np.ndarray:
        """float64 [...] of bits [..., N], without noise."""
        tables, total = self.tables(), np.zeros(bits.shape[:-1])
        for i in range(self.num_bits):
            index = np.zeros(bits.shape[:-1], np.int64)
            for j in range(self.num_others + 1):
                index = 2 * index + bits[..., (i + j) % self.num_bits]
            total += tables[i, index]
        return total / self.num_bits

    def best_value(self) -> float:
        """Of all 2^N strings."""
        block, highest = 2**16, 0.0
        for start in range(0, 2**self.num_bits, block):
            numbers = np.arange(start, min(start + block, 2**self.num_bits))
            bits = numbers[:, None] >> np.arange(self.num_bits) & 1
            highest = max(highest, float(self.values(bits).max()))
        return highest

    def __call__(self, job: Job) -> Evaluation:
        """The value with the noise of the job's seed."""
        value = float(self.values(np.asarray(job.architecture)))
        noise = np.random.default_rng(job.seed).normal() * self.noise
        return Evaluation(value + noise, metrics={"value": value})
