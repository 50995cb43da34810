"""What changed from one measurement to another, and the verb that says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import farthing
from loadtests.profile import Profile
from loadtests.profile import write as save
from loadtests.reports import comparison, report
from loadtests.reports.changes import (
    ALLOWED,
    BETTER,
    UNKNOWN,
    WITHIN,
    WORSE,
    Change,
)
from loadtests.reports.comparison import compare
from service.errors import InvalidSetting
from tests.loadtests import invented
from tests.loadtests.invented import Queue, profile
from tests.loadtests.test_changes import less_accurate

FIGURES = (
    "p50 ms, one caller", "p99 ms, one caller", "good answers/s, overload", "answered at the SLO",
    "calls/s at the SLO", "$ per million", "accuracy, %",
)  # fmt: skip


@pytest.fixture(scope="module")
def before() -> Profile:
    return profile("fp32", seed=1)


@pytest.fixture(scope="module")
def slower() -> Profile:
    """A tenth slower."""
    return profile("fp32", Queue(4.4), seed=200)


def judged(one: Profile, other: Profile) -> dict[str, Change]:
    return {each.figure: each for each in compare([one], [other]).changes}


def test_a_profile_beside_itself_has_not_changed(before: Profile) -> None:
    found = compare([before], [before])
    assert [each.figure for each in found.changes] == list(FIGURES)
    assert {each.verdict for each in found.changes} == {WITHIN, ALLOWED}
    assert all(each.change == 0 for each in found.changes)
    assert found.regressions(0.0) == []
    assert (found.differences, found.unpaired) == ((), ())


def test_runs_of_the_same_server_are_within_noise() -> None:
    one = profile("fp32", seed=1, calls=1000)
    alarms = sum(
        bool(compare([one], [profile("fp32", seed=1000 + 100 * n, calls=1000)]).regressions(0.0))
        for n in range(20)
    )
    # In at most one of a hundred.
    assert alarms <= 1


def test_a_server_that_became_a_tenth_slower_is_found(before: Profile, slower: Profile) -> None:
    found = judged(before, slower)
    assert {found[name].verdict for name in FIGURES[:2]} == {WORSE}
    assert {found[name].verdict for name in FIGURES[2:4]} == {ALLOWED}
    # A tenth is less than two searches can tell apart.
    assert {found[name].verdict for name in FIGURES[4:6]} == {WITHIN}
    assert judged(slower, before)[FIGURES[0]].verdict == BETTER


def test_a_server_that_became_half_as_fast_is_found_in_all_its_figures(before: Profile) -> None:
    half = profile("fp32", Queue(8.0), seed=200)
    assert {judged(before, half)[name].verdict for name in FIGURES[:3]} == {WORSE}
    assert {judged(before, half)[name].verdict for name in FIGURES[4:6]} == {WORSE}
    assert {judged(half, before)[name].verdict for name in FIGURES[4:6]} == {BETTER}


def test_a_collapse_under_overload_is_found(before: Profile) -> None:
    collapsing = profile("fp32", Queue(refuses=False), seed=300)
    change = judged(before, collapsing)["good answers/s, overload"]
    assert change.verdict == WORSE
    assert change.change is not None
    assert change.change < -0.9


def test_few_calls_widen_the_interval_until_nothing_is_sure(slower: Profile) -> None:
    few, many = profile("fp32", seed=1, calls=470), profile("fp32", seed=1, calls=6000)
    found = [judged(each, slower)["p99 ms, one caller"].interval for each in (few, many)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].high - found[0].low > 1.3 * (found[1].high - found[1].low)


def test_a_rate_nobody_searched_for_cannot_be_told_apart(before: Profile) -> None:
    found = judged(before, replace(before, searched=()))
    assert found["calls/s at the SLO"].verdict == UNKNOWN
    assert found["calls/s at the SLO"].why == "no search, or no caller alone, tells how exact it is"
    assert found["answered at the SLO"].why == "not measured on both sides"


def test_too_few_answers_for_a_p99_are_no_p99(before: Profile) -> None:
    found = judged(before, replace(before, alone=invented.alone(Queue(), calls=458)))
    assert found["p99 ms, one caller"].verdict == UNKNOWN
    assert found["p99 ms, one caller"].why == "too few answers"
    assert found["p50 ms, one caller"].verdict == WITHIN


def test_a_void_run_is_left_out_with_its_reason(before: Profile) -> None:
    late = replace(before.levels[-1], seen=invented.run(Queue(), 800, late=100))
    change = judged(before, replace(before, levels=(*before.levels[:-1], late)))[FIGURES[2]]
    assert change.verdict == UNKNOWN
    assert change.why.startswith("void: the generator sent")


def test_overload_is_compared_at_the_highest_load_that_both_saw(before: Profile) -> None:
    """Which is the last but one."""
    change = judged(before, replace(before, levels=before.levels[:-1]))[FIGURES[2]]
    assert change.before == change.after == before.levels[-2].seen.good_per_s


def test_what_is_void_is_refused_with_its_reason(before: Profile) -> None:
    void = replace(before, conditions=replace(before.conditions, price=None))
    with pytest.raises(InvalidSetting, match=r"'fp32' \(after\) is void, since it lacks a price"):
        compare([before], [void])
    late = profile("fp32", calls=500, late=20)
    with pytest.raises(InvalidSetting, match=r"'fp32' \(before\) is void.*kept its schedule"):
        compare([late], [before])


def test_other_work_is_refused_and_other_conditions_are_told(before: Profile) -> None:
    rows = replace(before, conditions=replace(before.conditions, rows=8))
    with pytest.raises(InvalidSetting, match="requests of 1 and 8 rows; only the same work"):
        compare([before], [rows])
    with pytest.raises(InvalidSetting, match="different SLOs"):
        compare([before], [replace(before, slo=replace(before.slo, percent=95))])
    elsewhere = replace(before.conditions, hardware="another CPU", payload="drawn rows")
    told = compare([before], [replace(before, conditions=elsewhere)]).differences
    assert [each.partition(":")[0] for each in told] == ["Hardware", "Payload"]
    assert "after another CPU" in told[0]


def test_pairs_are_those_of_a_name_or_else_of_a_variant(before: Profile) -> None:
    int8 = profile("int8", seed=3, calls=500)
    found = compare([before, int8], [int8, before, profile("fp16", calls=500)])
    assert [each.name for each in found.changes[:: len(FIGURES)]] == ["fp32", "int8"]
    assert found.unpaired == ("fp16",)
    stranger = replace(before, name="triton's", bill=None, phases=None)
    pairs = comparison.paired(
        [before, int8], [stranger, replace(int8, name="b", subject=int8.subject)]
    )
    assert [(a.name, b.name) for a, b in pairs] == [("fp32", "triton's"), ("int8", "b")]


def test_one_is_compared_with_one_whatever_their_names(before: Profile) -> None:
    stranger = profile("triton", calls=500, server="triton 2.51")
    found = compare([before], [replace(stranger, bill=None, phases=None, runs={})])
    assert {each.name for each in found.changes} == {"fp32 -> triton"}
    assert any("triton 2.51" in text for text in found.differences)


def test_one_pair_can_be_compared_where_others_are_void(before: Profile) -> None:
    both = [before, replace(before, name="fp16", rate=None)]
    with pytest.raises(InvalidSetting, match=r"'fp16'.*leave it out with --only NAME"):
        compare(both, both)
    alone = compare(both, both, only="fp32")
    assert {each.name for each in alone.changes} == {"fp32"}
    assert alone.unpaired == ()
    with pytest.raises(InvalidSetting, match="no profile called 'int8' is on both sides"):
        compare(both, both, only="int8")


def test_nothing_that_belongs_together_is_refused(before: Profile) -> None:
    with pytest.raises(InvalidSetting, match="no name and no variant is on both sides"):
        compare([before], [profile("a", calls=20), profile("b", calls=20)])


def file(directory: Path, name: str, one: Profile) -> str:
    save(one, directory / name)
    return str(directory / name)


@pytest.mark.parametrize(("threshold", "code"), [("5%", 1), ("5", 1), ("50%", 0)])
def test_the_verb_ends_with_1_beyond_the_threshold_only(
    tmp_path: Path, before: Profile, slower: Profile, threshold: str, code: int
) -> None:
    files = file(tmp_path, "a.json", before), file(tmp_path, "b.json", slower)
    assert farthing.main(["compare", *files, "--threshold", threshold]) == code
    assert farthing.main(["compare", *reversed(files), "--threshold", threshold]) == 0


def test_the_verb_prints_a_table_that_fits_and_its_last_word(
    tmp_path: Path, before: Profile, slower: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    long = replace(slower, name="int8-static of a night with a very long name of its own")
    files = file(tmp_path, "a.json", before), file(tmp_path, "b.json", long)
    farthing.main(["compare", *files])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    for figure in FIGURES:
        assert figure in printed
    assert "Worse than the thresholds allow, and beyond noise" in " ".join(printed.split())


def test_the_verb_says_what_cannot_be_told_and_why(
    tmp_path: Path, before: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    files = file(tmp_path, "a.json", before), file(tmp_path, "b.json", replace(before, levels=()))
    assert farthing.main(["compare", *files]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "good answers/s, overload: cannot be told: not measured on both sides" in printed


def test_the_verb_takes_reports_and_prints_json(
    tmp_path: Path, before: Profile, slower: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = report.write([before, profile("int8", calls=500)], tmp_path)
    one = file(tmp_path, "b.json", slower)
    assert farthing.main(["compare", str(whole.data), one, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "farthing.comparison/1"
    assert [each["figure"] for each in found["changes"]] == list(FIGURES)
    assert found["unpaired"] == ["int8"]
    assert {each["verdict"] for each in found["regressions"]} == {WORSE}
    accuracy = found["changes"][-1]
    assert (accuracy["may"], accuracy["in_points"], accuracy["low"]) == (0.5, True, None)
    assert found["confidence"] == 0.99


def test_the_verb_guards_the_accuracy_by_its_own_threshold(
    tmp_path: Path, before: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    files = file(tmp_path, "a.json", before), file(tmp_path, "b.json", less_accurate(before, 0.6))
    assert farthing.main(["compare", *files, "--threshold", "50%"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "and beyond noise: fp32: accuracy, % -0.60 points." in printed
    assert farthing.main(["compare", *files, "--accuracy", "0.7"]) == 0
    assert farthing.main(["compare", *files, "--accuracy", "nan"]) == 2
    assert "it takes points such as 0.5" in capsys.readouterr().err


@pytest.mark.parametrize("threshold", ["much", "-1%", "nan", ""])
def test_a_threshold_that_is_none_is_refused(
    tmp_path: Path, before: Profile, capsys: pytest.CaptureFixture[str], threshold: str
) -> None:
    one = file(tmp_path, "a.json", before)
    assert farthing.main(["compare", one, one, f"--threshold={threshold}"]) == 2
    assert "it takes a percentage such as 5%" in capsys.readouterr().err


def test_the_verb_ends_with_2_for_what_is_void(
    tmp_path: Path, before: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    void = file(tmp_path, "a.json", replace(before, rate=None))
    assert farthing.main(["compare", void, file(tmp_path, "b.json", before)]) == 2
    assert "is void, since it lacks a rate" in capsys.readouterr().err


def test_the_verb_prints_bounds_as_such(
    tmp_path: Path, before: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    bounded = invented.bounded("fp32")
    files = file(tmp_path, "a.json", before), file(tmp_path, "b.json", bounded)
    assert farthing.main(["compare", *files]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    row = next(line for line in printed.splitlines() if "calls/s at the SLO " in line)
    assert ">= 198" in row
    assert row.rstrip().endswith("cannot tell")


def test_an_end_that_is_not_known_is_a_question_mark_in_the_table(
    tmp_path: Path, before: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    held = replace(before, searched=tuple((level, "") for level, _ in before.searched))
    farthing.main(["compare", file(tmp_path, "a.json", before), file(tmp_path, "b.json", held)])
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "$ per million" in line)
    assert " ? to +" in row
    assert row.rstrip().endswith("cannot tell")
    assert "-100.0" not in printed
    assert "2 of 7 figures could not be told" in " ".join(printed.split())
