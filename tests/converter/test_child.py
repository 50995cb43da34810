"""Work in a process of its own: every ending becomes silence or one sentence."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from converter import child
from converter.child import ERROR_FILE, ChildFailed

# `python -m timeit -n 1 -r 1 CODE` runs any code once, and ends with 1 if it raises.
ONCE = ("-n", "1", "-r", "1")


def run_code(directory: Path, code: str, timeout_s: float = 60) -> None:
    child.run("timeit", [*ONCE, code], directory=directory, timeout_s=timeout_s)


def test_work_that_succeeds_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_code(tmp_path, f"print('noise'); open({str(tmp_path / 'result')!r}, 'w').close()")
    assert (tmp_path / "result").exists()
    assert capfd.readouterr() == ("", "")


def test_a_crash_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed) as error:
        child.run("json.tool", [str(tmp_path / "missing")], directory=tmp_path, timeout_s=60)
    said = str(error.value)
    assert said.startswith("json.tool ended with code 2; its last line: ")
    assert "missing" in said and "\n" not in said


def test_the_childs_own_sentence_is_preferred_to_the_log(tmp_path: Path) -> None:
    explained = f"open({str(tmp_path / ERROR_FILE)!r}, 'w').write('the reason\\n'); 1 / 0"
    with pytest.raises(ChildFailed) as error:
        run_code(tmp_path, explained)
    assert str(error.value) == "the reason"


def test_a_note_of_a_child_that_succeeds_is_no_failure(tmp_path: Path) -> None:
    run_code(tmp_path, f"open({str(tmp_path / ERROR_FILE)!r}, 'w').write('only a note')")
    assert (tmp_path / ERROR_FILE).read_text() == "only a note"


def test_a_child_killed_by_a_signal_says_which(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=r"^timeit was killed by signal 9; .*no output$"):
        run_code(tmp_path, "import os; os.kill(os.getpid(), 9)")


def test_a_child_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    with pytest.raises(ChildFailed, match="timeit took longer than 1 seconds"):
        run_code(tmp_path, "import time; time.sleep(600)", timeout_s=1)
    assert set(psutil.Process().children()) <= before


def test_a_module_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="No module named"):
        child.run("no.such.module", [], directory=tmp_path, timeout_s=60)
