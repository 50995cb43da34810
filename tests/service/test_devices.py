"""What ``--device`` says, and what is said of it."""

from __future__ import annotations

import pytest

from service.devices import CPU, Asked, Device, asked
from service.errors import InvalidSetting


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("auto", Asked("auto")),
        ("cpu", Asked("cpu")),
        ("cuda", Asked("cuda")),
        ("cuda:0", Asked("cuda", (0,))),
        ("cuda:3,1", Asked("cuda", (3, 1))),
        ("tensorrt:12", Asked("tensorrt", (12,))),
    ],
)
def test_device_is_read(text: str, wanted: Asked) -> None:
    assert asked(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "gpu", "cpu:0", "auto:1", "cuda:", "cuda:-1", "cuda:0,", "CUDA"]
)
def test_what_is_no_device_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"takes auto, cpu, cuda or tensorrt.*cuda:0,1"):
        asked(text)


def test_gpu_named_twice_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="names a GPU twice"):
        asked("cuda:1,1")


def test_device_is_said_as_it_is_asked_for() -> None:
    assert [str(CPU), str(Device("cuda", 1)), str(Device("tensorrt"))] == [
        "cpu",
        "cuda:1",
        "tensorrt:0",
    ]


def test_variants_for_gpus_are_meant_for_either_provider() -> None:
    assert [d.meant for d in (CPU, Device("cuda"), Device("tensorrt"))] == ["cpu", "gpu", "gpu"]
