"""Second-order networks: whole ones against torch's, recorded in tests/goldens, and what trunk and head share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import models, norm
from arch.efficiency.complexity import abstract_variables, count
from arch.weights.names import bilinear as names
from tests.compiling import quick_jit
from tests.models.checks import check_examples_reach_norms_and_dropout, check_parity, maps_of

_RESNET = {"stage_sizes": (1, 1), "stage_features": (64, 128), "stage_strides": (1, 1), "reduction_features": 16}
_VGG = {"stage_sizes": (1, 1), "stage_features": (6, 8)}


@pytest.mark.parametrize("net", ["mpn_cov", "isqrt_cov"])
def test_parity_with_torch(x64, net):
    """Logits, updated running statistics and the gradient of every parameter; the roots' derivatives are torch's."""
    unbiased = norm.create("batch_norm", unbiased_running_variance=True)
    model = models.create(f"{net}_resnet50", num_classes=10, norm=unbiased, **_RESNET)
    check_parity(model, "bilinear.npz", net, 32, names.authors)


@pytest.mark.parametrize("trunk,network", [("vgg", "vgg16"), ("vgg_bn", "vgg16_bn"), ("resnet", "resnet50")])
def test_the_trunk_is_the_network_of_its_name(trunk, network):
    """Parameters and statistics have the paths that they have there."""
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    ours = abstract_variables(models.create("bcnn_vgg16", trunk=trunk), x, train=False)
    theirs = abstract_variables(models.create(network, features_only=True), x, train=False)
    for collection, tree in theirs.items():
        assert jax.tree.map(jnp.shape, ours[collection]["trunk"]) == jax.tree.map(jnp.shape, tree)


def test_the_head_pools_the_last_map():
    """conv5_3 of VGG-16 at 448 pixels, 28x28, and the last stage of ResNet at stride 16; reduced to 256 channels."""
    for name, image_size, map_size in [("isqrt_cov_vgg16", 448, 28), ("isqrt_cov_resnet50", 224, 14)]:
        layers, out = maps_of(models.create(name), image_size)
        assert layers["head"]["reduction"]["__call__"][0].shape == (1, map_size, map_size, 256)
        assert out.shape == (1, 1000)
    kept, halved = (
        count(models.create("isqrt_cov_resnet50", stage_strides=strides), train=False)
        for strides in ((1, 2, 2, 1), None)
    )
    assert kept.params == halved.params and kept.conv_macs > halved.conv_macs


def test_products_of_activations_are_no_macs_of_layers():
    """A covariance of 196 positions and two products a step of Newton and Schulz, in the first and last fewer."""
    cost = count(models.create("isqrt_cov_resnet50"), train=False)
    assert cost.other_macs == 196 * 256**2 + (3 * 5 - 3) * 256**3


def test_examples_reach_norms_and_dropout():
    fields = {"trunk": "vgg_bn", "stem": "stride2", "reduction_features": 8, "dropout_rate": 0.5}
    check_examples_reach_norms_and_dropout(models.create("isqrt_cov_vgg16", num_classes=10, **fields, **_VGG))


def test_initial_values_of_the_reduction():
    """Those of the network's convolutions where an activation follows, else such that it keeps the variance."""
    model = models.create("bcnn_vgg16", reduction_features=32, kernel_init=nn.initializers.ones, **_VGG)
    activated, x = model.clone(activate_reduction=True), jnp.zeros((1, 4, 4, 3))
    nets = quick_jit(lambda: [net.init(jax.random.key(0), x, train=False)["params"] for net in (model, activated)])()
    linear_kernel, kernel = (params["head"]["reduction"]["kernel"] for params in nets)
    np.testing.assert_array_equal(nets[0]["trunk"]["stage2_conv1"]["kernel"], 1)
    np.testing.assert_array_equal(kernel, 1)
    # 4 standard errors of a standard deviation
    np.testing.assert_allclose(linear_kernel.std(), 1 / np.sqrt(8), rtol=4 / np.sqrt(2 * linear_kernel.size))


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"trunk": "vgg19"}, "BilinearCNN: trunk: unknown name 'vgg19'; did you mean 'vgg'"),
        (
            {"stage_strides": (1, 2, 2, 2, 1)},
            "BilinearCNN: trunk: fields of vgg: unknown name 'stage_strides'; did you mean 'stage_",
        ),
        ({"stem": "tiny"}, "VGG: stem: unknown name 'tiny'; one of imagenet, small"),
        ({"pooling": "bilinar"}, "BilinearHead: pooling: unknown name 'bilinar'; did you mean 'bilinear'"),
        ({"whitening": "svd"}, "BilinearHead: whitening: unknown name 'svd'; one of newton_schulz, none, power"),
        ({"dropout_rate": 2.0}, r"Dropout: rate=2.0 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = models.create("bcnn_vgg16", **fields)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert "\n" not in str(error.value)


def test_integer_images_are_refused():
    with pytest.raises(ValueError, match=r"^BilinearCNN: x must be floating point, not uint8; convert"):
        x = jnp.zeros((1, 32, 32, 3), jnp.uint8)
        jax.eval_shape(lambda: models.create("bcnn_vgg16").init(jax.random.key(0), x, train=False))
