"""Progress goes where no result is, and an interrupt says what it left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from converter import cli
from loadtests.screen import all_or_nothing, shown

Bar = Callable[[str], AbstractContextManager[Callable[[str], None]]]


@pytest.mark.parametrize("bar", [shown, cli._shown])
def test_progress_is_no_part_of_standard_output(
    bar: Bar, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    with bar("measuring") as told:
        told("still measuring")
    seen = capsys.readouterr()
    assert seen.out == "" and "measuring" in seen.err


@pytest.mark.parametrize("bar", [shown, cli._shown])
def test_no_progress_is_shown_where_nobody_looks(
    bar: Bar, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    with bar("measuring") as told:
        told("still measuring")
    seen = capsys.readouterr()
    assert (seen.out, seen.err.strip()) == ("", "")


def test_an_interrupt_is_said_once_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), all_or_nothing():
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "farthing: interrupted; nothing was written\n"
