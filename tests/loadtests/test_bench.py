"""The list of suites, the peers that are not there, and what the results say of the machine."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from rich.console import Console

from loadtests.bench import __main__ as bench
from loadtests.bench import (
    board,
    calls,
    generator,
    overload,
    peers,
    results,
    servers,
    steps,
    suites,
    versus,
)
from loadtests.bench.results import Figure
from loadtests.observed import Observed

SERVING = (
    "small", "versus", "overload", "overload-resnet", "resnet", "half", "neighbour", "refusal",
    "spinning",
)  # fmt: skip


@pytest.mark.parametrize("name", SERVING)
def test_every_goal_of_serving_has_a_suite_that_says_what_it_measures(name: str) -> None:
    assert suites.SUITES[name].__doc__


def test_serving_comes_first() -> None:
    assert set(list(suites.SUITES)[: len(SERVING)]) == set(SERVING)


def test_make_installs_pytorch_for_suites_that_are_there_and_need_it_and_not_for_serving() -> None:
    text = (Path(suites.__file__).parents[2] / "Makefile").read_text()
    line = next(line for line in text.splitlines() if line.startswith("HEAVY := "))
    heavy = set(line.split()[2:])
    assert {"int8", "conversion"} <= heavy <= set(suites.SUITES)
    assert not heavy & {*SERVING, "start", "serving", "echo", "reload"}


def test_a_suite_that_is_not_there_is_told_in_lines_of_100_columns_and_ends_with_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bench.main(["small", "nonsense"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("no suite 'nonsense'; there are: versus, small, ")
    assert all(len(line) <= 100 for line in said.splitlines())
    assert set(suites.SUITES) <= set(re.findall(r"[\w-]+", said)) and "[" not in said


def test_an_interruption_is_told_in_a_line_and_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_directory: Path) -> list[Figure]:
        """Someone presses Ctrl-C."""
        raise KeyboardInterrupt

    monkeypatch.setitem(suites.SUITES, "small", interrupted)
    assert bench.main(["small"]) == 130
    told = capsys.readouterr()
    assert "interrupted" in told.out and "Traceback" not in told.out + told.err


@pytest.mark.parametrize(
    ("text", "goal", "met"),
    [
        ("0.54", ">= 0.6", False),
        ("0.60", ">= 0.6", True),
        ("28.3/s = 0.94", ">= 0.97", False),
        ("15.1x", "<= 6x", False),
        ("0.36 %", "< 0.5 %", True),
        ("0.50 %", "< 0.5 %", False),
        ("99.10%", ">= 99 %", True),
        ("46.42 ms", "<= 45.31 ms", False),
        ("0.04 s", "<= 45.31 ms", None),
        ("0.97 (void: generator late in 1.1%)", ">= 0.9", None),
        ("of none", "< 0.5 %", None),
        ("62 s", "about 60 s", None),
        ("5/s", "", None),
    ],
)
def test_a_goal_is_met_or_missed_only_where_it_can_be_compared(
    text: str, goal: str, met: bool | None
) -> None:
    assert Figure("a", text, goal).met is met


def test_results_tell_the_number_of_cpus_and_what_others_used_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "PATH", tmp_path / "RESULTS.md")
    results.append("small", [Figure("a", "1", ">= 2")], busy_percent=7.4)
    text = (tmp_path / "RESULTS.md").read_text()
    assert " CPUs, 7 % busy before; farthing " in text and "| a | 1 | >= 2 |" in text


def test_a_metric_is_summed_over_its_labels_only() -> None:
    text = 'runs{model="a"} 2.0\nruns{model="b"} 3.0\nruns_created{model="a"} 9\n# HELP runs Of.\n'
    assert servers.total(text, "runs") == 5.0
    assert servers.total(text, "walks") == 0.0


def test_busiest_thread_is_that_of_the_time_between_and_not_of_all_time() -> None:
    # Thread 1 has used most in all; meanwhile it was 2 that ran, and 3 that began.
    before = {1: 100.0, 2: 10.0}
    after = {1: 100.5, 2: 17.0, 3: 0.25}
    assert servers.beside_busiest_s(before, after) == 0.75
    assert servers.beside_busiest_s({}, {}) == 0.0


def test_threads_of_a_server_are_told_apart_by_their_ids() -> None:
    found = servers.Server("this", "", os.getpid()).threads_s()
    assert threading.get_native_id() in found and all(spent >= 0 for spent in found.values())


def test_listener_is_told_what_a_suite_is_doing_until_it_stops_listening(
    half_refused: str,
) -> None:
    heard = list[str]()
    with steps.told(heard.append):
        generator.closed(half_refused, b"x", callers=2, seconds=0.1)
        generator.open_loop(generator.stream(half_refused, b"x", 40, seconds=0.1, deadline_s=30))
    steps.begun("nobody listens")
    assert heard == ["2 callers for 0.1 s", "40 calls per second for 0.1 s"]


def test_columns_of_the_side_by_side_keep_their_place_in_100_columns_whatever_they_say() -> None:
    seen = board.Board("title", ["1x = 30.1/s", "2x", "5x"], ["farthing", "MLServer"])
    shown = list[list[str]]()
    for text in ("", "starting, 100 s", "draining", "29.9 void"):
        seen.set("farthing", 1, text)
        console = Console(width=board.COLUMNS, file=io.StringIO())
        console.print(seen.rich())
        assert isinstance(console.file, io.StringIO)
        shown.append(console.file.getvalue().splitlines())
        assert text in shown[-1][4]
    assert len({tuple(map(len, lines)) for lines in shown}) == 1


def test_side_by_side_tells_of_each_load_how_all_calls_ended_and_how_long_the_good_took() -> None:
    outcomes = [Observed(4.0, limit_s=0.4, offered=100) for _ in range(3)]
    for seen, good in zip(outcomes, (100, 700, 0), strict=True):
        for number in range(good):
            seen.answered(0.1 if number % 2 else 0.3)
    outcomes[0].answered(0.9)
    for number in range(100):
        outcomes[1].sent(0.1 if number < 2 else 0.0)
    figures = versus.told({"a": outcomes})
    assert [(figure.measure, figure.text) for figure in figures[:2]] == [
        ("a, 1x: good", "25.0/s, median 100, longest 300 ms"),
        ("a, 1x: of 100 sent", "100 good, 1 late, 0 refused, 0 deadline"),
    ]
    assert figures[2].text.endswith("p99 300 ms (void: generator late in 2.0%)")
    assert figures[4].text == "0.0/s"


def test_a_machine_that_changed_by_more_than_15_percent_makes_all_of_it_void() -> None:
    assert (versus.drift(30.0, 26.0), versus.drift(26.0, 30.0)) == ("", "")
    drift = versus.drift(17.0, 37.0)
    figures = versus.told({"a": [Observed(4.0)] * 3, "b": [Observed(4.0)] * 3}, drift=drift)
    assert [drift in figure.text for figure in figures] == [True, False] * 6 and drift


def test_versions_of_peers_stand_in_one_line_each() -> None:
    labels = [figure.measure for figure in servers.legend(peers.ALL)]
    assert labels == [
        "version of Triton, Python backend",
        "version of MLServer, its default; MLServer, in one process",
    ]


def test_rows_that_were_run_for_nobody_are_seen_though_the_server_counts_none() -> None:
    seen = Observed(10.0, limit_s=0.4)
    for taken_s in [0.1] * 198 + [0.5]:
        seen.answered(taken_s)
    told = overload.lateness({2.0: overload.Level(seen, runs=200, late=0)})
    assert [figure.text for figure in told] == ["0.00 %", "1.00 %"]


def test_why_a_peer_was_not_installed_is_told_without_addresses() -> None:
    said = (
        "WARNING: retrying\n"
        "ERROR: Could not fetch https://user:secret@index.example/simple/mlserver: timed out\n"
        "ERROR: No matching distribution found for mlserver\n"
    )
    assert peers.reason(said) == "Could not fetch (address) timed out"
    assert peers.reason("") == "it does not say why"


def test_a_peer_that_is_installed_is_used_again(tmp_path: Path) -> None:
    home = tmp_path / "mlserver"
    home.mkdir()
    (home / "installed.txt").write_text("\n".join(peers.MLSERVER.pins))
    assert peers.python_of(peers.MLSERVER, tmp_path) == home / "bin" / "python"


def test_a_peer_whose_package_does_not_exist_is_missing_and_leaves_no_marker(
    tmp_path: Path,
) -> None:
    lost = peers.Peer("lost", ("not a requirement",), "Lost", "Lost 1")
    with pytest.raises(peers.PeerMissing, match=r"^not installed: .*requirement"):
        peers.python_of(lost, tmp_path)
    assert not (tmp_path / "lost" / "installed.txt").exists()


@pytest.fixture
def half_refused() -> Iterator[str]:
    """A server that answers every second call, and refuses the others."""
    lock, seen = threading.Lock(), 0

    def answer(_request: bytes, context: grpc.ServicerContext) -> bytes:
        nonlocal seen
        with lock:
            seen += 1
            odd = seen % 2
        if odd:
            return b"y"
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        raise AssertionError  # abort raises

    _, service, method = calls.METHOD.split("/")
    handler = grpc.method_handlers_generic_handler(
        service, {method: grpc.unary_unary_rpc_method_handler(answer)}
    )
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_the_open_loop_counts_answers_and_refusals_apart(half_refused: str) -> None:
    stream = generator.stream(half_refused, b"x", 400, seconds=0.25, deadline_s=30)
    (seen,) = generator.open_loop(stream)
    assert seen.offered == sum(seen.endings.values()) > 50
    assert abs(seen.endings["good"] - seen.endings["RESOURCE_EXHAUSTED"]) <= 1
    assert set(seen.endings) == {"good", "RESOURCE_EXHAUSTED"}


def test_the_closed_loop_counts_answers_and_refusals_apart(half_refused: str) -> None:
    seen = generator.closed(half_refused, b"x", callers=2, seconds=0.2)
    refused = seen.endings["RESOURCE_EXHAUSTED"]
    assert refused > 0
    assert abs(seen.answers - refused) <= 1
    assert seen.offered == seen.answers + refused
