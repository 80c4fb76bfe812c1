"""The one place from which networks take their convolutions."""

from collections.abc import Sequence

from flax import linen as nn

# Flax's own module. Faster lowerings may stand behind this name; the parameter tree, shapes and initial values stay.
Conv = nn.Conv


def symmetric_padding(kernel_size: Sequence[int], kernel_dilation: int = 1) -> tuple[tuple[int, int], ...]:
    """Padding of half a kernel on both sides, as torch and Caffe networks have it.

    "SAME" differs at stride 2 on even sizes: it pads (0, 1) where this pads (1, 1), and so shifts ported weights.

    Args:
        kernel_size: taps along each spatial axis; odd.
        kernel_dilation: distance between taps, in pixels.

    Returns:
        (before, after) along each spatial axis, in pixels.

    Raises:
        ValueError: an even kernel, which has no symmetric padding that keeps the size.
    """
    if any(size % 2 == 0 for size in kernel_size):
        raise ValueError(
            f"symmetric_padding: kernel_size={tuple(kernel_size)} must be odd; give explicit pairs for an even kernel"
        )
    return tuple((kernel_dilation * (size // 2),) * 2 for size in kernel_size)
