"""docs/operators.png: what the spatial operators do to a photograph."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from arch.ops.conv import ConvTranspose
from arch.ops.conv2d import conv2d
from arch.ops.deformable import deform_conv2d
from arch.ops.dense_prediction import densely_adjacent_prediction
from arch.ops.irregular import irregular_conv2d
from arch.ops.resize import bilinear_init, pixel_unshuffle, resize
from arch.ops.roi import deform_roi_pool, roi_align, roi_pool
from arch.ops.sampling import affine_grid, grid_sample
from arch.ops.shift import active_shift, spatial_shift
from arch.ops.unpooling import max_pool_with_argmax, max_unpool

BOX = (30.0, 28.0, 150.0, 120.0)  # x1, y1, x2, y2 of the regions, in pixels
COLUMNS = 6


def draw(path: Path) -> None:
    """Writes the picture; takes scikit-learn's photograph of the Summer Palace."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    x = photograph()
    panels = {"the photograph; the box is the region below": lambda x: x, **PANELS}
    rows = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(3.4 * COLUMNS, 2.75 * rows), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, operator) in zip(axes.flat, panels.items(), strict=False):
        axis.imshow(np.clip(jax.jit(operator)(x)[0], 0, 1), interpolation="nearest")
        axis.set_title(title, fontsize=9)
    left, top, right, bottom = BOX
    axes.flat[0].add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="red"))
    figure.savefig(path, dpi=70)
    plt.close(figure)


def photograph() -> jax.Array:
    """[1, 213, 320, 3] in [0, 1]."""
    from sklearn.datasets import load_sample_image

    image = jnp.asarray(load_sample_image("china.jpg"), jnp.float32)[None] / 255
    return resize(image, (213, 320), antialias=True)


def _shifted(x: jax.Array) -> jax.Array:
    """Nine copies, each moved by its tap, averaged."""
    moved = spatial_shift(jnp.tile(x, 9), 3, kernel_dilation=10)
    return moved.reshape(*x.shape[:3], 9, 3).mean(3)


def _turned(x: jax.Array) -> jax.Array:
    angle, zoom = 0.4, 1.2
    cos, sin, aspect = zoom * np.cos(angle), zoom * np.sin(angle), x.shape[1] / x.shape[2]
    theta = jnp.asarray([[[cos, -sin * aspect, 0], [sin / aspect, cos, 0]]])
    return grid_sample(x, affine_grid(theta, x.shape[1:3], False), False)


def _waves(x: jax.Array) -> jax.Array:
    """A 1x1 kernel that keeps the colours, with offsets that are waves."""
    rows, columns = jnp.mgrid[: x.shape[1], : x.shape[2]]
    offsets = 6 * jnp.stack([jnp.sin(columns / 12), jnp.sin(rows / 12)], -1)[None]
    return deform_conv2d(x, offsets, jnp.eye(3)[None, None], padding="VALID")


def _star(x: jax.Array) -> jax.Array:
    """Five taps on a circle, averaged in each colour."""
    angles = 2 * np.pi * np.arange(5) / 5
    positions = jnp.asarray(14.3 * np.stack([-np.cos(angles), np.sin(angles)], -1))
    return irregular_conv2d(x, jnp.tile(jnp.eye(3)[None] / 5, (5, 1, 1)), positions)


def _edges(dilation: int) -> Callable[[jax.Array], jax.Array]:
    """The Laplacian of each colour."""
    kernel = jnp.asarray([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    kernel = jnp.tile(kernel[:, :, None, None], (1, 1, 1, 3))
    return lambda x: 0.5 + conv2d(x, kernel, padding="SAME", kernel_dilation=dilation, feature_group_count=3)


def _upsampled(kernel_init: nn.initializers.Initializer) -> Callable[[jax.Array], jax.Array]:
    """The region at half its size, upsampled by a transposed convolution at stride 2."""

    def apply(x: jax.Array) -> jax.Array:
        small = _cut(x)[:, ::2, ::2]
        kernel = kernel_init(jax.random.key(0), (kernel_size, kernel_size, 3, 3), jnp.float32)
        layer = ConvTranspose(3, kernel_size=kernel_size, strides=2, use_bias=False)
        return layer.apply({"params": {"kernel": kernel}}, small)

    kernel_size = 4 if kernel_init is BILINEAR else 3
    return apply


def _cut(x: jax.Array) -> jax.Array:
    left, top, right, bottom = map(int, BOX)
    return x[:, top:bottom, left:right]


def _regions(function: Callable[..., jax.Array], *arguments: object) -> Callable[[jax.Array], jax.Array]:
    rois = jnp.asarray([[0, *BOX]])
    return lambda x: function(x, rois, *arguments)


def _deformed_region(x: jax.Array) -> jax.Array:
    """Bins that lean to the right, the more the lower they are."""
    rows = jnp.arange(14) / 13
    leaning = 3 * jnp.stack([jnp.tile(rows[:, None], (1, 14)), jnp.zeros((14, 14))], -1)[None]
    return deform_roi_pool(x, jnp.asarray([[0, *BOX]]), leaning, 14, 1.0)


def _unshuffled(x: jax.Array) -> jax.Array:
    """Of the channels of each block, side by side."""
    blocks = pixel_unshuffle(x[:, :212], 2, "tf")
    first, second, third, fourth = jnp.split(blocks, 4, axis=-1)
    top, bottom = jnp.concatenate([first, second], 2), jnp.concatenate([third, fourth], 2)
    return jnp.concatenate([top, bottom], 1)


def _unpooled(x: jax.Array) -> jax.Array:
    values, indices = max_pool_with_argmax(x, 4, 4, "SAME")
    return max_unpool(values, indices, x.shape[1:3], window_shape=4, padding="SAME")


def _one_to_one(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Ones from each channel to itself: taps that overlap unevenly."""
    del key
    return jnp.tile(jnp.eye(3, dtype=dtype), (*shape[:2], 1, 1)) * 4 / 9


BILINEAR = bilinear_init()

PANELS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "spatial_shift: nine groups, averaged": _shifted,
    "active_shift: red and blue by 7.5 pixels": lambda x: active_shift(
        x, jnp.asarray([[-7.5, -7.5], [0.0, 0.0], [7.5, 7.5]])
    ),
    "grid_sample of affine_grid (spatial transformer)": _turned,
    "deform_conv2d: offsets are waves": _waves,
    "irregular_conv2d: five taps on a circle": _star,
    "conv2d: Laplacian": _edges(1),
    "conv2d: Laplacian, dilation 4": _edges(4),
    "roi_pool: the maximum of 14x14 bins": _regions(roi_pool, 14, 1.0),
    "roi_align: 14x14 bins": _regions(roi_align, 14, 1.0, 2, True),
    "deform_roi_pool: bins that lean": _deformed_region,
    "resize: nearest, from a quarter": lambda x: resize(_cut(x)[:, ::4, ::4], (92, 120), "nearest"),
    "resize: bilinear, from a quarter": lambda x: resize(_cut(x)[:, ::4, ::4], (92, 120)),
    "ConvTranspose: 3x3 ones, stride 2: checkerboard": _upsampled(_one_to_one),
    "ConvTranspose: bilinear_init, stride 2": _upsampled(BILINEAR),
    "pixel_unshuffle by 2": _unshuffled,
    "max_pool_with_argmax 4x4, then max_unpool": _unpooled,
    "densely_adjacent_prediction: 15x15 equal slices": lambda x: densely_adjacent_prediction(
        jnp.repeat(x, 225, axis=-1), 15
    ),
}
