"""Where a generator runs, and that nothing of it stays when it is over."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from loadtests import priority

SESSION = Path("/proc/self/autogroup")


def place() -> tuple[int, set[int], str]:
    """This thread's priority, its cores, and the session's priority where there is one."""
    session = SESSION.read_text() if SESSION.exists() else ""
    return os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), session


def test_a_generator_goes_first_where_it_may_and_everything_is_put_back() -> None:
    before = place()
    with priority.first():
        within = place()
        with priority.first():  # as a child of ours would
            pass
        assert place() == within
    assert within[0] == (min(before[0], -10) if os.geteuid() == 0 else before[0])
    assert within[1] == priority.spared(frozenset(before[1]))
    assert place() == before


def test_a_thread_that_ran_before_goes_first_too() -> None:
    asked, told = threading.Event(), list[int]()
    ready = threading.Event()

    def run() -> None:
        ready.set()
        asked.wait(10)
        told.append(os.getpriority(os.PRIO_PROCESS, 0))

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(10)
    with priority.first():
        asked.set()
        thread.join()
        assert told == [os.getpriority(os.PRIO_PROCESS, 0)]


@pytest.mark.parametrize(
    ("cpus", "taken"),
    [({0}, {0}), ({0, 1}, {0, 1}), ({2, 3, 5}, {3, 5}), ({0, 1, 2, 3}, {1, 2, 3})],
)
def test_a_core_is_left_free_where_there_are_more_than_two(cpus: set[int], taken: set[int]) -> None:
    assert priority.spared(frozenset(cpus)) == taken


@pytest.mark.parametrize(
    ("target", "here"),
    [("127.0.0.1:1", True), ("127.8.7.6:1", True), ("localhost:1", True), ("0.0.0.0:1", True),
     ("192.0.2.77:1", False), ("no name.invalid:8001", False), ("[2001:db8::7]:1", False)],
)  # fmt: skip
def test_a_server_at_an_address_of_ours_shares_its_cores(target: str, here: bool) -> None:
    assert priority.shares(target) is here


@pytest.mark.parametrize("target", ["[::1]:1", "[::]:1"])
def test_a_server_at_an_address_of_ours_shares_its_cores_with_ip_version_6(target: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert priority.shares(target)


def test_the_address_under_which_others_know_this_machine_is_ours() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.77", 9))  # sends nothing; it only picks a way out
        except OSError:
            pytest.skip("this machine has no way to others")
        own = asking.getsockname()[0]
    assert priority.shares(f"{own}:8001")
