"""How a knob is declared, and what one takes: the fields of ``settings`` are made of these."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import Field, field
from typing import Any
from urllib.parse import urlsplit

from service.errors import InvalidSetting

# A name or an IPv4 address, or an IPv6 address without its brackets.
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")


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


def never(least: float) -> Callable[[float, str], None]:
    """A check of seconds: at least so many, or 0 for never."""

    def checked(seconds: float, said: str) -> None:
        if 0 < seconds < least:
            raise InvalidSetting(f"{said} is {seconds}; it takes {least} or more, or 0 for never")

    return checked


def address(text: str, said: str) -> None:
    """Check that there is an address to listen on; whether it can be had is seen later.

    Raises:
        InvalidSetting: there is none.
    """
    if not text.strip():
        raise InvalidSetting(f"{said} is empty; it takes an address of this machine, or 0.0.0.0")


def collector(text: str, said: str) -> None:
    """Check where an OpenTelemetry collector is said to be; nothing is nowhere.

    Raises:
        InvalidSetting: that is no such address.
    """
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and _HOST.fullmatch(url.hostname or "") and url.port
    except ValueError:
        good = None
    if text and (not good or url.username or url.path.strip("/") or url.query or url.fragment):
        raise InvalidSetting(
            f"{said} is '{text}'; it takes http://HOST:PORT or https://HOST:PORT, where an "
            "OpenTelemetry collector listens for gRPC"
        )
