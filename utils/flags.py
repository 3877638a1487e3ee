"""Parameters, declared once: a keyword parameter of a function, or a field of an options dataclass, is a flag with its default and help."""

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from fire import docstrings

from utils.errors import UserError

Options = TypeVar("Options")
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Flag:
    """One command-line flag, which is also a key of an experiment's config.json."""

    name: str
    kind: Any  # bool, int, float, str, Literal[texts], or tuple[one of the first four, ...]
    default: Any
    help: str
    is_cosmetic: bool = False  # cannot change what is written: how fast, on which device
    is_positional: bool = False  # may be given without its name
    identify: Callable[[Any], Any] | None = None  # what a manifest remembers of the value, where the value itself is not enough

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
            raise UserError(f"--{self.name.replace('_', '-')} expects {describe_kind(self.kind)}, not {value!r}") from None


def _coerce(kind: Any, value: Any) -> Any:
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else _refuse()
    if isinstance(value, dict):
        _refuse()
    item = getattr(kind, "__args__", (None,))[0]
    if item is not None:
        values = value if isinstance(value, list | tuple) else [v.strip() for v in str(value).split(",")] if value not in ("", None) else []
        return tuple(_coerce(item, v) for v in values)
    if kind is str:
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if kind is bool:
        return {"true": True, "false": False}[str(value).lower()] if str(value).lower() in ("true", "false") else _refuse()
    if isinstance(value, bool):
        _refuse()
    if kind is int and isinstance(value, int | str) and str(value).strip().lstrip("+-").isdigit():
        return int(value)  # exact, however large
    number = float(value)
    if not math.isfinite(number) or (kind is int and number != int(number)):
        _refuse()
    return kind(number)


def _refuse() -> Any:
    raise ValueError


def describe_kind(kind: Any) -> str:
    """Name a flag's type for a person."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    return names.get(kind) or f"{names[kind.__args__[0]].removeprefix('a ')}s separated by commas"


def flags_of(function: Callable, cosmetic: tuple[str, ...] = ()) -> dict[str, Flag]:
    """Return the flags of a function's keyword-only parameters; a parameter annotated with a dataclass stands for its fields."""
    flags: dict[str, Flag] = {}
    hints = get_type_hints(function)
    help_texts = _help(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if dataclasses.is_dataclass(hints[name]):
            flags |= {n: replace(f, is_cosmetic=f.is_cosmetic or n in cosmetic) for n, f in option_flags(hints[name]).items()}
        else:
            flags[name] = Flag(name, hints[name], parameter.default, help_texts.get(name, ""), name in cosmetic)
    return flags


def option_flags(options: Any) -> dict[str, Flag]:
    """Return the flags of an options dataclass: a field without a default is a flag that must be given."""
    hints, help_texts = get_type_hints(options), _help(options)
    hidden, identify, positional = (getattr(options, name, ()) for name in ("cosmetic", "identify", "positional"))
    fields = {f.name: REQUIRED if f.default is dataclasses.MISSING else f.default for f in dataclasses.fields(options)}
    return {
        name: Flag(name, hints[name], default, help_texts.get(name, ""), name in hidden, name in positional, dict(identify).get(name))
        for name, default in fields.items()
    }


def _help(documented: Any) -> dict[str, str]:
    # a dataclass inherits its parent's fields, with their help
    inherited = _help(documented.__mro__[1]) if isinstance(documented, type) and len(documented.__mro__) > 2 else {}
    return inherited | {arg.name: " ".join((arg.description or "").split()) for arg in docstrings.parse(inspect.getdoc(documented)).args or ()}


def pick(options: type[Options], values: dict[str, Any]) -> Options:
    """Return an options dataclass filled from the values that are its fields; the others keep their defaults."""
    return options(**{name: flag.coerce(values[name]) for name, flag in option_flags(options).items() if name in values})


def bind(function: Callable, values: dict[str, Any]) -> dict[str, Any]:
    """Return keyword arguments for `function` from flat flag values: options dataclasses are put together again."""
    hints = get_type_hints(function)
    arguments = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = hints[name](**{f.name: values[f.name] for f in dataclasses.fields(hints[name])})
        else:
            arguments[name] = values[name]
    return arguments
