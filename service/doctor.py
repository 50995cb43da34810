"""The verb `doctor`: what matters when something does not work, as text or JSON."""

from __future__ import annotations

import json
import platform
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from service import hardware
from service.arguments import Parser
from service.devices import AUTO, CUDA, TENSORRT, Asked, Device
from service.errors import FarthingError, InvalidSetting
from service.manifest import Manifest

if TYPE_CHECKING:
    from service.layout import Place

# Those whose versions decide whether the rest works; absent ones are fine, and say so.
_PACKAGES = (
    "farthing", "grpcio", "protobuf", "numpy", "onnxruntime", "onnxruntime-gpu", "onnx",
    "tensorflow-cpu", "tensorflow", "keras", "tf2onnx", "locust", "opentelemetry-sdk",
)  # fmt: skip

# The kernel module's own word, where it is loaded.
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Finding:
    """One line of the report: ``state`` is ok, note or problem."""

    area: str
    state: str
    text: str


def doctor(argv: Sequence[str]) -> int:
    """Print the findings.

    Returns:
        1 if any is a problem, else 0.
    """
    parser = Parser(
        prog="farthing doctor",
        description="Print what matters when something does not work. Exit code 1 if something is "
        "wrong.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--repository", type=Path, metavar="REPO",
        help="Also check this model repository: what `serve` would refuse or skip, and every "
        "file's digest.",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=int, action="append", metavar="N",
        help="TCP port to try, 1 to 65535; may be given again. [default: 8001 and 8002]",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="Print JSON instead of text.")
    options = parser.parse_args(argv)
    checks: list[Callable[[], Iterable[Finding]]] = [
        _machine,
        _versions,
        _runtime,
        _device,
        lambda: [_port(port) for port in options.port or (8001, 8002)],
    ]
    if options.repository:
        checks.append(lambda: _repository(options.repository))
    findings = [finding for check in checks for finding in check()]
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        marks = {"ok": " ", "note": "·", "problem": "✗"}
        for finding in findings:
            print(f"{marks[finding.state]} {finding.area:<11} {finding.text}")
    return 1 if any(finding.state == "problem" for finding in findings) else 0


def _machine() -> Iterable[Finding]:
    flags = " ".join(hardware.cpu_flags()) or "none that speed up int8"
    yield Finding("machine", "ok", f"{platform.system()} {platform.machine()}, "
                  f"Python {platform.python_version()}, {hardware.cpu_name()}")  # fmt: skip
    quota = hardware.cpu_quota()
    said = "no cgroup quota" if quota is None else f"a cgroup quota of {quota:g}"
    yield Finding("cpus", "ok", f"{hardware.cpus()} usable, with {said}")
    if quota is not None and quota != int(quota):
        yield Finding("cpus", "note", "a quota in fractions is throttled: grant whole CPUs")
    yield Finding("cpu flags", "ok", flags)
    if not hardware.has_vnni() and platform.machine() == "x86_64":
        yield Finding("cpu flags", "note", "no VNNI: expect little from int8 on this CPU")
    yield Finding("fingerprint", "ok", hardware.fingerprint())


def _versions() -> Iterable[Finding]:
    installed = []
    for package in _PACKAGES:
        try:
            installed.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    yield Finding("versions", "ok", ", ".join(installed))


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _runtime() -> Iterable[Finding]:
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        yield Finding(
            "onnxruntime", "problem",
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files, "
            "which loses CUDA without a word: pip uninstall both, then install one",
        )  # fmt: skip
    try:
        from service import session
    except ImportError as error:
        yield Finding(
            "onnxruntime", "problem",
            f"cannot be imported ({error}): pip install 'farthing[cpu]' or 'farthing[gpu]'",
        )  # fmt: skip
        return
    found = session.providers()
    yield Finding("providers", "ok", ", ".join(found))
    if _installed("onnxruntime-gpu") and "CUDAExecutionProvider" not in found:
        yield Finding("providers", "problem", "onnxruntime-gpu is installed but offers no CUDA")
    off = session.telemetry_is_off()
    yield Finding("telemetry", "ok" if off else "problem", f"{'off' if off else 'on'}")


