"""The fields of `config.data`, checked, as a plain value that can be sent to another process."""

import dataclasses
from typing import Any

from arch.errors import unknown_name

CROPS = ("none", "pad", "random_resized")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How an image is cropped, changed and normalized; the fields are those of `config.data` in configs/default.py."""

    image_size: int
    num_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: str
    crop_padding: int
    crop_area: tuple[float, float]
    crop_aspect: tuple[float, float]
    flip: bool
    color_jitter: float
    eval_crop_ratio: float

    def __post_init__(self):
        if self.crop not in CROPS:
            raise unknown_name("data.crop", self.crop, CROPS)
        if self.num_channels not in (1, 3):
            raise ValueError(f"data.num_channels={self.num_channels} must be 1 (grey) or 3 (RGB); choose one of them")
        for name in ("mean", "std"):
            count = len(getattr(self, name))
            if count != self.num_channels:
                remedy = "give one per channel"
                raise ValueError(f"data.{name} has {count} values for data.num_channels={self.num_channels}; {remedy}")
        _require("image_size", self.image_size, self.image_size >= 1, "must be at least 1 pixel")
        _require("std", self.std, min(self.std) > 0, "must be above 0")
        _require("crop_padding", self.crop_padding, self.crop_padding >= 0, "must not be negative")
        low, high = self.crop_area
        _require("crop_area", self.crop_area, 0 < low <= high <= 1, "must rise within (0, 1]")
        _require(
            "crop_aspect", self.crop_aspect, 0 < self.crop_aspect[0] <= self.crop_aspect[1], "must rise from above 0"
        )
        _require("color_jitter", self.color_jitter, self.color_jitter >= 0, "must not be negative")
        _require("eval_crop_ratio", self.eval_crop_ratio, 0 < self.eval_crop_ratio <= 1, "must be in (0, 1]")

    @classmethod
    def from_config(cls, data: Any) -> "Augmentation":
        """From `config.data`."""
        values = {field.name: getattr(data, field.name) for field in dataclasses.fields(cls)}
        for name, count in (("mean", None), ("std", None), ("crop_area", 2), ("crop_aspect", 2)):
            value = values[name] = tuple(values[name])
            numbers = all(isinstance(number, int | float) for number in value)
            _require(name, value, numbers and count in (None, len(value)), f"must be {count or 'some'} numbers")
        return cls(**values)


def _require(name: str, value: Any, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"data.{name}={value} {rule}; change it by --config.data.{name}=...")
