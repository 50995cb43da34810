"""Connections that end at their age: no call is lost by it, and a server that leaves is left."""

from __future__ import annotations

import json
import resource
import signal
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
import pytest

from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.system.servers import serving
from tests.system.strangers import numbers, slow, wait_until_running
from tests.system.test_drain import Feed, row

# Neither health checks nor retries: what fails is seen.
ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
RATE = 200


@dataclass
class Load:
    """How calls ended, and the local ends of the connections that were seen meanwhile."""

    endings: Counter[grpc.StatusCode] = field(default_factory=Counter)
    connections: set[int] = field(default_factory=set)


@contextmanager
def loaded(*targets: str) -> Iterator[Load]:
    """Calls at a steady rate, whatever becomes of them, over all targets in turn, until the end."""
    seen, over = Load(), threading.Event()
    ports = {int(target.rpartition(":")[2]) for target in targets}
    options = [("grpc.service_config", ROUND_ROBIN), ("grpc.use_local_subchannel_pool", 1)]

    def one() -> None:
        try:
            stub.ModelInfer(row(), timeout=20)
        except grpc.RpcError as error:
            seen.endings[error.code()] += 1
        else:
            seen.endings[grpc.StatusCode.OK] += 1

    def sending() -> None:
        begun, sent = time.monotonic(), 0
        while not over.wait(max(0.0, begun + sent / RATE - time.monotonic())):
            pool.submit(one)
            sent += 1

    def looking() -> None:
        while not over.wait(0.05):
            for each in psutil.Process().net_connections("tcp"):
                if each.raddr and each.raddr.port in ports and each.status == "ESTABLISHED":
                    seen.connections.add(each.laddr.port)

    with grpc.insecure_channel("ipv4:" + ",".join(targets), options) as channel:
        stub = GRPCInferenceServiceStub(channel)
        grpc.channel_ready_future(channel).result(20)
        with ThreadPoolExecutor(16) as pool:
            threads = [threading.Thread(target=work) for work in (sending, looking)]
            for thread in threads:
                thread.start()
            try:
                yield seen
            finally:
                over.set()
                for thread in threads:
                    thread.join()


def test_connections_are_renewed_under_load_and_no_call_is_lost(double_repository: Path) -> None:
    with (
        serving(double_repository, "--max-connection-age-s", "0.5") as server,
        loaded(server.grpc) as seen,
    ):
        until = time.monotonic() + 30
        while len(seen.connections) < 6 and time.monotonic() < until:
            time.sleep(0.1)
    assert len(seen.connections) >= 6
    assert set(seen.endings) == {grpc.StatusCode.OK}


def test_without_an_age_connections_stay(double_repository: Path) -> None:
    with serving(double_repository) as server, loaded(server.grpc) as seen:
        time.sleep(1.5)
    assert len(seen.connections) == 1


@pytest.mark.parametrize(("grace_s", "ending"), [("0", "OK"), ("0.5", "UNAVAILABLE")])
def test_a_stream_goes_on_past_the_age_until_its_grace_is_over(
    double_repository: Path, grace_s: str, ending: str
) -> None:
    ages = ("--max-connection-age-s", "0.3", "--max-connection-age-grace-s", grace_s)
    with (
        serving(double_repository, *ages) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        feed, told = Feed(), "OK"
        answers = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(feed), timeout=60)
        begun = time.monotonic()
        try:
            while time.monotonic() < begun + 3:
                feed.send(row())
                assert not next(answers).error_message
                time.sleep(0.05)
        except grpc.RpcError as error:
            told = error.code().name
        lasted_s = time.monotonic() - begun
        feed.close()
    assert told == ending
    assert lasted_s >= 0.3 * 0.9 + float(grace_s)


