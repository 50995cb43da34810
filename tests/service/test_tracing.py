"""Trace and log settings as Triton's clients set them, and nothing that a stranger could write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from service import log, tracing
from service.errors import InvalidInput
from service.log import Levels
from service.phases import Phases
from service.tracing import LogSettings, Traces

DEFAULTS = {
    "trace_level": ("OFF",), "trace_rate": ("1000",), "trace_count": ("-1",),
    "log_frequency": ("0",), "trace_file": ("",), "trace_mode": ("triton",),
}  # fmt: skip
ON = {"trace_level": ["TIMESTAMPS"], "trace_rate": ["1"]}
LOG_DEFAULTS = {
    "log_file": "", "log_info": True, "log_warning": True, "log_error": True,
    "log_verbose_level": 0, "log_format": "default",
}  # fmt: skip


@pytest.fixture
def traces() -> Traces:
    return Traces()


@pytest.fixture
def restored_levels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    levels = log.levels()
    for name in ("handlers", "filters", "propagate"):
        monkeypatch.setattr(log.LOGGER, name, getattr(log.LOGGER, name))
    log.change(Levels())
    yield
    log.change(levels)


@pytest.fixture
def log_settings(restored_levels: None) -> LogSettings:
    return LogSettings()


def taken(traces: Traces, model: str, requests: int) -> list[bool]:
    return [traces.take(model) for _ in range(requests)]


def test_nothing_is_traced_until_someone_asks(traces: Traces) -> None:
    assert traces.settings() == traces.settings("digits") == DEFAULTS
    assert not any(taken(traces, "digits", 2000))


def test_one_of_every_rate_is_traced_per_model(traces: Traces) -> None:
    traces.update({"trace_level": ["TIMESTAMPS"], "trace_rate": ["3"]})
    assert taken(traces, "digits", 7) == [False, False, True, False, False, True, False]
    assert taken(traces, "texts", 3) == [False, False, True]


def test_count_is_what_is_left_and_ends_tracing(traces: Traces) -> None:
    traces.update({**ON, "trace_count": ["2"]})
    assert traces.take("digits")
    assert traces.settings()["trace_count"] == traces.settings("digits")["trace_count"] == ("1",)
    assert taken(traces, "texts", 2) == [True, False], "all models share what is set for all"
    assert traces.settings()["trace_count"] == ("0",)
    traces.update({"trace_count": ["1"]})
    assert taken(traces, "digits", 2) == [True, False]


def test_count_of_a_model_is_its_own(traces: Traces) -> None:
    traces.update({**ON, "trace_count": ["5"]})
    traces.update({"trace_count": ["1"]}, "digits")
    assert taken(traces, "digits", 2) == [True, False]
    assert traces.settings()["trace_count"] == ("5",)
    assert traces.take("texts")


def test_model_is_traced_alone(traces: Traces) -> None:
    traces.update(ON, "digits")
    assert traces.take("digits") and not traces.take("texts")
    assert traces.settings() == DEFAULTS


def test_model_may_be_left_out(traces: Traces) -> None:
    traces.update(ON)
    traces.update({"trace_level": ["OFF"]}, "digits")
    assert traces.take("texts") and not traces.take("digits")


def test_model_follows_what_is_set_for_all_where_it_says_nothing(traces: Traces) -> None:
    traces.update({"trace_rate": ["12"], "log_frequency": ["34"]}, "digits")
    traces.update({"trace_rate": ["56"], "trace_level": ["TIMESTAMPS"]})
    assert traces.settings("digits") == DEFAULTS | {
        "trace_rate": ("12",), "log_frequency": ("34",), "trace_level": ("TIMESTAMPS",),
    }  # fmt: skip


def test_empty_value_takes_a_models_key_back_to_that_of_all(traces: Traces) -> None:
    traces.update({"trace_rate": ["56"]})
    traces.update({"trace_rate": ["12"], "log_frequency": ["34"]}, "digits")
    answer = traces.update({"trace_rate": [], "trace_level": []}, "digits")
    assert answer == DEFAULTS | {"trace_rate": ("56",), "log_frequency": ("34",)}


def test_empty_value_takes_a_key_of_all_back_to_the_default(traces: Traces) -> None:
    traces.update({**ON, "trace_count": ["7"]})
    assert traces.update(dict.fromkeys(DEFAULTS, ())) == DEFAULTS
    assert not traces.take("digits")


def test_reading_and_changing_nothing_are_the_same(traces: Traces) -> None:
    traces.update(ON, "digits")
    assert traces.update({}, "digits") == traces.settings("digits")
    assert traces.take("digits")


@pytest.mark.parametrize(
    "changes",
    [
        {"trace_level": ["TENSORS"]},
        {"trace_level": ["TIMESTAMPS", "TENSORS"]},
        {"trace_level": ["OFF", "TIMESTAMPS"]},
        {"trace_level": ["timestamps"]},
        {"trace_rate": ["0"]},
        {"trace_rate": ["-1"]},
        {"trace_rate": ["1.5"]},
        {"trace_rate": ["1", "2"]},
        {"trace_rate": [""]},
        {"trace_rate": ["--1"]},
        {"trace_rate": ["٣"]},
        {"trace_rate": ["9" * 5000]},
        {"trace_rate": ["2147483648"]},
        {"trace_count": ["-2"]},
        {"trace_count": ["many"]},
        {"log_frequency": ["-1"]},
        {"trace_file": ["/etc/cron.d/mine"]},
        {"trace_mode": ["opentelemetry"]},
        {"trace_speed": ["1"]},
        {"": ["1"]},
        {"a\nforged": []},
    ],
)
@pytest.mark.parametrize("model", ["", "digits"])
def test_bad_setting_is_refused_and_the_good_ones_beside_it_too(
    traces: Traces, changes: dict[str, list[str]], model: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        traces.update({"log_frequency": ["3"], **changes}, model)
    assert len(str(refused.value)) < 200 and "\n" not in str(refused.value)
    assert "cron" not in str(refused.value)
    assert traces.settings(model) == DEFAULTS


@pytest.mark.parametrize("count", ["0", "-0", "000"])
def test_numbers_are_told_in_one_form(traces: Traces, count: str) -> None:
    assert traces.update({**ON, "trace_count": [count]})["trace_count"] == ("0",)
    assert not traces.take("digits")


def test_fixed_values_may_be_sent_back_as_they_were_told(traces: Traces) -> None:
    assert traces.update(traces.settings()) == DEFAULTS


def test_answer_is_a_copy(traces: Traces) -> None:
    traces.settings()["trace_level"] = ("TIMESTAMPS",)
    traces.update({})["trace_level"] = ("TIMESTAMPS",)
    assert traces.settings() == DEFAULTS


def test_trace_is_one_log_line_with_tritons_moments(
    traces: Traces, capsys: pytest.CaptureFixture[str], restored_levels: None
) -> None:
    log.configure("info")
    started_ns = 1_790_000_000_123_456_789
    spans = Phases(0.001, 0.002, 0.003, 0.004, 0.005, whole_s=0.016, rows=1, batch_rows=4)
    traces.write("digits", "1", "abc", started_ns=started_ns, spans=spans)
    traces.write("digits", "1", "", started_ns=started_ns, spans=spans)
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["message"], first["model_name"], first["model_version"]) == (
        "trace", "digits", "1",
    )  # fmt: skip
    assert (first["request_id"], first["id"], second["id"]) == ("abc", 1, 2)
    assert [(moment["name"], moment["ns"] - started_ns) for moment in first["timestamps"]] == [
        ("REQUEST_START", 0),
        ("QUEUE_START", 1_000_000),
        ("COMPUTE_START", 3_000_000),
        ("COMPUTE_INPUT_END", 6_000_000),
        ("COMPUTE_OUTPUT_START", 10_000_000),
        ("COMPUTE_END", 15_000_000),
        ("REQUEST_END", 16_000_000),
    ]


def test_request_never_ends_before_its_phases() -> None:
    spans = Phases(0.5, 0.5, 0.5, 0.5, 0.5, whole_s=0.1, rows=1, batch_rows=1)
    moments = [moment["ns"] for moment in tracing.timestamps(7, spans)]
    assert moments == sorted(moments)


def test_log_settings_start_as_the_server_was_started(restored_levels: None) -> None:
    log.change(Levels(info=False))
    assert LogSettings().settings() == LOG_DEFAULTS | {"log_info": False}


def test_log_settings_change_what_is_written(log_settings: LogSettings) -> None:
    answer = log_settings.update({"log_info": False, "log_verbose_level": 2})
    assert answer == LOG_DEFAULTS | {"log_info": False, "log_verbose_level": 2}
    assert log.levels() == Levels(info=False, verbose=2)


def test_empty_log_setting_goes_back_to_where_it_started(restored_levels: None) -> None:
    log.change(Levels(warning=False))
    settings = LogSettings()
    settings.update({"log_warning": True, "log_error": False, "log_verbose_level": 1})
    answer = settings.update({"log_warning": None, "log_verbose_level": None, "log_file": None})
    assert answer == LOG_DEFAULTS | {"log_warning": False, "log_error": False}


@pytest.mark.parametrize(
    "changes",
    [
        {"log_file": "/etc/cron.d/mine"},
        {"log_format": "ISO8601"},
        {"log_info": "yes"},
        {"log_info": 1},
        {"log_verbose_level": True},
        {"log_verbose_level": "1"},
        {"log_everything": True},
        {"a\nforged": None},
    ],
)
def test_bad_log_setting_is_refused_and_the_good_ones_beside_it_too(
    log_settings: LogSettings, changes: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as refused:
        log_settings.update({"log_error": False, **changes})
    assert "cron" not in str(refused.value) and "\n" not in str(refused.value)
    assert log_settings.settings() == LOG_DEFAULTS


def test_log_settings_may_be_sent_back_as_they_were_told(log_settings: LogSettings) -> None:
    assert log_settings.update(log_settings.settings()) == LOG_DEFAULTS
