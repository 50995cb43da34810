"""Pure: where sessions run, and what ``--device`` says about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from service.errors import InvalidSetting

AUTO, CPU_KIND, CUDA, TENSORRT = "auto", "cpu", "cuda", "tensorrt"
_ASKED = re.compile(r"(auto|cpu)|(cuda|tensorrt)(?::([0-9]{1,3}(?:,[0-9]{1,3})*))?")


@dataclass(frozen=True)
class Device:
    """Where a session runs.

    Attributes:
        kind: ``cpu``, ``cuda`` or ``tensorrt``.
        index: of the GPU, as CUDA counts those that this process sees; 0 on a CPU.
    """

    kind: str = CPU_KIND
    index: int = 0

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, whichever provider runs the model there."""
        return self.kind != CPU_KIND

    @property
    def meant(self) -> str:
        """Which variants are meant for it: ``Variant.device``."""
        return "gpu" if self.is_gpu else CPU_KIND

    def __str__(self) -> str:
        """As ``--device`` takes it, e.g. ``cuda:0``."""
        return f"{self.kind}:{self.index}" if self.is_gpu else self.kind


CPU = Device()


@dataclass(frozen=True)
class Asked:
    """What ``--device`` says.

    Attributes:
        kind: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``.
        indices: of GPUs; empty for all that this process sees.
    """

    kind: str
    indices: tuple[int, ...] = ()

    def __str__(self) -> str:
        """As ``--device`` takes it, e.g. ``cuda:0,1``."""
        return f"{self.kind}:{','.join(map(str, self.indices))}".removesuffix(":")


def asked(text: str, said: str = "--device") -> Asked:
    """Read ``auto``, ``cpu``, ``cuda``, ``cuda:0``, ``cuda:0,1``; and ``tensorrt`` likewise.

    Args:
        text: the option's value.
        said: what to call it in the message.

    Raises:
        InvalidSetting: it is none of these, or names a GPU twice.
    """
    match = _ASKED.fullmatch(text)
    if match is None:
        raise InvalidSetting(
            f"{said} is '{text}'; it takes auto, cpu, cuda or tensorrt, the last two also with "
            "GPUs, such as cuda:0 or cuda:0,1"
        )
    indices = tuple(int(index) for index in (match[3] or "").split(",") if index)
    if len(set(indices)) < len(indices):
        raise InvalidSetting(f"{said} is '{text}', which names a GPU twice")
    return Asked(match[1] or match[2], indices)
