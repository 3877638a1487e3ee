"""Parameters are declared once: a field of an options dataclass is a flag, with its default and its help.

Its dataclass says what it belongs to:

    @dataclass(frozen=True)
    class Sampling:
        max_new_tokens: int = flag(32, "Length limit of a response, in tokens.")

        heading = "Text"  # stands above these flags in --help
        is_setting = True  # they may stand in an experiment's config.json
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from traitscope.utils.errors import UserError

Options = TypeVar("Options")
REQUIRED = inspect.Parameter.empty
OWN_HEADING = "What to do"  # above the flags of a command's own


@dataclass(frozen=True)
class Flag:
    """One command-line flag, which may also be a key of an experiment's config.json."""

    name: str
    kind: Any  # bool, int, float, str, Literal[texts], or tuple[one of the first four, ...]
    default: Any
    help: str
    group: str = OWN_HEADING
    is_cosmetic: bool = False  # cannot change what is written: how fast, on which device
    is_positional: bool = False  # may be given without its name
    is_setting: bool = False  # what an experiment's config.json says of it counts
    also: tuple[str, ...] = ()  # other names under which it is accepted
    identify: Callable[[Any], Any] | None = (
        None  # what a manifest remembers of the value, where the value itself is not enough
    )

    @property
    def typed(self) -> str:
        """The flag as it is typed."""
        return f"--{self.name.replace('_', '-')}"

    def coerce(self, value: Any) -> Any:
        """Return a value from the command line or from JSON as this flag's type.

        Raises:
            UserError: it is not of that type.
        """
        if value is None and self.default is not None:
            return self.default
        try:
            return _coerce(self.kind, value)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{self.typed} expects {describe_kind(self.kind)}, not {value!r}") from None


def flag(
    default: Any = REQUIRED,
    help: str = "",
    *,
    group: str = "",
    cosmetic: bool = False,
    also: tuple[str, ...] = (),
    identify: Callable[[Any], Any] | None = None,
) -> Any:
    """Declare a field of an options dataclass as a flag; without a default it must be given.

    Args:
        help: One or two sentences for --help.
        group: The heading above it in --help, where it is not its dataclass's.
        cosmetic: It cannot change what is written.
        also: Other names under which it is accepted.
        identify: Returns what a manifest remembers of the value.
    """
    about = {"help": help, "group": group, "is_cosmetic": cosmetic, "also": also, "identify": identify}
    return dataclasses.field(default=dataclasses.MISSING if default is REQUIRED else default, metadata=about)


def _coerce(kind: Any, value: Any) -> Any:
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else _refuse()
    if isinstance(value, dict):
        _refuse()

    item = getattr(kind, "__args__", (None,))[0]
    if item is not None:
        values = value if isinstance(value, list | tuple) else _split(value)
        return tuple(_coerce(item, v) for v in values)
    if kind is str:
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if kind is bool:
        return (
            {"true": True, "false": False}[str(value).lower()]
            if str(value).lower() in ("true", "false")
            else _refuse()
        )
    if isinstance(value, bool):
        _refuse()
    if kind is int and isinstance(value, int | str) and str(value).strip().lstrip("+-").isdigit():
        return int(value)  # exact, however large

    number = float(value)
    if not math.isfinite(number) or (kind is int and number != int(number)):
        _refuse()
    return kind(number)


def _split(value: Any) -> list[str]:
    return [part.strip() for part in str(value).split(",")] if value not in ("", None) else []


def _refuse() -> Any:
    raise ValueError


def describe_kind(kind: Any) -> str:
    """Name a flag's type for a person."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    return names.get(kind) or f"{names[kind.__args__[0]].removeprefix('a ')}s separated by commas"


def option_classes(function: Callable) -> dict[str, type]:
    """Return {parameter: dataclass} of a function's parameters that are options dataclasses."""
    hints = get_type_hints(function)
    names = [
        name for name in inspect.signature(function).parameters if dataclasses.is_dataclass(hints.get(name))
    ]
    return {
        name: hints[name]
        for name in names
        if all("help" in field.metadata for field in dataclasses.fields(hints[name]))
    }


def keyword_flags(function: Callable) -> dict[str, Flag]:
    """Return the flags that a function declares by keyword-only parameters of plain types; their help is
    the text of an Annotated.
    """
    hints, options = get_type_hints(function, include_extras=True), option_classes(function)
    flags = {}

    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in options:
            kind, *texts = (
                get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name], "")
            )
            flags[name] = Flag(name, kind, parameter.default, str(texts[0]))

    return flags


def flags_of(function: Callable) -> dict[str, Flag]:
    """Return the flags of a function: the fields of the options dataclasses among its parameters, and its
    plain keyword-only ones.
    """
    flags: dict[str, Flag] = {}
    for options in option_classes(function).values():
        flags |= option_flags(options)
    return flags | keyword_flags(function)


def option_flags(options: Any) -> dict[str, Flag]:
    """Return the flags of an options dataclass: a field without a default is a flag that must be given."""
    hints = get_type_hints(options)
    heading, is_setting = getattr(options, "heading", OWN_HEADING), getattr(options, "is_setting", False)
    bare = getattr(options, "bare", "")  # the flag that may be given without its name
    flags = {}

    for field in dataclasses.fields(options):
        default = REQUIRED if field.default is dataclasses.MISSING else field.default
        about = dict(field.metadata)
        group = about.pop("group") or heading
        about |= {"is_setting": is_setting, "is_positional": field.name == bare}
        flags[field.name] = Flag(field.name, hints[field.name], default, group=group, **about)

    return flags


def remembered(flags: dict[str, Flag], values: dict[str, Any]) -> dict[str, Any]:
    """Return what is remembered of the values that can change what is written, each as its flag identifies it."""
    kept = {name: value for name, value in values.items() if not flags[name].is_cosmetic}
    known = {n: identify(v) if (identify := flags[n].identify) else v for n, v in kept.items()}
    # a flag that is identified as nothing is as if it did not exist, so that manifests before it stay good
    return {name: value for name, value in known.items() if value is not None}


def pick(options: type[Options], values: dict[str, Any]) -> Options:
    """Return an options dataclass filled from the values that are its fields; the others keep their
    defaults.
    """
    names = [field.name for field in dataclasses.fields(options)]  # type: ignore[arg-type]
    return options(**{name: values[name] for name in names if name in values})


def bind(function: Callable, values: dict[str, Any]) -> dict[str, Any]:
    """Return keyword arguments for `function` from flat flag values: options dataclasses are put together
    again.
    """
    arguments: dict[str, Any] = {
        name: pick(options, values) for name, options in option_classes(function).items()
    }
    return arguments | {name: values[name] for name in keyword_flags(function) if name in values}
