"""What recipes share: the argument behind the colon of `--config=configs/x.py:imagenet,width=1.5`."""

import difflib
from typing import Any

import ml_collections


def parse_arg(arg: str | None, **defaults: Any) -> dict[str, Any]:
    """Values by name, from a comma-separated list of `name=value` or, for a switch, `name`.

    >>> parse_arg("smoke,width=1.5", smoke=False, width=1.0, variant="megvii")
    {'smoke': True, 'width': 1.5, 'variant': 'megvii'}

    Args:
      arg: what stands behind the colon; None or "" gives the defaults.
      **defaults: every name that the recipe knows; a value is read as the type of its default.

    Raises:
      ValueError: a name that is not among them, or a value that is not of that type.
    """
    values = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, equals, text = (part.strip() for part in item.partition("="))
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(defaults)}"
            raise ValueError(f"config argument: unknown name {name!r} in {arg!r}; {hint}")
        values[name] = _read(name, text, type(defaults[name]), bool(equals))
    return values


def _read(name: str, text: str, kind: type, given: bool) -> Any:
    if kind is bool:
        words = {"": True, "true": True, "1": True, "false": False, "0": False}
        if text.lower() in words and bool(text) == given:
            return words[text.lower()]
        raise ValueError(f"config argument: {name}={text!r} must be true or false; write {name} or {name}=false")
    if not given:
        raise ValueError(f"config argument: {name} needs a value; write {name}=VALUE")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"config argument: {name}={text!r} must be of type {kind.__name__}") from None


def make_smoke(config: ml_collections.ConfigDict) -> None:
    """Turns a recipe into a few steps on small synthetic images: seconds, to see that all of it works."""
    config.num_steps = 4
    config.global_batch_size = 16
    config.log_every_steps = 2
    config.eval_every_epochs = 0.0
    config.schedule.warmup_epochs = 0.0
    config.data.name = "synthetic"
    config.data.train_split, config.data.val_split, config.data.test_split = "train", "val", "test"
    config.data.image_size = min(config.data.image_size, 32)
    config.data.num_workers = 0
