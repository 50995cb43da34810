"""Progress goes where no result is, and an interrupt says what it left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from converter import cli
from loadtests.screen import all_or_nothing, shown


@pytest.mark.parametrize("bar", [shown, cli._shown])
def test_progress_is_no_part_of_standard_output(
    bar: Callable[[str], AbstractContextManager[Callable[[str], None]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with bar("measuring") as told:
        told("still measuring")
    seen = capsys.readouterr()
    assert seen.out == "" and "measuring" in seen.err


def test_an_interrupt_is_said_once_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), all_or_nothing():
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "farthing: interrupted; nothing was written\n"
