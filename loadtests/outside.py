"""What comes from outside: JSON whose types and ranges are checked, and text that may be shown."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

_MOST_CHARACTERS, _MOST_DIGITS = 300, 400
_MADE_OF_PROFILES = ("farthing.report/1", "farthing.comparison/1")
_MOST_BYTES = 64 * 2**20
# From it up, not every whole number is a float: no count of ours is as high.
_MOST = 2**53
_LEAST_POSITIVE = 1e-6
_USUAL = (0, _MOST)
_POSITIVE = (_LEAST_POSITIVE, _MOST)
# Field -> its least and its most, both allowed; other figures are none below 0.
_RANGES: dict[str, tuple[float, float]] = {
    "accuracy": (0, 1),
    "accuracy_change": (-100, 100),
    "bill": (-_MOST, _MOST),
    "instances": (1, 10_000),
    "limit_s": _POSITIVE,
    "percent": (50, 99.999999),
    "rate": _POSITIVE,
    "replicas": (1, 10_000),
    "rows": (1, 1_000_000),
    "seed": (0, 2**64),
    "success": (0, 1),
    "usd_per_hour": _POSITIVE,
}


def plain(text: str) -> str:
    """On one line, without what a terminal or a page would obey, and not longer than can be read.

    Control characters, lone surrogates and marks that turn text around become spaces.
    """
    kept = "".join(each if each.isprintable() else " " for each in text[: 4 * _MOST_CHARACTERS])
    said = " ".join(kept.split())
    return said if len(said) <= _MOST_CHARACTERS else said[: _MOST_CHARACTERS - 4] + " ..."


def read_json(path: Path) -> Any:
    """What a file of JSON holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none: NaN is no JSON, nor is what is nested a thousand deep.
    """
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES >> 20} MiB")
    try:
        return json.loads(content, parse_constant=_refuse_constant, parse_int=_whole)
    except json.JSONDecodeError:
        raise ValueError("it is not JSON") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def of_schema(wanted: str, raw: Any) -> dict[str, Any]:
    """The same.

    Raises:
        ValueError: it is of another schema, such as a report's, or of none.
    """
    given = mapping(raw, "it").get("schema")
    if given == wanted:
        return mapping(raw, "it")
    if given is None:
        raise ValueError("it is JSON of something else, without a schema")
    hint = "; give the profiles it was made of" if given in _MADE_OF_PROFILES else ""
    raise ValueError(f"its schema is {_shown(given)}, not {wanted}{hint}")


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"it has a figure of {len(text)} digits")
    return int(text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no figure")


def record(kind: type, raw: Any, where: str) -> dict[str, Any]:
    """The arguments of a dataclass, from the JSON that its fields were written as.

    Args:
        kind: the dataclass.
        raw: from a file; fields that have defaults may be missing, and what is no field is left.
        where: what this is, in words.

    Raises:
        ValueError: a field is missing, of another type or out of its range.
    """
    given = mapping(raw, where)
    may_lack = {
        each.name
        for each in fields(kind)
        if each.default is not MISSING or each.default_factory is not MISSING
    }
    kinds = get_type_hints(kind)
    return checked({k: v for k, v in kinds.items() if k in given or k not in may_lack}, raw, where)


def checked(kinds: Mapping[str, Any], raw: Any, where: str) -> dict[str, Any]:
    """Those fields of a mapping that have a type, each checked.

    Args:
        kinds: field -> its type, as of an annotation.
        raw: from a file.
        where: what this is, in words.

    Raises:
        ValueError: a field is missing, of another type or out of its range.
    """
    given = mapping(raw, where)
    missing = next((name for name in kinds if name not in given), None)
    if missing is not None:
        raise ValueError(f"{where} lacks its {missing}")
    return {name: value(kind, given[name], name, f"{where}'s {name}")
            for name, kind in kinds.items()}  # fmt: skip


def mapping(raw: Any, where: str) -> dict[str, Any]:
    """The same.

    Raises:
        ValueError: it is no mapping.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"{where} is {_shown(raw)}, which is no mapping")
    return raw


def listed(raw: Any, where: str) -> list[Any]:
    """The same.

    Raises:
        ValueError: it is no list.
    """
    if not isinstance(raw, list):
        raise ValueError(f"{where} is {_shown(raw)}, which is no list")
    return raw


def said(error: Exception) -> str:
    """Why something could not be read, without the path, which is said already."""
    return plain(str(error.strerror if isinstance(error, OSError) else error))


def value(kind: Any, raw: Any, name: str, where: str) -> Any:
    """One value of JSON as its type, its text plain.

    Args:
        kind: str, bool, int, float, a date, object for anything, a dataclass (its own
            ``from_dict`` reads it, if it has one), one of those or None, tuples and mappings.
        raw: from a file.
        name: of the field, by which its range is known.
        where: what this is, in words.

    Raises:
        ValueError: it is of another type, or out of its range.
    """
    if isinstance(kind, UnionType):
        kind, *_ = (each for each in get_args(kind) if each is not NoneType)
        return None if raw is None else value(kind, raw, name, where)
    if get_origin(kind) is dict:
        key, kind = get_args(kind)
        items = mapping(raw, where).items()
        return {_key(key, k, where): value(kind, v, name, where) for k, v in items}
    if get_origin(kind) is tuple:
        return _together(get_args(kind), listed(raw, where), name, where)
    if isinstance(kind, type) and is_dataclass(kind):
        own = getattr(kind, "from_dict", None)
        return own(raw) if own else kind(**record(kind, raw, where))
    if kind is datetime.date and isinstance(raw, str):
        return datetime.date.fromisoformat(raw)
    if kind in (int, float):
        return _figure(kind, raw, name, where)
    if kind is object:
        return raw
    if kind not in (str, bool) or not isinstance(raw, kind):
        raise ValueError(f"{where} is {_shown(raw)}, which is of another type")
    return plain(raw) if isinstance(raw, str) else raw


def _key(kind: type, raw: str, where: str) -> Any:
    """JSON's keys are text; figures among them count rows."""
    return _figure(int, int(raw), "rows", where) if kind is int else plain(raw)


def _together(kinds: tuple[Any, ...], raw: list[Any], name: str, where: str) -> tuple[Any, ...]:
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(raw)
    if len(kinds) != len(raw):
        raise ValueError(f"{where} has {len(raw)} values where {len(kinds)} belong")
    return tuple(value(kind, each, name, where) for kind, each in zip(kinds, raw, strict=True))


def _figure(kind: type, raw: Any, name: str, where: str) -> Any:
    low, high = _RANGES.get(name, _USUAL)
    if isinstance(raw, bool) or not isinstance(raw, int if kind is int else int | float):
        raise ValueError(f"{where} is {_shown(raw)}, which is no {kind.__name__}")
    # A whole number of any length can be compared, but not made a float.
    if not (isinstance(raw, int) or math.isfinite(raw)) or not low <= raw <= high:
        raise ValueError(f"{where} is {_shown(raw)}; it takes {low:g} to {high:g}")
    return raw


def _shown(raw: Any) -> str:
    """Of whatever it is, enough to find it."""
    text = plain(json.dumps(raw))
    return text if len(text) <= 40 else text[:36] + " ..."
