"""Every knob of the server, declared once: field = flag = environment variable (arguments.py)."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from service.errors import InvalidSetting

CONTROLS = ("repository", "settings", "shared-memory")


def _knob(default: Any, text: str, *, low: float | None = None, high: float | None = None,
          choices: tuple[str, ...] = (), kind: type | None = None) -> Any:  # fmt: skip
    meta = {"help": text, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata={**meta, "kind": kind or type(default)})


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
        "tune` found on this hardware, else what `farthing convert` recorded for it, so that "
        "replicas agree, and times the variants where nothing is recorded. A pinned variant that "
        "was not published stops the server.",
    )
    max_batch: int = _knob(
        0,
        "Rows in one run, 1 to 4096; 0 takes what `farthing tune` found on this hardware, else "
        "max_batch_size of config.pbtxt, else 16. "
        "Larger raises throughput on wide hardware, and the latency of every caller in the batch. "
        "A request with more rows runs in parts.",
        low=0,
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
    max_queue_mib: int = _knob(
        512,
        "MiB of tensors that may wait per model, 1 to 1000000. Beyond it callers are refused at "
        "once with RESOURCE_EXHAUSTED; larger lets large requests fill the memory.",
        low=1,
        high=1_000_000,
    )
    max_calls: int = _knob(
        1024,
        "Inferences that are held at the same time, over all models, 1 to 1000000. Beyond it "
        "callers are refused at once with RESOURCE_EXHAUSTED, before their tensors are read; "
        "larger holds more requests in memory.",
        low=1,
        high=1_000_000,
    )
    instances: int = _knob(
        0,
        "Runs at the same time per model, 1 to 256; 0 takes what `farthing tune` found, else "
        "instance_group of config.pbtxt, else 1. More instances with fewer threads each favour "
        "throughput, fewer favour the latency of one caller.",
        low=0,
        high=256,
    )
    threads: int = _knob(
        0,
        "Threads of one run, 0 to 1024; 0 takes what `farthing tune` found, else config.pbtxt's "
        "intra_op_thread_count, else this process's CPU quota divided among the instances. "
        "instances x threads above the quota is throttled by the kernel and raises p99.",
        low=0,
        high=1024,
    )
    spin: bool | None = _knob(
        None,
        "Let idle threads wait in a busy loop. Saves tens of microseconds a run; burns CPU (and "
        "money) between requests. Where neither is said, `farthing tune --allow-spin` or "
        "config.pbtxt may turn it on.",
        kind=bool,
    )
    max_message_mib: int = _knob(
        64,
        "Largest request or answer in MiB, 1 to 1023; more is refused with INVALID_ARGUMENT, and "
        "twice as much by gRPC itself. Larger takes larger tensors, and lets one caller hold more "
        "memory.",
        low=1,
        high=1023,
    )
    max_tensors: int = _knob(
        64,
        "Inputs, and outputs, that one request may name, 1 to 4096. Larger lets one caller keep "
        "the event loop longer.",
        low=1,
        high=4096,
    )
    max_name: int = _knob(
        256,
        "Bytes of a name that a request may hold (model, version, tensor, region, parameter), or "
        "of its id, 16 to 65536. Longer names end up in answers and logs.",
        low=16,
        high=65536,
    )
    control: str = _knob(
        "none",
        "Control RPCs that are answered: none, all, or a comma list of repository (load and "
        "unload models), settings (change log and trace settings) and shared-memory (read and "
        "write this host's /dev/shm). All others are refused: whoever reaches the port may call "
        "them.",
    )
    control_port: int = _knob(
        -1,
        "TCP port that alone answers the control RPCs, 0 to 65535; 0 takes a free one and prints "
        "it, -1 answers them on the gRPC port.",
        low=-1,
        high=65535,
    )
    control_host: str = _knob(
        "127.0.0.1", "Address of the control port. The default takes calls from this machine only."
    )
    poll_s: float = _knob(
        0.0,
        "Seconds between two looks at the repository for new, changed and removed models, 0 to "
        "86400; 0 never looks. Shorter notices sooner and reads the directory more often.",
        low=0,
        high=86400,
    )
    exit_on_error: bool = _knob(
        True,
        "Whether a model that cannot be loaded stops the start. Without it the others are served, "
        "and the index says what is wrong with that one.",
    )
    tls_cert: str = _knob(
        "",
        "PEM file with the server's certificate chain; with --tls-key it turns TLS on. It is read "
        "again when it changes. Without it everything, tokens too, travels in clear text.",
    )
    tls_key: str = _knob("", "PEM file with the private key of --tls-cert.")
    tls_client_ca: str = _knob(
        "", "PEM file with authorities; clients must then show a certificate of theirs (mTLS)."
    )
    tokens: str = _knob(
        "",
        "File with one bearer token a line; every RPC must then carry one of them as "
        "`authorization: Bearer TOKEN`. It is read again when it changes. Empty asks for none.",
    )
    latency_target_ms: float = _knob(
        0.0,
        "Milliseconds after which an answer is worthless, 0 to 3600000; 0 is no target. A call "
        "that would be answered later is refused or dropped, as if its caller had set that "
        "deadline; a target below what the model takes refuses nearly everything under load. A "
        "model's parameter latency_target_ms in config.pbtxt wins over it. The histograms have an "
        "edge exactly there.",
        low=0,
        high=3_600_000,
    )
    price_usd_per_hour: float = _knob(
        0.0,
        "Dollars for an hour of all CPUs that this process may use, 0 to 1000000; 0 is an unknown "
        "price. The metrics then tell a price beside the core-seconds that each model took.",
        low=0,
        high=1_000_000,
    )
    price_id: str = _knob(
        "",
        "Where the price is from, e.g. the entry of a price book with its date; a label of the "
        "price in the metrics.",
    )
    cost_metadata: bool = _knob(
        False,
        "Whether answers, but for those in streams, carry what their runs cost at most, as the "
        "trailing metadata farthing-core-seconds and, where the price is known, farthing-cost-usd. "
        "It tells every caller your price.",
    )
    access_log: float = _knob(
        0.0,
        "Share of inferences that are logged with their phases, 0 to 1. 1 writes a line for each, "
        "which costs CPU.",
        low=0,
        high=1,
    )
    max_connection_age_s: float = _knob(
        0.0,
        "Seconds after which a client is asked, losing no call, to connect anew, 0 to 86400, a "
        "tenth more or less; 0 is never. New replicas then get work, and --grace-s above it lets "
        "all clients leave unrefused. Shorter spreads sooner, for a handshake each time.",
        low=0,
        high=86400,
    )
    max_connection_age_grace_s: float = _knob(
        0.0,
        "Seconds that calls may go on after that age before they are cut off with UNAVAILABLE, 0 "
        "to 86400; 0 is as long as they want. Keep it above what streams may last.",
        low=0,
        high=86400,
    )
    grace_s: float = _knob(
        5.0,
        "Seconds of normal service after SIGTERM, 0 to 3600, with health already NOT_SERVING, so "
        "that load balancers leave before work is refused. Ctrl-C, or a second signal, skips it.",
        low=0,
        high=3600,
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
            check(knob, getattr(self, knob.name), flag(knob))

    @property
    def allowed(self) -> frozenset[str]:
        """Groups of control RPCs that are answered: those of ``CONTROLS`` that were named."""
        return _groups(self.control, "--control")


def check(knob: Field[Any], value: Any, said: str) -> None:
    """Make sure that a value is one that a field takes.

    Args:
        knob: the field.
        value: of the field's type.
        said: what whoever gave it wrote: the flag, or the environment variable.

    Raises:
        InvalidSetting: naming what was said, the value and the range.
    """
    meta = knob.metadata
    if meta["choices"] and value not in meta["choices"]:
        raise InvalidSetting(f"{said} is '{value}'; it takes one of {', '.join(meta['choices'])}")
    if meta["low"] is not None and not meta["low"] <= value <= meta["high"]:
        raise InvalidSetting(f"{said} is {value}; it takes {meta['low']} to {meta['high']}")
    if isinstance(value, str) and not value.isprintable():
        raise InvalidSetting(f"{said} has a character that cannot be printed")
    if knob.name == "control":
        _groups(value, said)


def _groups(text: str, said: str) -> frozenset[str]:
    words = [word.strip() for word in text.split(",")]
    if words in (["none"], ["all"]):
        return frozenset(CONTROLS if words == ["all"] else ())
    if not set(words) <= set(CONTROLS):
        raise InvalidSetting(
            f"{said} is '{text}'; it takes none, all, or a comma list of {', '.join(CONTROLS)}"
        )
    return frozenset(words)


def flag(knob: Field[Any]) -> str:
    """The command line's name of a field, e.g. ``--grpc-port``."""
    return "--" + knob.name.replace("_", "-")
