"""What the scripts that record whole networks share: weights from names, inputs, and the rows of a network.

The tests rebuild the weights from the tensors' names with `fill`, so that they are not stored. For each network NET a
file has

    NET/eval         logits in evaluation, [batch, 10]
    NET/train        logits in training
    NET/names        of all parameters and running statistics, [tensors]
    NET/summaries    [tensors, 2]: of a parameter's gradient in training, for the scalar mean(logits * `probe`), or of
                     the running statistic that training left, the sum of squares and the dot product with `fill`

Of a network whose evaluation alone is recorded:

    NET/eval, NET/names   as above, the names sorted
    NET/hash              of all tensors, from `hash_of`
    NET/map/STRIDE        the means over height and width of the map of that stride, [batch, channels], of some strides

and `versions`, the line that says what recorded it. Everything is float64.
"""

import zlib

import numpy as np

BATCH_SIZE = 4
NUM_CLASSES = 10


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


def images(size: int) -> np.ndarray:
    """The input, [batch, height, width, channels]."""
    return normal("images", (BATCH_SIZE, size, size, 3))


def probe() -> np.ndarray:
    """What the logits are multiplied by to give a scalar, [batch, classes]."""
    return normal("probe", (BATCH_SIZE, NUM_CLASSES))


def summary(name: str, values: np.ndarray) -> np.ndarray:
    """Two numbers that stand for a tensor in torch's layout."""
    return np.array([np.sum(values**2), np.sum(values * fill(name, values.shape))])


def hash_of(tensors: dict[str, np.ndarray]) -> int:
    """A checksum of tensors by name; axes of length 1 do not matter, so that 1x1 convolutions may be linear layers."""
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(
            np.ascontiguousarray(tensors[name], np.float64).tobytes(), zlib.crc32(name.encode(), checksum)
        )
    return checksum


def record_eval(net: str, model, image_size: int, recorded: dict, maps: dict | None = None) -> None:
    """Adds the rows of one torch model in evaluation alone, on images of this size in pixels.

    Args:
        maps: stride -> the module of the network that puts out the map of that stride.
    """
    import torch

    model = model.double().eval()
    tensors = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    for name, value in tensors.items():
        value.copy_(torch.from_numpy(fill(name, tuple(value.shape))))

    def keep(stride: int):
        def hook(module, inputs, output) -> None:
            recorded[f"{net}/map/{stride}"] = output.mean((2, 3)).numpy()

        return hook

    for stride, module in (maps or {}).items():
        module.register_forward_hook(keep(stride))
    with torch.no_grad():
        recorded[f"{net}/eval"] = model(torch.from_numpy(images(image_size)).permute(0, 3, 1, 2)).numpy()
    recorded[f"{net}/names"] = np.array(sorted(tensors))
    recorded[f"{net}/hash"] = np.array(hash_of({name: value.numpy() for name, value in tensors.items()}))


def record(net: str, model, image_size: int, recorded: dict) -> None:
    """Adds the rows of one torch model, run on images of this size in pixels."""
    import torch

    model = model.double()
    state = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    for name, value in state.items():
        value.copy_(torch.from_numpy(fill(name, tuple(value.shape))))
    x = torch.from_numpy(images(image_size)).permute(0, 3, 1, 2)
    with torch.no_grad():
        recorded[f"{net}/eval"] = model.eval()(x).numpy()
    logits = model.train()(x)
    (logits * torch.from_numpy(probe())).mean().backward()
    recorded[f"{net}/train"] = logits.detach().numpy()
    tensors = {name: value.grad for name, value in model.named_parameters()}
    tensors |= {name: value for name, value in model.named_buffers() if "num_batches" not in name}
    recorded[f"{net}/names"] = np.array(list(tensors))
    recorded[f"{net}/summaries"] = np.array([summary(name, value.numpy()) for name, value in tensors.items()])
