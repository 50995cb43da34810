"""What counts as the front end's CPU, on this process's own threads."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service import cputime, warmup
from service.cputime import FrontEnd
from service.manifest import Manifest
from service.session import Session, SessionOptions
from tests import models

SPENT_S = 0.1
PR_SET_NAME = 15


def spend() -> float:
    """Use CPU on the calling thread; how much it was."""
    begun = time.thread_time()
    while time.thread_time() - begun < SPENT_S:
        pass
    return time.thread_time() - begun


def within(work: Callable[[], object]) -> float:
    """What the front end is seen to use meanwhile, the looking included."""
    front = FrontEnd()
    before = front()
    work()
    return front() - before


def test_work_of_this_thread_and_of_others_that_live_is_the_front_ends() -> None:
    with ThreadPoolExecutor(1) as executor:
        executor.submit(int).result()
        assert SPENT_S <= within(lambda: executor.submit(spend).result()) < 2 * SPENT_S
    assert within(spend) >= SPENT_S - 0.01


def test_work_of_threads_that_run_models_is_not() -> None:
    with ThreadPoolExecutor(1, initializer=cputime.computes) as executor:
        assert within(lambda: executor.submit(spend).result()) < SPENT_S / 2


def test_loading_is_not_and_what_the_thread_does_before_and_after_is() -> None:
    def work() -> None:
        spend()
        with cputime.computing():
            spend()
            spend()
        spend()

    assert 2 * SPENT_S - 0.01 <= within(work) < 3 * SPENT_S


def test_loading_that_goes_on_is_not_either() -> None:
    front = FrontEnd()
    with cputime.computing():
        before = front()
        spend()
        assert front() - before < SPENT_S / 2


@pytest.mark.parametrize(("name", "counts"), [(b"own_name\n", True), (None, False)])
def test_thread_that_is_none_of_pythons_counts_if_it_has_a_name_of_its_own(
    tmp_path: Path, name: bytes | None, counts: bool
) -> None:
    common = Path("/proc/self/comm").read_bytes()
    with ThreadPoolExecutor(1) as executor:  # a thread of Python that has loaded nothing yet
        own = executor.submit(threading.get_native_id).result()
        for tid, comm in ((own, common), (1, common if name is None else name)):
            task = tmp_path / "task" / str(tid)
            task.mkdir(parents=True)
            (task / "comm").write_bytes(comm)
            (task / "schedstat").write_text(f"{10**9} 0 0\n")
        assert FrontEnd(tmp_path)() == pytest.approx(2.0 if counts else 1.0)


def test_thread_that_ended_keeps_what_it_was_seen_to_use(tmp_path: Path) -> None:
    front = FrontEnd()
    threads = [threading.Thread(target=spend) for _ in range(2)]
    before = front()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = front()
    assert front() >= after >= before


def test_what_a_thread_used_since_it_was_last_looked_at_counts_if_it_says_that_it_ends() -> None:
    def work() -> None:
        spend()
        cputime.ends()

    front = FrontEnd()
    before = front()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert SPENT_S <= front() - before < 2 * SPENT_S
    assert front() - before < 2 * SPENT_S  # and only once


def test_threads_that_ended_before_are_not_counted(tmp_path: Path) -> None:
    cputime.ends()
    task = tmp_path / "task" / "1"
    task.mkdir(parents=True)
    (task / "comm").write_bytes(b"own_name\n")
    (task / "schedstat").write_text(f"{10**9} 0 0\n")
    assert FrontEnd(tmp_path)() == pytest.approx(1.0)


def test_a_look_that_fails_changes_nothing_and_the_next_one_counts_nothing_twice(
    tmp_path: Path,
) -> None:
    for tid in (1, 2):
        task = tmp_path / "task" / str(tid)
        task.mkdir(parents=True)
        (task / "comm").write_bytes(b"own_name\n")
        (task / "schedstat").write_text(f"{10**9} 0 0\n")
    front = FrontEnd(tmp_path)
    assert front() == pytest.approx(2.0)
    (tmp_path / "task").rename(tmp_path / "gone")
    assert front() == pytest.approx(2.0)
    (tmp_path / "gone").rename(tmp_path / "task")
    (tmp_path / "task" / "2" / "schedstat").write_text("")
    assert front() == pytest.approx(2.0)
    (tmp_path / "task" / "2" / "schedstat").write_text(f"{3 * 10**9} 0 0\n")
    assert front() == pytest.approx(4.0)


def test_a_kernel_that_says_zero_of_all_threads_leaves_the_main_threads_clock(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = tmp_path / "task" / "1"
    task.mkdir(parents=True)
    (task / "schedstat").write_text("0 0 0\n")
    front = FrontEnd(tmp_path)
    assert "only the event loop's counts" in caplog.text
    before = front()
    spend()
    assert front() - before >= SPENT_S * 0.9


def test_without_proc_the_main_threads_clock_is_read(tmp_path: Path) -> None:
    front = FrontEnd(tmp_path / "nowhere")
    before = front()
    spend()
    assert SPENT_S * 0.9 <= front() - before < 2 * SPENT_S


def test_age_is_that_of_the_process_and_not_of_this_test(tmp_path: Path) -> None:
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    hertz = 100  # of every kernel that this runs on
    began_s = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / hertz
    assert cputime.age_s() == pytest.approx(uptime_s - began_s, abs=0.1)


@pytest.mark.parametrize("text", ["", "1 (a) b) S 1"])
def test_age_that_the_kernel_does_not_tell_is_zero(tmp_path: Path, text: str) -> None:
    stat = tmp_path / "stat"
    assert cputime.age_s(stat) == 0.0
    stat.write_text(text)
    assert cputime.age_s(stat) == 0.0


@pytest.mark.parametrize("maker", [None, b"loading_0"], ids=["unnamed", "named"])
def test_pool_of_onnx_runtime_is_not_the_front_ends_though_who_made_it_has_ended(
    tmp_path: Path, maker: bytes | None
) -> None:
    path = models.classifier(tmp_path / "m.onnx")

    def load() -> Session:
        if maker:  # as CPython 3.14 does
            assert ctypes.CDLL(None).prctl(PR_SET_NAME, maker, 0, 0, 0) == 0
        with cputime.computing():
            return Session(path, SessionOptions(threads=2, spin=True))

    with ThreadPoolExecutor(1) as executor:
        session = executor.submit(load).result()
    feeds = warmup.zeros(Manifest("m", True, session.inputs, session.outputs, ()), 8)

    def work() -> None:
        with cputime.computing():  # of this thread
            begun = time.process_time()
            while time.process_time() - begun < 4 * SPENT_S:
                session.run(feeds)

    assert within(work) < SPENT_S
