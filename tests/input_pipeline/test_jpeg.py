"""JPEG files cut off below a row: the pixels that are kept are those of the whole file."""

import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline import jpeg
from input_pipeline.decode import crop_and_resize, open_image, to_array
from input_pipeline.geometry import Box


def encode(height, width=60, **options):
    """Noise in blocks of 4, which JPEG changes and whose colours its decoder smooths."""
    pixels = np.random.default_rng(height).integers(0, 256, (-(-height // 4), -(-width // 4), 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.repeat(4, 0).repeat(4, 1)[:height, :width]).save(file, "JPEG", **options)
    return file.getvalue()


def decode(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}])
def test_the_rows_that_are_kept_are_those_of_the_whole_file(subsampling, options):
    encoded = encode(101, subsampling=subsampling, **options)
    block = 16 if subsampling == "4:2:0" else 8
    whole = decode(encoded)
    for num_rows in (1, 8, 37, 64, 80):
        part = decode(jpeg.first_rows(encoded, num_rows))
        assert len(part) == -(-num_rows // block) * block
        np.testing.assert_array_equal(part[:-1], whole[: len(part) - 1])


def test_grey_files_are_cut_too():
    file = io.BytesIO()
    Image.open(io.BytesIO(encode(50))).convert("L").save(file, "JPEG")
    part = decode(jpeg.first_rows(file.getvalue(), 20))
    np.testing.assert_array_equal(part, decode(file.getvalue())[:24])


def test_files_that_cannot_be_cut_are_left_whole():
    encoded = encode(64)
    assert jpeg.first_rows(encoded, 64) is None and jpeg.first_rows(encoded, 63) is None
    assert jpeg.first_rows(encode(64, progressive=True), 8) is None
    for broken in (b"", b"\xff\xd8", encoded[:300], encoded[2:], encoded[:300] + b"\xff\xd9"[:1]):
        assert jpeg.first_rows(broken, 8) is None
    # Headers that end too early, or whose lengths lead nowhere, end in an answer as well.
    for length in range(2, 300):
        jpeg.first_rows(encoded[:length] + b"\xff\xd9", 8)
    for position in range(2, 300):
        jpeg.first_rows(encoded[:position] + b"\xff\xff" + encoded[position + 2 :], 8)


@pytest.mark.parametrize(("size", "scale"), [(80, 1), (40, 2), (20, 4)])
def test_a_crop_of_a_cut_file_is_that_of_the_whole_file(size, scale):
    encoded = encode(200, 300, quality=90)
    box = Box(31, 17, 85, 90)
    whole = Image.open(io.BytesIO(encoded))
    whole.draft(None, (300 // scale, 200 // scale))
    left, top, width, height = (edge / scale for edge in box)
    edges = (left, top, left + width, top + height)
    expected = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box=edges))
    assert whole.size == (300 // scale, 200 // scale)
    np.testing.assert_array_equal(to_array(crop_and_resize(open_image(encoded), box, (size, size), 3)), expected)
