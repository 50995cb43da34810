"""Where work is done, and what the verb takes for a limit."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

from loadtests.client import TargetFailed
from loadtests.observed import Observed
from loadtests.pricing import measure
from loadtests.pricing.identity import Said
from loadtests.pricing.measure import Effort
from loadtests.pricing.questions import Questions
from loadtests.pricing.rig import Rig, Work
from loadtests.slo import Slo, seconds_of
from service import hardware
from service.errors import InvalidSetting
from tests.loadtests.profiles import observed, price


@pytest.mark.parametrize(
    ("targets", "local"),
    [
        (("127.0.0.1:8001",), 1), (("localhost:8001",), 1), (("0.0.0.0:8001",), 1),
        (("127.0.0.1:1", "127.0.0.2:1"), 2), (("192.0.2.77:8001",), 0),
        (("127.0.0.1:1", "192.0.2.77:1"), 1),
    ],
)  # fmt: skip
def test_cores_are_shared_with_any_that_is_served_on_this_machine(
    targets: tuple[str, ...], local: int
) -> None:
    work = Work(targets, "net", shared=not local).placed()
    assert (work.local, work.shared) == (local, local > 0)
    said = Said(price=price("cloud-large", cpus=1000))
    given = measure.conditions(work, said, Slo(99, 0.1, 0.999), Effort())
    # Only of this machine we know what it is; of two kinds of machine nothing can be said.
    ours = local == len(targets)
    assert (given.hardware, given.cpus) == (
        (hardware.fingerprint(), hardware.cpus()) if ours else ("", 1000)
    )
    assert (given.replicas, given.local) == (len(targets), local)
    assert given.machines == (1 if ours else len(targets))


@pytest.mark.parametrize(("limit_s", "deadline_s"), [(0.02, 1.0), (0.1, 1.0), (0.5, 5.0)])
def test_a_deadline_is_ten_limits_and_at_least_a_second(limit_s: float, deadline_s: float) -> None:
    assert Work(("h:1",), "net").deadline_for(Slo(99, limit_s, 1)) == pytest.approx(deadline_s)
    assert Work(("h:1",), "net", deadline_s=7).deadline_for(Slo(99, limit_s, 1)) == 7


def test_the_payload_is_said_without_its_directory() -> None:
    assert Work(("h:1",), "net", rows_file=Path("/secret/rows.npz")).payload == "rows of rows.npz"
    assert Work(("h:1",), "net").payload == "drawn rows"


@pytest.mark.parametrize(
    ("text", "seconds"), [("100ms", 0.1), ("2s", 2.0), ("0.5s", 0.5), ("250us", 0.00025)]
)
def test_lengths_of_time_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["100", "ms", "-1ms", "0s", "1m", "1e3ms", "", "nan ms", "1ms 2"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="give it as 100ms or 2s"):
        seconds_of(text)


def test_a_server_that_left_meanwhile_is_said_in_a_sentence() -> None:
    with socket.socket() as taken, grpc.insecure_channel(_closed(taken)) as channel:
        asking = Questions(channel, model="net", version="")
        with pytest.raises(TargetFailed, match="does not tell of model 'net' any more"):
            asking.messages(rows=1, rows_file=None)
        assert (asking.server(), asking.config(), asking.statistics()) == (None, None, None)
        seen = asking.alone([b""], calls=3, most_s=20, limit_s=1.0)
    assert (seen.offered, dict(seen.endings)) == (3, {"UNAVAILABLE": 3})


def _closed(taken: socket.socket) -> str:
    """An address where nobody listens, as long as this socket has it."""
    taken.bind(("127.0.0.1", 0))
    return f"127.0.0.1:{taken.getsockname()[1]}"


class Counted:
    """A replica and its metrics, both in one; with others' calls if it is told to."""

    def __init__(self, *, others: int = 0) -> None:
        self.answered, self.others = 0, others

    def messages(self, **_: object) -> list[bytes]:
        return [b""]

    def alone(self, messages: object, *, calls: int, most_s: float, limit_s: float) -> Observed:
        self.answered += calls + self.others
        return observed(0.001, calls=calls)


@contextmanager
def metrics_of(replica: Counted, model: str = "net") -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            name = f'farthing_request_seconds_count{{model="{model}"}}'
            self.wfile.write(f"{name} {replica.answered}\n".encode())

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()


def checked(replicas: list[Counted], *urls: str) -> None:
    targets = tuple(f"h:{n}" for n, _ in enumerate(replicas, 1))
    work = Work(targets, "net", metrics=urls)
    Rig(work, Slo(99, 0.1, 1), replicas, seed=1).check_metrics(1.0)  # type: ignore[arg-type]


def test_metrics_that_count_what_the_targets_answer_are_taken_in_any_order() -> None:
    one, other = Counted(), Counted()
    with metrics_of(one) as its, metrics_of(other) as others:
        checked([one, other], others, its)
    checked([one])


@pytest.mark.parametrize("model", ["net", "another"])
def test_metrics_of_another_server_or_model_are_refused(model: str) -> None:
    target = Counted()
    with (
        metrics_of(target if model != "net" else Counted(), model) as url,
        pytest.raises(
            InvalidSetting, match=r"h:1 answered 5 calls while http.* counted 0 for 'net"
        ),
    ):
        checked([target], url)


def test_metrics_of_one_replica_given_for_two_are_refused() -> None:
    one, other = Counted(), Counted()
    with metrics_of(one) as url, pytest.raises(InvalidSetting, match=r"h:1 .* counted 10"):
        checked([one, other], url, url)


def test_metrics_that_count_the_calls_of_others_are_refused() -> None:
    busy = Counted(others=3)
    with metrics_of(busy) as url, pytest.raises(InvalidSetting, match="let nobody else call it"):
        checked([busy], url)