def _device() -> Iterable[Finding]:
    """What ``--device auto`` takes, and why not a GPU where one might be expected."""
    try:
        from service import machine, trial
    except ImportError:  # told already
        return
    driver = _DRIVER.read_text(encoding="utf-8").split("\n", 1)[0] if _DRIVER.exists() else ""
    if driver:
        yield Finding("gpu", "ok", driver.removeprefix("NVRM version: "))
    tools = machine.real()
    here = machine.resolved(Asked(AUTO), tools)
    for gpu in here.gpus:
        compute = ".".join(map(str, gpu.compute))
        size = f"{gpu.memory_bytes / 2**30:.1f} GiB"
        told = f"cuda:{gpu.index} is {gpu.name} ({gpu.uuid}), compute {compute}, {size}"
        yield Finding("gpu", "ok", told)
    if here.why:
        yield Finding("gpu", "note", f"{tools.wheel()} is built for GPUs, and has none: {here.why}")
    elif driver and CUDA not in tools.offered():
        yield Finding("gpu", "note", f"{tools.wheel()} is built for CPUs only; {machine.EXTRA}")
    if here.gpus and TENSORRT in tools.offered():
        missing = trial.missing(Device(TENSORRT, here.gpus[0].index))
        yield Finding("gpu", "note" if missing else "ok", missing or "TensorRT can be had too")
    taken = ", ".join(map(str, here.devices))
    yield Finding("device", "ok", f"--device auto takes {taken}")
    if here.gpus:
        yield Finding("gpu", "ok", f"tuned and recorded as: {here.fingerprint()}")


def _port(port: int) -> Finding:
    if not 0 < port < 65536:
        raise InvalidSetting(f"--port is {port}; it takes 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            return Finding("ports", "note", f"{port} cannot be bound: {error.strerror}")
    return Finding("ports", "ok", f"{port} is free")


def _repository(root: Path) -> Iterable[Finding]:
    # Only here: it brings ONNX Runtime, and doctor must speak where that cannot be imported.
    from service import layout

    if not root.is_dir():
        yield Finding("repository", "problem", f"{root} is not a directory")
        return
    for sentence in layout.skipped(root):
        yield Finding("repository", "note", sentence)
    try:
        places = layout.places(root)
    except FarthingError as error:
        yield Finding("repository", "problem", str(error))
        return
    if not places:
        yield Finding("repository", "problem", f"{root} holds no model")
    for place in places.values():
        yield from _model(place)


def _model(place: Place) -> Iterable[Finding]:
    """What ``serve`` would say of one model, without running it."""
    from service import opening

    try:
        options = place.options()
        versions = place.picked(options)
    except FarthingError as error:
        yield Finding("repository", "problem", f"{place.name}: {error}")
        return
    for warning in options.warnings:
        yield Finding("repository", "note", f"{place.name}: {warning}")
    for version in versions:
        label = f"{place.name}/{version}"
        try:
            contract = opening.checked(place, version, options)
            yield from _served(label, contract, place.version_directory(version))
        except FarthingError as error:
            yield Finding("repository", "problem", f"{label}: {error}")


def _served(label: str, contract: Manifest, directory: Path) -> Iterable[Finding]:
    from service import choice, machine, opening

    on, entry, why = machine.resolved(Asked(AUTO), machine.real()), None, ""
    mark, meant = on.fingerprint(), on.devices[0].meant
    try:
        published = [contract.variant(v) for v in contract.published]
        here = opening.tuned_here(directory, published, fingerprint=mark, units=on.units())
        entry, why = here.entry, here.why
    except FarthingError as error:
        why = str(error)
    if why:
        yield Finding("repository", "note", f"{label}: served without what was tuned: {why}")
    known = choice.known(contract, choice.AUTO, mark, tuned=entry, meant=meant)
    serves = f"{known.variant.name}: {known.why}" if known else "what is fastest when it is loaded"
    names = ", ".join(contract.published)
    yield Finding("repository", "ok", f"{label}: {names}; auto serves {serves}")


if __name__ == "__main__":
    sys.exit(doctor(sys.argv[1:]))
