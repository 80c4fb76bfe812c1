"""The classifier with spatial transformers: what it is when they move nothing, or move by whole pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models
from arch.efficiency.complexity import abstract_variables
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, maps_of, random_variables

_SMALL = {
    "num_classes": 10,
    "stage_sizes": (1, 1),
    "stage_features": (4, 8),
    "kernel_size": 3,
    "stem_features": 4,
    "stem": "small",
    "localization_features": (4,),
    "localization_kernel_size": 3,
    "localization_hidden_features": 4,
}
_IDENTITY = np.array([1.0, 0, 0, 0, 1, 0])


def _model(*transformers, **fields):
    return models.create("stn_classifier", **{**_SMALL, "transformers": transformers, **fields})


def _set_theta(variables, name, theta):
    """The affine map that a transformer takes whatever it sees."""
    layer = variables["params"][name]["theta"]
    layer["kernel"], layer["bias"] = np.zeros_like(layer["kernel"]), np.asarray(theta, layer["bias"].dtype)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).standard_normal((2, 8, 8, 3))


def _apply(model, variables, x):
    return quick_jit(lambda variables, x: model.apply(variables, x, train=False))(variables, x)


@pytest.mark.parametrize("align_corners", [True, False])
def test_with_identities_it_is_the_classifier_without_transformers(x64, x, align_corners):
    model, plain = _model(0, 1, 2, align_corners=align_corners), _model()
    variables = random_variables(model, x)
    for place in "012":
        _set_theta(variables, f"transformer{place}", _IDENTITY)
    np.testing.assert_allclose(_apply(model, variables, x), _apply(plain, variables, x), rtol=1e-10)


def test_it_starts_with_identities(x):
    model = _model(0, 2, num_classes=1000)
    params = quick_jit(lambda: model.init(jax.random.key(0), jnp.asarray(x, jnp.float32), train=False)["params"])()
    for name in ("transformer0", "transformer2"):
        np.testing.assert_array_equal(params[name]["theta"]["bias"], _IDENTITY)
        assert not params[name]["theta"]["kernel"].any() and params[name]["localization"]["hidden"]["kernel"].any()
    # 4 standard errors of a standard deviation
    kernel, classifier = params["stage2_conv1"]["kernel"], params["classifier"]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 8)), rtol=4 / np.sqrt(2 * kernel.size))
    np.testing.assert_allclose(classifier["kernel"].std(), 0.01, rtol=4 / np.sqrt(2 * classifier["kernel"].size))
    assert not classifier["bias"].any()


def test_a_translation_by_whole_pixels_is_a_shift_with_zeros(x64, x):
    """Of the image, and of the map behind the stem. With aligned corners 7 steps of a pixel make 2."""
    moved = np.zeros_like(x)
    moved[:, :, :-2] = x[:, :, 2:]
    translation = _IDENTITY + np.array([0, 0, 2 * 2 / 7, 0, 0, 0])
    model, plain = _model(0), _model()
    variables = random_variables(model, x)
    _set_theta(variables, "transformer0", translation)
    np.testing.assert_allclose(_apply(model, variables, x), _apply(plain, variables, moved), rtol=1e-9)
    behind = _model(1)
    variables["params"]["transformer1"] = random_variables(behind, x)["params"]["transformer1"]
    _set_theta(variables, "transformer1", translation)
    assert np.abs(_apply(behind, variables, x) - _apply(plain, variables, moved)).max() > 1e-4, "the stem pads"


def test_the_convention_of_coordinates_counts(x64, x):
    """A shift by a share of the image is not the same where its corners are those of its outer pixels."""
    variables = random_variables(_model(0), x)
    _set_theta(variables, "transformer0", _IDENTITY + np.array([0, 0, 0.5, 0, 0, 0]))
    aligned, not_aligned = (_apply(_model(0, align_corners=corners), variables, x) for corners in (True, False))
    # 0.5 of 2 are 2 of 8 pixels from edge to edge, and 1.75 of 7 from centre to centre.
    moved = np.zeros_like(x)
    moved[:, :, :-2] = x[:, :, 2:]
    np.testing.assert_allclose(not_aligned, _apply(_model(), variables, moved), rtol=1e-9)
    assert np.abs(aligned - not_aligned).max() > 1e-3


def test_each_image_is_moved_by_what_its_own_network_tells(x64, x):
    model = _model(0)
    variables = random_variables(model, x)
    both = _apply(model, variables, x)
    swapped = _apply(model, variables, x[::-1])
    np.testing.assert_allclose(swapped[::-1], both, rtol=1e-10)
    _set_theta(variables, "transformer0", _IDENTITY)
    assert np.abs(_apply(model, variables, x) - both).max() > 1e-3


def test_the_localization_network_has_the_sizes_that_are_asked_for():
    model = _model(0, localization_features=(5, 6), localization_kernel_size=5, localization_hidden_features=7)
    maps, out = maps_of(model, 16)
    told = maps["transformer0"]["localization"]
    assert told["conv0"]["__call__"][0].shape == (1, 16, 16, 5)
    assert told["conv1"]["__call__"][0].shape == (1, 8, 8, 6)
    assert told["__call__"][0].shape == (1, 7)
    assert maps["transformer0"]["theta"]["__call__"][0].shape == (1, 6)
    assert out.shape == (1, 10)
    x = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    params = abstract_variables(model, x, train=False)["params"]
    assert params["transformer0"]["localization"]["conv1"]["kernel"].shape == (5, 5, 5, 6)


def test_stages_pool_and_convolve():
    maps, _ = maps_of(models.create("stn_classifier"), 224)
    assert maps["transformer0"]["__call__"][0].shape == (1, 224, 224, 3)
    assert maps["stem_conv"]["__call__"][0].shape == (1, 112, 112, 48)
    for stage, (count, size, features) in enumerate([(1, 56, 64), (2, 28, 128), (2, 14, 192), (2, 7, 192)], start=1):
        for number in range(1, count + 1):
            assert maps[f"stage{stage}_conv{number}"]["__call__"][0].shape == (1, size, size, features)
        assert f"stage{stage}_conv{count + 1}" not in maps


def test_examples_reach_norms_and_dropout():
    none = {"stage_sizes": (), "stage_features": ()}
    check_examples_reach_norms_and_dropout(_model(**none, dropout_rate=0.5))


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "tiny"}, "STNClassifier: stem: unknown name 'tiny'; one of imagenet, small"),
        ({"stage_sizes": (1,)}, r"STNClassifier: stage_features=\(4, 8\) must be one for each of stage_sizes=\(1,\)"),
        (
            {"transformers": (0, 3)},
            r"STNClassifier: transformers=\(0, 3\) must lie in 0 to 2, the stages, with 0 the im",
        ),
        ({"kernel_size": 4}, r"symmetric_padding: kernel_size=\(4, 4\) must be odd"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("stn_classifier", **{**_SMALL, **fields})
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)


def test_integer_images_are_refused():
    with pytest.raises(ValueError, match=r"^STNClassifier: x must be floating point, not uint8; convert"):
        jax.eval_shape(lambda: _model(0).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8), train=False))
