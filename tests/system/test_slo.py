"""`farthing slo` against our own server, and against one that has nothing but the v2 wire."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from loadtests import profile
from service import hardware
from service.proto import inference_pb2 as pb
from tests import models
from tests.system.servers import farthing, serving

# Short, and such that hardly any run is void or too short to confirm, whatever else runs here.
COMMON = ("--model", "net", "--percentile", "90=300ms", "--success", "0.9", "--deadline-ms", "1000",
          "--price", "aws-c7i.xlarge", "--cpus", "2", "--json")  # fmt: skip


def slo(target: str, *options: str, code: int = 0) -> dict[str, Any]:
    done = farthing("slo", "--target", target, *COMMON, *options)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Foreign(grpc.GenericRpcHandler):
    """A v2 server of somebody else: one run of 8 ms at a time, no ModelConfig, no statistics."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self._answers = {
            "ServerMetadata": (pb.ServerMetadataRequest, self._server),
            "ModelMetadata": (pb.ModelMetadataRequest, self._model),
            "ModelInfer": (pb.ModelInferRequest, self._infer),
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        name = details.method.rpartition("/")[2]
        if name not in self._answers:
            return None
        request, answer = self._answers[name]
        return grpc.unary_unary_rpc_method_handler(
            lambda asked, _: answer(asked),
            request.FromString,
            lambda made: made.SerializeToString(),
        )

    def _server(self, _: Any) -> Any:
        return pb.ServerMetadataResponse(name="elsewhere", version="7")

    def _model(self, _: Any) -> Any:
        tensor = pb.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 4])
        return pb.ModelMetadataResponse(name="net", inputs=[tensor], outputs=[tensor])

    def _infer(self, request: Any) -> Any:
        self.called.set()
        time.sleep(0.008)
        response = pb.ModelInferResponse(model_name="net")
        response.outputs.add(name="x", datatype="FP32", shape=request.inputs[0].shape)
        response.raw_output_contents.extend(request.raw_input_contents)
        return response


@contextmanager
def foreign(what: Foreign | None = None) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1), handlers=[what or Foreign()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0)


@pytest.mark.slow
def test_a_foreign_server_is_void_until_its_user_says_what_it_does_not_tell(tmp_path: Path) -> None:
    file = tmp_path / "theirs.onnx"
    file.write_bytes(b"theirs")
    with foreign() as target:
        untold = slo(target, "--quick", "--budget-s", "14")
        told = slo(
            target, "--quick", "--budget-s", "14", "--variant", "fp32", "--accuracy-change", "0",
            "--model-file", str(file), "--hardware", "their machine",
        )  # fmt: skip
    assert untold["usd_per_million"] is None and untold["rate"] > 0
    assert untold["void"] == ["the variant", "the model's digest", "the accuracy change"]
    assert (untold["runs"], untold["phases"], untold["bill"]) == ({}, None, None)
    assert told["void"] == []
    assert told["usd_per_million"] == pytest.approx(1e6 * (0.1785 / 2) / (3600 * told["rate"]))
    assert told["subject"]["server"] == "elsewhere 7"
    assert told["conditions"]["hardware"] == "their machine"
    # One run of 8 ms at a time.
    assert told["rate"] < 125


@pytest.mark.slow
def test_our_own_server_is_priced_with_levels_runs_phases_and_its_ledger(tmp_path: Path) -> None:
    models.classifier(tmp_path / "models" / "net" / "1" / "model.onnx", channels=128)
    saved = tmp_path / "net.json"
    with serving(tmp_path / "models", log=tmp_path / "log") as served:
        begun = time.perf_counter()
        found = slo(
            served.grpc, "--budget-s", "30", "--metrics", served.metrics, "--accuracy-change", "0",
            "--save-profile", str(saved),
        )  # fmt: skip
        took_s = time.perf_counter() - begun
    assert found["void"] == []
    assert found["usd_per_million"] == pytest.approx(1e6 * (0.1785 / 2) / (3600 * found["rate"]))
    # Of the rate that the search found; levels that held may have raised it.
    searched = 4 * found["levels"][0]["rate"]
    shares = [level["rate"] / searched for level in found["levels"]]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 0.9, 1.5, 2.0, 4.0])
    assert {"1", "2", "4", "8"} <= set(found["runs"])
    assert set(found["phases"]) == {"decode", "queue", "assembly", "run", "encode", "request"}
    seconds = sum(level["seen"]["seconds"] for level in found["levels"])
    bill = found["bill"]
    assert bill["busy"] > 0 and bill["idle"] > 0
    # While the levels ran, and calls ended after them: all cores, to the tenth of a percent.
    paid = found["paid_core_s"]
    assert sum(bill.values()) == pytest.approx(paid, rel=1e-3)
    cores = hardware.cpus()
    assert cores * seconds <= paid <= cores * took_s
    assert found["span_s"] * cores == pytest.approx(paid, rel=1e-2)
    read = profile.read(saved)
    assert read.to_dict() == found
    assert read.subject.memory_bytes and read.subject.memory_bytes > 10_000_000


