"""The ledger and the phases of a stretch of time, from two scrapes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from prometheus_client import CollectorRegistry

from loadtests.energy import Card
from loadtests.pricing import scrape
from loadtests.pricing.scrape import Scrape, parsed
from service.bill import BUSY, WASTE
from service.errors import InvalidSetting
from service.ledger import Ledger, Ticket
from service.metrics import Metrics
from service.statistics import Book
from tests.fakes import ManualClock

HEAD = "# TYPE farthing_core_seconds_total counter\n"


def text(busy: float, idle: float, run_s: float, runs: int) -> str:
    model = 'model="net",version="1",variant="fp32"'
    nobody = 'model="",version="",variant=""'
    return (
        f'farthing_core_seconds_total{{{model},kind="busy"}} {busy}\n'
        f'farthing_core_seconds_total{{model="b",version="1",variant="x",kind="busy"}} 1.0\n'
        f'farthing_core_seconds_total{{{nobody},kind="idle"}} {idle}\n'
        f"farthing_unsettled_core_seconds{{{model}}} 0.5\n"
        f"farthing_run_seconds_sum{{{model}}} {run_s}\n"
        f'farthing_run_seconds_bucket{{{model},le="+Inf"}} {runs}\n'
        f"farthing_run_seconds_count{{{model}}} {runs}\n"
        'farthing_run_seconds_sum{model="b",version="1",variant="x"} 99.0\n'
        'farthing_run_seconds_count{model="b",version="1",variant="x"} 1\n'
        "process_resident_memory_bytes 1e+08\n"
    )


BEFORE = parsed(text(1.0, 10.0, 0.5, 10), model="net")
AFTER = parsed(text(3.0, 14.0, 1.5, 30), model="net")


def test_the_bill_is_the_difference_by_line_over_all_models() -> None:
    assert AFTER.bill(BEFORE) == {"busy": 2.0, "idle": 4.0, "unsettled": 0.0}


def test_phases_are_those_of_the_model_and_of_the_time_between() -> None:
    assert AFTER.means(BEFORE) == {"run": pytest.approx(0.05)}


def test_memory_is_told() -> None:
    assert AFTER.memory_bytes == 100_000_000


def test_replicas_add_up() -> None:
    both = scrape.together([AFTER, AFTER])
    assert both.bill(scrape.together([BEFORE, BEFORE])) == {
        "busy": 4.0, "idle": 8.0, "unsettled": 0.0,
    }  # fmt: skip
    assert both.means(BEFORE) == {"run": pytest.approx((3.0 - 0.5) / 50)}
    assert both.memory_bytes == 200_000_000


def test_what_is_paid_adds_up_over_replicas_and_is_not_told_if_one_of_them_does_not() -> None:
    paid = "farthing_paid_core_seconds_total "
    before, after = (parsed(text(1, 1, 1, 1) + paid + core_s, model="net") for core_s in "37")
    assert after.paid(before) == 4.0
    assert scrape.together([after, after]).paid(scrape.together([before, before])) == 8.0
    assert scrape.together([after, AFTER]).paid(before) is None
    assert AFTER.paid(BEFORE) is None and Scrape().paid(Scrape()) is None


@pytest.mark.parametrize("cores", [1.0, 2.5])
def test_the_bill_of_a_real_ledger_comes_to_cores_times_seconds(cores: float) -> None:
    clock, front_s = ManualClock(), 0.0
    ledger = Ledger(cores=cores, clock=clock, cpu=lambda: front_s, age_s=30.0)
    metrics = Metrics(CollectorRegistry(), Book(clock, ledger=ledger), models=list)
    ledger.ready()
    before = parsed(metrics.text().decode(), model="net")
    for number in range(400):
        ticket = Ticket(("net", "1", "fp32"), 1)
        ledger.begin(ticket, 1)
        clock.advance(0.125)
        front_s += 0.01
        ledger.end(ticket, BUSY if number % 4 else WASTE)
        clock.advance(0.125)
    after = parsed(metrics.text().decode(), model="net")
    bill = after.bill(before)
    assert bill is not None and bill["busy"] > 0 and bill["idle"] > 0
    assert after.paid(before) == pytest.approx(cores * 100, rel=1e-3)
    assert sum(bill.values()) == pytest.approx(cores * 100, rel=1e-3)


GPU_TEXT = """
farthing_gpu_seconds_total{model="net",version="1",variant="fp16",kind="busy"} 6.0
farthing_gpu_seconds_total{model="",version="",variant="",kind="idle"} 4.0
farthing_unsettled_gpu_seconds{model="net",version="1",variant="fp16"} 0.5
farthing_paid_gpu_seconds_total 10.5
farthing_gpu_info{gpu="0",uuid="GPU-a",name="NVIDIA T4"} 1.0
farthing_gpu_watched_seconds_total{gpu="0",uuid="GPU-a"} 10.0
farthing_gpu_busy_seconds_total{gpu="0",uuid="GPU-a"} 7.0
farthing_gpu_energy_joules_total{gpu="0",uuid="GPU-a",how="counter"} 900.0
"""


def test_ledger_of_gpus_is_read_like_one_of_cores() -> None:
    found = parsed(GPU_TEXT, model="net")
    assert found.bill(Scrape()) == {"busy": 6.0, "idle": 4.0, "unsettled": 0.5}
    assert (found.unit, found.paid(Scrape()), AFTER.unit) == ("gpu", 10.5, "core")


def test_gpus_are_read_by_their_ids_and_one_that_replicas_share_is_one() -> None:
    found = parsed(GPU_TEXT, model="net")
    assert (
        scrape.together([found, found]).gpus
        == found.gpus
        == {"GPU-a": Card("NVIDIA T4", 10.0, 7.0, 900.0, counted=True)}
    )
    silent = GPU_TEXT.partition("farthing_gpu_busy")[0]
    assert parsed(silent, model="net").gpus == {"GPU-a": Card("NVIDIA T4", 10.0)}


def test_cores_and_gpus_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="do not add up"):
        parsed(GPU_TEXT + text(1, 1, 1, 1), model="net")
    with pytest.raises(InvalidSetting, match="measure each kind for itself"):
        scrape.together([parsed(GPU_TEXT, model="net"), AFTER])


def test_a_server_without_a_ledger_has_no_bill_and_none_without_answers_a_phase() -> None:
    foreign = parsed("nv_inference_count 7\n", model="net")
    assert foreign.bill(Scrape()) is None
    assert foreign.means(Scrape()) is None
    assert AFTER.means(AFTER) is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/metrics", "127.0.0.1:8002", "file:///x"])
def test_what_does_not_answer_with_metrics_is_refused_by_its_url(url: str) -> None:
    with pytest.raises(InvalidSetting, match="does not answer with metrics"):
        scrape.read([url], model="net")


def test_no_urls_tell_nothing() -> None:
    assert scrape.read([], model="net") == Scrape()


OK = b"HTTP/1.1 200 OK\r\n"
SECONDS = "farthing_core_seconds_total"


@contextmanager
def answering(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of a server that has one talk with whoever comes first."""

    def once() -> None:
        try:
            with listening.accept()[0] as connection:
                connection.recv(4096)
                talk(connection)
        except OSError:  # the other side has enough
            pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=once, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/metrics"
        thread.join(10)


