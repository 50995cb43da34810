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

OLD = Gpu(3, "Old", "GPU-3", 2**30, (6, 1))


@dataclass
class Pretended:
    """A machine with these cards, or what its parts say.

    Attributes:
        bad: indices of those that ``missing`` is said of; None for all.
        tried: devices that ONNX Runtime was tried on.
    """

    offered: tuple[str, ...] = ("cuda", "tensorrt")
    cards: tuple[Gpu, ...] = CARDS
    driver: str = ""
    missing: str = ""
    lost: str = ""
    bad: tuple[int, ...] | None = None
    tried: list[Device] = field(default_factory=list)

    def gpus(self) -> tuple[Gpu, ...]:
        if self.driver:
            raise CudaFailed(self.driver)
        return self.cards

    def try_on(self, device: Device) -> str:
        self.tried.append(device)
        return self.missing if self.bad is None or device.index in self.bad else ""

    def resolved(self, said: str) -> Machine:
        tools = Tools(lambda: self.offered, lambda: "onnxruntime 9", self.gpus, self.try_on,
                      lambda: self.lost)  # fmt: skip
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
        (Pretended(offered=(), lost="both are there"), "cuda", "--device cuda: both are there"),
        (Pretended(driver="no driver"), "cuda:1", "--device cuda:1: no driver"),
        (Pretended(cards=()), "cuda", "sees no GPU; look at CUDA_VISIBLE_DEVICES"),
        (Pretended(), "cuda:1,7", r"no GPU 7; there is cuda:0, cuda:1, cuda:2"),
        (Pretended(missing="libcudnn is gone"), "cuda:1", "cuda:1: libcudnn is gone"),
        (Pretended(missing="it is full", bad=(2,)), "cuda", "--device cuda: cuda:2: it is full"),
        (
            Pretended(cards=(OLD,)),
            "cuda",
            r"Old has compute capability 6\.1, and CUDA 13 needs 7\.5",
        ),
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
        (Pretended(cards=()), "this process sees no GPU; look at CUDA_VISIBLE_DEVICES"),
        (Pretended(offered=(), lost="a driver, and a wheel for CPUs"),
         "a driver, and a wheel for CPUs"),
        (Pretended(offered=()), ""),
    ],
)  # fmt: skip
def test_auto_takes_the_cpu_and_says_why_where_a_gpu_might_be_expected(
    here: Pretended, why: str
) -> None:
    found = here.resolved("auto")
    assert (found.devices, found.gpus, found.why) == ((CPU,), (), why)


def test_auto_leaves_out_the_gpus_that_cannot_be_used_and_names_them() -> None:
    here = Pretended(cards=(*CARDS, OLD), missing="its memory is full", bad=(1,))
    found = here.resolved("auto")
    assert [str(device) for device in found.devices] == ["cuda:0", "cuda:2"]
    assert [gpu.index for gpu in found.gpus] == [0, 2] and not found.why
    full, old, mixed = found.notes
    assert "left out: cuda:1: its memory is full" in full and "cuda:3: Old has compute" in old
    assert Device("cuda", 3) not in here.tried
    assert "several kinds" in mixed and "H, L" in mixed


def test_gpus_of_one_kind_are_taken_without_a_word() -> None:
    assert not Pretended().resolved("cuda:0,1").notes
    assert "several kinds" in Pretended().resolved("cuda:0,2").notes[0]


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
