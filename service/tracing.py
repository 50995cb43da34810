"""What clients may ask to be traced and logged: the state behind TraceSetting and LogSettings.

Keys, forms and defaults are Triton's. A trace is one line of the log, not a file: a client that
names files would write them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from service import log
from service.errors import InvalidInput
from service.log import Levels

Values = tuple[str, ...]
Settings = dict[str, Values]
LogValue = bool | int | str
# As Triton answers them, and what each is when nobody has set it.
_DEFAULTS: Mapping[str, Values] = {
    "trace_level": ("OFF",),
    "trace_rate": ("1000",),
    "trace_count": ("-1",),
    "log_frequency": ("0",),
    "trace_file": ("",),
    "trace_mode": ("triton",),
}
_ON = "TIMESTAMPS"
_LARGEST = 2**31 - 1
_FLAGS = {"log_info": "info", "log_warning": "warning", "log_error": "error"}
_FIXED = {"log_file": "", "log_format": "default"}


class Spans(Protocol):
    """How long the phases of one inference took, in seconds."""

    @property
    def decode_s(self) -> float:
        """From the message to arrays."""

    @property
    def queued_s(self) -> float:
        """In the queue."""

    @property
    def assembly_s(self) -> float:
        """Stacking rows."""

    @property
    def run_s(self) -> float:
        """The run."""

    @property
    def encode_s(self) -> float:
        """From arrays to the answer."""

    @property
    def whole_s(self) -> float:
        """All of it."""


class Traces:
    """Which inferences are traced: set for all models, and for single ones; lives in one thread."""

    def __init__(self) -> None:
        """Trace nothing."""
        self._all: Settings = {}
        self._models: dict[str, Settings] = {}
        self._on = False
        self._seen: dict[str, int] = {}
        self._taken = 0

    def settings(self, model: str = "") -> Settings:
        """All settings of one model, or those for all models; trace_count is what is left of it."""
        return {**_DEFAULTS, **self._all, **self._models.get(model, {})}

    def update(self, changes: Mapping[str, Sequence[str]], model: str = "") -> Settings:
        """Change some settings, all or none of them.

        Args:
            changes: key -> values. No value takes a key back: a model's to what is set for all,
                that of all to the default.
            model: one that is known here; empty for all.

        Returns:
            All settings as they are now.

        Raises:
            InvalidInput: a key or value that is unknown, or for clients to leave alone.
        """
        checked = {key: _checked(key, values) for key, values in changes.items()}
        own = self._models.get(model, {}) if model else self._all
        changed = {key: values for key, values in {**own, **checked}.items() if values}
        if not model:
            self._all = changed
        elif changed:
            self._models[model] = changed
        else:
            self._models.pop(model, None)
        scopes = (self._all, *self._models.values())
        self._on = any(_ON in scope.get("trace_level", ()) for scope in scopes)
        self._seen.clear()
        return self.settings(model)

    def take(self, model: str) -> bool:
        """Whether this inference is traced: one of every trace_rate, until trace_count are."""
        if not self._on:
            return False
        settings = self.settings(model)
        if _ON not in settings["trace_level"]:
            return False
        self._seen[model] = self._seen.get(model, 0) + 1
        if self._seen[model] < int(settings["trace_rate"][0]):
            return False
        self._seen[model] = 0
        return self._counted(model, int(settings["trace_count"][0]))

    def write(
        self, model: str, version: str, request_id: str, *, started_ns: int, spans: Spans
    ) -> None:
        """Log one trace.

        Args:
            model: name of the model.
            version: its version.
            request_id: the client's own.
            started_ns: when the request began, in nanoseconds of any clock.
            spans: its phases; moments between them are counted with the next.
        """
        self._taken += 1
        log.info(
            "trace",
            id=self._taken,
            model_name=model,
            model_version=version,
            request_id=request_id,
            timestamps=timestamps(started_ns, spans),
        )

    def _counted(self, model: str, left: int) -> bool:
        """Whether one more is within the count; where the count was set, there is one less."""
        if left > 0:
            own = self._models.get(model, {})
            scope = own if "trace_count" in own else self._all
            scope["trace_count"] = (str(left - 1),)
        return left != 0


def timestamps(started_ns: int, spans: Spans) -> list[dict[str, str | int]]:
    """The moments of one inference under Triton's names, in order."""
    offset_ns, found = 0, [("REQUEST_START", started_ns)]
    for name, seconds in (
        ("QUEUE_START", spans.decode_s),
        ("COMPUTE_START", spans.queued_s),
        ("COMPUTE_INPUT_END", spans.assembly_s),
        ("COMPUTE_OUTPUT_START", spans.run_s),
        ("COMPUTE_END", spans.encode_s),
    ):
        offset_ns += int(seconds * 1e9)
        found.append((name, started_ns + offset_ns))
    found.append(("REQUEST_END", started_ns + max(offset_ns, int(spans.whole_s * 1e9))))
    return [{"name": name, "ns": ns} for name, ns in found]


