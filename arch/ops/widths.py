"""Channel counts of networks that are scaled in width."""


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value` (halves go up), but never less than 90% of it, nor none at all.

    The rule of the MobileNet family, from TF-slim's mobilenet.py.

    Args:
        value: a channel count, scaled; above 0.
        divisor: what the result is a multiple of.

    Raises:
        ValueError: a value or divisor that is not positive.
    """
    if value <= 0 or divisor < 1:
        raise ValueError(f"make_divisible: value={value} and divisor={divisor} must be positive; widen the network")
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
