"""Rewards that weigh accuracy against what a network costs: MACs, parameters or measured seconds."""

import math


def soft_limit(accuracy: float, cost: float, target: float, exponent: float = -0.07) -> float:
    """accuracy (cost / target)^exponent: cheaper is better throughout, and what is above the target is still had.

    Paper: Tan et al., MnasNet (arXiv:1807.11626), equation (2), with its exponent: twice the cost is worth five per
    cent of accuracy.

    Args:
      accuracy: 0 or above.
      cost: above 0, in the units of `target`.
      target: above 0.
      exponent: below 0.

    Raises:
      ValueError: a cost or target that is not above 0.
    """
    if not (cost > 0 and target > 0):
        raise ValueError(f"soft_limit: cost={cost} and target={target} must be above 0; measure them")
    return accuracy * (cost / target) ** exponent


def hard_limit(accuracy: float, cost: float, limit: float) -> float:
    """accuracy where the cost is at most `limit`, else minus infinity: such an architecture cannot be had."""
    return accuracy if cost <= limit else -math.inf
