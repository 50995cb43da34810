"""What a profile costs, when it is void, and that its file keeps all of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from loadtests import profile as files
from loadtests.profile import Level, Profile
from service.errors import InvalidSetting
from tests.loadtests.profiles import observed, profile


def changed(part: str, **change: Any) -> Profile:
    made = profile()
    return dataclasses.replace(made, **{part: dataclasses.replace(getattr(made, part), **change)})


def test_dollars_per_million_follow_from_price_cpus_and_rate() -> None:
    # One of four CPUs for $0.2/h is $0.05/h; at 70/s a million take 3.968 hours.
    assert profile().usd_per_million == pytest.approx(1e6 * 0.05 / (3600 * 70))
    assert profile().lacking == []


@pytest.mark.parametrize(
    ("replicas", "local", "machines"), [(1, 0, 1), (1, 1, 1), (2, 2, 1), (2, 0, 2), (3, 2, 2)]
)
def test_replicas_on_machines_of_their_own_are_all_paid_for(
    replicas: int, local: int, machines: int
) -> None:
    made = changed("conditions", replicas=replicas, local=local)
    assert made.conditions.machines == machines
    assert made.usd_per_million == pytest.approx(machines * 1e6 * 0.05 / (3600 * 70))
    assert made.effective_usd_per_million(Level(9.0, observed(0.01))) == pytest.approx(
        machines * 1e6 * 0.05 / (3600 * 100)
    )
    said = made.conditions.price_said
    assert said.startswith(f"{machines} machines, each 1 of") is (machines > 1)
    told = made.to_dict()["conditions"]
    assert (told["machines"], told["fleet_usd_per_hour"]) == (
        machines, pytest.approx(machines * 0.05),
    )  # fmt: skip
    assert Profile.from_dict(made.to_dict()) == made


@pytest.mark.parametrize(
    ("part", "change", "lacks"),
    [
        ("subject", {"variant": None}, "the variant"),
        ("subject", {"sha256": None}, "the model's digest"),
        ("subject", {"accuracy_change": None}, "the accuracy change"),
        ("conditions", {"price": None}, "a price"),
        ("conditions", {"hardware": ""}, "the hardware"),
    ],
)
def test_what_lacks_anything_has_no_dollars(part: str, change: dict[str, Any], lacks: str) -> None:
    made = changed(part, **change)
    assert made.lacking == [lacks]
    assert made.usd_per_million is None
    assert made.effective_usd_per_million(made.levels[0]) is None
    assert made.to_dict()["void"] == [lacks]


def test_no_rate_is_void() -> None:
    made = profile(rate=None)
    assert (made.usd_per_million, made.lacking) == (None, ["a rate at which the SLO holds"])
    (late,) = profile(rate=None, generator_bound=True).lacking
    assert late.startswith("a rate at which the SLO holds (the generator was late: stop what else")


def test_a_void_run_at_the_rate_is_void() -> None:
    seen = observed(0.01)
    for _ in range(50):
        seen.sent(1.0)
    made = profile(searched=((Level(70.0, seen), ""),))
    assert made.usd_per_million is None
    assert "a generator that kept its schedule" in made.lacking[0]


def test_the_run_at_the_slo_is_the_one_that_confirmed_the_rate() -> None:
    short, long = Level(70.0, observed(0.01, calls=10)), Level(70.0, observed(0.01))
    higher = Level(90.0, observed(0.01, calls=10))
    made = profile(searched=((short, ""), (higher, ""), (long, ""), (higher, "10 late")))
    assert made.at_slo is long


def test_late_answers_cost_and_do_not_count() -> None:
    seen = observed(0.01, calls=500)
    for _ in range(500):
        seen.answered(0.2)
    level = Level(100.0, seen)
    good_per_s = 500 / 10
    assert profile().effective_usd_per_million(level) == pytest.approx(
        1e6 * 0.05 / (3600 * good_per_s)
    )


def test_the_file_keeps_all_of_it(tmp_path: Path) -> None:
    made = profile(
        ended="at 72/s it was late", phases={"run": 0.01}, paid_core_s=12.5, span_s=6.3,
        unbilled="it was restarted",
    )  # fmt: skip
    files.write(made, tmp_path / "p.json")
    assert files.read(tmp_path / "p.json") == made
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is not JSON"),
        ("# A readme", "it is not JSON"),
        ("\x00", "it is not JSON"),
        ("[]", "it is [], which is no mapping"),
        ("{}", "it is JSON of something else, without a schema"),
        ('{"schema": "farthing.profile/2"}', 'its schema is "farthing.profile/2", not farthing.pr'),
        (
            '{"schema": "farthing.report/1"}',
            'its schema is "farthing.report/1", not farthing.profile/1; give the profiles',
        ),
    ],
)
def test_what_is_no_profile_is_refused_for_what_it_is_and_not_told_to_be_overwritten(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "p.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidSetting) as refused:
        files.read(path)
    assert f"{path} is no profile: {said}" in str(refused.value)
    assert "--save-profile" not in str(refused.value)


def test_what_does_not_exist_is_told_how_to_make(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"does not exist; `farthing slo --save-profile p.js"):
        files.read(tmp_path / "p.json")


def test_a_profile_with_a_part_of_it_missing_is_refused(tmp_path: Path) -> None:
    raw = profile().to_dict()
    del raw["slo"]
    (tmp_path / "p.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(InvalidSetting, match="is no profile"):
        files.read(tmp_path / "p.json")