@pytest.mark.parametrize(
    "answer",
    [
        b"\xffgarbage\r\n\r\n", OK + b"Content-Length: 99\r\n\r\na 1\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nfoo", OK + b"X: " + b"a" * 70_000,
        OK + b"\r\n\xff", OK + b"\r\nfarthing_core_seconds_total 1\n",
        OK + b'\r\na{b="c\n', OK + b"\r\na b c\n",
    ],
    ids=["status", "short", "chunk", "header", "utf-8", "kind", "label", "line"],
)  # fmt: skip
def test_an_answer_that_is_damaged_is_refused_in_a_sentence(answer: bytes) -> None:
    with (
        answering(lambda connection: connection.sendall(answer)) as url,
        pytest.raises(InvalidSetting, match="does not answer with metrics") as error,
    ):
        scrape.read([url], model="net")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("url", ["http://[::1", "http://a b/", "http://127.0.0.1:x/", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidSetting, match="does not answer with metrics"):
        scrape.read([url], model="net")


def test_a_server_that_answers_byte_by_byte_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scrape, "_ANSWER_S", 0.3)
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(OK + b"\r\n")
        while not over.wait(0.05):
            connection.sendall(b"#")

    with answering(drip) as url:
        begun = time.perf_counter()
        with pytest.raises(InvalidSetting, match=r"no whole answer in 0\.3 s"):
            scrape.read([url], model="net")
        assert time.perf_counter() - begun < 5
        over.set()


def test_an_answer_without_an_end_is_read_no_further_than_metrics_are_long() -> None:
    def flood(connection: socket.socket) -> None:
        connection.sendall(OK + b"\r\n")
        while True:
            connection.sendall(b"# x\n" * 2**16)

    with answering(flood) as url, pytest.raises(InvalidSetting, match="larger than 16 MiB"):
        scrape.read([url], model="net")


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1"])
@pytest.mark.parametrize(
    "name",
    [
        SECONDS + '{kind="busy"}', "farthing_unsettled_core_seconds",
        "farthing_paid_core_seconds_total", "process_resident_memory_bytes",
        'farthing_run_seconds_sum{model="net"}',
    ],
)  # fmt: skip
def test_what_no_counter_can_be_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="its "):
        parsed(f"{name} {value}\n", model="net")


def test_a_ledger_that_fell_has_no_bill_and_says_which_line() -> None:
    assert BEFORE.bill(AFTER) is None and BEFORE.means(AFTER) is None
    assert "fell while it was measured: busy" in BEFORE.anew(AFTER)
    assert AFTER.anew(BEFORE) == "" and AFTER.anew(AFTER) == ""
    paid = "farthing_paid_core_seconds_total "
    less, more = (parsed(paid + core_s, model="net") for core_s in "37")
    assert less.paid(more) is None and "paid" in less.anew(more)


def test_what_is_not_settled_yet_may_fall() -> None:
    less, more = (Scrape({"busy": 5.0, "unsettled": core_s}) for core_s in (1.0, 2.0))
    assert less.bill(more) == {"busy": 0.0, "unsettled": -1.0}


def test_one_replica_that_was_restarted_leaves_no_bill_though_the_sum_rose() -> None:
    old, new = ("process_start_time_seconds 1e9\n", "process_start_time_seconds 1.1e9\n")
    before = scrape.together(parsed(text(1, 1, 1, 1) + old, model="net") for _ in range(2))
    after = scrape.together(
        parsed(text(9, 9, 9, 9) + start, model="net") for start in (old, new)
    )  # fmt: skip
    assert after.anew(before) == "a server was restarted while it was measured"
    assert after.bill(before) is None and after.means(before) is None
    same = scrape.together(parsed(text(9, 9, 9, 9) + old, model="net") for _ in range(2))
    assert same.bill(before) == {"busy": 16.0, "idle": 16.0, "unsettled": 0.0}
