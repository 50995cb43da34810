"""Every knob of the server, declared once: field = flag = environment variable (arguments.py)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from service import gpuknobs
from service.errors import InvalidSetting
from service.knobs import address, check, collector, flag, knob, never
from service.pins import pins

CONTROLS = ("repository", "settings", "shared-memory")
# Only where it is named: a GPU that a client's mistake brings down takes all models with it.
CUDA_MEMORY = "cuda-shared-memory"


def _groups(text: str, said: str) -> frozenset[str]:
    words = [word.strip() for word in text.split(",")]
    if words in (["none"], ["all"]):
        return frozenset(CONTROLS if words == ["all"] else ())
    if "all" in words and set(words) == {"all", CUDA_MEMORY}:
        return frozenset((*CONTROLS, CUDA_MEMORY))
    if not set(words) <= {*CONTROLS, CUDA_MEMORY}:
        known = ", ".join((*CONTROLS, CUDA_MEMORY))
        raise InvalidSetting(f"{said} is '{text}'; it takes none, all, or a comma list of {known}")
    return frozenset(words)


@dataclass(frozen=True)
class Settings:
    """How one server runs; read once, never changed."""

    repository: Path = knob(
        Path("models"),
        "Directory NAME/VERSION/model.onnx, as `farthing convert` or Triton lay it out, or one "
        ".onnx file.",
    )
    host: str = knob(
        "0.0.0.0",
        "Address to listen on, for gRPC and metrics. 127.0.0.1 keeps strangers out; the default "
        "takes calls from every network this machine is on.",
        also=address,
    )
    grpc_port: int = knob(
        8001, "TCP port for gRPC, 0 to 65535; 0 takes a free one and prints it.", low=0, high=65535
    )
    metrics_port: int = knob(
        8002,
        "TCP port for Prometheus (/metrics), 0 to 65535; 0 takes a free one and prints it.",
        low=0,
        high=65535,
    )
    variant: str = knob(
        "auto",
        "Variant to serve: auto, a name such as fp32 or int8-static for all models, or "
        "MODEL=VARIANT,... for some. auto takes what `farthing tune` found on this hardware, else "
        "what `farthing convert` recorded for it, so that replicas agree, and times the variants "
        "where nothing is recorded. A pinned variant that was not published stops the server.",
        also=pins,
    )
    max_batch: int = knob(
        0,
        "Rows in one run, 1 to 4096; 0 takes what `farthing tune` found on this hardware, else "
        "max_batch_size of config.pbtxt, else 16, or 64 on a GPU. "
        "Larger raises throughput on wide hardware, and the latency of every caller in the batch. "
        "A request with more rows runs in parts.",
        low=0,
        high=4096,
    )
    max_queue_rows: int = knob(
        256,
        "Rows that may wait per model, 1 to 1000000. Beyond it callers are refused at once with "
        "RESOURCE_EXHAUSTED; larger turns refusals into waiting, often past the deadline, and "
        "holds that many rows in memory.",
        low=1,
        high=1_000_000,
    )
    max_queue_mib: int = knob(
        512,
        "MiB of tensors that may wait per model, 1 to 1000000. Beyond it callers are refused at "
        "once with RESOURCE_EXHAUSTED; larger lets large requests fill the memory.",
        low=1,
        high=1_000_000,
    )
    max_calls: int = knob(
        1024,
        "Inferences that are held at the same time, over all models, 1 to 1000000. Beyond it "
        "callers are refused at once with RESOURCE_EXHAUSTED, before their tensors are read; "
        "larger holds more requests in memory.",
        low=1,
        high=1_000_000,
    )
    instances: int = knob(
        0,
        "Runs at the same time per model, 1 to 256; 0 takes what `farthing tune` found, else "
        "instance_group of config.pbtxt, else 1, or 2 on each GPU. More instances with fewer "
        "threads each favour throughput, fewer favour the latency of one caller.",
        low=0,
        high=256,
    )
    threads: int = knob(
        0,
        "Threads of one run, 0 to 1024; 0 takes what `farthing tune` found, else config.pbtxt's "
        "intra_op_thread_count, else this process's CPU quota divided among the instances. "
        "instances x threads above the quota is throttled by the kernel and raises p99.",
        low=0,
        high=1024,
    )
    spin: bool | None = knob(
        None,
        "Let idle threads wait in a busy loop. Saves tens of microseconds a run; burns CPU (and "
        "money) between requests. Where neither is said, `farthing tune --allow-spin` or "
        "config.pbtxt may turn it on.",
        kind=bool,
    )
    device: str = gpuknobs.DEVICE
    cpu_fallback: str = gpuknobs.CPU_FALLBACK
    gpu_mem_mib: int = gpuknobs.GPU_MEM_MIB
    cuda_graphs: str = gpuknobs.CUDA_GRAPHS
    trt_cache: str = gpuknobs.TRT_CACHE
    max_message_mib: int = knob(
        64,
        "Largest request or answer in MiB, 1 to 1023; more is refused with INVALID_ARGUMENT, and "
        "twice as much by gRPC itself. Larger takes larger tensors, and lets one caller hold more "
        "memory.",
        low=1,
        high=1023,
    )
    max_tensors: int = knob(
        64,
        "Inputs, and outputs, that one request may name, 1 to 4096. Larger lets one caller keep "
        "the event loop longer.",
        low=1,
        high=4096,
    )
    max_name: int = knob(
        256,
        "Bytes of a name that a request may hold (model, version, tensor, region, parameter), or "
        "of its id, 16 to 65536. Longer names end up in answers and logs.",
        low=16,
        high=65536,
    )
    control: str = knob(
        "none",
        "Control RPCs that are answered: none, all, or a comma list of repository (load and "
        "unload models), settings (change log and trace settings), shared-memory (read and "
        "write this host's /dev/shm) and cuda-shared-memory (other processes' memory on GPUs; "
        "not in all). All others are refused: whoever reaches the port may call them.",
        also=_groups,
    )
    control_port: int = knob(
        -1,
        "TCP port that alone answers the control RPCs, 0 to 65535; 0 takes a free one and prints "
        "it, -1 answers them on the gRPC port.",
        low=-1,
        high=65535,
    )
    control_host: str = knob(
        "127.0.0.1",
        "Address of the control port. The default takes calls from this machine only.",
        also=address,
    )
    poll_s: float = knob(
        0.0,
        "Seconds between two looks at the repository for new, changed and removed models, 0 to "
        "86400; 0 never looks. Shorter notices sooner and reads the directory more often.",
        low=0,
        high=86400,
    )
    exit_on_error: bool = knob(
        True,
        "Whether a model that cannot be loaded stops the start. Without it the others are served, "
        "and the index says what is wrong with that one.",
    )
    tls_cert: str = knob(
        "",
        "PEM file with the server's certificate chain; with --tls-key it turns TLS on. It is read "
        "again when it changes. Without it everything, tokens too, travels in clear text.",
    )
    tls_key: str = knob("", "PEM file with the private key of --tls-cert.")
    tls_client_ca: str = knob(
        "", "PEM file with authorities; clients must then show a certificate of theirs (mTLS)."
    )
    tokens: str = knob(
        "",
        "File with one bearer token a line; every RPC must then carry one of them as "
        "`authorization: Bearer TOKEN`. It is read again when it changes. Empty asks for none.",
    )
    latency_target_ms: float = knob(
        0.0,
        "Milliseconds after which an answer is worthless, 0 to 3600000; 0 is no target. A call "
        "that would be answered later is refused or dropped, as if its caller had set that "
        "deadline; a target below what the model takes refuses nearly everything under load. A "
        "model's parameter latency_target_ms in config.pbtxt wins over it. The histograms have an "
        "edge exactly there.",
        low=0,
        high=3_600_000,
    )
    price_usd_per_hour: float = knob(
        0.0,
        "Dollars for an hour of all CPUs that this process may use, or of its GPUs: of one that "
        "it shares with others (MIG, time slicing) the price of its part. 0 to 1000000; 0 is an "
        "unknown price. The metrics then tell it beside the seconds that each model took.",
        low=0,
        high=1_000_000,
    )
    price_id: str = knob(
        "",
        "Where the price is from, e.g. the entry of a price book with its date; a label of the "
        "price in the metrics.",
    )
    cost_metadata: bool = knob(
        False,
        "Whether answers, but for those in streams, carry what their runs cost at most, as the "
        "trailing metadata farthing-core-seconds (on GPUs farthing-gpu-seconds, and "
        "farthing-joules by the power they draw then) and, where the price is known, "
        "farthing-cost-usd. It tells every caller your price.",
    )
    access_log: float = knob(
        0.0,
        "Share of inferences that are logged with their phases, 0 to 1. 1 writes a line for each, "
        "which costs CPU.",
        low=0,
        high=1,
    )
    otlp_endpoint: str = knob(
        "",
        "http://HOST:PORT or https://HOST:PORT of an OpenTelemetry collector (OTLP over gRPC). It "
        "gets a span for each inference whose caller is traced, and one for each run. Empty sends "
        "none. Needs farthing[tracing]. OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES and the OTLP "
        "exporter's variables for headers and certificates have their effect too.",
        also=collector,
    )
    trace_share: float = knob(
        0.0,
        "Share of inferences that are traced of those whose caller sends no traceparent, 0 to 1; "
        "with one, the caller decides. Each takes about 0.2 ms of CPU.",
        low=0,
        high=1,
    )
    max_connection_age_s: float = knob(
        0.0,
        "Seconds after which a client is asked, losing no call, to connect anew, 0 to 86400, a "
        "tenth more or less; 0 is never, and the least 0.1. New replicas then get work, and "
        "--grace-s above it lets all clients leave unrefused. Shorter spreads sooner, for a "
        "handshake each time.",
        low=0,
        high=86400,
        also=never(0.1),
    )
    max_connection_age_grace_s: float = knob(
        0.0,
        "Seconds that calls may go on after that age before they are cut off with UNAVAILABLE, 0 "
        "to 86400; 0 is as long as they want. Keep it above what streams may last.",
        low=0,
        high=86400,
    )
    grace_s: float = knob(
        5.0,
        "Seconds of normal service after SIGTERM, 0 to 3600, with health already NOT_SERVING, so "
        "that load balancers leave before work is refused. Ctrl-C, or a second signal, skips it.",
        low=0,
        high=3600,
    )
    drain_s: float = knob(
        10.0,
        "Seconds that accepted work may take after SIGTERM, 0 to 3600, before it is cut off. "
        "Keep it above the longest deadline and below the orchestrator's own grace.",
        low=0,
        high=3600,
    )
    log_level: str = knob(
        "info",
        "What goes to standard error as JSON lines: error hides what someone should look at.",
        choices=("info", "warning", "error"),
    )

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        Raises:
            InvalidSetting: naming the knob, the value and the range.
        """
        for each in fields(self):
            check(each, getattr(self, each.name), flag(each))

    @property
    def allowed(self) -> frozenset[str]:
        """Groups of control RPCs that are answered: those that were named."""
        return _groups(self.control, "--control")
