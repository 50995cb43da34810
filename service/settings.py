"""Every knob of the server, declared once: field = flag = environment variable.

``--max-batch`` and ``FARTHING_MAX_BATCH`` set the field ``max_batch``; a flag wins over the
environment, the environment over the default. Unknown or malformed values stop the server at once.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from service.errors import InvalidSetting

_PREFIX = "FARTHING_"
# Kubernetes puts these into every pod beside a Service whose name starts with "farthing".
_SERVICE_LINK = re.compile(
    r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)=.*"
    r"|(\w+_)?PORT=(tcp|udp|sctp)://.*"
)


def _knob(default: Any, text: str, *, low: float | None = None, high: float | None = None,
          choices: tuple[str, ...] = ()) -> Any:  # fmt: skip
    return field(
        default=default, metadata={"help": text, "low": low, "high": high, "choices": choices}
    )


@dataclass(frozen=True)
class Settings:
    """How one server runs; read once, never changed."""

    repository: Path = _knob(
        Path("models"),
        "Directory NAME/VERSION/model.onnx, as `farthing convert` or Triton lay it out, or one "
        ".onnx file.",
    )
    host: str = _knob(
        "0.0.0.0",
        "Address to listen on, for gRPC and metrics. 127.0.0.1 keeps strangers out; the default "
        "takes calls from every network this machine is on.",
    )
    grpc_port: int = _knob(
        8001, "TCP port for gRPC, 0 to 65535; 0 takes a free one and prints it.", low=0, high=65535
    )
    metrics_port: int = _knob(
        8002,
        "TCP port for Prometheus (/metrics), 0 to 65535; 0 takes a free one and prints it.",
        low=0,
        high=65535,
    )
    variant: str = _knob(
        "auto",
        "Variant to serve: auto, or a name such as fp32 or int8-static. auto takes what `farthing "
        "convert` recorded for this hardware, so that replicas agree, and fp32 where nothing is "
        "recorded. A pinned variant that was not published stops the server.",
    )
    max_batch: int = _knob(
        16,
        "Rows in one run, 1 to 4096. Larger raises throughput on wide hardware, and the latency "
        "of every caller in the batch. A request with more rows is refused.",
        low=1,
        high=4096,
    )
    max_queue_rows: int = _knob(
        256,
        "Rows that may wait per model, 1 to 1000000. Beyond it callers are refused at once with "
        "RESOURCE_EXHAUSTED; larger turns refusals into waiting, often past the deadline, and "
        "holds that many rows in memory.",
        low=1,
        high=1_000_000,
    )
    instances: int = _knob(
        1,
        "Runs at the same time per model, 1 to 256. More instances with fewer threads each favour "
        "throughput, fewer favour the latency of one caller.",
        low=1,
        high=256,
    )
    threads: int = _knob(
        0,
        "Threads of one run, 0 to 1024; 0 divides this process's CPU quota among the instances. "
        "instances x threads above the quota is throttled by the kernel and raises p99.",
        low=0,
        high=1024,
    )
    spin: bool = _knob(
        False,
        "Let idle threads wait in a busy loop. Saves tens of microseconds a run; burns CPU (and "
        "money) between requests.",
    )
    max_message_mib: int = _knob(
        64,
        "Largest request or answer in MiB, 1 to 2047. Larger takes larger tensors, and lets one "
        "caller hold more memory.",
        low=1,
        high=2047,
    )
    drain_s: float = _knob(
        10.0,
        "Seconds that accepted work may take after SIGTERM, 0 to 3600, before it is cut off. "
        "Keep it above the longest deadline and below the orchestrator's own grace.",
        low=0,
        high=3600,
    )
    log_level: str = _knob(
        "info",
        "What goes to standard error as JSON lines: error hides what someone should look at.",
        choices=("info", "warning", "error"),
    )

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        Raises:
            InvalidSetting: naming the knob, the value and the range.
        """
        for knob in fields(self):
            value, meta = getattr(self, knob.name), knob.metadata
            if meta["choices"] and value not in meta["choices"]:
                raise InvalidSetting(
                    f"{_flag(knob)} is '{value}'; it takes one of {', '.join(meta['choices'])}"
                )
            if meta["low"] is not None and not meta["low"] <= value <= meta["high"]:
                raise InvalidSetting(
                    f"{_flag(knob)} is {value}; it takes {meta['low']} to {meta['high']}"
                )


def _flag(knob: Field[Any]) -> str:
    return "--" + knob.name.replace("_", "-")


def environment_name(field_name: str) -> str:
    """The environment variable of a field, e.g. ``FARTHING_GRPC_PORT``."""
    return _PREFIX + field_name.upper()


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
        text = f"{knob.metadata['help']} [default: {knob.default}]"
        # No default here: what is absent must not hide the environment variable.
        common: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS}
        if knob.name == "repository":
            result.add_argument("repository", nargs="?", metavar="REPO", **common)
        elif isinstance(knob.default, bool):
            result.add_argument(_flag(knob), action=argparse.BooleanOptionalAction, **common)
        else:
            result.add_argument(_flag(knob), metavar=type(knob.default).__name__.upper(), **common)
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
    raw.update(vars(parser().parse_args(argv)))
    return Settings(**{name: _cast(knobs[name], value) for name, value in raw.items()})


def _cast(knob: Field[Any], value: Any) -> Any:
    kind: Any = type(knob.default)
    if isinstance(value, bool):
        return value
    if kind is bool:
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if value.lower() in words:
            return words[value.lower()]
        raise InvalidSetting(f"{_flag(knob)} is '{value}'; it takes true or false")
    try:
        return Path(value) if isinstance(knob.default, Path) else kind(value)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise InvalidSetting(f"{_flag(knob)} is '{value}'; it takes {wanted}") from None
