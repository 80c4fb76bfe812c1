"""Records resize.npz: torch's interpolate, pixel_shuffle, max_pool2d with indices, max_unpool2d and bilinear
conv_transpose2d, and their gradients.

    pip install torch==2.14.1
    python tests/goldens/record_resize.py

Arrays are stored in our layout, [batch, height, width, channels], those of interpolate stacked in the order of MODES.
The scalar whose gradients are stored is sum(output * probe), probe being cos(0), cos(1), ... in our layout. Among the
sizes are maps of one pixel and of one row, odd ones, and those that stay as they are; among the maps that are pooled
all zeros, ties, -inf and values that are not numbers.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

# From height and width to height and width.
SIZES = [
    ((3, 4), (6, 8)),
    ((3, 4), (7, 5)),
    ((5, 7), (2, 3)),
    ((4, 2), (2, 8)),
    ((1, 1), (3, 4)),
    ((1, 5), (4, 1)),
    ((6, 5), (1, 1)),
    ((3, 3), (3, 3)),
    ((2, 9), (9, 4)),
]
MODES = {
    "nearest": {"mode": "nearest"},
    "nearest-exact": {"mode": "nearest-exact"},
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "align_corners": {"mode": "bilinear", "align_corners": True},
    "antialias": {"mode": "bilinear", "align_corners": False, "antialias": True},
}
SCALES = {"shuffle1": 1, "shuffle2": 2, "shuffle3": 3}
# Height and width, window, strides, padding.
POOLS = {
    "halves": ((4, 6), 2, 2, 0),
    "odd": ((5, 7), 2, 2, 0),
    "overlapping": ((5, 6), 3, 2, 1),
    "every": ((3, 4), 3, 1, 1),
    "gaps": ((7, 4), 2, 3, 0),
    "uneven": ((4, 7), (2, 3), (1, 2), (1, 0)),
    "whole": ((3, 2), (3, 2), 1, 0),
    "pixel": ((1, 1), 1, 1, 0),
}
TRANSPOSED = {"upscore2": (4, 2, 1), "upscore3": (5, 3, 1), "upscore4": (8, 4, 2)}


def main() -> None:
    """Runs the operators and writes the file beside this one."""
    import torch

    functional = torch.nn.functional
    random = np.random.RandomState(0)
    recorded: dict[str, Any] = {"versions": f"torch {torch.__version__}"}

    def record(name: str, call: Callable, x: np.ndarray, *more: Any, **options: Any) -> None:
        inputs = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
        out = call(inputs, *more, **options)
        out, indices = out if isinstance(out, tuple) else (out, None)
        out = out.permute(0, 2, 3, 1)
        probe = torch.cos(torch.arange(out.numel(), dtype=torch.float64)).reshape(out.shape)
        (gradient,) = torch.autograd.grad(out, inputs, probe)
        recorded[f"{name}/out"] = out.detach().numpy()
        recorded[f"{name}/grad"] = gradient.permute(0, 2, 3, 1).numpy()
        if indices is not None:
            recorded[f"{name}/indices"] = indices.permute(0, 2, 3, 1).numpy()

    for number, (size, out_size) in enumerate(SIZES):
        recorded[f"size{number}/x"] = x = random.standard_normal((1, *size, 2))
        for mode, options in MODES.items():
            record(mode, functional.interpolate, x, out_size, **options)
        for part in ("out", "grad"):
            recorded[f"size{number}/{part}"] = np.stack([recorded.pop(f"{mode}/{part}") for mode in MODES])
    for name, scale in SCALES.items():
        recorded[f"{name}/x"] = x = random.randint(0, 100, (1, 2, 3, 2 * scale**2)) * 1.0
        record(name, functional.pixel_shuffle, x, scale)
    for name, (size, *pooling) in POOLS.items():
        x = random.standard_normal((4, *size, 2))
        x[1] = random.randint(-2, 1, (*size, 2))  # ties
        x[2] = 0
        x[3, :, :, 0], x[3, 0, 0, 1], x[3, -1, -1, 1] = -np.inf, np.nan, np.nan
        recorded[f"{name}/x"] = x
        record(name, functional.max_pool2d, x, *pooling, return_indices=True)
        if name in ("halves", "odd", "gaps", "whole", "pixel"):  # where no values meet
            indices = torch.tensor(recorded[f"{name}/indices"]).permute(0, 3, 1, 2)
            recorded[f"{name}/values"] = values = random.standard_normal(indices.permute(0, 2, 3, 1).shape)
            record(f"{name}/unpool", functional.max_unpool2d, values, indices, *pooling, size)
    for name, (taps, stride, padding) in TRANSPOSED.items():
        recorded[f"{name}/x"] = x = random.standard_normal((1, 3, 2, 2))
        # As fcn.berkeleyvision.org's surgery.py makes it.
        factor = (taps + 1) // 2
        center = factor - 1 if taps % 2 == 1 else factor - 0.5
        rows, columns = np.ogrid[:taps, :taps]
        kernel = np.zeros((2, 2, taps, taps))
        kernel[range(2), range(2)] = (1 - abs(rows - center) / factor) * (1 - abs(columns - center) / factor)
        record(name, functional.conv_transpose2d, x, torch.tensor(kernel), stride=stride, padding=padding)
    np.savez_compressed(pathlib.Path(__file__).with_name("resize.npz"), **recorded)


if __name__ == "__main__":
    main()
