import numpy as np
from PIL import Image

from input_pipeline import augment_host
from input_pipeline.settings import Augmentation


def settings(**fields):
    defaults = {
        "image_size": 16,
        "num_channels": 3,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.2, 0.2, 0.2),
        "crop": "none",
        "crop_padding": 3,
        "crop_area": (0.08, 1.0),
        "crop_aspect": (3 / 4, 4 / 3),
        "flip": False,
        "color_jitter": 0.0,
        "eval_crop_ratio": 1.0,
    }
    return Augmentation(**{**defaults, **fields})


def uniforms(seed=0):
    return np.random.default_rng(seed).random(augment_host.NUM_UNIFORMS)


def test_flip_mirrors_half_of_the_examples(smooth_image, encode):
    encoded = encode(smooth_image(0, 16, 16), "png")
    plain = augment_host.train_image(encoded, settings(), uniforms())
    results = [augment_host.train_image(encoded, settings(flip=True), uniforms(seed)) for seed in range(300)]
    mirrored = sum(np.array_equal(x, plain[:, ::-1]) for x in results)
    assert mirrored + sum(np.array_equal(x, plain) for x in results) == 300
    assert 105 < mirrored < 195  # 5 standard deviations


def test_pad_crop_gives_every_shift_of_the_padded_image():
    pixels = np.random.default_rng(0).integers(1, 256, (4, 5), dtype=np.uint8)
    padded = np.pad(pixels, 1)
    expected = {padded[top : top + 4, left : left + 5].tobytes() for top in range(3) for left in range(3)}
    rng = np.random.default_rng(1)
    crops = (augment_host.pad_crop(Image.fromarray(pixels), 1, rng.random(2)) for _ in range(200))
    assert {np.asarray(crop).tobytes() for crop in crops} == expected


def test_color_jitter_by_the_formula():
    # Uniforms 0.75 of [0.6, 1.4] are factors of 1.2; the order is brightness, contrast, saturation.
    pixels = np.random.default_rng(0).integers(0, 200, (6, 7, 3)).astype(np.uint8)
    order, factors = np.array([0.1, 0.5, 0.9]), np.full(3, 0.75)
    actual = np.asarray(augment_host.color_jitter(Image.fromarray(pixels), 0.4, order, factors), np.float64)

    def grey(x):
        return x @ np.array([0.299, 0.587, 0.114])

    x = np.clip(1.2 * pixels, 0, 255)
    x = np.clip(1.2 * x - 0.2 * grey(x).mean(), 0, 255)
    x = np.clip(1.2 * x - 0.2 * grey(x)[..., None], 0, 255)
    assert np.abs(actual - x).max() < 3.5  # Pillow cuts to whole numbers three times
    other = augment_host.color_jitter(Image.fromarray(pixels), 0.4, order[::-1], factors)
    assert not np.array_equal(actual, np.asarray(other))


def test_color_jitter_of_a_grey_image_keeps_one_channel(smooth_image, encode):
    grey = settings(num_channels=1, mean=(0.5,), std=(0.2,), color_jitter=0.4)
    image = augment_host.train_image(encode(smooth_image(0, 16, 16), "jpeg"), grey, uniforms())
    assert image.shape == (16, 16, 1)


def test_random_resized_crops_of_one_image_differ_and_repeat(smooth_image, encode):
    encoded = encode(smooth_image(3, 90, 70), "jpeg")
    crop = settings(crop="random_resized", flip=True, color_jitter=0.4)
    first, again, other = (augment_host.train_image(encoded, crop, uniforms(seed)) for seed in (0, 0, 1))
    assert first.shape == (16, 16, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 2
