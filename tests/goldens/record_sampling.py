"""Records sampling.npz: torch's affine_grid and grid_sample, torchvision's deform_conv2d, with gradients, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    python tests/goldens/record_sampling.py

Arrays are stored in our layouts: images [batch, height, width, channels], kernels [height, width, in, out]. The scalar
whose gradients are stored is sum(output * probe).
"""

import pathlib

import numpy as np

FLAGS = {"corners": True, "edges": False}
GRID_SIZES = ((3, 4), (1, 5), (4, 1), (1, 1))
# Name: masked, batch, size of x, kernel size, features, strides, padding, dilation, groups, offset groups.
CONVS = {
    "plain": (False, 2, (4, 3), (3, 3), (2, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    "pixels": (False, 1, (3, 4), (3, 3), (1, 2), (1, 1), (1, 1), (1, 1), 1, 1),
    "masked": (True, 1, (3, 4), (3, 3), (2, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    "strided": (True, 1, (7, 6), (3, 2), (2, 2), (2, 1), (1, 0), (1, 2), 1, 1),
    "groups": (True, 1, (4, 5), (3, 3), (4, 4), (1, 2), (2, 2), (2, 1), 2, 1),
    "offset_groups": (True, 1, (3, 4), (2, 3), (4, 2), (1, 1), (1, 1), (1, 1), 1, 2),
    "both_groups": (False, 2, (3, 3), (2, 2), (4, 4), (1, 1), (1, 1), (1, 1), 4, 2),
    "one_pixel": (True, 1, (1, 1), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1), 1, 1),
}
_KINDS = {"x": "image", "offsets": "image", "mask": "image", "out": "image", "probe": "image", "kernel": "kernel"}
_TO_OURS = {"image": (0, 2, 3, 1), "kernel": (2, 3, 1, 0)}


def main() -> None:
    """Runs the functions and writes the file beside this one."""
    import torch
    import torchvision

    recorded = {"versions": f"torch {torch.__version__}, torchvision {torchvision.__version__}"}
    _record_affine_grid(recorded, np.random.RandomState(0))
    _record_grid_sample(recorded, np.random.RandomState(1))
    for seed, name in enumerate(CONVS):
        _record_deform_conv(recorded, np.random.RandomState(2 + seed), name)
    np.savez_compressed(pathlib.Path(__file__).with_name("sampling.npz"), **recorded)


def _record_affine_grid(recorded, random) -> None:
    import torch

    recorded["affine_grid/theta"] = _coarse(random.standard_normal((2, 2, 3)))
    for height, width in GRID_SIZES:
        probe = recorded[f"affine_grid/{height}x{width}/probe"] = _coarse(random.standard_normal((2, height, width, 2)))
        for flag, align_corners in FLAGS.items():
            theta = torch.tensor(recorded["affine_grid/theta"], requires_grad=True)
            out = torch.nn.functional.affine_grid(theta, (2, 1, height, width), align_corners=align_corners)
            (out * torch.tensor(probe)).sum().backward()
            recorded[f"affine_grid/{height}x{width}/{flag}/out"] = out.detach().numpy()
            recorded[f"affine_grid/{height}x{width}/{flag}/grad_theta"] = theta.grad.numpy()


def _record_grid_sample(recorded, random) -> None:
    """Random points inside and outside, far ones, half a pixel outside, pixels themselves, and one not a number."""
    import torch

    points = _coarse(random.uniform(-1.4, 1.4, (2, 3, 5, 2)))
    points[0, 0, :, 0] = (-30.0, -1.25, -1.0001, 1.125, 1e4)
    points[1, 1, 2, 1] = np.nan
    knots = np.stack(np.meshgrid(np.linspace(-1.5, 1.5, 7), np.linspace(-2, 2, 5)), -1)[None]
    for name, size, grid in (("random", (5, 6), points), ("pixels", (3, 5), knots), ("one_pixel", (1, 1), points)):
        x = _coarse(random.standard_normal((len(grid), *size, 2)))
        probe = _coarse(random.standard_normal((*grid.shape[:3], 2)))
        recorded |= {f"grid_sample/{name}/{k}": v for k, v in (("x", x), ("grid", grid), ("probe", probe))}
        for flag, align_corners in FLAGS.items():
            inputs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
            where = torch.tensor(grid, requires_grad=True)
            out = torch.nn.functional.grid_sample(inputs, where, align_corners=align_corners)
            (out * torch.tensor(probe.transpose(0, 3, 1, 2))).sum().backward()
            recorded[f"grid_sample/{name}/{flag}/out"] = out.detach().numpy().transpose(0, 2, 3, 1)
            recorded[f"grid_sample/{name}/{flag}/grad_x"] = inputs.grad.numpy().transpose(0, 2, 3, 1)
            recorded[f"grid_sample/{name}/{flag}/grad_grid"] = where.grad.numpy()


def _record_deform_conv(recorded, random, name) -> None:
    """Offsets up to two pixels, some far outside; of "pixels" whole ones. torchvision crashes on NaN."""
    import torch
    import torchvision

    masked, batch, size, taps, (in_features, features), strides, padding, dilation, groups, offset_groups = CONVS[name]
    out_size = [
        (n + 2 * pad - rate * (k - 1) - 1) // stride + 1
        for n, k, stride, pad, rate in zip(size, taps, strides, padding, dilation, strict=True)
    ]
    count = offset_groups * taps[0] * taps[1]
    offsets = _coarse(random.uniform(-2, 2, (batch, 2 * count, *out_size)))
    offsets[0, :4, 0, 0] = (40.125, -40.125, 0.0625, -7.5625)
    arrays = {
        "x": _coarse(random.standard_normal((batch, in_features, *size))),
        "offsets": np.rint(offsets) if name == "pixels" else offsets,
        "kernel": _coarse(random.standard_normal((features, in_features // groups, *taps))),
    }
    if masked:
        arrays["mask"] = _coarse(random.uniform(0, 1, (batch, count, *out_size)))
    probe = _coarse(random.standard_normal((batch, features, *out_size)))
    tensors = {key: torch.tensor(value, requires_grad=True) for key, value in arrays.items()}
    options = dict(stride=strides, padding=padding, dilation=dilation, mask=tensors.get("mask"))
    out = torchvision.ops.deform_conv2d(tensors["x"], tensors["offsets"], tensors["kernel"], **options)
    (out * torch.tensor(probe)).sum().backward()
    results = arrays | {"probe": probe, "out": out.detach().numpy()}
    results |= {f"grad_{key}": tensor.grad.numpy() for key, tensor in tensors.items()}
    for key, value in results.items():
        recorded[f"deform_conv/{name}/{key}"] = value.transpose(_TO_OURS[_KINDS[key.removeprefix("grad_")]])


def _coarse(numbers: np.ndarray) -> np.ndarray:
    """Few digits, so that the file is small; never a whole number, where derivatives depend on the side."""
    return np.floor(numbers * 32) / 32 + 1 / 64


if __name__ == "__main__":
    main()