class LogSettings:
    """The levels of this server's log, as clients see them."""

    def __init__(self) -> None:
        """Take what is logged now for the defaults."""
        self._defaults = log.levels()

    def settings(self) -> dict[str, LogValue]:
        """All settings, under Triton's keys."""
        levels = log.levels()
        flags = {key: getattr(levels, field) for key, field in _FLAGS.items()}
        return {**_FIXED, **flags, "log_verbose_level": levels.verbose}

    def update(self, changes: Mapping[str, LogValue | None]) -> dict[str, LogValue]:
        """Change some settings, all or none of them.

        Args:
            changes: key -> value; None takes it back to what it was when the server started.

        Returns:
            All settings as they are now.

        Raises:
            InvalidInput: a key or value that is unknown, or for clients to leave alone.
        """
        levels = log.levels()
        for key, value in changes.items():
            levels = self._changed(levels, key, value)
        log.change(levels)
        return self.settings()

    def _changed(self, levels: Levels, key: str, value: Any) -> Levels:
        if key in _FIXED:
            if value not in (None, _FIXED[key]):
                raise InvalidInput(f"{key} cannot be changed by clients; leave it out")
            return levels
        field = "verbose" if key == "log_verbose_level" else _FLAGS.get(key)
        if field is None:
            raise InvalidInput(_unknown("log", (*_FLAGS, "log_verbose_level")))
        if value is None:
            value = getattr(self._defaults, field)
        if field != "verbose" and not isinstance(value, bool):
            raise InvalidInput(f"{key} takes a boolean")
        if field == "verbose" and (isinstance(value, bool) or not isinstance(value, int)):
            raise InvalidInput(f"{key} takes a whole number, 0 or more")
        return replace(levels, **{field: value})


def _checked(key: str, values: Sequence[str]) -> Values:
    if key not in _DEFAULTS:
        raise InvalidInput(_unknown("trace", tuple(_DEFAULTS)))
    return _CHECKS[key](key, tuple(values)) if values else ()


def _level(key: str, values: Values) -> Values:
    if values not in (("OFF",), (_ON,)):
        raise InvalidInput(f"{key} takes OFF or {_ON}; this server traces nothing else")
    return values


def _number(low: int) -> Callable[[str, Values], Values]:
    def checked(key: str, values: Values) -> Values:
        text = values[0]
        number = text.removeprefix("-")
        if len(values) > 1 or not (number.isascii() and number.isdigit() and len(number) < 11):
            raise InvalidInput(f"{key} takes one whole number")
        if not low <= int(text) <= _LARGEST:
            raise InvalidInput(f"{key} takes a whole number from {low} to {_LARGEST}")
        return (str(int(text)),)

    return checked


def _fixed(key: str, values: Values) -> Values:
    if values != _DEFAULTS[key]:
        raise InvalidInput(f"{key} cannot be changed by clients; traces are lines of the log")
    return values


_CHECKS: Mapping[str, Callable[[str, Values], Values]] = {
    "trace_level": _level,
    "trace_rate": _number(1),
    "trace_count": _number(-1),
    # Kept for clients that set it: there is no file to be written at intervals.
    "log_frequency": _number(0),
    "trace_file": _fixed,
    "trace_mode": _fixed,
}


def _unknown(kind: str, keys: tuple[str, ...]) -> str:
    return f"that is no {kind} setting of this server; it has {', '.join(keys)}"
