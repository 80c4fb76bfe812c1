import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline.decode import BadRecord, crop_and_resize, open_image, to_array
from input_pipeline.geometry import Box, center_box


def decode(encoded, box, size, num_channels=3):
    return to_array(crop_and_resize(open_image(encoded), box, size, num_channels))


@pytest.mark.parametrize(("width", "height"), [(50, 40), (40, 50), (33, 33), (17, 90)])
def test_evaluation_is_resize_of_the_shorter_side_then_centre_crop(smooth_image, encode, width, height):
    # torchvision: Resize(round(14 / 0.875) = 16), CenterCrop(14).
    image = smooth_image(0, width, height)
    if width <= height:
        resized = image.resize((16, int(16 * height / width)), Image.Resampling.BILINEAR)
    else:
        resized = image.resize((int(16 * width / height), 16), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 14) / 2), round((resized.height - 14) / 2)
    expected = np.asarray(resized.crop((left, top, left + 14, top + 14)))
    actual = decode(encode(image, "png"), center_box(width, height, 14, 0.875), (14, 14))
    assert np.abs(actual.astype(int) - expected).max() <= 1  # Pillow rounds its weights to fixed point


@pytest.mark.parametrize(
    ("box", "reduced"),
    [((30, 50, 200, 220), (256, 256)), ((30, 50, 400, 420), (128, 128)), ((100, 100, 70, 80), (512, 512))],
)
def test_jpeg_is_decoded_at_a_reduced_scale_with_the_same_crop(smooth_image, encode, box, reduced):
    encoded = encode(smooth_image(1, 512, 512), "jpeg")
    left, top, width, height = box
    whole = Image.open(io.BytesIO(encoded)).crop((left, top, left + width, top + height))
    expected = whole.resize((64, 64), Image.Resampling.BILINEAR)
    image = open_image(encoded)
    actual = to_array(crop_and_resize(image, Box(*box), (64, 64), 3))
    assert image.size == reduced
    difference = np.abs(actual.astype(float) - np.asarray(expected))
    assert difference.mean() < 1 and difference.max() < 6


def test_reduced_scale_of_a_size_that_the_scale_does_not_divide_does_not_shift(encode):
    # 257 pixels at 1/8 are 33 pixels of 8, of which the last holds one; a ramp shows a shift at once.
    ramp = np.repeat(np.linspace(0, 255, 257).round().astype(np.uint8)[None], 257, axis=0)
    encoded = encode(Image.fromarray(ramp), "jpeg")
    actual = decode(encoded, Box(0, 0, 256, 256), (16, 16), 1)[8, :, 0].astype(float)
    expected = 255 / 256 * (np.arange(16) * 16 + 7.5)
    np.testing.assert_allclose(actual[1:-1], expected[1:-1], atol=1.5)


def test_modes_are_converted(encode):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    colour = np.stack([grey, grey * 2, grey * 3], axis=-1)
    box, size = Box(0, 0, 8, 8), (8, 8)
    np.testing.assert_array_equal(
        decode(encode(Image.fromarray(grey), "png"), box, size, 3), np.repeat(grey[:, :, None], 3, axis=2)
    )
    luma = (colour @ np.array([0.299, 0.587, 0.114]))[:, :, None]
    np.testing.assert_allclose(decode(encode(Image.fromarray(colour), "png"), box, size, 1), luma, atol=1)
    transparent = Image.fromarray(colour).convert("RGBA")
    np.testing.assert_array_equal(decode(encode(transparent, "png"), box, size, 3), colour)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode(encode(deep, "png"), box, size, 1)[:, :, 0], grey)


def test_broken_images_raise_bad_record(smooth_image, encode):
    whole = encode(smooth_image(2, 64, 64), "jpeg")
    png = encode(smooth_image(2, 64, 64), "png")
    for broken in (b"", b"text", whole[:40], whole[: len(whole) // 2], png[: len(png) // 2], png[:60] + b"x" * 200):
        with pytest.raises(BadRecord):
            decode(broken, Box(0, 0, 64, 64), (8, 8))
