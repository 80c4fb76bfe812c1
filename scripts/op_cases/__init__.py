"""What scripts/bench_ops.py times: one literal tuple a topic."""

from scripts.op_cases import (
    attention,
    channels,
    convolution,
    dot_product,
    norms,
    regions,
    sampling,
    second_order,
    spatial,
)
from scripts.op_cases.case import OpCase

CASES: tuple[OpCase, ...] = (
    *convolution.CASES,
    *channels.CASES,
    *spatial.CASES,
    *sampling.CASES,
    *regions.CASES,
    *attention.CASES,
    *dot_product.CASES,
    *second_order.CASES,
    *norms.CASES,
)
