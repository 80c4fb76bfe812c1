"""Records shufflenet_v2.npz: outputs of torchvision's and of the authors' ShuffleNet v2, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    git clone https://github.com/megvii-model/ShuffleNet-Series
    (cd ShuffleNet-Series && git checkout a96672fd98f18666f813b66c9f2a40495abc94b0)
    python tests/goldens/record_shufflenet_v2.py ShuffleNet-Series/ShuffleNetV2

The tests rebuild the weights from the tensors' names with `fill`, so that they are not stored. For each network NET
(torchvision/0.5, megvii/1.0, ..) the file has

    NET/eval         logits in evaluation, [batch, 10]
    NET/train        logits in training
    NET/names        of all parameters and running statistics, [tensors]
    NET/summaries    [tensors, 2]: of a parameter's gradient in training, for the scalar mean(logits * `probe`), or of
                     the running statistic that training left, the sum of squares and the dot product with `fill`

and `versions`, the line that says what recorded it.
"""

import argparse
import pathlib
import sys
import zlib

import numpy as np

NUM_CLASSES = 10
WIDTHS = (0.5, 1.0)


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers that depend on a name alone (RandomState's stream is frozen for all NumPy versions)."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of a tensor, by its torch name and shape (convolutions OIHW)."""
    values = normal(name, shape)
    if name.endswith("running_var"):
        return np.exp(0.3 * values)
    if len(shape) == 1:
        return values * 0.1 + (1.0 if name.endswith(".weight") else 0.0)
    return values * np.sqrt(2.0 / np.prod(shape[1:]))


def images() -> np.ndarray:
    """The input, [batch, height, width, channels]."""
    return normal("images", (4, 64, 64, 3))


def probe() -> np.ndarray:
    """What the logits are multiplied by to give a scalar, [batch, classes]."""
    return normal("probe", (4, NUM_CLASSES))


def summary(name: str, values: np.ndarray) -> np.ndarray:
    """Two numbers that stand for a tensor in torch's layout."""
    return np.array([np.sum(values**2), np.sum(values * fill(name, values.shape))])


def main() -> None:
    """Runs every network and writes the file beside this one."""
    import torch
    import torchvision

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("megvii", help="folder with the authors' blocks.py and network.py")
    sys.path.insert(0, parser.parse_args().megvii)
    import network  # the authors'

    recorded = {"versions": f"torch {torch.__version__}, torchvision {torchvision.__version__}, megvii a96672f"}
    for width in WIDTHS:
        tag = str(width).replace(".", "_")
        record(f"torchvision/{width}", getattr(torchvision.models, f"shufflenet_v2_x{tag}")(num_classes=10), recorded)
        megvii = network.ShuffleNetV2(n_class=NUM_CLASSES, model_size=f"{width}x")
        megvii.globalpool = torch.nn.AdaptiveAvgPool2d(1)  # theirs is 7x7, which is the same at 224 pixels
        record(f"megvii/{width}", megvii, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("shufflenet_v2.npz"), **recorded)


def record(net: str, model, recorded: dict) -> None:
    """Adds the rows of one torch model."""
    import torch

    model = model.double()
    state = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    for name, value in state.items():
        value.copy_(torch.from_numpy(fill(name, tuple(value.shape))))
    x = torch.from_numpy(images()).permute(0, 3, 1, 2)
    with torch.no_grad():
        recorded[f"{net}/eval"] = model.eval()(x).numpy()
    logits = model.train()(x)
    (logits * torch.from_numpy(probe())).mean().backward()
    recorded[f"{net}/train"] = logits.detach().numpy()
    tensors = {name: value.grad for name, value in model.named_parameters()}
    tensors |= {name: value for name, value in model.named_buffers() if "num_batches" not in name}
    recorded[f"{net}/names"] = np.array(list(tensors))
    recorded[f"{net}/summaries"] = np.array([summary(name, value.numpy()) for name, value in tensors.items()])


if __name__ == "__main__":
    main()
