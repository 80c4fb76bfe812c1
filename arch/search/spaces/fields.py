"""Any fields with values to choose from, such as those of a training recipe: rates, widths, depths, activations."""

from collections.abc import Mapping, Sequence
from typing import Any

from arch.search.space import CategoricalSpace, Choices


class FieldSpace(CategoricalSpace):
    """One value of each field; an architecture is written as {field: value}.

    Args:
      fields: name -> its values, JSON ones or tuples of them, all different; at least one each.

    Raises:
      ValueError: no fields, or one without values or with equal ones.
    """

    def __init__(self, fields: Mapping[str, Sequence[Any]]):
        self.fields = {name: [_plain(value) for value in values] for name, values in fields.items()}
        for name, values in self.fields.items():
            if not values or any(value in values[:index] for index, value in enumerate(values)):
                raise ValueError(f"FieldSpace: {name}={values} must be different values, at least one; name them")
        if not self.fields:
            raise ValueError("FieldSpace: fields={} must not be empty; name what is to be searched")
        super().__init__(tuple(map(len, self.fields.values())))

    def to_json(self, architecture: Choices) -> dict[str, Any]:
        """{field: value}."""
        pairs = zip(self.fields.items(), architecture.values, strict=True)
        return {name: values[index] for (name, values), index in pairs}

    def from_json(self, values: Mapping[str, Any]) -> Choices:
        """The architecture, checked."""
        if set(values) != set(self.fields) or any(_plain(values[name]) not in self.fields[name] for name in values):
            raise ValueError(f"FieldSpace: {dict(values)} must have a value of each of {list(self.fields)}; see fields")
        return Choices(tuple(all_.index(_plain(values[name])) for name, all_ in self.fields.items()))


def _plain(value: Any) -> Any:
    """As JSON reads it back: tuples are lists."""
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
