"""Every operator of the lecture, with what is needed to test its laws and to write docs/operators.md."""

from tests.catalogue import (
    attention,
    channels,
    convolution,
    dot_product,
    learned_group_conv,
    regions,
    sampling,
    second_order,
    shifts,
    upsampling,
)
from tests.catalogue.row import Operator

# In the order of the lecture.
OPERATORS: tuple[Operator, ...] = (
    *convolution.ROWS,
    *channels.ROWS,
    *shifts.ROWS,
    *sampling.ROWS,
    *regions.ROWS,
    *upsampling.ROWS,
    *learned_group_conv.ROWS,
    *attention.ROWS,
    *dot_product.ROWS,
    *second_order.ROWS,
)
