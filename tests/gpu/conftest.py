"""The GPU that these tests are about, or the CPU in its place for what runs there as well.

`make gpu-check` runs them. `--stand-in` runs on a CPU what needs no GPU to be executed, so that no
line of these tests but the provider is run for the first time on a borrowed GPU.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.bench.gpu import graphs, scales
from service import cuda
from service.cuda import Cuda, CudaFailed, Gpu
from service.devices import CPU, CUDA, Device

STAND_IN = "--stand-in"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(STAND_IN, action="store_true", help="run on the CPU what runs there")


def stands_in(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption(STAND_IN, default=False))


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest) -> Gpu:
    """The first GPU of this machine."""
    if stands_in(request):
        pytest.skip("needs a GPU, for which nothing stands in")
    try:
        found = cuda.gpus()
    except CudaFailed as error:
        pytest.skip(str(error))
    return found[0]


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