def test_who_does_not_look_at_health_leaves_with_the_connection_and_is_never_refused(
    double_repository: Path,
) -> None:
    ages = ("--max-connection-age-s", "0.5", "--grace-s", "3")
    with (
        serving(double_repository, *ages) as leaving,
        serving(double_repository, *ages) as staying,
        loaded(leaving.grpc, staying.grpc) as seen,
    ):
        time.sleep(0.5)
        code, log = leaving.end()
        time.sleep(0.5)
    assert code == 0, log
    assert set(seen.endings) == {grpc.StatusCode.OK}


def test_nobody_connects_to_a_server_in_the_last_part_of_its_grace(
    double_repository: Path,
) -> None:
    ages = ("--max-connection-age-s", "10", "--grace-s", "12.5")  # 0.5 s before its last part
    with (
        serving(double_repository, *ages) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        stub.ModelInfer(row(), timeout=20)
        server.process.send_signal(signal.SIGTERM)
        host, _, port = server.grpc.partition(":")
        socket.create_connection((host, int(port)), timeout=5).close()
        until = time.monotonic() + 8
        with pytest.raises(ConnectionRefusedError):
            while time.monotonic() < until:
                socket.create_connection((host, int(port)), timeout=5).close()
                time.sleep(0.05)
        answer = stub.ModelInfer(row(), timeout=20)
        assert isinstance(answer, pb.ModelInferResponse)
        server.process.send_signal(signal.SIGTERM)
        _, log = server.process.communicate(timeout=30)
    assert server.process.returncode == 0, log


def test_a_server_that_nobody_is_connected_to_does_not_wait_for_the_age(
    double_repository: Path,
) -> None:
    ages = ("--max-connection-age-s", "20", "--grace-s", "23.1")
    with serving(double_repository, *ages) as server:
        begun = time.monotonic()
        code, log = server.end()
    assert code == 0, log
    assert time.monotonic() - begun < 15


def test_a_grace_below_the_age_is_warned_of(double_repository: Path) -> None:
    with serving(
        double_repository, "--max-connection-age-s", "10", "--grace-s", "11"
    ) as server:  # fmt: skip
        server.process.send_signal(signal.SIGINT)
        _, log = server.process.communicate(timeout=30)
    assert "--grace-s is shorter than connections last" in log


def test_a_server_that_may_open_no_more_files_leaves_in_order(tmp_path: Path) -> None:
    slow(tmp_path / "slow" / "1" / "model.onnx")
    ages = ("--max-connection-age-s", "1", "--grace-s", "2.2")
    with (
        serving(tmp_path, *ages) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        # Longer than the grace, so that the drain has work to finish.
        work = numbers("slow", 80_000)
        accepted = GRPCInferenceServiceStub(channel).ModelInfer.future(work, timeout=60)
        wait_until_running(server, "slow")
        hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (3, hard))
        code, log = server.end(60)
        assert len(accepted.result().raw_output_contents) == 1, log
    assert code == 0, log


def test_files_are_as_many_as_the_server_may_have(double_repository: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))  # as shells do, to 1024
    try:
        with serving(double_repository) as server:
            assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_metrics_go_on_to_the_end_though_the_control_port_has_their_number(
    double_repository: Path,
) -> None:
    with socket.create_server(("127.0.0.2", 0)) as found:
        number = str(found.getsockname()[1])
    control = ("--control-host", "127.0.0.2", "--control-port", number, "--control", "repository")
    ages = ("--max-connection-age-s", "2", "--grace-s", "3.3")
    with (
        serving(double_repository, *control, *ages, "--metrics-port", number) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        GRPCInferenceServiceStub(channel).ModelInfer(row(), timeout=20)
        server.process.send_signal(signal.SIGTERM)
        host, _, port = server.grpc.partition(":")
        until = time.monotonic() + 20
        with pytest.raises(ConnectionRefusedError):
            while time.monotonic() < until:
                socket.create_connection((host, int(port)), timeout=5).close()
                time.sleep(0.02)
        with urllib.request.urlopen(server.metrics, timeout=10) as answer:
            assert b"farthing_ready 0.0" in answer.read()
        _, log = server.process.communicate(timeout=30)
    assert server.process.returncode == 0, log
