"""What is read from files of others is refused in a sentence, or may be reckoned with and shown."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtests import outside, prices
from loadtests import profile as files
from loadtests.reports import comparison, report
from service.errors import InvalidSetting
from tests.loadtests import invented

WHOLE = invented.profile("fp32", calls=800)
OTHER = invented.profile("int8", invented.Queue(2.0), calls=800, seed=5)
RAW = WHOLE.to_dict()
HOSTILE = [
    float("nan"), float("inf"), -1, 0, 1e308, 1e-320, 10**400, "</script>", "a\nb: c\x00\x07",
    "\ud800", None, [], {}, True,
]  # fmt: skip


def leaves(raw: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value; of a list only to the first."""
    items = raw.items() if isinstance(raw, dict) else list(enumerate(raw))[:1]
    for key, value in items:
        yield (*way, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*way, key))


def changed(way: tuple[Any, ...], value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(RAW)
    at = raw
    for key in way[:-1]:
        at = at[key]
    at[way[-1]] = value
    return raw


def saved(raw: Any, directory: Path) -> Path:
    path = directory / "p.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path


def test_a_profile_with_any_wrong_value_is_refused_or_reported(tmp_path: Path) -> None:
    cases = [(way, value) for way in leaves(RAW) for value in HOSTILE]
    read = 0
    for way, value in random.Random(1).sample(cases, 150):
        path = saved(changed(way, value), tmp_path)
        try:
            profile = files.read(path)
        except InvalidSetting as error:
            assert str(error).isprintable(), (way, value)
            continue
        read += 1
        again = files.read(_written(profile, tmp_path))
        assert again == profile, (way, value)
        if read % 12 == 1:
            _reckoned(profile, tmp_path)
    assert 0 < read < 150


def _written(profile: files.Profile, directory: Path) -> Path:
    files.write(profile, directory / "again.json")
    return directory / "again.json"


def _reckoned(profile: files.Profile, directory: Path) -> None:
    """All that is made of profiles; what cannot be is said in a sentence."""
    try:
        written = report.write([profile, OTHER], directory / "out")
        text = written.data.read_text(encoding="utf-8")
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert "\0" not in written.page.read_text(encoding="utf-8")
        comparison.compare([profile], [OTHER])
    except InvalidSetting as error:
        assert str(error).isprintable()


@pytest.mark.parametrize(
    ("way", "value", "said"),
    [
        (("rate",), "70", '"70", which is no float'),
        (("rate",), 0, "it takes"),
        (("name",), 5, "another type"),
        (("subject",), None, "no mapping"),
        (("subject", "accuracy"), 1.5, "it takes 0 to 1"),
        (("subject", "variant"), float("nan"), "NaN is no figure"),
        (("conditions", "cpus"), 0, "and have a price"),
        (("conditions", "local"), 9, "replicas are local"),
        (("conditions", "price", "date"), "yesterday", "isoformat"),
        (("conditions", "price", "currency"), "EUR", "US dollars"),
        (("slo", "percent"), 101, "it takes 50"),
        (("levels",), {}, "no list"),
        (("levels", 0, "seen", "latency_histogram"), "HISTFAAA", "histogram"),
        (("levels", 0, "seen", "latency_histogram"), 5, "histogram"),
        (("levels", 0, "seen", "endings"), {"good": 7}, "were answered"),
        (("runs",), {"one": [1, 0.1]}, "invalid literal"),
        (("runs",), {"1": [1]}, "1 values where 2 belong"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said(
    tmp_path: Path, way: tuple[Any, ...], value: Any, said: str
) -> None:
    with pytest.raises(InvalidSetting, match=r"p\.json is no profile: .*") as error:
        files.read(saved(changed(way, value), tmp_path))
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"schema": ' + "9" * 5000 + "}", "\xff", "NaN"])
def test_what_no_program_can_hold_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidSetting, match="is no profile"):
        files.read(path)
    with pytest.raises(InvalidSetting, match="is neither a profile nor a report"):
        report.read_all(path)


def test_a_figure_of_thousands_of_digits_is_said_as_one(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"schema": ' + "9" * 5000 + "}")
    with pytest.raises(InvalidSetting, match="a figure of 5000 digits"):
        files.read(tmp_path / "p.json")


def test_a_figure_that_json_cannot_say_is_not_written(tmp_path: Path) -> None:
    wrong = files.Profile(WHOLE.name, WHOLE.subject, WHOLE.conditions, WHOLE.slo, float("inf"))
    with pytest.raises(InvalidSetting, match="no finite number"):
        files.write(wrong, tmp_path / "p.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("net\x1b[31m red", "net [31m red"), ("a\nb\r\tc\x00", "a b c"), ("\ud800x\u2028y", "x y"),
        ("\u202egnp.exe", "gnp.exe"), ("grün 日本", "grün 日本"), ("", ""),
    ],
)  # fmt: skip
def test_nothing_that_a_terminal_would_obey_is_shown(text: str, shown: str) -> None:
    assert outside.plain(text) == shown


def test_text_is_cut_where_nobody_reads_on() -> None:
    assert len(outside.plain("x" * 10**6)) == 300
    assert outside.plain("x" * 10**6).endswith("x ...")
    assert outside.plain("x" * 300) == "x" * 300


def test_a_name_in_a_file_is_plain_text_when_it_is_read(tmp_path: Path) -> None:
    assert files.read(saved(changed(("name",), "net\x1b[2J"), tmp_path)).name == "net [2J"


def test_a_price_of_a_profile_is_checked_like_one_of_the_book() -> None:
    raw = RAW["conditions"]["price"]
    assert prices.Price.from_dict(raw) == WHOLE.conditions.price
    for change in ({"cpus": 0}, {"usd_per_hour": "1"}, {"accelerators": 1}, {"source": ""}):
        with pytest.raises(ValueError, match=r"price"):
            prices.Price.from_dict(raw | change)
