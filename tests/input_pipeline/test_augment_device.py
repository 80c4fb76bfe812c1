import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import augment_device
from input_pipeline.pipeline import device_preprocess
from input_pipeline.settings import Augmentation


def settings(**fields):
    defaults = {
        "image_size": 12,
        "num_channels": 3,
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.25, 0.3),
        "crop": "none",
        "crop_padding": 2,
        "crop_area": (0.2, 1.0),
        "crop_aspect": (3 / 4, 4 / 3),
        "flip": False,
        "color_jitter": 0.0,
        "eval_crop_ratio": 1.0,
    }
    return Augmentation(**{**defaults, **fields})


def images(shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_flip_mirrors_half_of_the_examples():
    image = images((5, 4, 3))
    flipped = np.asarray(jax.vmap(lambda key: augment_device.flip(image, key))(keys(400)))
    mirrored = np.array([np.array_equal(x, image[:, ::-1]) for x in flipped])
    same = np.array([np.array_equal(x, image) for x in flipped])
    assert (mirrored ^ same).all()
    assert 150 < mirrored.sum() < 250  # 5 standard deviations


def test_pad_crop_gives_every_shift_of_the_padded_image():
    image, padding = images((4, 5, 1)), 1
    padded = np.zeros((6, 7, 1), np.float32)
    padded[1:5, 1:6] = image
    shifts = {(top, left): padded[top : top + 4, left : left + 5].tobytes() for top in range(3) for left in range(3)}
    crop = jax.vmap(lambda key: augment_device.pad_crop(image, key, padding))
    met = {np.asarray(x).tobytes() for x in crop(keys(300))}
    assert met == set(shifts.values())


@pytest.mark.parametrize("shape", [(40, 40), (60, 40), (33, 50)])
def test_random_boxes_lie_inside_and_keep_the_ranges(shape):
    area, aspect = (0.2, 0.9), (0.8, 1.25)
    boxes = jax.vmap(lambda key: jnp.stack(augment_device.random_box(key, shape, area, aspect)))(keys(1000))
    top, left, height, width = np.asarray(boxes).T
    np.testing.assert_array_equal(boxes, np.round(boxes))
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= shape[0]).all() and (left + width <= shape[1]).all()
    share = height * width / (shape[0] * shape[1])
    assert 0.18 < share.min() < 0.25 and 0.8 < share.max() < 0.95
    assert (width / height).min() > 0.74 and (width / height).max() < 1.35
    assert len(np.unique(top)) > 5 and len(np.unique(left)) > 5


def test_where_no_box_fits_it_is_the_largest_centred_one():
    # A strip 10 wide: the largest of aspect at least 3/4 is 10 x 13, at (200 - 13) // 2 = 93.
    box = augment_device.random_box(keys(1)[0], (200, 10), (1.0, 1.0), (3 / 4, 4 / 3))
    np.testing.assert_array_equal(np.asarray(box), (93, 0, 13, 10))


def resize_by_hand(image, box, size):
    """Bilinear and antialiased, from the definition, in float64: triangle weights as wide as the scale."""
    top, left, height, width = (float(x) for x in box)
    axes = []
    for start, length, extent in ((top, height, image.shape[0]), (left, width, image.shape[1])):
        centres = start + (np.arange(size) + 0.5) * length / size
        distance = np.abs(np.arange(extent) + 0.5 - centres[:, None]) / max(length / size, 1.0)
        triangle = np.maximum(0, 1 - distance)
        axes.append(triangle / triangle.sum(axis=1, keepdims=True))
    return np.einsum("ih,jw,hwc->ijc", *axes, image.astype(np.float64))


@pytest.mark.parametrize("size", [6, 24])  # smaller, with antialiasing, and larger
def test_random_resized_crop_resizes_the_box(size):
    image = images((16, 20, 3), seed=1)
    for key in keys(5, seed=2):
        # The crop draws its box from the key that it is given.
        box = augment_device.random_box(key, (16, 20), (0.3, 0.9), (0.75, 4 / 3))
        actual = augment_device.random_resized_crop(image, key, size, (0.3, 0.9), (0.75, 4 / 3))
        np.testing.assert_allclose(actual, resize_by_hand(image, box, size), atol=1e-5)


