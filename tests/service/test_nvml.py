"""What NVIDIA's management library tells, and what is made of its silence."""

from __future__ import annotations

import os
from typing import Any

import pynvml
import pytest

from service import nvml
from service.nvml import NvmlFailed, Reading
from tests.cards import MIB, FakeNvml

HEAT = pynvml.nvmlClocksEventReasonSwThermalSlowdown
IDLE = pynvml.nvmlClocksEventReasonGpuIdle
CAP = pynvml.nvmlClocksEventReasonSwPowerCap


def reading(library: FakeNvml) -> Reading:
    (card,) = nvml.cards([(3, "GPU-0")], library)
    assert (card.index, card.uuid, card.name) == (3, "GPU-0", "NVIDIA T4")
    return card.read()


def test_figures_come_in_our_units() -> None:
    assert reading(FakeNvml(pid=os.getpid(), bits=HEAT | CAP | IDLE)) == Reading(
        busy=0.73, memory_bytes=1024 * MIB, memory_used_bytes=256 * MIB, own_bytes=128 * MIB,
        power_w=250.5, power_limit_w=700.0, energy_j=1234.5, celsius=61.0,
        slowed=("power", "heat"), ecc_errors=2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("function", "figures"),
    [
        ("nvmlDeviceGetUtilizationRates", ("busy",)),
        ("nvmlDeviceGetMemoryInfo", ("memory_bytes", "memory_used_bytes")),
        ("nvmlDeviceGetComputeRunningProcesses", ("own_bytes",)),
        ("nvmlDeviceGetPowerUsage", ("power_w",)),
        ("nvmlDeviceGetEnforcedPowerLimit", ("power_limit_w",)),
        ("nvmlDeviceGetTotalEnergyConsumption", ("energy_j",)),
        ("nvmlDeviceGetTemperature", ("celsius",)),
        ("nvmlDeviceGetCurrentClocksEventReasons", ("slowed",)),
        ("nvmlDeviceGetTotalEccErrors", ("ecc_errors",)),
    ],
)
def test_what_a_card_does_not_support_is_absent_and_the_rest_is_there(
    function: str, figures: tuple[str, ...]
) -> None:
    assert reading(FakeNvml(pid=os.getpid(), lacks={function})).missing == figures


class Odd(FakeNvml):
    """A library that answers what nobody can understand, or has other names than ours."""

    def nvmlDeviceGetPowerUsage(self, handle: str) -> Any:
        return None

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> Any:
        raise AttributeError("NVML_TEMPERATURE_GPU")

    def nvmlDeviceGetTotalEccErrors(self, handle: str, kind: int, counter: int) -> Any:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


def test_answers_that_cannot_be_understood_are_absent_and_the_rest_is_there() -> None:
    assert reading(Odd(pid=os.getpid())).missing == ("power_w", "celsius", "ecc_errors")


def test_library_of_another_kind_is_one_sentence() -> None:
    with pytest.raises(NvmlFailed, match=r"cannot be watched, since .*: no such thing"):
        nvml.cards([(0, "GPU-0")], FakeNvml(init=AttributeError("no such thing")))


def test_card_without_a_name_is_told_by_the_rest() -> None:
    (card,) = nvml.cards([(0, "GPU-0")], FakeNvml(lacks={"nvmlDeviceGetName"}))
    assert card.name == ""


def test_process_that_the_library_does_not_see_has_no_memory_of_its_own() -> None:
    assert reading(FakeNvml(pid=-2)).missing == ("own_bytes",)


def test_slice_of_a_card_is_found_by_cudas_id() -> None:
    (card,) = nvml.cards([(0, "GPU-7")], FakeNvml(uuid="MIG-7"))
    assert card.read().memory_bytes == 1024 * MIB


def test_missing_library_is_one_sentence() -> None:
    library = FakeNvml(init=pynvml.NVMLError_LibraryNotFound())
    with pytest.raises(NvmlFailed, match=r"cannot be watched, since .*: NVML Shared Library Not"):
        nvml.cards([(0, "GPU-0")], library)


def test_unknown_gpu_is_one_sentence() -> None:
    with pytest.raises(NvmlFailed, match=r"cannot be watched, since .*: Not Found"):
        nvml.cards([(0, "GPU-1")], FakeNvml())
