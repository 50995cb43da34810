"""What --device comes to on a machine with GPUs, without, and with parts missing."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from service import hardware, machine
from service.cuda import CudaFailed, Gpu
from service.devices import CPU, Device, asked
from service.errors import InvalidSetting
from service.machine import Machine, Tools

CARDS = tuple(
    Gpu(index, name, f"GPU-{index}", 80 * 2**30, compute)
    for index, (name, compute) in enumerate([("H", (9, 0)), ("H", (9, 0)), ("L", (8, 9))])
)


@dataclass
class Pretended:
    """A machine with these cards, or what its parts say.

    Attributes:
        tried: devices that ONNX Runtime was tried on.
    """

    offered: tuple[str, ...] = ("cuda", "tensorrt")
    cards: tuple[Gpu, ...] = CARDS
    driver: str = ""
    missing: str = ""
    tried: list[Device] = field(default_factory=list)

    def gpus(self) -> tuple[Gpu, ...]:
        if self.driver:
            raise CudaFailed(self.driver)
        return self.cards

    def try_on(self, device: Device) -> str:
        self.tried.append(device)
        return self.missing

    def resolved(self, said: str) -> Machine:
        tools = Tools(lambda: self.offered, lambda: "onnxruntime 9", self.gpus, self.try_on)
        return machine.resolved(asked(said), tools)


@pytest.mark.parametrize(
    ("said", "devices"),
    [
        ("auto", [Device("cuda", 0), Device("cuda", 1), Device("cuda", 2)]),
        ("cuda", [Device("cuda", 0), Device("cuda", 1), Device("cuda", 2)]),
        ("cuda:2,0", [Device("cuda", 2), Device("cuda", 0)]),
        ("tensorrt:1", [Device("tensorrt", 1)]),
        ("cpu", [CPU]),
    ],
)
def test_devices_are_those_asked_for_and_each_is_tried(said: str, devices: list[Device]) -> None:
    here = Pretended()
    found = here.resolved(said)
    assert list(found.devices) == devices
    assert here.tried == [device for device in devices if device.is_gpu]
    assert [gpu.index for gpu in found.gpus] == [device.index for device in here.tried]


@pytest.mark.parametrize(
    ("here", "said", "sentence"),
    [
        (Pretended(offered=()), "cuda", r"--device cuda: .*onnxruntime 9 is not built.*farthing\["),
        (Pretended(offered=("cuda",)), "tensorrt", "--device tensorrt: .* is not built for it"),
        (Pretended(driver="no driver"), "cuda:1", "--device cuda: no driver"),
        (Pretended(cards=()), "cuda", "sees no GPU; look at CUDA_VISIBLE_DEVICES"),
        (Pretended(), "cuda:1,7", r"cuda:7: there is no such GPU; there is cuda:0, cuda:1, cuda:2"),
        (Pretended(missing="libcudnn is gone"), "cuda:1", "--device cuda:1: libcudnn is gone"),
    ],
)
def test_gpu_that_is_named_and_not_there_is_refused_with_what_is_missing(
    here: Pretended, said: str, sentence: str
) -> None:
    with pytest.raises(InvalidSetting, match=sentence):
        here.resolved(said)


@pytest.mark.parametrize(
    ("here", "why"),
    [
        (Pretended(driver="no driver"), "no driver"),
        (Pretended(missing="libcudnn is gone"), "libcudnn is gone"),
        (Pretended(offered=()), ""),
    ],
)
def test_auto_takes_the_cpu_and_says_why_where_the_wheel_could_do_more(
    here: Pretended, why: str
) -> None:
    found = here.resolved("auto")
    assert (found.devices, found.gpus, found.why) == ((CPU,), (), why)


def test_cpu_asks_nothing_of_any_gpu() -> None:
    here = Pretended(driver="no driver")
    assert here.resolved("cpu") == Machine() and not here.tried


def test_fingerprint_tells_kinds_of_gpus_and_providers_apart_and_not_their_number() -> None:
    here = Pretended()
    one, two, all_three = (here.resolved(said) for said in ("cuda:0", "cuda:0,1", "cuda"))
    assert one.fingerprint() == two.fingerprint() == "H, compute 9.0, cuda"
    assert all_three.fingerprint() == "H, compute 9.0 and L, compute 8.9, cuda"
    assert all_three.fingerprint([Device("tensorrt", 2)]) == "L, compute 8.9, tensorrt"
    assert [one.units(), two.units(), all_three.units()] == [1, 2, 3]


def test_model_that_runs_on_the_cpu_has_the_cpus_fingerprint_beside_gpus_too() -> None:
    here = Pretended().resolved("cuda")
    assert here.fingerprint([CPU]) == hardware.fingerprint() == Machine().fingerprint()
    assert here.units([CPU]) == hardware.cpus() == Machine().units()
