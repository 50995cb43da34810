"""What this process runs models on, found once; or the sentence that says what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from service import cuda, hardware, log
from service.cuda import CudaFailed, Gpu
from service.devices import AUTO, CPU, CPU_KIND, CUDA, Asked, Device, asked
from service.errors import InvalidSetting

EXTRA = "pip uninstall onnxruntime, then pip install 'farthing[gpu]'"


@dataclass(frozen=True)
class Machine:
    """Where models run, unless their own config.pbtxt says otherwise.

    Attributes:
        devices: one or more GPUs of one kind, or the CPU.
        gpus: of them, in the same order; empty for the CPU.
        why: ``auto`` took the CPU though ONNX Runtime is built for GPUs; else empty.
    """

    devices: tuple[Device, ...] = (CPU,)
    gpus: tuple[Gpu, ...] = ()
    why: str = ""

    def fingerprint(self, devices: Sequence[Device] | None = None) -> str:
        """A readable name for what these devices are; equal names should favour equal variants.

        Args:
            devices: of this machine, whichever provider; None for all.
        """
        taken = self.devices if devices is None else devices
        if not any(device.is_gpu for device in taken):
            return hardware.fingerprint()
        by_index = {gpu.index: gpu for gpu in self.gpus}
        found = [by_index[device.index] for device in taken if device.index in by_index]
        names = dict.fromkeys(f"{gpu.name}, compute {_dotted(gpu.compute)}" for gpu in found)
        return f"{' and '.join(names)}, {taken[0].kind}"

    def units(self, devices: Sequence[Device] | None = None) -> int:
        """How many CPUs, or GPUs, these devices are: what was tuned holds for as many."""
        taken = self.devices if devices is None else devices
        return len(taken) if taken[0].is_gpu else hardware.cpus()


@dataclass(frozen=True)
class Tools:
    """What a machine is looked at with.

    Attributes:
        offered: kinds that the installed ONNX Runtime is built for.
        wheel: its name and version.
        gpus: those that this process sees; raises CudaFailed where there are none.
        missing: what keeps ONNX Runtime from one of them; empty where nothing does.
    """

    offered: Callable[[], Sequence[str]]
    wheel: Callable[[], str]
    gpus: Callable[[], tuple[Gpu, ...]]
    missing: Callable[[Device], str]


def real() -> Tools:
    """Those of this machine."""
    from service import trial  # it brings ONNX Runtime, which `--device cpu` does not ask anything

    return Tools(trial.offered, trial.wheel, cuda.gpus, trial.missing)


@cache
def found(device: str = AUTO) -> Machine:
    """What ``--device`` comes to here; looked at once, and where ``auto`` cannot, it is logged.

    Raises:
        InvalidSetting: a GPU is asked for by name, and cannot be had: what to mend.
    """
    wanted = asked(device)
    if wanted.kind == CPU_KIND:
        return Machine()
    result = resolved(wanted, real())
    if result.why:
        log.warning("models run on the CPU: the GPU cannot be used", reason=result.why)
    return result


def resolved(wanted: Asked, tools: Tools) -> Machine:
    """What a wish comes to.

    Raises:
        InvalidSetting: as of ``found``.
    """
    if wanted.kind == CPU_KIND:
        return Machine()
    if wanted.kind != AUTO:
        return _named(wanted, tools)
    if CUDA not in tools.offered():
        return Machine()
    try:
        return _named(Asked(CUDA), tools)
    except InvalidSetting as error:
        return Machine(why=str(error).partition(": ")[2])


def _named(wanted: Asked, tools: Tools) -> Machine:
    said = f"--device {wanted.kind}"
    if wanted.kind not in tools.offered():
        raise InvalidSetting(f"{said}: the installed {tools.wheel()} is not built for it; {EXTRA}")
    try:
        gpus = {gpu.index: gpu for gpu in tools.gpus()}
    except CudaFailed as error:
        raise InvalidSetting(f"{said}: {error}") from error
    if not gpus:
        raise InvalidSetting(f"{said}: this process sees no GPU; look at CUDA_VISIBLE_DEVICES")
    for index in wanted.indices:
        if index not in gpus:
            there = ", ".join(f"{wanted.kind}:{each}" for each in gpus)
            raise InvalidSetting(f"{said}:{index}: there is no such GPU; there is {there}")
    devices = tuple(Device(wanted.kind, index) for index in wanted.indices or gpus)
    for device in devices:
        if why := tools.missing(device):
            raise InvalidSetting(f"--device {device}: {why}")
    return Machine(devices, tuple(gpus[device.index] for device in devices))


def _dotted(compute: tuple[int, int]) -> str:
    return ".".join(map(str, compute))
