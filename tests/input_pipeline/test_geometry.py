import math

import numpy as np
import pytest

from input_pipeline.geometry import NUM_TRIES, center_box, fallback_size, random_box

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)


def draw(rng, width, height, area=AREA, aspect=ASPECT):
    return random_box(width, height, area, aspect, rng.random(2 * NUM_TRIES), rng.random(2))


@pytest.mark.parametrize(("width", "height"), [(224, 224), (500, 375), (32, 32)])
def test_random_boxes_lie_inside_and_keep_the_ranges(width, height):
    rng = np.random.default_rng(0)
    boxes = np.array([draw(rng, width, height) for _ in range(2000)])
    left, top, box_width, box_height = boxes.T
    assert (left >= 0).all() and (top >= 0).all()
    assert (left + box_width <= width).all() and (top + box_height <= height).all()
    rounding = 1 / min(box_width.min(), box_height.min())
    area = box_width * box_height / (width * height)
    assert 0.08 * (1 - 2 * rounding) <= area.min() < 0.1 and area.max() > 0.9
    aspect = box_width / box_height
    assert aspect.min() >= 0.75 * (1 - 2 * rounding) and aspect.max() <= 4 / 3 * (1 + 2 * rounding)


def test_area_is_uniform_and_aspect_log_uniform_where_every_box_fits():
    rng = np.random.default_rng(1)
    boxes = np.array([draw(rng, 1000, 1000, (0.1, 0.5), (0.5, 2.0)) for _ in range(5000)])
    area = boxes[:, 2] * boxes[:, 3] / 1e6
    log_aspect = np.log(boxes[:, 2] / boxes[:, 3])
    np.testing.assert_allclose([area.mean(), area.std()], [0.3, 0.4 / math.sqrt(12)], rtol=0.03)
    np.testing.assert_allclose(log_aspect.mean(), 0, atol=0.02)
    np.testing.assert_allclose(log_aspect.std(), 2 * math.log(2) / math.sqrt(12), rtol=0.03)


def test_corners_cover_every_place():
    rng = np.random.default_rng(2)
    boxes = [draw(rng, 4, 4, (0.25, 0.25), (1.0, 1.0)) for _ in range(400)]
    assert {(box.left, box.top) for box in boxes} == {(x, y) for x in range(3) for y in range(3)}
    assert {(box.width, box.height) for box in boxes} == {(2, 2)}


def test_the_first_try_that_fits_is_taken():
    tries = np.full((NUM_TRIES, 2), 0.5)
    tries[:3] = 1 - 1e-9  # the whole area at aspect 4/3: too wide for a square
    tries[3] = [0.0, 0.5]  # the smallest area, square
    box = random_box(100, 100, (0.25, 1.0), ASPECT, tries.ravel(), np.zeros(2))
    assert box == (0, 0, 50, 50)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    # Largest rectangle of aspect 3/4 to 4/3, centred: 10 / 0.75 = 13.3 high; 10 * 4/3 wide; all of a square.
    [(10, 200, (0, 93, 10, 13)), (200, 10, (93, 0, 13, 10)), (50, 50, (0, 0, 50, 50))],
)
def test_fallback_is_the_largest_centred_rectangle(width, height, expected):
    tries = np.full(2 * NUM_TRIES, 1 - 1e-9)
    assert random_box(width, height, (1.0, 1.0), ASPECT, tries, np.full(2, 0.9)) == expected
    assert fallback_size(width, height, ASPECT) == expected[2:]


def test_center_box_by_hand():
    # 100 x 50: the shorter side becomes 40, so 80 x 40; the middle 35 of each; back by 1.25.
    box = center_box(100, 50, 35, 0.875)
    np.testing.assert_allclose(box, (22 * 1.25, 2 * 1.25, 35 * 1.25, 35 * 1.25))
    np.testing.assert_allclose(center_box(8, 8, 32, 1.0), (0, 0, 8, 8))
