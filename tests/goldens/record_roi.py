"""Records roi.npz: torchvision's operators on regions of interest and their gradients, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    python tests/goldens/record_roi.py

Arrays are stored in our layout, channels last. The scalar whose gradient in x is stored is sum(output * probe). The
values of x are few, so that maxima have ties. NaN is stored where torchvision divides 0 by 0 (ps_roi_align of a region
without extent), and for the region that its roi_align dies of (half turned inside out, adaptive sampling).

The gradient of torchvision's ps_roi_pool is not that of its output for regions at the lower or right edge: the one
reads the last row and column, the other does not. `ps_pool/consistent` marks those that torch's own gradcheck accepts;
the probe of the others is 0.
"""

import functools
import pathlib

import numpy as np

OUTPUT_SIZE = (2, 3)
SPATIAL_SCALE = 0.5
# Batch index, x1, y1, x2, y2 in pixels of an image twice as large as the maps of 6 rows and 7 columns.
ROIS = {
    "inside": [1, 2.3, 1.1, 9.7, 8.9],
    "inside too": [0, 3.9, 4.4, 12.2, 7.1],
    "whole map": [0, 0, 0, 14, 12],
    "whole map, last pixel included": [1, 0, 0, 13, 11],
    "one pixel": [1, 6.2, 5.8, 6.9, 6.1],
    "zero size": [0, 5, 3, 5, 3],
    "zero height": [1, 2, 7, 11, 7],
    "turned inside out": [0, 10.5, 9.5, 3.5, 2.5],
    "half turned inside out": [1, 1.5, 9.5, 8.5, 2.5],
    "over the left and upper edge": [0, -5.5, -3.2, 4.1, 6.3],
    "over the right and lower edge": [1, 8.8, 5.7, 19.3, 16.1],
    "over all edges": [1, -7.7, -9.9, 21.1, 25.5],
    "outside": [0, 30.5, 31.5, 40.5, 44.5],
    "outside before": [0, -30.5, -31.5, -20.5, -24.5],
    "corners at halves": [0, 1, 3, 5, 7],
    "corners at negative halves": [1, -1, -3, 5, 7],
}


def main() -> None:
    """Runs the operators and writes the file beside this one."""
    import torch
    import torchvision
    from torchvision import ops

    random = np.random.RandomState(0)
    x = random.randint(-6, 7, (2, 6, 7, 6)) / 4.0
    rois = np.asarray(list(ROIS.values()), np.float64)
    probe = random.randint(-8, 9, (len(rois), *OUTPUT_SIZE, x.shape[-1])) / 8.0
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    recorded = dict(versions=versions, x=x, rois=rois, probe=probe)

    def record(name: str, op, channels: int, *options, probe=probe) -> None:
        inputs = torch.tensor(x[..., :channels]).permute(0, 3, 1, 2).contiguous().requires_grad_()
        deadly = torch.tensor([roi == "half turned inside out" and options == (-1, True) for roi in ROIS])[:, None]
        safe = torch.where(deadly, torch.tensor(ROIS["outside"], dtype=torch.float64), torch.tensor(rois))
        out = op(inputs, safe, OUTPUT_SIZE, SPATIAL_SCALE, *options)
        out = torch.where(deadly[..., None, None], torch.nan, out)
        cotangent = torch.tensor(probe[..., : out.shape[1]]).permute(0, 3, 1, 2)
        torch.where(out.isnan(), 0.0, out * cotangent).sum().backward()
        recorded[f"{name}/out"] = out.detach().permute(0, 2, 3, 1).numpy()
        recorded[f"{name}/grad_x"] = inputs.grad.permute(0, 2, 3, 1).numpy()

    record("pool", ops.roi_pool, 2)

    def is_consistent(roi: np.ndarray) -> bool:
        inputs = torch.tensor(x).permute(0, 3, 1, 2).contiguous().requires_grad_()
        pool = functools.partial(ops.ps_roi_pool, boxes=torch.tensor(roi[None]), output_size=OUTPUT_SIZE)
        pool = functools.partial(pool, spatial_scale=SPATIAL_SCALE)
        return torch.autograd.gradcheck(pool, (inputs,), raise_exception=False)

    consistent = np.asarray([is_consistent(roi) for roi in rois])
    recorded["ps_pool/consistent"] = consistent
    record("ps_pool", ops.ps_roi_pool, 6, probe=probe * consistent[:, None, None, None])
    for sampling_ratio in (-1, 1, 2, 3):
        record(f"align/{sampling_ratio}/aligned", ops.roi_align, 2, sampling_ratio, True)
        record(f"align/{sampling_ratio}/not aligned", ops.roi_align, 2, sampling_ratio, False)
        if sampling_ratio != 1:
            record(f"ps_align/{sampling_ratio}", ops.ps_roi_align, 6, sampling_ratio)
    np.savez_compressed(pathlib.Path(__file__).with_name("roi.npz"), **recorded)


if __name__ == "__main__":
    main()
