"""Counts, by tracing, against the published integers and against closed forms."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from arch import models, norm
from arch.attention.dot_product import MultiHeadAttention
from arch.efficiency.complexity import Macs, abstract_variables, count, count_macs, count_params
from arch.efficiency.program import Origin, operations
from arch.ops.bilinear import bilinear_pool
from arch.ops.channel import channel_shuffle
from arch.ops.conv import Conv, conv2d
from arch.ops.deformable import DeformConv
from arch.ops.pooling import avg_pool, max_pool
from arch.ops.resize import resize
from arch.ops.roi import roi_align
from arch.ops.sampling import bilinear_shift, grid_sample
from arch.ops.shift import active_shift, spatial_shift

# name, variant, params (megvii with the bias of its classifier), batch_stats, conv MACs, conv and classifier MACs; at
# 224 pixels and 1000 classes. Measured on torchvision 0.29.1 and by running the authors' definition.
SHUFFLENET_V2 = [
    ("shufflenet_v2_x0_5", "torchvision", 1_366_792, 7_952, 39_452_448, 40_476_448),
    ("shufflenet_v2_x1_0", "torchvision", 2_278_604, 16_180, 143_883_992, 144_907_992),
    ("shufflenet_v2_x1_5", "torchvision", 3_503_624, 23_440, 294_735_392, 295_759_392),
    ("shufflenet_v2_x2_0", "torchvision", 7_393_996, 33_716, 581_205_464, 583_253_464),
    ("shufflenet_v2_x0_5", "megvii", 1_366_792, 7_952, 39_452_448, 40_476_448),
    ("shufflenet_v2_x1_0", "megvii", 2_279_760, 16_180, 144_790_296, 145_814_296),
    ("shufflenet_v2_x1_5", "megvii", 3_507_720, 23_440, 297_946_656, 298_970_656),
    ("shufflenet_v2_x2_0", "megvii", 7_403_600, 33_716, 588_735_000, 590_783_000),
]


@pytest.mark.parametrize("name,variant,params,batch_stats,conv_macs,macs", SHUFFLENET_V2)
def test_shufflenet_v2(name, variant, params, batch_stats, conv_macs, macs):
    cost = count(models.create(name, variant=variant), train=False)
    assert (cost.params, cost.batch_stats, cost.conv_macs, cost.macs) == (params, batch_stats, conv_macs, macs)
    assert cost.linear_macs == macs - conv_macs


def test_norm_batch_and_training_change_only_what_they_should():
    model = models.create("shufflenet_v2_x0_5", norm=norm.create("group_norm"), dropout_rate=0.2)
    cost = count(model, (3, 224, 224, 3), input_dtype=jnp.bfloat16, train=True)
    assert (cost.params, cost.batch_stats, cost.macs) == (1_366_792, 0, 3 * 40_476_448)


def _shape(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _conv(strides=1, groups=1, dilation=1, padding=1):
    return functools.partial(
        lax.conv_general_dilated,
        window_strides=(strides, strides),
        padding=[(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.mark.parametrize(
    "conv,kernel,expected",
    [
        (_conv(), (3, 3, 6, 10), 2 * 8 * 8 * 10 * 6 * 9),
        (_conv(strides=2), (3, 3, 6, 10), 2 * 4 * 4 * 10 * 6 * 9),
        (_conv(groups=2), (3, 3, 3, 10), 2 * 8 * 8 * 10 * 3 * 9),
        (_conv(strides=2, groups=2), (3, 3, 3, 10), 2 * 4 * 4 * 10 * 3 * 9),
        (_conv(groups=6), (3, 3, 1, 12), 2 * 8 * 8 * 12 * 9),
        (_conv(dilation=2, padding=2), (3, 3, 6, 10), 2 * 8 * 8 * 10 * 6 * 9),
        (_conv(padding=0), (1, 1, 6, 10), 2 * 8 * 8 * 10 * 6),
    ],
)
def test_convolution_and_both_of_its_gradients(conv, kernel, expected):
    x, kernel = _shape(2, 8, 8, 6), _shape(*kernel)
    assert count_macs(conv, x, kernel) == Macs(conv=expected)
    out = jax.eval_shape(conv, x, kernel)

    def transposed(argnum, x, kernel, cotangent):
        args = (x, kernel)
        linear = jax.linear_transpose(lambda a: conv(*args[:argnum], a, *args[argnum + 1 :]), args[argnum])
        return linear(cotangent)

    for argnum in (0, 1):
        assert count_macs(functools.partial(transposed, argnum), x, kernel, out) == Macs(conv=expected)


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize(
    "groups,size,strides,macs",
    [
        (1, 3, 2, 2 * 4 * 4 * 10 * 6 * 9),
        (2, 3, 1, 2 * 8 * 8 * 10 * 3 * 9),
        (6, 3, 2, 2 * 4 * 4 * 12 * 9),
        (1, 1, 1, 2 * 8 * 8 * 10 * 6),
        (2, 1, 2, 2 * 4 * 4 * 10 * 3),
    ],
)
def test_conv2d_is_one_convolution_whatever_runs_below(groups, size, strides, macs, implementation):
    padding = size // 2
    conv = functools.partial(
        conv2d, strides=strides, padding=padding, feature_group_count=groups, implementation=implementation
    )
    args = _shape(2, 8, 8, 6), _shape(size, size, 6 // groups, 12 if groups == 6 else 10)
    assert count_macs(conv, *args) == Macs(conv=macs)
    assert count_macs(jax.jit(conv), *args) == Macs(conv=macs)
    for argnum in (0, 1):
        # Linear in either argument: its gradient is one convolution more, and of no other kind.
        assert count_macs(jax.value_and_grad(lambda *a: conv(*a).sum(), argnum), *args) == Macs(conv=2 * macs)
    kernels = _shape(5, *args[1].shape)
    for axes in ((None, 0), (0, 0)):
        x = args[0] if axes[0] is None else _shape(5, *args[0].shape)
        gradients = jax.vmap(jax.value_and_grad(lambda *a: jnp.sin(conv(*a)).sum(), (0, 1)), axes)
        assert count_macs(gradients, x, kernels) == Macs(conv=5 * 3 * macs)


def test_convolution_transposed_counts_no_inserted_zeros():
    layer = nn.ConvTranspose(10, (4, 4), strides=(2, 2), use_bias=False)
    assert count(layer, (2, 8, 8, 6)).macs == 2 * 8 * 8 * 6 * 16 * 10


def test_kernels_under_vmap_become_groups_and_cost_as_much():
    x, kernel = _shape(2, 8, 8, 6), _shape(5, 3, 3, 6, 10)
    alone = 2 * 8 * 8 * 10 * 6 * 9
    assert count_macs(jax.vmap(_conv(), (None, 0)), x, kernel) == Macs(conv=5 * alone)
    assert (
        count_macs(jax.vmap(_conv(groups=2), (0, 0)), _shape(5, 2, 8, 8, 6), _shape(5, 3, 3, 3, 10)).conv
        == 5 * alone // 2
    )

    def kernel_gradient(x, cotangent):
        return jax.linear_transpose(functools.partial(_conv(), x), _shape(3, 3, 6, 10))(cotangent)

    # Batched kernel gradients use batch_group_count.
    args = _shape(5, 2, 8, 8, 6), _shape(5, 2, 8, 8, 10)
    assert count_macs(jax.vmap(kernel_gradient), *args) == Macs(conv=5 * alone)


def test_matrix_products():
    assert count_macs(jnp.matmul, _shape(3, 4), _shape(4, 5)) == Macs(linear=3 * 4 * 5)
    product = functools.partial(jnp.einsum, "bhqd,bhkd->bhqk")
    assert count_macs(product, _shape(2, 3, 5, 7), _shape(2, 3, 6, 7)) == Macs(linear=2 * 3 * 5 * 6 * 7)
    assert count(nn.Dense(10), (2, 7, 4)).linear_macs == 2 * 7 * 4 * 10


def _square(x):
    return x @ x


@jax.custom_vjp
def _with_vjp(x):
    return x @ x


_with_vjp.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T + x.T @ g,))


@jax.custom_jvp
def _with_jvp(x):
    return x @ x


_with_jvp.defjvp(lambda primals, tangents: (_with_jvp(*primals), tangents[0]))


@pytest.mark.parametrize(
    "fn,times",
    [
        (jax.jit(_square), 1),
        (jax.jit(jax.jit(lambda x: _square(_square(x)))), 2),
        (jax.checkpoint(_square), 1),
        (_with_vjp, 1),
        (jax.grad(lambda x: _with_vjp(x).sum()), 3),
        (_with_jvp, 1),
        (lambda x: lax.scan(lambda c, _: (c @ c, None), x, length=7)[0], 7),
        (lambda x: lax.fori_loop(0, 5, lambda _, c: c @ c, x), 5),
        (lambda x: lax.map(_square, jnp.stack([x, x, x])), 3),
        (lambda x: lax.cond(x.sum() > 0, lambda x: _square(_square(x)), _square, x), 2),
        (lambda x: lax.switch(0, [_square, lambda x: x, lambda x: _square(_square(_square(x)))], x), 3),
        (lambda x: lax.while_loop(lambda c: c[0, 0] < 3, lambda c: c + 1, x), 0),
        (jax.vmap(_square, in_axes=None, axis_size=4, out_axes=None), 1),
    ],
)
def test_programs_inside_programs(fn, times):
    assert count_macs(fn, _shape(4, 4)) == Macs(linear=64 * times)


def test_devices_are_added_up():
    rows = jax.ShapeDtypeStruct((8, 4, 4), jnp.float32)
    assert count_macs(jax.pmap(_square), rows) == Macs(linear=8 * 64)
    mesh = Mesh(jax.devices()[:4], ("batch",))
    spec = PartitionSpec("batch")
    for check_vma in (True, False):
        fn = jax.shard_map(jax.vmap(_square), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma)
        assert count_macs(fn, rows) == Macs(linear=8 * 64)


def test_a_while_loop_with_products_is_refused():
    with pytest.raises(ValueError, match=r"^count_macs: a while_loop runs an unknown number of times; use scan"):
        count_macs(lambda x: lax.while_loop(lambda c: c[0, 0] < 3, _square, x), _shape(4, 4))


def test_variables_are_shapes_only():
    variables = abstract_variables(nn.Dense(10**6), _shape(1, 10**6))
    assert count_params(variables) == 10**12 + 10**6


def test_products_of_data_with_data_are_no_layers():
    x, kernel, mixed = _shape(5, 4), _shape(4, 4), _shape(2, 4, 4)
    size = 5 * 4 * 4
    through = {
        "cast": lambda k: k.astype(jnp.bfloat16).astype(jnp.float32),
        "transpose": lambda k: k.T,
        "mask": lambda k: jnp.where(jnp.arange(4) < 2, k, 0),
        "reshape": lambda k: k.reshape(16).reshape(4, 4),
        "call": jax.jit(lambda k: k - k.mean()),
        "loop": lambda k: lax.fori_loop(0, 3, lambda _, k: k * 2, k),
    }
    for name, derive in through.items():
        assert count_macs(lambda k, x: x @ derive(k), kernel, x) == Macs(linear=size), name  # noqa: B023
        assert count_macs(lambda k, x: x @ derive(k + x.sum()), kernel, x) == Macs(other=size), name  # noqa: B023
    # Two parameters are a layer's own affair; a constant is nobody's.
    assert count_macs(lambda k: k @ k, kernel) == Macs(linear=64)
    assert count_macs(lambda k, x: x @ jnp.eye(4), kernel, x) == Macs(other=size)
    # A kernel that an input chooses or mixes is data.
    assert count_macs(lambda k, x: x @ k[jnp.argmax(x) % 2], mixed, x) == Macs(other=size)
    assert count_macs(lambda k, x: x @ lax.cond(x.sum() > 0, lambda: k[0], lambda: k[1]), mixed, x) == Macs(other=size)


def test_what_a_loop_carries_settles():
    """The first turn multiplies by a parameter, the others by what came out of the data."""

    def fn(kernel, x):
        return lax.scan(lambda carry, _: (carry @ x, None), kernel, length=3)[0]

    assert count_macs(fn, _shape(4, 4), _shape(4, 4)) == Macs(other=3 * 64)


READERS = {
    "grid_sample": (lambda _, x: grid_sample(x, jnp.zeros((2, 3, 5, 2)), True), Macs(other=4 * 2 * 3 * 5 * 6)),
    "active_shift": (lambda d, x: active_shift(x, d), Macs(other=4 * 2 * 8 * 8 * 6)),
    "moved alike": (lambda d, x: bilinear_shift(x, d[0, 0], d[0, 1]), Macs(other=4 * 2 * 8 * 8 * 6)),
    "resize": (lambda _, x: resize(x, (5, 7), method="bilinear"), Macs(other=4 * 2 * 5 * 7 * 6)),
    "nearest": (lambda _, x: resize(x, (16, 16), method="nearest"), Macs()),
    "roi_align": (
        lambda _, x: roi_align(x, jnp.ones((7, 5)), (2, 3), sampling_ratio=2, spatial_scale=1.0, aligned=True),
        Macs(other=4 * 7 * 2 * 3 * 4 * 6),
    ),
    "spatial_shift": (lambda _, x: spatial_shift(x, (3, 1)), Macs()),
}


@pytest.mark.parametrize("name", READERS)
def test_reading_between_pixels_costs_four_a_value(name):
    fn, expected = READERS[name]
    assert count_macs(fn, _shape(6, 2), _shape(2, 8, 8, 6)) == expected


def test_deformable_convolution_reads_every_tap():
    layer, x = DeformConv(10, (3, 3), num_offset_groups=2, use_bias=False), (2, 8, 8, 6)
    taps = 2 * 8 * 8 * 9 * 6
    cost = count(layer, x)
    assert (cost.conv_macs, cost.other_macs) == (taps * (10 + 2 * 2 * 9), 4 * taps)


def test_attention_and_second_order_pooling_multiply_data():
    cost = count(MultiHeadAttention(num_heads=2), (2, 5, 6))
    assert (cost.linear_macs, cost.other_macs, cost.conv_macs) == (4 * 2 * 5 * 6**2, 2 * 2 * 5**2 * 6, 0)
    assert count_macs(lambda _, x: bilinear_pool(x), (), _shape(2, 4, 4, 6)) == Macs(other=2 * 16 * 6**2)


# Outputs of all convolutions and linear layers of torchvision 0.29.1, counted by hooks, at 224 pixels.
ACTIVATIONS = {"resnet50": 11_114_984, "mobilenet_v2": 6_679_112, "resnext50_32x4d": 14_401_512}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_published_activations(name):
    assert count(models.create(name), train=False).activations == ACTIVATIONS[name]


def test_memory_access_of_a_pointwise_convolution():
    """Equation 1 of ShuffleNet v2: hw (c1 + c2) + c1 c2 elements."""
    for dtype, size in ((jnp.float32, 4), (jnp.bfloat16, 2)):
        layer = Conv(10, 1, use_bias=False, dtype=dtype, param_dtype=dtype)
        cost = count(layer, (1, 8, 8, 6), input_dtype=dtype)
        assert cost.bytes_moved == size * (64 * (6 + 10) + 6 * 10)
        assert (cost.activations, cost.elementwise) == (640, 0)


def _moved(fn, *args):
    ran = operations(jax.make_jaxpr(fn)(*args), [Origin.DATA] * len(args))
    return sum(op.bytes for op in ran) // 4, sum(op.elementwise for op in ran)


def test_elementwise_chains_are_one_loop():
    x, y = _shape(8, 16), _shape(16)
    assert _moved(lambda x: jnp.exp(x * 2 + 1), x) == (2 * 128, 3 * 128)
    assert _moved(lambda x, y: jax.nn.relu(x * y).reshape(16, 8), x, y) == (2 * 128 + 16, 2 * 128)
    # A reduction computes on the way what it reads.
    assert _moved(lambda x: jnp.sum(jnp.exp(x), 0), x) == (128 + 16, 2 * 128)
    # What two take is written once, and read twice.
    assert _moved(lambda x: jnp.concatenate([jnp.exp(x)] * 2) * 1.0, x)[0] == (128 + 128) + (128 + 256) + (256 + 256)
    # A shortcut is one array more to read.
    assert _moved(lambda x, s: jax.nn.relu(x + s), x, x) == (3 * 128, 2 * 128)
    # Shuffling channels moves all of them, and computes nothing.
    assert _moved(lambda x: channel_shuffle(x, 4), x) == (2 * 128, 0)
    assert _moved(lambda x: x.reshape(4, 32), x) == (0, 0)


def test_loops_and_branches_move_and_compute_as_often_as_they_run():
    x = _shape(8, 16)
    assert _moved(lambda x: lax.fori_loop(0, 5, lambda _, x: x * 2, x), x) == (5 * (2 * 128 + 2), 5 * (128 + 1))
    # What goes into a loop is written before: sin(x) reads and writes 128.
    looped = _moved(lambda x: lax.fori_loop(0, 5, lambda _, x: x * 2, jnp.sin(x)), x)
    assert looped == (2 * 128 + 5 * (2 * 128 + 2), 128 + 5 * (128 + 1))
    assert _moved(lambda x: lax.cond(x[0, 0] > 0, lambda x: x * 2 + 1, lambda x: x, x), x)[1] == 2 * 128


@pytest.mark.parametrize("pool,windows", [(max_pool, 9), (avg_pool, 9)])
def test_pooling_costs_an_operation_a_pixel_of_a_window(pool, windows):
    options = {} if pool is max_pool else {"count_padding": True}
    _, elementwise = _moved(lambda x: pool(x, 3, 2, 1, **options), _shape(2, 8, 8, 6))
    assert windows * 2 * 4 * 4 * 6 <= elementwise <= (windows + 1) * 2 * 4 * 4 * 6


def test_a_gradient_counts_each_product_as_it_is():
    """Of a linear layer: the input's is one with the kernel, the kernel's one of data with data."""

    def loss(kernel, x):
        return jnp.sum((x @ kernel) ** 2)

    args = _shape(4, 6), _shape(5, 4)
    assert count_macs(jax.grad(loss), *args) == Macs(linear=120, other=120)
    assert count_macs(jax.grad(loss, (0, 1)), *args) == Macs(linear=240, other=120)
    displaced = jax.grad(lambda d, x: active_shift(x, d).sum())
    assert count_macs(displaced, _shape(6, 2), _shape(2, 8, 8, 6)).conv == 0
