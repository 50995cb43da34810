"""Work in a process of its own: every ending becomes silence or one sentence."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from converter import child
from converter.child import ERROR_FILE, ChildFailed, Limits

# `python -m timeit -n 1 -r 1 CODE` runs any code once, and ends with 1 if it raises.
ONCE = ("-n", "1", "-r", "1")
AMPLE = Limits(seconds=60, memory_bytes=4_000_000_000)


def run_code(directory: Path, code: str, limits: Limits = AMPLE) -> None:
    child.run("timeit", [*ONCE, code], directory=directory, limits=limits)


def test_work_that_succeeds_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_code(tmp_path, f"print('noise'); open({str(tmp_path / 'result')!r}, 'w').close()")
    assert (tmp_path / "result").exists()
    assert capfd.readouterr() == ("", "")


def test_a_file_in_the_current_directory_stands_in_for_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('someone else wrote this')")
    (tmp_path / "data.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    child.run("json.tool", [str(tmp_path / "data.json")], directory=tmp_path, limits=AMPLE)


def test_a_crash_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed) as error:
        child.run("json.tool", [str(tmp_path / "missing")], directory=tmp_path, limits=AMPLE)
    said = str(error.value)
    assert said.startswith("json.tool ended with code 2; its last line: ")
    assert "missing" in said and "\n" not in said
    assert error.value.code == 2


def test_the_childs_own_sentence_is_preferred_to_the_log(tmp_path: Path) -> None:
    explained = f"open({str(tmp_path / ERROR_FILE)!r}, 'w').write('the reason\\n'); 1 / 0"
    with pytest.raises(ChildFailed) as error:
        run_code(tmp_path, explained)
    assert str(error.value) == "the reason"
    assert error.value.code == 1


def test_a_sentence_left_by_another_child_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / ERROR_FILE).write_text("what an earlier route said")
    with pytest.raises(ChildFailed, match="ZeroDivisionError"):
        run_code(tmp_path, "1 / 0")
    assert not (tmp_path / ERROR_FILE).exists()


def test_a_note_of_a_child_that_succeeds_is_no_failure(tmp_path: Path) -> None:
    run_code(tmp_path, f"open({str(tmp_path / ERROR_FILE)!r}, 'w').write('only a note')")
    assert (tmp_path / ERROR_FILE).read_text() == "only a note"


def test_a_child_killed_by_a_signal_says_which(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=r"^timeit was killed by signal 9; .*no output$") as error:
        run_code(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert error.value.code == -9


def test_a_child_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    with pytest.raises(ChildFailed, match="timeit took longer than 1 seconds") as error:
        run_code(tmp_path, "import time; time.sleep(600)", Limits(1, AMPLE.memory_bytes))
    assert error.value.code is None
    assert set(psutil.Process().children()) <= before


def test_a_child_that_takes_too_much_memory_is_killed(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    start = time.monotonic()
    with pytest.raises(ChildFailed) as error:
        run_code(tmp_path, "b = b'x' * 400_000_000; import time; time.sleep(50)", Limits(60, 2**28))
    assert str(error.value) == ("timeit took more than 0.3 GB of memory, its limit (--memory-gb)")
    assert error.value.code is None
    assert time.monotonic() - start < 40  # ended for its memory, not waited for
    assert set(psutil.Process().children()) <= before


def test_memory_that_is_only_reserved_is_not_counted(tmp_path: Path) -> None:
    # As frameworks do: 8 GB of addresses, and next to nothing behind them.
    run_code(tmp_path, "import mmap; mmap.mmap(-1, 2**33); import time; time.sleep(0.3)")


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs util-linux' setpriv")
def test_a_child_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    try:
        until = time.monotonic() + 30
        while not (tmp_path / "pid").exists() and time.monotonic() < until:
            time.sleep(0.05)
        grandchild = psutil.Process(int((tmp_path / "pid").read_text()))
    finally:
        parent.kill()
        parent.wait()
    gone, _ = psutil.wait_procs([grandchild], timeout=10)
    assert gone or grandchild.status() == psutil.STATUS_ZOMBIE


PARENT = """
import pathlib, sys
from converter import child
directory = pathlib.Path(sys.argv[1])
code = f'''
import os, pathlib, time
pathlib.Path({str(directory / 'new')!r}).write_text(str(os.getpid()))
os.rename({str(directory / 'new')!r}, {str(directory / 'pid')!r})
time.sleep(600)
'''
limits = child.Limits(600, 10**10)
child.run("timeit", ["-n", "1", "-r", "1", code], directory=directory, limits=limits)
"""


def test_a_module_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="No module named"):
        child.run("no.such.module", [], directory=tmp_path, limits=AMPLE)
