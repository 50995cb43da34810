"""The serving image, built and run: small, read-only, nobody's root, and PID 1 that goes when told.

Needs root, and the Debian packages that `make debian` installs.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from tritonclient import grpc as triton

from tests import models
from tests.system.boxes import ROOT, Boxed, Image, boxed, buildah, run, unpacked
from tests.test_dockerfile import PROJECT, context

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MOST_MB = 260
LOOPBACK = (
    "FARTHING_HOST=127.0.0.1",
    "FARTHING_GRPC_PORT=0",
    "FARTHING_METRICS_PORT=0",
    "FARTHING_GRACE_S=0.5",
)
# Of programs and Python packages, anywhere that they are found from.
UNWANTED = re.compile(
    r"(usr/(local/)?s?bin/(pip[\d.]*|gcc|g\+\+|cc|c\+\+|clang|ld|make|.*-gcc(-\d+)?))|"
    r"(.*/(site|dist)-packages/(pip|setuptools|ensurepip|tensorflow|torch|keras|onnx|sklearn|"
    r"locust|gevent|typer))|(.*/lib/python3\.\d+/ensurepip)"
)
# Loading takes many times more.
IMPORTS_CPU_S = 4.0
PROMPTLY_S = 3.0


@pytest.fixture(scope="session")
def built() -> str:
    """What the verb prints when it builds the image with buildah."""
    done = subprocess.run(
        [ROOT / ".ci" / "image"], env=os.environ | {"ENGINE": "buildah"},
        capture_output=True, text=True, check=False, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="session")
def image(built: str) -> Iterator[Image]:
    with unpacked("localhost/farthing:cpu") as found:
        yield found


def infer(port: object) -> np.ndarray:
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        x = triton.InferInput("x", [2, 4], "FP32")
        x.set_data_from_numpy(np.arange(8, dtype=np.float32).reshape(2, 4))
        return client.infer("double", [x]).as_numpy("y")


def test_the_server_answers_on_a_tree_that_nobody_can_write_to(
    image: Image, double_repository: Path
) -> None:
    (image.tree / "models").mkdir(exist_ok=True)  # as a runtime makes what it mounts on
    before = image.files()
    with boxed(image, double_repository, *LOOPBACK) as box:
        port = box.ready()["grpc_port"]
        status = Path(f"/proc/{box.inner.pid}/status").read_text()
        np.testing.assert_array_equal(infer(port), 2 * np.arange(8).reshape(2, 4))
        box.inner.terminate()
        _, log = box.process.communicate(timeout=30)
    assert box.process.returncode == 0, log
    assert '"stopped"' in log
    assert '"finished": true' in log
    assert "Read-only" not in log
    assert image.files() == before
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(facts["Uid"].split() + facts["Gid"].split()) == {"10001"}
    assert facts["NSpid"].split()[-1] == "1"
    assert int(facts["CapEff"], 16) == 0


def test_the_box_would_refuse_even_root(image: Image, double_repository: Path) -> None:
    for place in ("/", "/tmp", "/models", "/opt/farthing", "/dev"):
        code, told = run(image, double_repository, f"touch {place}/written", user="0:0")
        assert code != 0
        assert "Read-only file system" in told


def test_nothing_is_inside_that_serving_does_not_need(
    image: Image, double_repository: Path
) -> None:
    assert [name for name in image.files() if UNWANTED.fullmatch(name)] == []
    assert UNWANTED.fullmatch("usr/bin/x86_64-linux-gnu-gcc-12")
    code, told = run(image, double_repository, "/opt/farthing/bin/python -m pip --version")
    assert code != 0
    assert "No module named pip" in told


def test_tracing_can_be_switched_on(image: Image, double_repository: Path) -> None:
    line = "import opentelemetry.sdk.trace, opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
    code, told = run(image, double_repository, f"/opt/farthing/bin/python -c '{line}'")
    assert (code, told) == (0, "")


def test_the_image_says_what_it_is(image: Image, built: str) -> None:
    assert image.config["User"] == "10001:10001"
    assert image.config["StopSignal"] == "SIGTERM"
    assert "ORT_DISABLE_TELEMETRY=1" in image.config["Env"]
    assert image.command == ["/opt/farthing/bin/farthing", "serve", "/models"]
    labels = image.config["Labels"]
    assert labels["org.opencontainers.image.version"] == PROJECT["version"]
    assert labels["org.opencontainers.image.licenses"] == PROJECT["license"]
    head = subprocess.run(
        ["git", "log", "--format=%H", "-50"], cwd=ROOT, capture_output=True, text=True, check=True
    )  # others may have committed since
    revision = labels["org.opencontainers.image.revision"].removesuffix("-dirty")
    assert revision in head.stdout.split()
    (size,) = re.findall(r"is (\d+) MB above its base", built)
    assert 50 < int(size) <= MOST_MB


def test_bytecode_is_there_since_nobody_could_write_it_later(image: Image) -> None:
    (cached,) = image.tree.glob("opt/farthing/lib/python3.*/site-packages/service/__pycache__")
    assert any(path.name.startswith("server.") for path in cached.iterdir())
    assert not list(image.tree.glob("opt/farthing/lib/python3.*/site-packages/numpy/**/tests"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pid_1_goes_when_told_while_models_load(
    image: Image, tmp_path: Path, number: signal.Signals
) -> None:
    models.long_to_load(tmp_path / "models" / "folding" / "1" / "model.onnx")
    with boxed(image, tmp_path / "models", *LOOPBACK) as box:
        until_loading(box)
        box.inner.send_signal(number)
        told, log = box.process.communicate(timeout=PROMPTLY_S)
    assert (box.process.returncode, told) == (130, ""), log
    assert "interrupted while loading models" in log


def until_loading(box: Boxed) -> None:
    """Wait until the process has worked for longer than imports take."""
    while box.process.poll() is None and sum(box.inner.cpu_times()[:2]) < IMPORTS_CPU_S:
        time.sleep(0.02)
    assert box.inner.status() != psutil.STATUS_ZOMBIE


def test_the_builder_is_sent_what_it_needs_and_no_more(tmp_path: Path) -> None:
    recipe = tmp_path / "Dockerfile"
    recipe.write_text("FROM scratch\nCOPY . /\n")
    buildah(
        "bud", "--quiet", "--isolation", "chroot", "--pull=never", "--file", str(recipe),
        "--ignorefile", str(ROOT / ".dockerignore"), "--tag", "farthing-context:test", str(ROOT),
    )  # fmt: skip
    try:
        container = buildah("from", "--pull=never", "localhost/farthing-context:test")
        try:
            tree = Path(buildah("mount", container))
            sent = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
        finally:
            buildah("rm", container)
    finally:
        buildah("rmi", "localhost/farthing-context:test")
    untracked = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert sent - set(untracked) == context()


def test_the_verb_names_the_targets_there_are() -> None:
    done = subprocess.run(
        [ROOT / ".ci" / "image", "tpu"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == ("there is no target 'tpu': choose cpu, gpu, convert or loadtest\n")
