"""The verb `doctor`: what matters when something does not work, as text or JSON."""

from __future__ import annotations

import json
import platform
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from service import hardware, wheels
from service.arguments import Parser, from_environment
from service.devices import AUTO, TENSORRT, Device, asked
from service.errors import FarthingError, InvalidSetting
from service.manifest import Manifest

if TYPE_CHECKING:
    from service.layout import Place
    from service.machine import Machine

# Those whose versions decide whether the rest works; absent ones are fine, and say so.
_PACKAGES = (
    "farthing", "grpcio", "protobuf", "numpy", "onnxruntime", "onnxruntime-gpu", "onnx",
    "tensorflow-cpu", "tensorflow", "keras", "tf2onnx", "locust", "opentelemetry-sdk",
)  # fmt: skip


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
        "--device", metavar="DEVICE",
        default=from_environment("device", AUTO),
        help="What `serve` would be given: auto, cpu, cuda, tensorrt, cuda:1. [default: "
        "FARTHING_DEVICE, or auto]",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=int, action="append", metavar="N",
        help="TCP port to try, 1 to 65535; may be given again. [default: 8001 and 8002]",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="Print JSON instead of text.")
    options = parser.parse_args(argv)
    asked(options.device)
    checks: list[Callable[[], Iterable[Finding]]] = [
        _machine,
        _versions,
        _runtime,
        lambda: _device(options.device),
        lambda: [_port(port) for port in options.port or (8001, 8002)],
    ]
    if options.repository:
        checks.append(lambda: _repository(options.repository, options.device))
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


def _runtime() -> Iterable[Finding]:
    if said := wheels.both():
        yield Finding("onnxruntime", "problem", said)
    if said := wheels.damaged():
        yield Finding("onnxruntime", "problem", said)
        return
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
    if wheels.installed(wheels.FOR_GPU) and "CUDAExecutionProvider" not in found:
        yield Finding("providers", "problem", "onnxruntime-gpu is installed but offers no CUDA")
    off = session.telemetry_is_off()
    yield Finding("telemetry", "ok" if off else "problem", f"{'off' if off else 'on'}")


def _found(device: str) -> Machine:
    """What a device comes to.

    Raises:
        ImportError: there is no ONNX Runtime, or what is left of one, which is told already.
        InvalidSetting: the device is named, and cannot be had.
    """
    if wheels.damaged():
        raise ImportError
    from service import machine

    return machine.resolved(asked(device), machine.real())


def _device(device: str) -> Iterable[Finding]:
    """What ``--device`` takes, and why not a GPU where one might be expected."""
    if wheels.DRIVER.exists():
        version = wheels.DRIVER.read_text(encoding="utf-8").split("\n", 1)[0]
        yield Finding("gpu", "ok", version.removeprefix("NVRM version: "))
    try:
        here = _found(device)
    except ImportError:
        return
    except InvalidSetting as error:
        yield Finding("device", "problem", str(error))
        return
    for gpu in here.gpus:
        compute = ".".join(map(str, gpu.compute))
        size = f"{gpu.memory_bytes / 2**30:.1f} GiB"
        told = f"cuda:{gpu.index} is {gpu.name} ({gpu.uuid}), compute {compute}, {size}"
        yield Finding("gpu", "ok", told)
    if here.why:
        yield Finding("gpu", "note", f"the GPU cannot be used: {here.why}")
    for note in here.notes:
        yield Finding("gpu", "note", note)
    if here.gpus and here.devices[0].kind != TENSORRT:
        from service import trial

        if TENSORRT in trial.offered():
            missing = trial.missing(Device(TENSORRT, here.gpus[0].index))
            yield Finding("gpu", "note" if missing else "ok", missing or "TensorRT can be had too")
    taken = ", ".join(map(str, here.devices))
    yield Finding("device", "ok", f"--device {device} takes {taken}")
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


def _repository(root: Path, device: str) -> Iterable[Finding]:
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
    try:
        on = _found(device)
    except InvalidSetting:  # told already, and `serve` serves nothing then
        return
    for place in places.values():
        yield from _model(place, on)


def _model(place: Place, on: Machine) -> Iterable[Finding]:
    """What ``serve`` would say of one model, without running it."""
    from service import opening
    from service.precedence import placed

    try:
        options = place.options()
        versions = place.picked(options)
        devices = placed(options, on.devices)
    except FarthingError as error:
        yield Finding("repository", "problem", f"{place.name}: {error}")
        return
    for warning in options.gpu.warnings if devices[0].is_gpu else options.warnings:
        yield Finding("repository", "note", f"{place.name}: {warning}")
    for version in versions:
        label = f"{place.name}/{version}"
        try:
            contract = opening.checked(place, version, options)
            on_these = replace(on, devices=devices)
            yield from _served(label, contract, place.version_directory(version), on_these)
        except FarthingError as error:
            yield Finding("repository", "problem", f"{label}: {error}")


def _served(label: str, contract: Manifest, directory: Path, on: Machine) -> Iterable[Finding]:
    from service import choice, opening

    entry, why = None, ""
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
