"""What a family of networks declares for the tests that all of them share."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """A published size, counted with 1000 classes on one image of three channels unless `fields` say otherwise.

    Attributes:
        name: in MODELS.
        params: trainable scalars.
        batch_stats: scalars of running statistics; None where none are published.
        conv_macs: multiply-adds of convolutions.
        macs: of convolutions and linear layers.
        image_size: pixels.
        fields: overrides of the network.
    """

    name: str
    params: int | None = None
    batch_stats: int | None = None
    conv_macs: int | None = None
    macs: int | None = None
    image_size: int = 224
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def label(self) -> str:
        """For the test's name."""
        fields = ",".join(f"{key}={value}" for key, value in self.fields.items())
        return "-".join(filter(None, (self.name, fields, "" if self.image_size == 224 else str(self.image_size))))


@dataclasses.dataclass(frozen=True)
class Maps:
    """What `features_only` returns for one image: stride -> (height and width, channels).

    Attributes:
        shapes: by stride.
        image_size: pixels.
    """

    shapes: Mapping[int, tuple[int, int]]
    image_size: int = 224


@dataclasses.dataclass(frozen=True)
class Case:
    """The smallest configuration of a family or of one of its options, which the tests run for real.

    Attributes:
        name: in MODELS.
        fields: overrides that make it small; `num_classes` is 10 unless given.
        image_size: pixels; as few as the network takes.
        no_gradient: regular expression of a parameter's path, such as "stage1_unit1/conv1/bias" -> why its gradient is
            zero by identity.
    """

    name: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    image_size: int = 32
    no_gradient: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def label(self) -> str:
        """For the test's name."""
        # Of a function its name: its address changes from process to process.
        fields = (f"{key}={getattr(value, '__name__', value)}"[:40] for key, value in self.fields.items())
        return "-".join([self.name, *fields])
