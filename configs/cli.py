"""Command lines of the programs that take `--config=FILE.py[:ARGS] --config.FIELD=VALUE`; errors are one line."""

import ast
import copy
import difflib
import importlib.util
import inspect
import operator
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
from absl import app, flags
from ml_collections import config_flags

flags.DEFINE_boolean("debug", False, "Show the traceback of an error.")

# Their fields belong to the class that `name` beside them chooses, which refuses those that it does not have.
OPEN_GROUPS = ("model.fields", "model.norm.fields", "strategy.fields", "executor_fields", "supernet")
# Of searches. Their fields may be dotted paths of fields of a recipe.
DOTTED_GROUPS = ("overrides", "space.fields")

USAGE_ERROR = 2  # exit status of a command line, or a config, that cannot be run
INTERRUPTED = 130  # by Ctrl-C, where a program does not save first


def define_config_flag() -> flags.FlagHolder:
    """`--config`, required, with an override for every field of the recipe."""
    holder = config_flags.DEFINE_config_file("config", None, "Recipe: configs/NAME.py[:ARGS].", lock_config=True)
    flags.mark_flag_as_required("config")
    return holder


def run(main: Callable[[], int | None]) -> None:
    """Parses sys.argv, calls `main()` and exits with what it returns; a ValueError, OSError or Ctrl-C is one line."""

    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1:
            return fail(f"unexpected argument {argv[1]!r}; flags start with --")
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler and not flags.FLAGS.debug:
            signal.signal(signal.SIGINT, _interrupt)
        try:
            return main()
        except (ValueError, OSError) as error:
            if flags.FLAGS.debug:
                raise
            return fail(error)

    app.run(guarded, flags_parser=_parse)


def _interrupt(*_: Any) -> None:
    """Ends the program at once: JAX traces with callbacks of the garbage collector, which swallow an exception."""
    fail("interrupted")
    os._exit(INTERRUPTED)


def fail(error: Any) -> int:
    """Prints the error, as one line, and gives the exit status."""
    message = " ".join(str(error).split())
    print(f"{os.path.basename(sys.argv[0])}: error: {message}", file=sys.stderr, flush=True)
    return USAGE_ERROR


def config_name() -> str:
    """The recipe's name and arguments as a file name: `shufflenet_v2`, `shufflenet_v2-imagenet-width=1.5`."""
    path, _, arg = str(_config_argument(sys.argv)).partition(":")
    return "-".join([os.path.splitext(os.path.basename(path))[0], *filter(None, arg.split(","))])


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        if any(a in ("--help", "-h", "-help", "--helpfull", "--helpshort") for a in argv):
            return flags.FLAGS(list(argv))
        fields = _check_config(argv)
        # In place: config_flags reads sys.argv too, to find the fields that it shall set.
        sys.argv[:] = [item for item in with_one_recipe(argv) if item not in fields]
        rest = flags.FLAGS(list(sys.argv))
        for path, value in fields.values():
            node = flags.FLAGS["config"].value
            for part in path[:-1]:
                node = node[part]
            with node.unlocked():
                node[path[-1]] = value
        return rest
    except (flags.Error, ValueError, OSError) as error:
        sys.exit(fail(str(error).removeprefix("flag ")))


def with_one_recipe(argv: Sequence[str]) -> list[str]:
    """The arguments with the last --config alone, in the place of the first.

    config_flags defines the fields of each, fails at the second, and at fields before the first.
    """
    found = _recipes(argv)
    if len(found) < 2:
        return list(argv)
    first, last = found[0][0], found[-1][0]
    dropped = {place for places, _ in found for place in places}
    rest = [(place, item) for place, item in enumerate(argv) if place not in dropped]
    before = [item for place, item in rest if place < first.start]
    return [*before, *(argv[place] for place in last), *(item for place, item in rest if place > first.start)]


def _config_argument(argv: Sequence[str]) -> str | None:
    """The value of the last --config, as absl has it."""
    return next((value for _, value in reversed(_recipes(argv))), None)


def _recipes(argv: Sequence[str]) -> list[tuple[range, str | None]]:
    """The places that each --config takes, one or two, and its value."""
    found = []
    for i, item in enumerate(argv):
        name, equals, text = item.lstrip("-").partition("=")
        if item.startswith("-") and name == "config":
            value = text if equals else next(iter(argv[i + 1 : i + 2]), None)
            found.append((range(i, i + 1 if equals else i + 2), value))
    return found