def test_an_interrupt_leaves_no_file_and_says_so(tmp_path: Path) -> None:
    what = Foreign()
    with foreign(what) as target, subprocess.Popen(
        [sys.executable, "-m", "farthing", "slo", "--target", target, "--model", "net",
         "--p99", "1s", "--save-profile", str(tmp_path / "p.json")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert what.called.wait(30)
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; nothing was written" in log and "Traceback" not in log
    assert list(tmp_path.iterdir()) == []


def test_an_slo_that_holds_at_no_rate_ends_with_1_and_says_why() -> None:
    with foreign() as target:
        done = farthing("slo", "--target", target, "--model", "net", "--p99", "1ms",
                        "--budget-s", "6")  # fmt: skip
    assert done.returncode == 1
    assert "was confirmed at no rate: one caller alone waits" in " ".join(done.stdout.split())
    assert "searching" not in done.stdout + done.stderr  # it is shown on terminals only
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_what_a_price_will_lack_is_warned_of_before_the_search() -> None:
    given = ("--variant", "fp32", "--price", "aws-c7i.xlarge", "--hardware", "theirs")
    with foreign() as target, subprocess.Popen(
        [sys.executable, "-m", "farthing", "slo", "--target", target, "--model", "net",
         "--p99", "1s", *given],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = next((line for line in process.stderr if line.startswith("warning")), "")
        process.send_signal(signal.SIGINT)
        table, _ = process.communicate(timeout=30)
    assert table == "", "it was said before anything was found"
    assert said.startswith("warning: no dollars without the model's digest (--model-file), the acc")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--p99", "100"), "'100' is no length of time; give it as 100ms or 2s"),
        (("--p99", "0ms"), "is no length of time"),
        ((), "give one of --p99 LIMIT and --percentile P=LIMIT"),
        (("--p99", "1s", "--percentile", "95=1s"), "give one of --p99"),
        (("--percentile", "101=1s"), "is no percentile"),
        (("--p99", "1s", "--price", "mine"), "there is no price 'mine'"),
        (("--p99", "1s", "--rows-file", "missing.npz"), "missing.npz does not exist"),
        (("--p99", "1s", "--save-profile", "/nowhere/x.json"), "/nowhere/x.json cannot be written"),
        (("--p99", "1s", "--model-file", "missing.onnx"), "missing.onnx cannot be read"),
    ],
)
def test_what_must_be_mended_is_said_before_anything_is_measured(
    options: tuple[str, ...], said: str
) -> None:
    done = farthing("slo", "--target", "127.0.0.1:9", "--model", "net", *options)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1


def test_a_target_that_is_not_there_is_said_in_a_sentence() -> None:
    done = farthing("slo", "--target", "127.0.0.1:9", "--model", "net", "--p99", "1s")
    assert done.returncode == 2
    assert "nothing answers at 127.0.0.1:9" in done.stderr


def test_prices_are_listed_within_a_hundred_columns_and_as_json() -> None:
    table, plain = farthing("prices"), farthing("prices", "--json")
    assert table.returncode == plain.returncode == 0
    assert all(len(line) <= 100 for line in table.stdout.splitlines())
    assert "aws-c7i.2xlarge" in table.stdout
    assert {"id", "date", "source", "accelerators"} <= set(json.loads(plain.stdout)[0])
