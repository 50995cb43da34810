"""What this process runs models on, found once; or the sentence that says what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from service import cuda, hardware, log, wheels
from service.cuda import CudaFailed, Gpu
from service.devices import AUTO, CPU, CPU_KIND, CUDA, Asked, Device, asked
from service.errors import InvalidSetting

# What CUDA 13 has kernels for: Turing and later (its release notes).
_LEAST_COMPUTE = (7, 5)
_NONE_SEEN = "this process sees no GPU; look at CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Machine:
    """Where models run, unless their own config.pbtxt says otherwise.

    Attributes:
        devices: one or more GPUs with one provider, or the CPU.
        gpus: of them, in the same order; empty for the CPU.
        why: ``auto`` took the CPU though there is a reason to expect a GPU; else empty.
        notes: sentences on GPUs that are left out, or that do not go well together.
    """

    devices: tuple[Device, ...] = (CPU,)
    gpus: tuple[Gpu, ...] = ()
    why: str = ""
    notes: tuple[str, ...] = ()

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
        lost: why a GPU might be expected where none is offered; empty where there is no reason.
    """

    offered: Callable[[], Sequence[str]]
    wheel: Callable[[], str]
    gpus: Callable[[], tuple[Gpu, ...]]
    missing: Callable[[Device], str]
    lost: Callable[[], str] = str


def real() -> Tools:
    """Those of this machine."""
    from service import trial  # it brings ONNX Runtime, which `--device cpu` does not ask anything

    return Tools(
        trial.offered, trial.wheel, cuda.gpus, trial.missing, lambda: wheels.lost(trial.wheel())
    )


@cache
def found(device: str = AUTO) -> Machine:
    """What ``--device`` comes to here; looked at once, and where ``auto`` cannot, it is logged.

    Raises:
        InvalidSetting: a GPU is asked for by name, and cannot be had, or ONNX Runtime's files are
            gone: what to mend.
    """
    wanted = asked(device)
    if why := wheels.damaged():
        raise InvalidSetting(why)
    if wanted.kind == CPU_KIND:
        return Machine()
    result = resolved(wanted, real())
    if result.why:
        log.warning(f"models run on the CPU: the GPU cannot be used: {result.why}")
    for note in result.notes:
        log.warning(note)
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
        return Machine(why=tools.lost())
    try:
        gpus = tools.gpus()
    except CudaFailed as error:
        return Machine(why=str(error))
    lacks = {gpu: _lacks(Device(CUDA, gpu.index), gpu, tools) for gpu in gpus}
    taken = tuple(gpu for gpu in gpus if not lacks[gpu])
    told = [f"cuda:{gpu.index}: {why}" for gpu, why in lacks.items() if why]
    if not taken:
        return Machine(why="; ".join(dict.fromkeys(lacks.values())) or _NONE_SEEN)
    left = tuple(f"a GPU is left out: {sentence}" for sentence in told)
    return _of(CUDA, taken, left)


def _named(wanted: Asked, tools: Tools) -> Machine:
    said = f"--device {wanted}"
    if wanted.kind not in tools.offered():
        why = tools.lost() or f"the installed {tools.wheel()} is not built for it; {wheels.EXTRA}"
        raise InvalidSetting(f"{said}: {why}")
    try:
        gpus = {gpu.index: gpu for gpu in tools.gpus()}
    except CudaFailed as error:
        raise InvalidSetting(f"{said}: {error}") from error
    if not gpus:
        raise InvalidSetting(f"{said}: {_NONE_SEEN}")
    for index in wanted.indices:
        if index not in gpus:
            there = ", ".join(f"{wanted.kind}:{each}" for each in gpus)
            raise InvalidSetting(f"{said}: there is no GPU {index}; there is {there}")
    taken = tuple(gpus[index] for index in wanted.indices or gpus)
    for gpu in taken:
        device = Device(wanted.kind, gpu.index)
        if why := _lacks(device, gpu, tools):
            raise InvalidSetting(f"{said}: {device}: {why}")
    return _of(wanted.kind, taken)


def _lacks(device: Device, gpu: Gpu, tools: Tools) -> str:
    """What keeps models from a GPU; empty where nothing does."""
    if gpu.compute < _LEAST_COMPUTE:
        return (f"{gpu.name} has compute capability {_dotted(gpu.compute)}, and CUDA 13 needs "
                f"{_dotted(_LEAST_COMPUTE)} (Turing) or later")  # fmt: skip
    return tools.missing(device)


def _of(kind: str, gpus: tuple[Gpu, ...], notes: tuple[str, ...] = ()) -> Machine:
    names = dict.fromkeys(gpu.name for gpu in gpus)
    if len(names) > 1:
        notes += (f"these GPUs are of several kinds, and each gets as many batches: "
                  f"{', '.join(names)}; name those of one kind, e.g. --device {kind}:"
                  f"{gpus[0].index}",)  # fmt: skip
    return Machine(tuple(Device(kind, gpu.index) for gpu in gpus), gpus, notes=notes)


def _dotted(compute: tuple[int, int]) -> str:
    return ".".join(map(str, compute))
