"""How a knob is declared, and what one takes: the fields of ``settings`` are made of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, field
from typing import Any

from service.errors import InvalidSetting


def knob(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    kind: type | None = None,
    also: Callable[[Any, str], object] | None = None,
) -> Any:
    """A field that is a flag and an environment variable too.

    Args:
        default: of the field.
        text: what `--help` says.
        low: of a number.
        high: likewise.
        choices: of a word.
        kind: of the value; the default's, if not given.
        also: takes a value and what was said, as ``check`` does, and raises as it does.
    """
    meta = {"help": text, "low": low, "high": high, "choices": choices, "also": also}
    return field(default=default, metadata={**meta, "kind": kind or type(default)})


def check(declared: Field[Any], value: Any, said: str) -> None:
    """Make sure that a value is one that a field takes.

    Args:
        declared: the field.
        value: of the field's type.
        said: what whoever gave it wrote: the flag, or the environment variable.

    Raises:
        InvalidSetting: naming what was said, the value and the range.
    """
    meta = declared.metadata
    if meta["choices"] and value not in meta["choices"]:
        raise InvalidSetting(f"{said} is '{value}'; it takes one of {', '.join(meta['choices'])}")
    if meta["low"] is not None and not meta["low"] <= value <= meta["high"]:
        raise InvalidSetting(f"{said} is {value}; it takes {meta['low']} to {meta['high']}")
    if isinstance(value, str) and not value.isprintable():
        raise InvalidSetting(f"{said} has a character that cannot be printed")
    if meta["also"]:
        meta["also"](value, said)


def flag(declared: Field[Any]) -> str:
    """The command line's name of a field, e.g. ``--grpc-port``."""
    return "--" + declared.name.replace("_", "-")
