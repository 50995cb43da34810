"""Tokens and TLS on a real server, renewed while many call it."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.system.servers import Served, farthing, serving

ROW = pb.ModelInferRequest(model_name="double", raw_input_contents=[bytes(16)])
ROW.inputs.add(name="x", datatype="FP32", shape=[1, 4])
# Each of these channels connects anew, as callers of other processes do.
APART = [("grpc.use_local_subchannel_pool", 1)]


def code(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


class Load:
    """Four callers, and how their calls have ended so far."""

    def __init__(self) -> None:
        self.endings: list[grpc.StatusCode] = []
        self._ended = threading.Condition()

    @contextmanager
    def of(self, call: Callable[[], grpc.StatusCode]) -> Iterator[Load]:
        enough = threading.Event()

        def calling() -> None:
            while not enough.is_set():
                code = call()
                with self._ended:
                    self.endings.append(code)
                    self._ended.notify()

        threads = [threading.Thread(target=calling) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            enough.set()
            for thread in threads:
                thread.join(30)

    def go_on(self, calls: int = 40) -> None:
        """Until so many more calls have ended."""
        with self._ended:
            wanted = len(self.endings) + calls
            assert self._ended.wait_for(lambda: len(self.endings) >= wanted, 60)


def until(condition: Callable[[], bool]) -> None:
    """Until this holds, which asks the server; it looks at its tokens each second."""
    for _ in range(20_000):
        if condition():
            return
    raise AssertionError("the condition never held")


def test_every_service_wants_a_token_and_probes_do_not(
    double_repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("sesame\n")
    with (
        serving(double_repository, "--tokens", str(tmp_path / "tokens")) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        calls: list[Callable[[tuple[tuple[str, str], ...]], object]] = [
            lambda m: GRPCInferenceServiceStub(channel).ModelInfer(ROW, metadata=m, timeout=20),
            lambda m: health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), metadata=m, timeout=20
            ),
            lambda m: next(reflected(iter([ask]), metadata=m, timeout=20)),
        ]
        for call in calls:
            assert code(lambda call=call: call(())) is grpc.StatusCode.UNAUTHENTICATED
            assert code(lambda call=call: call(bearer("x"))) is grpc.StatusCode.UNAUTHENTICATED
            assert code(lambda call=call: call(bearer("sesame"))) is grpc.StatusCode.OK
        for path in ("/metrics", "/v2/health/live", "/v2/health/ready"):
            url = server.metrics.replace("/metrics", path)
            assert urllib.request.urlopen(url, timeout=20).status == 200


def test_a_change_of_tokens_under_load_loses_no_call(
    double_repository: Path, tmp_path: Path
) -> None:
    path, token = tmp_path / "tokens", ["old"]
    path.write_text("old\n")
    with serving(double_repository, "--tokens", str(path)) as server:
        with grpc.insecure_channel(server.grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)

            def infer(given: str) -> grpc.StatusCode:
                return code(lambda: stub.ModelInfer(ROW, metadata=bearer(given), timeout=20))

            with Load().of(lambda: infer(token[0])) as load:
                load.go_on()
                path.write_text("old\nnew\n")
                until(lambda: infer("new") is grpc.StatusCode.OK)
                load.go_on()
                token[0] = "new"
                load.go_on()
                path.write_text("new\n")
                until(lambda: infer("old") is grpc.StatusCode.UNAUTHENTICATED)
                load.go_on()
            assert set(load.endings) == {grpc.StatusCode.OK}
        assert server.end()[0] == 0


def issue(authority: trustme.CA, folder: Path) -> None:
    made = authority.issue_cert("localhost")
    (folder / "crt").write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    (folder / "key").write_bytes(made.private_key_pem.bytes())


def infer_over_tls(server: Served, trusted: bytes) -> grpc.StatusCode:
    target = f"localhost:{server.ready['grpc_port']}"
    with grpc.secure_channel(target, grpc.ssl_channel_credentials(trusted), APART) as channel:
        return code(lambda: GRPCInferenceServiceStub(channel).ModelInfer(ROW, timeout=20))


def test_a_change_of_certificate_under_load_loses_no_call(
    double_repository: Path, tmp_path: Path
) -> None:
    old, new = (trustme.CA(key_type=trustme.KeyType.ECDSA) for _ in range(2))
    both = old.cert_pem.bytes() + new.cert_pem.bytes()
    issue(old, tmp_path)
    options = ("--tls-cert", str(tmp_path / "crt"), "--tls-key", str(tmp_path / "key"))
    with serving(double_repository, *options) as server:
        with Load().of(lambda: infer_over_tls(server, both)) as load:
            load.go_on()
            issue(new, tmp_path)  # both files, one after the other, under their eyes
            load.go_on()
        assert set(load.endings) == {grpc.StatusCode.OK}
        assert infer_over_tls(server, new.cert_pem.bytes()) is grpc.StatusCode.OK
        assert infer_over_tls(server, old.cert_pem.bytes()) is grpc.StatusCode.UNAVAILABLE
        assert server.end()[0] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--tokens", "/nowhere"), "--tokens"),
        (("--tls-cert", "/nowhere"), "go together"),
        (("--tls-client-ca", "/nowhere"), "--tls-client-ca needs"),
        (("--control", "everything"), "--control is"),
    ],
)
def test_what_contradicts_itself_stops_the_start(
    double_repository: Path, options: tuple[str, ...], says: str
) -> None:
    ports = ("--host", "127.0.0.1", "--grpc-port", "0", "--metrics-port", "0")
    done = farthing("serve", str(double_repository), *ports, *options)
    assert done.returncode == 2
    assert says in done.stderr
