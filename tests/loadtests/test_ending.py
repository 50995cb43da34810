"""What is stored of a search, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtests.tuning import ending
from loadtests.tuning.ending import Asked, Ending
from loadtests.tuning.trials import Measured, Outcome, Setting, Tried
from service import hardware, tuned
from service.tuned import Tuned

DEFAULTS = Setting("fp32", 16, 1, 2)
WINNER = Setting("int8", 8, 2, 1)
ASKED = Asked("m", 1, 2, 5.0, 60.0)
HERE = replace(ASKED, cpus=hardware.cpus())
ENTRY = Tuned(hardware.fingerprint(), hardware.cpus(), "int8", "d", 8, 2, 1, False, 5.0)


def steady(rate: float, run_ms: float, cpu_s: float | None = None) -> Measured:
    return Measured((rate,) * 4, (run_ms / 1e3,) * 20, cpu_s)


def ended(winner: Setting | None, *tried: Tried, over: float = 1.2, **fields: Any) -> Ending:
    measured = next((each.measured for each in tried if each.setting == winner), None)
    entry = None if winner in (None, DEFAULTS) else ENTRY
    outcome = Outcome(DEFAULTS, winner, measured, over, tried)
    return replace(Ending(outcome, entry, None, 17.2), **fields)


def checked(defaults_ms: float, winner_ms: float) -> tuple[Tried, Tried]:
    return (
        Tried("check", DEFAULTS, steady(1000, defaults_ms), 0.8, "slower"),
        Tried("check", WINNER, steady(1200, winner_ms), 1.0, ""),
    )


STAYS = Tried("check", DEFAULTS, steady(1000, 2), 1.0, "")
FAILED = Tried("batch limit", DEFAULTS, steady(1000, 3), 1.0, "misses the target")


def test_winner_is_told_with_its_latency_and_the_target() -> None:
    text = ending.last_words(ASKED, ended(WINNER, *checked(2, 2.1), written=Path("tuned.json")))
    assert text == (
        "* int8, up to 8 rows a run, 2 x 1 thread, spinning off: 1,200 rows/s in process, 1.20x "
        "the defaults' rows/s; it answers within 4.2 ms at worst, 5 ms is the target; written to "
        "tuned.json."
    )


def test_winner_slower_than_defaults_that_miss_the_target_says_why() -> None:
    text = ending.last_words(ASKED, ended(WINNER, *checked(8, 2), over=0.87))
    assert "0.87x the defaults' rows/s, which miss the target with 16 ms;" in text


def test_without_a_target_none_is_missed() -> None:
    text = ending.last_words(replace(ASKED, target_ms=0.0), ended(WINNER, *checked(8, 2)))
    assert "target" not in text and "within 4 ms at worst" in text


def test_spinning_winner_is_told_with_its_cpu() -> None:
    spins = replace(DEFAULTS, spin=True)
    tried = (
        Tried("spinning", DEFAULTS, steady(1000, 2, 0.0001), 0.9, "slower"),
        Tried("spinning", spins, steady(1100, 2, 0.0033), 1.0, ""),
    )
    text = ending.last_words(ASKED, ended(spins, *tried))
    assert "spinning takes 3.3 ms of CPU for a lone request, 0.1 ms without" in text


def test_defaults_that_stay_write_nothing_and_take_an_older_entry_of_this_hardware_out(
    tmp_path: Path,
) -> None:
    elsewhere = replace(ENTRY, fingerprint="another")
    for entry in (elsewhere, ENTRY):
        tuned.write(tmp_path, entry)
    end = ended(DEFAULTS, STAYS)
    kept = ending.store(tmp_path, end.outcome, end.entry, replace(HERE, dry_run=True))
    assert kept == (None, tmp_path / "tuned.json")
    assert tuned.read(tmp_path) == (elsewhere, ENTRY)
    assert "would be removed" in ending.last_words(
        replace(ASKED, dry_run=True), replace(end, old=kept[1])
    )
    assert ending.store(tmp_path, end.outcome, end.entry, HERE) == kept
    assert tuned.read(tmp_path) == (elsewhere,)
    text = ending.last_words(ASKED, replace(end, old=kept[1]))
    assert text.startswith("* The defaults stay: nothing that was tried beat them.")
    assert f"the earlier entry of this hardware was removed from {kept[1]}" in text


def test_defaults_that_stay_where_nothing_was_tuned_leave_no_file(tmp_path: Path) -> None:
    end = ended(DEFAULTS, STAYS)
    assert ending.store(tmp_path, end.outcome, end.entry, HERE) == (None, None)
    assert list(tmp_path.iterdir()) == []
    assert ending.last_words(ASKED, end).endswith("nothing was written.")


def test_missed_target_leaves_the_earlier_entry_and_says_that_servers_take_it(
    tmp_path: Path,
) -> None:
    tuned.write(tmp_path, ENTRY)
    end = ended(None, FAILED, held=ENTRY)
    assert ending.store(tmp_path, end.outcome, end.entry, HERE) == (None, None)
    assert tuned.read(tmp_path) == (ENTRY,)
    text = ending.last_words(ASKED, end)
    assert "servers go on taking what was tuned on" in text
    assert "servers" not in ending.last_words(ASKED, replace(end, held=None))


def test_notes_tell_the_time_and_which_setting_varied() -> None:
    assert ending.notes(ASKED, ended(DEFAULTS, STAYS)) == "It took 17 of 60 s."
    noisy = Tried("check", WINNER, Measured((50, 100, 150), (0.001,)), 0.5, "slower")
    text = ending.notes(ASKED, ended(DEFAULTS, STAYS, noisy))
    assert "The rounds of int8, up to 8 rows a run, 2 x 1 thread, spinning off differ by" in text
    assert "by 100 % between their quartiles" in text


def test_json_has_what_was_asked_and_for_each_trial_a_ratio_and_a_reason() -> None:
    found = ending.summary(ASKED, ended(WINNER, *checked(8.123456, 2)))
    asked = [found[key] for key in ("model", "version", "cpus", "target_ms", "budget_s", "seconds")]
    assert asked == ["m", 1, 2, 5.0, 60.0, 17.2]
    first, second = found["tried"]
    assert (first["ratio"], first["meets_target"], first["reason"]) == (0.8, False, "slower")
    assert (second["ratio"], second["meets_target"], second["reason"]) == (1.0, True, "")
    assert first["run_ms"] == 8.123


@pytest.mark.parametrize(("value", "short"), [(12345.6, 12350.0), (0.0123456, 0.01235), (0.0, 0.0)])
def test_figures_have_four_digits(value: float, short: float) -> None:
    assert ending.rounded(value) == short


MARK = "NVIDIA Pretend, compute 9.0, cuda"
ON_GPUS = Asked("m", 1, 2, 0.0, 60.0, mark=MARK)
RECORDED = Setting("fp16", 128, 4, 1, cuda_graphs=True)


def test_gpus_are_told_by_their_number_and_name() -> None:
    assert ASKED.title == "m/1 on 2 CPUs"
    assert ON_GPUS.title == f"m/1 on 2 GPUs ({MARK})"


def test_winner_on_gpus_is_told_with_its_graphs_and_without_threads() -> None:
    plain = replace(RECORDED, cuda_graphs=False)
    tried = (
        Tried("CUDA graphs", plain, steady(1000, 2), 0.8, "slower"),
        Tried("CUDA graphs", RECORDED, steady(1200, 2), 1.0, ""),
    )
    outcome = Outcome(plain, RECORDED, tried[1].measured, 1.2, tried)
    text = ending.last_words(ON_GPUS, Ending(outcome, ENTRY, None, 1.0))
    assert text.startswith(
        "* fp16, up to 128 rows a run, 4 instances, CUDA graphs on: 1,200 rows/s"
    )
    assert "thread" not in text and "spinning" not in text


def test_json_has_graphs_on_gpus_and_no_word_of_them_on_cpus() -> None:
    end = ended(WINNER, *checked(2, 2.1))
    found = ending.summary(ASKED, end)
    assert "cuda_graphs" not in str(found)
    there = replace(ENTRY, fingerprint=MARK, cuda_graphs=True)
    tried = (Tried("check", RECORDED, steady(1200, 2), 1.0, ""),)
    outcome = Outcome(RECORDED, RECORDED, tried[0].measured, 1.0, tried)
    found = ending.summary(ON_GPUS, Ending(outcome, there, None, 1.0))
    assert found["winner"]["cuda_graphs"] is found["tried"][0]["cuda_graphs"] is True


def test_entry_of_gpus_goes_where_their_defaults_stay_and_that_of_the_cpu_stays(
    tmp_path: Path,
) -> None:
    there = replace(ENTRY, fingerprint=MARK, cpus=2, cuda_graphs=False)
    for entry in (ENTRY, there):
        tuned.write(tmp_path, entry)
    end = ended(DEFAULTS, STAYS)
    assert ending.store(tmp_path, end.outcome, end.entry, ON_GPUS) == (
        None, tmp_path / "tuned.json",
    )  # fmt: skip
    assert tuned.read(tmp_path) == (ENTRY,)
