"""The GPU that these tests are about, or the CPU in its place for what runs there as well.

`make gpu-check` runs them, `--gpu N` of its options too. `--stand-in` runs on a CPU what needs no
GPU to be executed, so that a borrowed GPU is the first to run only what that skips, and what lies
behind it: CUDA's runtime (service/cuda.py), NVML, the providers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.bench.gpu import graphs, scales
from service import cuda
from service.cuda import Cuda, CudaFailed, Gpu
from service.devices import CPU, CUDA, Device

STAND_IN, NUMBER = "--stand-in", "--gpu"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(STAND_IN, action="store_true", help="run on the CPU what runs there")
    parser.addoption(NUMBER, type=int, default=0, help="which GPU, as CUDA counts them")


def stands_in(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption(STAND_IN, default=False))


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest) -> Gpu:
    """The GPU that was asked for, and no other."""
    if stands_in(request):
        pytest.skip("needs a GPU, for which nothing stands in")
    try:
        found = {each.index: each for each in cuda.gpus()}
    except CudaFailed as error:
        pytest.skip(str(error))
    number = request.config.getoption(NUMBER, default=0)
    if number not in found:
        pytest.fail(f"there is no GPU {number} among those that CUDA counts: {sorted(found)}")
    return found[number]


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Device:
    """Where sessions run."""
    return CPU if stands_in(request) else Device(CUDA, request.getfixturevalue("gpu").index)


@pytest.fixture(scope="session")
def memory(gpu: Gpu) -> Cuda:
    """The GPU's memory."""
    return Cuda(gpu.index)


@pytest.fixture(scope="session")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small graphs: a ResNet on bytes and an encoder of texts, each in fp32 and fp16."""
    folder, toy = tmp_path_factory.mktemp("nets"), scales.TOY
    return {
        f"{kind} {precision}": (
            graphs.resnet(folder / f"{kind}-{precision}.onnx", precision, toy.image)
            if kind == "resnet"
            else graphs.encoder(folder / f"{kind}-{precision}.onnx", precision, toy.text)
        )
        for kind in ("resnet", "encoder")
        for precision in ("fp32", "fp16")
    }
