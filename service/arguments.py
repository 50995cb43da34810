"""Flags and environment -> Settings; unknown or malformed values stop the server at once.

``--max-batch`` and ``FARTHING_MAX_BATCH`` set the field ``max_batch``; a flag wins over the
environment, the environment over the default.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn

from service import gpuknobs
from service.errors import InvalidSetting
from service.knobs import check, flag
from service.settings import CUDA_MEMORY, Settings

_PREFIX = "FARTHING_"
# Kubernetes puts these into every pod beside a Service whose name starts with "farthing".
_SERVICE_LINK = re.compile(
    r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)=.*"
    r"|(\w+_)?PORT=(tcp|udp|sctp)://.*"
)


def environment_name(field_name: str) -> str:
    """The environment variable of a field, e.g. ``FARTHING_GRPC_PORT``."""
    return _PREFIX + field_name.upper()


def from_environment(field_name: str, default: str) -> str:
    """What the environment says of a field, for verbs that are given no other settings."""
    return os.environ.get(environment_name(field_name), default)


def written(field_name: str, argv: Sequence[str]) -> str:
    """What stands before a field's value where it was given: ``--device `` or ``FARTHING_DEVICE=``.

    Args:
        field_name: of ``Settings``.
        argv: a command line that ``read`` took.
    """
    if (
        field_name in vars(parser().parse_args(argv))
        or environment_name(field_name) not in os.environ
    ):
        return f"--{field_name.replace('_', '-')} "
    return f"{environment_name(field_name)}="


class Parser(argparse.ArgumentParser):
    """Argparse whose complaints are our errors: one sentence, raised."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise InvalidSetting(f"{message}; see `{self.prog} --help`")


def parser() -> argparse.ArgumentParser:
    """The command line of ``farthing serve``; argparse, since typer costs a second at start."""
    result = Parser(
        prog="farthing serve",
        description="Serve a model repository over gRPC, in the wire format of Triton's clients.",
        epilog="Every option can also be given as an environment variable: --grpc-port is "
        "FARTHING_GRPC_PORT. One JSON line on standard output says when the server is ready, and "
        "on which ports. SIGTERM drains it: accepted work is finished, then it exits with 0.",
        allow_abbrev=False,
    )
    for knob in fields(Settings):
        kind: Any = knob.metadata["kind"]
        default = "not said" if knob.default is None else knob.default
        text = f"{knob.metadata['help']} [default: {default}]"
        # No default here: what is absent must not hide the environment variable.
        common: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS}
        if knob.name == "repository":
            result.add_argument("repository", nargs="?", metavar="REPO", **common)
        elif kind is bool:
            result.add_argument(flag(knob), action=argparse.BooleanOptionalAction, **common)
        else:
            result.add_argument(flag(knob), metavar=kind.__name__.upper(), **common)
    return result


def read(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from flags, environment and defaults, in that order of precedence.

    Raises:
        InvalidSetting: an unknown option or ``FARTHING_`` variable, or a value that does not fit.
    """
    environment = os.environ if environment is None else environment
    knobs = {knob.name: knob for knob in fields(Settings)}
    raw: dict[str, Any] = {}
    for name, text in environment.items():
        key = name.removeprefix(_PREFIX)
        if key == name or _SERVICE_LINK.fullmatch(f"{key}={text}"):
            continue
        if key.lower() not in knobs:
            raise InvalidSetting(
                f"environment variable {name} is no setting; `farthing serve --help` lists them"
            )
        raw[key.lower()] = text
    given = vars(parser().parse_args(argv))
    values = {}
    for name, text in {**raw, **given}.items():
        said = flag(knobs[name]) if name in given else environment_name(name)
        values[name] = _cast(knobs[name], text, said)
        check(knobs[name], values[name], said)
    return Settings(**values)


def idle_without_gpus(chosen: Settings) -> list[str]:
    """Flags of what was given and counts on GPUs only."""
    knobs = {knob.name: knob for knob in fields(Settings)}
    given = [flag(knobs[name]) for name in gpuknobs.ONLY
             if getattr(chosen, name) != knobs[name].default]  # fmt: skip
    return given + ([f"--control {CUDA_MEMORY}"] if CUDA_MEMORY in chosen.allowed else [])


def _cast(knob: Field[Any], value: Any, said: str) -> Any:
    kind: Any = knob.metadata["kind"]
    if isinstance(value, bool):
        return value
    if kind is bool:
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if value.lower() in words:
            return words[value.lower()]
        raise InvalidSetting(f"{said} is '{value}'; it takes true or false")
    try:
        return Path(value) if isinstance(knob.default, Path) else kind(value)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise InvalidSetting(f"{said} is '{value}'; it takes {wanted}") from None
