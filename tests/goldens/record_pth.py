"""Records pth.npz and the checkpoints pth_archive.pth and pth_sequence.pth, written by torch in both of its formats.

    pip install torch==2.14.1
    python tests/goldens/record_pth.py

The tensors are of all dtypes that a network's state may have, whole ones, views, and two of one storage; pth.npz has
their values, those of bfloat16 as float32.
"""

import collections
import pathlib

import numpy as np
from fill import normal


def main() -> None:
    """Writes the three files beside this one."""
    import torch

    weight = torch.from_numpy(normal("weight", (4, 3, 2, 2)))
    shared = torch.from_numpy(normal("shared", (6,)).astype(np.float32))
    state = collections.OrderedDict(
        {
            "conv.weight": torch.nn.Parameter(weight.float()),
            "conv.bias": torch.from_numpy(normal("bias", (4,))),
            "half": weight.half(),
            "bfloat16": weight.bfloat16(),
            "transposed": weight.float().permute(2, 3, 1, 0),
            "first": shared[:4],
            "second": shared[3:],
            "every_other": shared[::2],
            "scalar": torch.tensor(3.5),
            "empty": torch.zeros(0, 3),
            "bn.num_batches_tracked": torch.tensor(7),
            "mask": torch.tensor([True, False, True]),
            "bytes": torch.tensor([1, 200], dtype=torch.uint8),
        }
    )
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    folder = pathlib.Path(__file__).parent
    torch.save(state, folder / "pth_archive.pth")
    checkpoint = {"epoch": 3, "lr": 0.1, "state_dict": {f"module.{name}": value for name, value in state.items()}}
    torch.save(checkpoint, folder / "pth_sequence.pth", _use_new_zipfile_serialization=False)
    recorded = {name: (v.float() if v.dtype == torch.bfloat16 else v).detach().numpy() for name, v in state.items()}
    np.savez_compressed(folder / "pth.npz", versions=f"torch {torch.__version__}", **recorded)


if __name__ == "__main__":
    main()