def test_color_functions_by_the_formula():
    image, factor = images((3, 4, 3)), 1.3
    grey = image @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(augment_device.brightness(image, factor), np.clip(1.3 * image, 0, 1), atol=1e-6)
    contrast = np.clip(1.3 * image - 0.3 * grey.mean(), 0, 1)
    np.testing.assert_allclose(augment_device.contrast(image, factor), contrast, atol=1e-6)
    saturation = np.clip(1.3 * image - 0.3 * grey[..., None], 0, 1)
    np.testing.assert_allclose(augment_device.saturation(image, factor), saturation, atol=1e-6)


def test_color_jitter_factors_are_uniform():
    # Of a constant grey, contrast and saturation change nothing: what is left is the factor of brightness.
    image = jnp.full((2, 2, 3), 0.5)
    jittered = np.asarray(jax.vmap(lambda key: augment_device.color_jitter(image, key, 0.4))(keys(3000)))
    factors = jittered[:, 0, 0, 0] / 0.5
    assert 0.6 <= factors.min() < 0.61 and 1.39 < factors.max() <= 1.4 + 1e-6
    np.testing.assert_allclose([factors.mean(), factors.std()], [1, 0.8 / np.sqrt(12)], atol=0.02)


def test_color_jitter_uses_every_order(monkeypatch):
    # Functions that do not commute, and that leave a trace of their order: x -> 4 x + digit.
    for digit, name in enumerate(("brightness", "contrast", "saturation"), 1):
        monkeypatch.setattr(augment_device, name, lambda image, factor, digit=digit: 4 * image + digit)
    image = jnp.zeros((1, 1, 3))
    traces = jax.vmap(lambda key: augment_device.color_jitter(image, key, 0.4))(keys(200))[:, 0, 0, 0]
    orders = {16 * a + 4 * b + c for a, b, c in itertools.permutations((1, 2, 3))}
    assert set(np.asarray(traces).astype(int).tolist()) == orders


def test_color_jitter_of_a_grey_image_keeps_one_channel():
    image = images((4, 4, 1))
    jittered = augment_device.color_jitter(jnp.asarray(image), keys(1)[0], 0.4)
    assert jittered.shape == (4, 4, 1)
    assert not np.allclose(jittered, image)


ALL = {"crop": "random_resized", "flip": True, "color_jitter": 0.4}


def test_preprocess_normalizes():
    x = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    expected = (x / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.2, 0.25, 0.3])
    actual = device_preprocess(settings(**ALL), augment=False)(x, None)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("fields", [ALL, {"crop": "pad", "flip": True, "color_jitter": 0.2}])
def test_an_example_does_not_depend_on_the_layout_of_devices(fields):
    x = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3), dtype=np.uint8)
    preprocess = device_preprocess(settings(**fields), augment=True)
    one = np.asarray(jax.jit(preprocess)(x, keys(16)))
    eight = jax.pmap(preprocess)(x.reshape(8, 2, 12, 12, 3), keys(16).reshape(8, 2))
    np.testing.assert_allclose(np.asarray(eight).reshape(one.shape), one, atol=1e-5)
    alone = jax.jit(preprocess)(x[5:6], keys(16)[5:6])
    np.testing.assert_allclose(alone[0], one[5], atol=1e-5)
    assert not np.allclose(one, jax.jit(preprocess)(x, keys(16, seed=1)), atol=0.1)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_preprocess_exports_for_accelerators(num_channels):
    fields = {**ALL, "num_channels": num_channels, "mean": (0.5,) * num_channels, "std": (0.2,) * num_channels}
    preprocess = jax.jit(device_preprocess(settings(**fields), augment=True))
    shapes = jax.ShapeDtypeStruct((4, 8, 8, num_channels), jnp.uint8), jax.eval_shape(lambda: keys(4))
    exported = jax.export.export(preprocess, platforms=["tpu", "cuda"])(*shapes)
    assert exported.out_avals[0].shape == (4, 12, 12, num_channels)


def test_augmentation_without_keys_is_refused():
    with pytest.raises(ValueError, match="pass one key an example"):
        device_preprocess(settings(flip=True), augment=True)(np.zeros((1, 12, 12, 3), np.uint8), None)
