"""A GPU that fell over is told once, and only where the GPU itself says so."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import pytest

from service import fallen
from service.cuda import CudaFailed, Move
from service.errors import InferenceFailed
from service.fallen import GUARD, Guard
from tests.memory import HostMemory
from tests.service.stage import Stage, submit

STICKY = "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; expr=cudaMemcpy"


class Fallen(HostMemory):
    """Answers every call with the error that it keeps."""

    def copies(self, moves: Sequence[Move], stream: int = 0) -> None:
        raise CudaFailed("the CUDA runtime answers cudaErrorIllegalAddress")


@pytest.mark.parametrize(
    "said",
    [STICKY, "CUDA failure 719: unspecified launch failure", "CUDA failure 214: ECC",
     "the CUDA runtime answers cudaErrorIllegalAddress"],
)  # fmt: skip
def test_error_that_lasts_is_told_once(said: str, lines: io.StringIO) -> None:
    guard, told = Guard(), []
    guard.arm(lambda: fallen.asked([HostMemory(), Fallen()]), lambda: told.append(1))
    guard.heard(RuntimeError(said))
    guard.heard(RuntimeError(said))
    assert told == [1] and lines.getvalue().count("a GPU fell over") == 1
    assert "cudaErrorIllegalAddress" in lines.getvalue()


@pytest.mark.parametrize(
    "said", ["CUDA failure 2: out of memory", "invalid shape", "CUDA failure 7000: no such error"]
)
def test_error_that_passes_asks_no_gpu(said: str) -> None:
    guard, asked = Guard(), []
    guard.arm(lambda: asked.append(1) or "", lambda: asked.append(2))
    guard.heard(RuntimeError(said))
    assert not asked


def test_text_of_a_caller_in_an_error_brings_nobody_down() -> None:
    guard, told, gpu = Guard(), [], HostMemory()
    guard.arm(lambda: fallen.asked([gpu]), lambda: told.append(1))
    guard.heard(ValueError(f"could not convert '{STICKY}'"))
    assert not told and not gpu.streams
    guard.arm(lambda: fallen.asked([Fallen()]), lambda: told.append(1))
    guard.heard(RuntimeError(STICKY))
    assert told == [1]


@pytest.fixture
def told() -> Iterator[list[int]]:
    found: list[int] = []
    GUARD.arm(lambda: "it fell", lambda: found.append(1))
    yield found
    GUARD.disarm()


async def test_run_of_a_batcher_that_fails_for_good_is_heard_of(
    stage: Stage, told: list[int]
) -> None:
    def run(_: object) -> dict[str, object]:
        raise RuntimeError(STICKY)

    with pytest.raises(InferenceFailed):
        await submit(stage.batcher(run), 1.0)
    assert told == [1]


def test_nothing_is_heard_where_there_are_no_gpus(lines: io.StringIO) -> None:
    GUARD.heard(RuntimeError(STICKY))
    assert not lines.getvalue()
