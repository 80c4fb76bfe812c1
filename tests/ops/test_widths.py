import pytest

from arch.ops.widths import make_divisible


@pytest.mark.parametrize(
    "value,divisor,expected",
    [
        (32, 8, 32),
        (24 * 1.4, 8, 32),  # 33.6 is nearer to 32
        (24 * 1.5, 8, 40),  # 36 lies in the middle
        (32 * 0.35, 8, 16),  # 11.2: 8 would be less than 90%
        (16 * 0.75, 8, 16),
        (3, 8, 8),
        (10.1, 1, 10),
        (36, 4, 36),
    ],
)
def test_the_nearest_multiple_but_not_below_ninety_percent(value, divisor, expected):
    assert make_divisible(value, divisor) == expected


def test_every_result_keeps_the_rule():
    """It is a multiple, above 90%, and the nearest unless that is below."""
    for tenth in range(1, 3000):
        value = tenth / 10
        result = make_divisible(value)
        assert result % 8 == 0 and result >= 0.9 * value and result >= 8
        below = result - 8
        assert result - value <= 4 or below < 0.9 * value or below < 8
        assert value - result < 4


@pytest.mark.parametrize("value,divisor", [(0, 8), (-1.0, 8), (16, 0)])
def test_what_is_not_positive_is_refused(value, divisor):
    with pytest.raises(ValueError, match=f"^make_divisible: value={value} and divisor={divisor} must be positive"):
        make_divisible(value, divisor)
