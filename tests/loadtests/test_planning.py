"""The verb `plan`: what it takes, prints and refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import farthing
from loadtests import profile as profiles
from loadtests.plans import demand, plan, plantables
from loadtests.plans.plan import Asked
from loadtests.profile import Profile
from loadtests.slo import Slo
from service.errors import InvalidSetting
from tests.loadtests.planned import FP32, INT8, SLO
from tests.loadtests.profiles import price, profile


def test_ones_own_price_replaces_the_one_in_the_profile() -> None:
    dearer = plan.repriced(FP32, {"cloud-small": price(usd_per_hour=0.4)})
    assert dearer.conditions.usd_per_hour == pytest.approx(0.1)
    assert plan.repriced(FP32, {"cloud-large": price("cloud-large")}) == FP32


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (profile("other", slo=Slo(99, 0.2, 0.99)), "must hold"),
        (FP32, "leave one out"),
        (profile("other", slo=SLO, price=None), "it lacks a price"),
        (
            profile("other", slo=SLO, conditions=replace(FP32.conditions, rows=4)),
            "don't compare",
        ),
    ],
    ids=["another-slo", "twice", "void", "other-rows"],
)
def test_profiles_that_do_not_compare_are_refused(second: Profile, said: str) -> None:
    with pytest.raises(InvalidSetting, match=said):
        plan.check([FP32, second], None)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two profiles as files."""
    paths = [tmp_path / "fp32.json", tmp_path / "int8.json"]
    for one, path in zip((FP32, INT8), paths, strict=True):
        profiles.write(one, path)
    return [str(path) for path in paths]


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = farthing.main(["plan", *argv])
    return code, *capsys.readouterr()


def test_the_verb_prints_json_with_all_that_the_tables_say(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, *files, "--rate", "100", "--price", "aws-c7i.xlarge", "--json")
    made: dict[str, Any] = json.loads(out)
    assert code == 0
    # One would hold 120/s; two, so that one may be lost.
    assert [option["replicas"] for option in made["options"]] == [2, 2]
    assert made["options"][0]["usd_per_month"] == pytest.approx(2 * 0.05 * 730)
    assert made["options"][0]["replicas_per_machine"] == 3
    assert made["options"][0]["whole_machines_usd_per_month"] == pytest.approx(0.2 * 730)
    assert made["not_measured"] == ["aws-c7i.xlarge"]
    assert "net int8 on cloud-small costs as much" in made["verdict"]
    assert made["slo"] == SLO.to_dict()


def test_the_verb_says_no_where_the_slo_holds_with_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its runs take longer than its answers took.
    profiles.write(profile(slo=SLO, runs={1: (100, 0.02)}), tmp_path / "odd.json")
    code, out, _ = run(capsys, str(tmp_path / "odd.json"), "--rate", "100", "--p99", "15ms")
    assert code == 1
    assert "holds with none of these, however many replicas there are." in " ".join(out.split())


def test_a_trace_is_planned_for(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("time_s,requests_per_s\n0,20\n30,20\n30,300\n90,300\n90,20\n150,20\n")
    code, out, _ = run(capsys, files[1], "--trace", str(trace), "--headroom", "0", "--json")
    (option,) = json.loads(out)["options"]
    assert code == 0
    assert option["replicas"] == 3
    assert option["autoscaling"][0]["most"] > 3


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "give one of --rate, --trace and --day"),
        (["--rate", "1", "--day", "5"], "give one of --rate, --trace and --day"),
        (["--rate", "1", "--price", "moon"], "there is no price 'moon'"),
        (["--rate", "1", "--p99", "soon"], "no length of time"),
        (["--rate", "1", "--p99", "2ms"], "no run of 'net fp32' or 'net int8' shows p99 <= 2 ms"),
        (["--rate", "1", "--write-patch", "out", "--base", "nowhere"], "no kustomize base"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_simulated(
    files: list[str], capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    code, out, err = run(capsys, *files, *argv)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_void_profile_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profiles.write(profile(price=None), tmp_path / "void.json")
    code, _, err = run(capsys, str(tmp_path / "void.json"), "--rate", "10")
    assert code == 2
    assert "the profile 'net fp32' is void: it lacks a price" in err


def test_the_conditions_of_each_price_are_said(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    int8, _ = plantables.conditions(plan.plan([FP32, INT8], Asked(demand.steady(100.0), SLO)))
    depends = (
        "int8-static", "ab" * 32, "+0 points", "2026-11-22", "a machine", "ms late",
        "1 of the 4 CPUs of cloud-small at $0.2/h", "here, on demand; 2026-11-01",
    )  # fmt: skip
    for said in depends:
        assert said in int8
    _, out, _ = run(capsys, *files, "--rate", "100")
    assert " ".join(int8.split()) in " ".join(out.split())
