"""torch's input pipelines for `bench_input.py`: DataLoader and torchvision, each in the ways that are in use.

A pass is an iterator of (uint8 [batch, height, width, channels], labels [batch]), NumPy's views of torch's tensors.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler, TensorDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from scripts._input_work import Pass, Work

torch.set_num_threads(1)


def streamed_peers(root: Path, work: Work) -> dict[str, Pass]:
    """By name: PIL images through transforms v1 and v2, tensors of `decode_image` through v2, and normalized floats.

    Args:
        root: with train/CLASS/*.jpg.
        work: what is done to an image, and how often.
    """
    crop = {"size": work.image_size, "scale": work.crop_area, "ratio": work.crop_aspect}
    crop["interpolation"] = transforms.InterpolationMode.BILINEAR

    def compose(library: Any, *last: Any) -> Any:
        flip = library.RandomHorizontalFlip(work.flip_rate)
        return library.Compose([library.RandomResizedCrop(**crop, antialias=True), flip, *last])

    normalize = transforms.Normalize(work.mean, work.std)
    datasets = {
        "torch_v1_pil": ImageFolder(root / "train", compose(transforms, transforms.PILToTensor())),
        "torch_v2_pil": ImageFolder(root / "train", compose(v2, v2.PILToTensor())),
        "torch_v2_tensor": ImageFolder(root / "train", compose(v2), loader=_decode_tensor),
        "torch_v1_float": ImageFolder(root / "train", compose(transforms, transforms.ToTensor(), normalize)),
    }
    return {name: _Loader(dataset, work) for name, dataset in datasets.items()}


def memory_peers(images: np.ndarray, labels: np.ndarray, work: Work) -> dict[str, Pass]:
    """By name: an example at a time through transforms v1 and v2, and whole batches of a TensorDataset.

    Args:
        images: uint8 [num_examples, height, width, 1].
        labels: int32 [num_examples].
        work: how often.
    """
    # torch's layout, made before anything is timed.
    tensors = TensorDataset(torch.from_numpy(np.moveaxis(images, -1, 1).copy()), torch.from_numpy(labels))
    return {
        "torch_v1_pil": _Loader(_Arrays(images, labels, transforms.PILToTensor(), Image.fromarray), work),
        "torch_v2_tensor": _Loader(_Arrays(images, labels, v2.ToImage()), work),
        "torch_batched": _Loader(tensors, work, whole_batches=True),
    }


def _decode_tensor(path: str) -> torch.Tensor:
    return decode_image(path, ImageReadMode.RGB)


class _Arrays(Dataset):
    """Arrays an example at a time, as torchvision's own MNIST serves them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Any, convert: Any = np.asarray):
        self._images, self._labels = images[..., 0], labels.tolist()
        self._transform, self._convert = transform, convert

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(self._convert(self._images[index])), self._labels[index]


class _Loader:
    """One pass over a data set by a DataLoader.

    Args:
        dataset: of images [channels, height, width] and labels.
        work: batch size, order and worker processes.
        whole_batches: ask the data set for a batch at a time, not for an example.
    """

    def __init__(self, dataset: Dataset, work: Work, whole_batches: bool = False):
        sampler = RandomSampler(dataset) if work.is_shuffled else SequentialSampler(dataset)
        fields: dict[str, Any] = {"num_workers": work.num_workers}
        if work.num_workers:
            # JAX has threads by now, which a fork would not survive; two batches ahead in all, as ours.
            fields["multiprocessing_context"] = "spawn"
            fields["prefetch_factor"] = max(1, 2 // work.num_workers)
        if whole_batches:
            sampler, fields["batch_size"] = BatchSampler(sampler, work.batch_size, drop_last=True), None
        else:
            fields |= {"batch_size": work.batch_size, "drop_last": True}
        self._loader = DataLoader(dataset, sampler=sampler, **fields)

    def __call__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for images, labels in self._loader:
            yield np.moveaxis(images.numpy(), 1, -1), labels.numpy()
