"""Children that do not outlive us, and what they say when they fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from loadtests import processes
from loadtests.processes import ChildFailed

PYTHON = (sys.executable, "-c")
ENDLESS = (*PYTHON, "import time; print('up', flush=True); time.sleep(600)")


def wait_until_up(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"


def test_a_process_is_gone_when_the_context_ends(tmp_path: Path) -> None:
    with processes.started(ENDLESS, log=tmp_path / "log") as process:
        wait_until_up(process)
        assert process.poll() is None
    assert process.returncode is not None
    assert not psutil.pid_exists(process.pid)


@pytest.mark.parametrize("ending", [RuntimeError, KeyboardInterrupt])
def test_a_process_is_gone_when_the_context_ends_by_exception(
    tmp_path: Path, ending: type[BaseException]
) -> None:
    with (
        pytest.raises(ending),
        processes.started(ENDLESS, log=tmp_path / "log") as process,
    ):
        wait_until_up(process)
        raise ending
    assert not psutil.pid_exists(process.pid)


def test_a_process_that_has_ended_by_itself_is_no_trouble(tmp_path: Path) -> None:
    with processes.started((*PYTHON, "raise SystemExit(3)"), log=tmp_path / "log") as process:
        process.wait()
    assert process.returncode == 3


def test_a_process_runs_on_the_cpus_it_is_given(tmp_path: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    code = "import os; print(os.sched_getaffinity(0))"
    output = processes.finish((*PYTHON, code), log=tmp_path / "log", cpus=frozenset({cpu}))
    assert output.decode().strip() == str({cpu})


def test_the_output_of_a_finished_process_is_returned(tmp_path: Path) -> None:
    code = "import sys; print('figures'); print('noise', file=sys.stderr)"
    assert processes.finish((*PYTHON, code), log=tmp_path / "log") == b"figures\n"
    assert (tmp_path / "log").read_text() == "noise\n"


def test_a_log_is_continued_and_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    processes.finish((*PYTHON, "import sys; print('after', file=sys.stderr)"), log=tmp_path / "log")
    assert (tmp_path / "log").read_text() == "before\nafter\n"


def test_a_failed_process_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    code = "import sys; print('first', file=sys.stderr); sys.exit('the reason')"
    with pytest.raises(ChildFailed) as error:
        processes.finish((*PYTHON, code), log=tmp_path / "log")
    assert str(error.value).endswith("ended with code 1: the reason")
    assert "\n" not in str(error.value)


def test_a_failed_process_that_was_silent_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("what the one before it said\n")
    with pytest.raises(ChildFailed, match="ended with code 5: it said nothing"):
        processes.finish((*PYTHON, "raise SystemExit(5)"), log=tmp_path / "log")


def test_an_allowed_code_is_no_failure(tmp_path: Path) -> None:
    command = (*PYTHON, "print('still'); raise SystemExit(1)")
    output = processes.finish(command, log=tmp_path / "log", allowed=(0, 1))
    assert output == b"still\n"


def test_a_repository_that_cannot_be_served_is_told_in_the_servers_words(tmp_path: Path) -> None:
    empty = tmp_path / "models"
    empty.mkdir()
    with (
        pytest.raises(ChildFailed, match=r"did not become ready: .*holds no model") as error,
        processes.serving(empty, variant="auto", log=tmp_path / "log"),
    ):
        pytest.fail("there is nothing to serve")
    assert str(empty) in str(error.value)


def test_a_server_tells_what_it_serves_and_is_gone_afterwards(
    double_repository: Path, tmp_path: Path
) -> None:
    before = set(psutil.Process().children())
    log = tmp_path / "log"
    with processes.serving(double_repository, variant="auto", log=log) as endpoint:
        assert (endpoint.model, endpoint.variant) == ("double", "as-is")
        assert len(endpoint.sha256) == 64
        assert endpoint.target.startswith("127.0.0.1:")
        assert set(psutil.Process().children()) > before
    assert set(psutil.Process().children()) <= before