def _check_config(argv: Sequence[str]) -> dict[str, tuple[list[str], Any]]:
    """Says in one line what config_flags would say in a traceback.

    Returns the flags that config_flags does not know, {flag: (path, value)}: a new field of an open group, and all of
    those that may be dotted.
    """
    argument = _config_argument(argv)
    if not argument:
        raise ValueError("--config is required, for example --config=configs/shufflenet_v2.py")
    config = load_recipe(argument)
    fields = {}
    for item in argv:
        if item.startswith(("--config.", "-config.")):
            flag, equals, text = item.lstrip("-").partition("=")
            path = _path(config, flag.split(".")[1:])
            if path is None:
                check_field(config, flag)
            elif not equals:
                raise ValueError(f"--{flag}: write its value behind an equals sign, --{flag}=VALUE")
            else:
                fields[item] = (path, literal(text))
    return fields


def _path(config: ml_collections.ConfigDict, parts: list[str]) -> list[str] | None:
    """The keys to a field that config_flags does not know; None of one that it knows, or that cannot be."""
    node = config
    for place, part in enumerate(parts):
        group = ".".join(parts[:place])
        if group in DOTTED_GROUPS:
            return [*parts[:place], ".".join(parts[place:])]
        if group in OPEN_GROUPS and place == len(parts) - 1 and part not in node:
            return parts
        if not isinstance(node, ml_collections.ConfigDict) or part not in node:
            return None
        node = node[part]
    return None


def load_recipe(argument: str) -> ml_collections.ConfigDict:
    """The config of `FILE.py[:ARGS]`; a file that is not here may be in the checkout, as those that recipes name.

    Raises:
      ValueError: no such file, no recipe, or arguments that it does not take.
    """
    path, _, arg = argument.partition(":")
    inside = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), path)
    path = inside if not os.path.isfile(path) and os.path.isfile(inside) else path
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        files = sorted(f for f in os.listdir(folder) if f.endswith(".py")) if os.path.isdir(folder) else []
        close = difflib.get_close_matches(os.path.basename(path), files, n=1, cutoff=0.5)
        hint = f"; did you mean {os.path.join(folder, close[0])}?" if close else ""
        raise ValueError(f"--config: there is no file {path}{hint}")
    spec = importlib.util.spec_from_file_location("recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config: {path} has no get_config(); it is not a recipe")
    if arg and not inspect.signature(module.get_config).parameters:
        raise ValueError(f"--config: {path} takes no arguments, but got {arg!r}; leave out :{arg}")
    return module.get_config(arg) if arg else module.get_config()


def override(base: ml_collections.ConfigDict, overrides: Mapping[str, Any], owner: str) -> ml_collections.ConfigDict:
    """A copy of a locked config with other values, which have to be of the type of the old ones.

    Args:
      base: it is not changed.
      overrides: dotted path of a field -> value; in an open group the field may be new.
      owner: of the overrides, for errors.

    Raises:
      ValueError: a field that does not exist, a value of a wrong type.
    """
    config = copy.deepcopy(base)
    for field, value in overrides.items():
        group, _, name = field.rpartition(".")
        try:
            if group in OPEN_GROUPS:
                node = operator.attrgetter(group)(config)
                with node.unlocked():
                    node[name] = value
            else:
                check_field(config, f"config.{field}")
                config.update_from_flattened_dict({field: value})
        except TypeError as error:
            raise ValueError(f"{owner}: {field}={value!r} is of a wrong type; {error}") from error
    return config


def literal(text: str) -> Any:
    """A Python literal, such as 8, 0.1 or (4, 8, 4), else the text itself; true and false as flags have them."""
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


def check_field(config: ml_collections.ConfigDict, flag: str) -> None:
    node, seen = config, "config"
    for part in flag.split(".")[1:]:
        if not isinstance(node, ml_collections.ConfigDict):
            raise ValueError(f"--{flag}: {seen} is a value and has no fields")
        if part not in node:
            close = difflib.get_close_matches(part, node.keys(), n=2, cutoff=0.5)
            hint = "did you mean " + " or ".join(close) if close else "one of " + ", ".join(sorted(node.keys()))
            raise ValueError(f"--{flag}: {seen} has no field {part!r}; {hint}?")
        node, seen = node[part], f"{seen}.{part}"
    if isinstance(node, ml_collections.ConfigDict):
        raise ValueError(f"--{flag}: is a group of fields; set one of {', '.join(sorted(node.keys()))}")
