"""Whole heads against NumPy loops from the formulas, and the identities of second-order features."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch.blocks.bilinear_head import POOLINGS, BilinearHead
from arch.ops.conv import Conv
from arch.ops.dtypes import Dtypes
from tests.compiling import quick_jit

FLOAT64 = Dtypes(*[jnp.dtype("float64")] * 3)


def head(pooling, num_classes=3, dtypes=FLOAT64, **fields):
    """A head whose normalization is a line and whose activation is ReLU."""
    conv = functools.partial(Conv, dtype=dtypes.compute, param_dtype=dtypes.param)
    parts = {"conv": conv, "norm": lambda name: lambda x: 0.3 - x, "act": nn.relu, "dtypes": dtypes}
    return BilinearHead(num_classes=num_classes, pooling=pooling, **parts, **fields)


def filled(model, x):
    """Random parameters and, where a pooling has a projection, random bins and signs."""
    random = np.random.default_rng(0)

    def value(path, leaf):
        if path[0].key == "params":
            return random.standard_normal(leaf.shape).astype(leaf.dtype)
        if "indices" in path[-1].key:
            return random.integers(0, model.compact_features, leaf.shape).astype(leaf.dtype)
        return random.choice(np.int8([-1, 1]), leaf.shape)

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    return jax.tree.map_with_path(value, shapes)


def run(model, variables, x):
    return jax.device_get(quick_jit(lambda v, x: model.apply(v, x, train=False))(variables, x))


def _image(channels=5, size=(3, 4), seed=0):
    return np.random.default_rng(seed).standard_normal((2, *size, channels))


def _products(x, y):
    """The mean over positions of x y^T of one example [height, width, channels]."""
    out = np.zeros((x.shape[-1], y.shape[-1]))
    for row, column in np.ndindex(x.shape[:2]):
        for i, j in np.ndindex(out.shape):
            out[i, j] += x[row, column, i] * y[row, column, j] / (x.shape[0] * x.shape[1])
    return out


def _power(matrix, power):
    values, vectors = np.linalg.eigh(matrix)
    return sum(value**power * np.outer(vector, vector) for value, vector in zip(values, vectors.T, strict=True))


def _newton_schulz(matrix, steps):
    y, z, trace = matrix / np.trace(matrix), np.eye(len(matrix)), np.trace(matrix)
    for _ in range(steps):
        t = 0.5 * (3 * np.eye(len(matrix)) - z @ y)
        y, z = y @ t, t @ z
    return np.sqrt(trace) * y


def _sketch(x, projection, features):
    """The tensor sketch of one example: a circular convolution of two count sketches a position."""
    out = np.zeros(features)
    for row, column in np.ndindex(x.shape[:2]):
        for i, j in np.ndindex(x.shape[2], x.shape[2]):
            place = (projection["x_indices"][i] + projection["y_indices"][j]) % features
            sign = int(projection["x_signs"][i]) * int(projection["y_signs"][j])
            out[place] += sign * x[row, column, i] * x[row, column, j]
    return out / (x.shape[0] * x.shape[1])


def _maclaurin(x, projection, features):
    signs = np.float64(projection["x_signs"]), np.float64(projection["y_signs"])
    positions = [(pixel @ signs[0]) * (pixel @ signs[1]) for pixel in x.reshape(-1, x.shape[2])]
    return np.mean(positions, axis=0) / np.sqrt(features)


def _upper(matrix):
    return np.array([matrix[i, j] for i in range(len(matrix)) for j in range(i, len(matrix))])


def _gaussian(x):
    mean = x.mean((0, 1))
    covariance = _products(x - mean, x - mean)
    return np.block([[covariance + np.outer(mean, mean), mean[:, None]], [mean[None], np.ones((1, 1))]])


def _signed_sqrt(vector, epsilon=1e-8):
    return np.sign(vector) * (np.sqrt(np.abs(vector) + epsilon) - np.sqrt(epsilon))


def _l2(vector):
    return vector / np.sqrt((vector**2).sum() + 1e-12)


def _normalized(vector):
    return _l2(_signed_sqrt(vector))


def _covariance(x):
    return _products(x - x.mean((0, 1)), x - x.mean((0, 1)))


# Pooling and fields -> the vector of one example from its map, or maps, and the projection.
VECTORS = [
    ("bilinear", {}, lambda x, _: _normalized(_products(x, x).ravel())),
    ("bilinear", {"use_l2": False}, lambda x, _: _signed_sqrt(_products(x, x).ravel())),
    ("bilinear", {"use_signed_sqrt": False}, lambda x, _: _l2(_products(x, x).ravel())),
    ("bilinear", {"triangle": True}, lambda x, _: _normalized(_upper(_products(x, x)))),
    (
        "bilinear",
        {"whitening": "newton_schulz", "num_iterations": 3},
        lambda x, _: _normalized(_newton_schulz(_products(x, x), 3).ravel()),
    ),
    ("improved", {}, lambda x, _: _normalized(_power(_products(x, x), 0.5).ravel())),
    ("covariance_power", {}, lambda x, _: _upper(_power(_covariance(x), 0.5))),
    ("covariance_power", {"power": 0.3}, lambda x, _: _upper(_power(_covariance(x), 0.3))),
    ("covariance_power", {"whitening": "none"}, lambda x, _: _upper(_covariance(x))),
    ("gaussian", {}, lambda x, _: _power(_gaussian(x), 0.5).ravel()),
    ("gaussian", {"triangle": True}, lambda x, _: _upper(_power(_gaussian(x), 0.5))),
    ("isqrt", {}, lambda x, _: _upper(_newton_schulz(_covariance(x), 5))),
    ("isqrt", {"use_l2": True}, lambda x, _: _l2(_upper(_newton_schulz(_covariance(x), 5)))),
    ("compact_tensor_sketch", {"compact_features": 7}, lambda x, p: _normalized(_sketch(x, p, 7))),
    ("compact_random_maclaurin", {"compact_features": 6}, lambda x, p: _normalized(_maclaurin(x, p, 6))),
]


REDUCTIONS = [(*row, "none") for row in VECTORS]
REDUCTIONS += [(*VECTORS[0], "linear"), (*VECTORS[11], "linear"), (*VECTORS[11], "activated")]


@pytest.mark.parametrize(
    "pooling,fields,vector,reduction", REDUCTIONS, ids=["-".join(map(str, (*row[:2], row[3]))) for row in REDUCTIONS]
)
def test_whole_heads_against_loops(x64, pooling, fields, vector, reduction):
    """Reduction, pooling, whitening, normalization of the vector, classifier."""
    if reduction != "none":
        fields = {**fields, "reduction_features": 4, "activate_reduction": reduction == "activated"}
    model, x = head(pooling, **fields), _image()
    variables = filled(model, x)
    params = variables["params"]
    maps = x if reduction == "none" else x @ params["reduction"]["kernel"][0, 0]
    if reduction == "activated":
        maps = np.maximum(0.3 - maps, 0)
    projection = variables.get("projections", {}).get("compact", {}).get("projection")
    vectors = np.stack([vector(each, projection) for each in maps])
    expected = vectors @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    np.testing.assert_allclose(run(model, variables, x), expected, rtol=1e-9, atol=1e-9)


def test_two_streams_against_loops(x64):
    model, x = head("two_stream", reduction_features=4), _image()
    variables = filled(model, x)
    params = variables["params"]
    first, second = (x @ params[f"reduction_{name}"]["kernel"][0, 0] for name in ("first", "second"))
    vectors = np.stack([_normalized(_products(*pair).ravel()) for pair in zip(first, second, strict=True)])
    expected = vectors @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    np.testing.assert_allclose(run(model, variables, x), expected, rtol=1e-9, atol=1e-9)


def test_low_rank_scores_are_those_of_the_bilinear_classifier(x64):
    """<W_k, X X^T> with W_k = P (V+ V+^T - V- V-^T) P^T, of the whole bilinear head with these weights."""
    x, rank = _image(), 6
    low_rank = head("low_rank", reduction_features=4, rank=rank)
    variables = filled(low_rank, x)
    classifier, projection = variables["params"]["classifier"], variables["params"]["reduction"]["kernel"][0, 0]
    assert classifier["positive"].shape == classifier["negative"].shape == (4, 3, rank // 2)
    weights = sum(
        sign * np.einsum("ic,ckr,dkr,jd->ijk", projection, factors, factors, projection)
        for sign, factors in ((1, classifier["positive"]), (-1, classifier["negative"]))
    )
    whole = head("bilinear", use_signed_sqrt=False, use_l2=False)
    kernel = {"classifier": {"kernel": weights.reshape(25, 3), "bias": classifier["bias"]}}
    scores, expected = run(low_rank, variables, x), run(whole, {"params": kernel}, x)
    np.testing.assert_allclose(scores, expected, rtol=1e-10, atol=1e-10)


def _with_covariance(matrix):
    """A map of one example whose channels have this covariance and no mean."""
    values, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
    axes = vectors * np.sqrt(values * len(values))
    return np.stack([*axes.T, *-axes.T]).reshape(1, 2, len(values), len(values))


def test_low_rank_products_keep_all_digits(x64):
    low_rank, x = head("low_rank", rank=2), jnp.zeros((1, 2, 2, 4))
    text = str(jax.make_jaxpr(lambda x: low_rank.init_with_output(jax.random.key(0), x, train=False)[0])(x))
    assert text.count("dot_general") == text.count("(Precision.HIGHEST, Precision.HIGHEST)") > 0


@pytest.mark.parametrize(
    "matrix,root,tolerance",
    [
        (np.diag([1, 2, 3, 4]), np.diag([0.9974444522, 1.4141901476, 1.7320506628, 1.9999999995]), 1e-10),
        ([[2, 1], [1, 2]], [[1.3660247861, 0.3660260214], [0.3660260214, 1.3660247861]], 1e-10),
        (np.diag([1, 0.1, 0.01, 0.001]), np.diag([1, 0.3149, 0.0633, 0.0071]), 5e-5),
    ],
)
def test_five_steps_of_newton_and_schulz(x64, matrix, root, tolerance):
    """Published values; a classifier that is the identity shows the vector."""
    x, triangle = _with_covariance(matrix), _upper(np.asarray(root, np.float64))
    model = head("isqrt", num_classes=len(triangle))
    eye = {"classifier": {"kernel": np.eye(len(triangle)), "bias": np.zeros(len(triangle))}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # 3 classes of 4 products, but 10 of 16
        np.testing.assert_allclose(run(model, {"params": eye}, x)[0], triangle, rtol=0, atol=tolerance)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_positions_have_no_order(x64, pooling):
    """The pixels of a map may change places, but the channels of a pixel may not."""
    model, x = head(pooling, reduction_features=4, compact_features=16), _image()
    variables, random = filled(model, x), np.random.default_rng(1)
    pixels = x.reshape(2, 12, 5)
    moved = random.permutation(pixels, axis=1).reshape(x.shape)
    torn = np.stack([random.permutation(pixels[..., channel], axis=1) for channel in range(5)], axis=-1)
    together = np.concatenate([x, moved, torn.reshape(x.shape)])
    logits, of_moved, of_torn = np.split(run(model, variables, together), 3)
    np.testing.assert_allclose(of_moved, logits, rtol=1e-9, atol=1e-9)
    assert np.abs(of_torn - logits).max() > 1e-3


@pytest.mark.parametrize("pooling", ["bilinear", "compact_tensor_sketch", "improved", "two_stream"])
def test_the_length_of_the_vector_does_not_matter(x64, pooling):
    """What is divided by its length stays when the map is scaled; without, it does not."""
    x = _image()
    for use_l2, kept in ((None, True), (False, False)):
        model = head(pooling, reduction_features=4, compact_features=16, use_l2=use_l2)
        variables = filled(model, x)
        logits, scaled = np.split(run(model, variables, np.concatenate([x, 3 * x])), 2)
        assert np.allclose(scaled, logits, rtol=1e-3, atol=1e-3) == kept


@pytest.mark.parametrize("pooling", POOLINGS)
def test_products_of_bfloat16_maps_are_kept_in_float32(pooling):
    """The head of a bfloat16 network is that of a float32 network behind the reduction, whose outputs are rounded."""
    wide, half = jnp.dtype("float32"), jnp.dtype("bfloat16")
    reduction = {"reduction_features": 5} if pooling == "two_stream" else {}
    x = _image(size=(4, 4)).astype(half)
    models = [
        head(pooling, dtypes=Dtypes(dtype, wide, wide), compact_features=16, **reduction) for dtype in (half, wide)
    ]
    variables = filled(models[0], x)
    for name in set(variables["params"]) - {"classifier"}:
        variables["params"][name]["kernel"] = np.eye(5, dtype=np.float32)[None, None]
    logits, expected = run(models[0], variables, x), run(models[1], variables, x.astype(wide))
    assert logits.dtype == wide
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_dropout_precedes_the_classifier(pooling):
    """At rate 1 the bias is left, in evaluation all."""
    float32 = Dtypes(*[jnp.dtype("float32")] * 3)
    model = head(pooling, dtypes=float32, reduction_features=3, compact_features=16, dropout_rate=1.0)
    x = _image().astype(np.float32)
    variables = filled(model, x)
    train = quick_jit(lambda v, x: model.apply(v, x, train=True, rngs={"dropout": jax.random.key(0)}))
    np.testing.assert_allclose(
        train(variables, x), np.tile(variables["params"]["classifier"]["bias"], (2, 1)), atol=1e-6
    )
    assert np.abs(run(model, variables, x) - variables["params"]["classifier"]["bias"]).min() > 1e-4


def test_the_classifier_starts_as_torchs():
    model, x = (
        head("bilinear", num_classes=20, dtypes=Dtypes(*[jnp.dtype("float32")] * 3)),
        np.ones((1, 1, 1, 9), np.float32),
    )
    params = jax.device_get(quick_jit(lambda: model.init(jax.random.key(0), x, train=False))())["params"]
    limit = 1 / 9
    for values in params["classifier"].values():
        assert -limit <= values.min() < -0.8 * limit and 0.8 * limit < values.max() <= limit


@pytest.mark.parametrize("num_classes,warned", [(15, False), (16, True), (100, True)])
@pytest.mark.parametrize("fields", [{}, {"reduction_features": 4}])
def test_too_few_products_give_a_warning(num_classes, warned, fields):
    """The lecture: N ** 2 > number of classes; of the channels that are pooled."""
    model = head("bilinear", num_classes=num_classes, dtypes=Dtypes(*[jnp.dtype("float32")] * 3), **fields)
    x = jax.ShapeDtypeStruct((1, 2, 2, 6 if fields else 4), jnp.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    texts = [str(warning.message) for warning in caught if "BilinearHead" in str(warning.message)]
    enough = {16: 5, 100: 11}.get(num_classes)
    text = f"BilinearHead: the 16 products of 4 channels should exceed num_classes={num_classes}; "
    assert set(texts) == ({f"{text}give reduction_features={enough} or more"} if warned else set())


@pytest.mark.parametrize(
    "pooling,fields,message",
    [
        ("bilinar", {}, "BilinearHead: pooling: unknown name 'bilinar'; did you mean 'bilinear'"),
        (
            "isqrt",
            {"whitening": "sqrt"},
            "BilinearHead: whitening: unknown name 'sqrt'; one of newton_schulz, none, power",
        ),
        (
            "two_stream",
            {},
            "BilinearHead: activate_reduction=False with pooling='two_stream' needs a reduction; give red",
        ),
        (
            "isqrt",
            {"activate_reduction": True},
            "BilinearHead: activate_reduction=True with pooling='isqrt' needs a reduction; give reduction_features",
        ),
        (
            "compact_tensor_sketch",
            {"whitening": "power"},
            "BilinearHead: whitening='power' has no meaning with pooling='compact_tensor_sketch'; leave it out",
        ),
        (
            "low_rank",
            {"use_l2": True},
            "BilinearHead: use_l2=True has no meaning with pooling='low_rank'; leave it out",
        ),
        ("low_rank", {"rank": 3}, "LowRankBilinear: rank=3 must be even and above 0; give 4"),
        ("isqrt", {"num_iterations": 21}, r"newton_schulz_sqrt: num_iterations=21 must lie in \[1, 20\]"),
        ("improved", {"power": 0.0}, "matrix_power: alpha=0.0 must be above 0"),
    ],
)
def test_fields_that_do_not_fit_are_refused(pooling, fields, message):
    model = head(pooling, dtypes=Dtypes(*[jnp.dtype("float32")] * 3), **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), train=False))
    assert "\n" not in str(error.value)
