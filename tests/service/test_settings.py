"""One knob, three places to set it; whatever cannot be used stops the server in one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from service import arguments
from service.arguments import environment_name
from service.errors import InvalidSetting
from service.settings import Settings

KNOBS = [knob.name for knob in fields(Settings)]
SWITCHES = [knob.name for knob in fields(Settings) if knob.metadata["kind"] is bool]
RANGED = [knob.name for knob in fields(Settings) if knob.metadata["low"] is not None]
LINKS = {
    "FARTHING_PORT": "tcp://10.0.0.1:8001",
    "FARTHING_PORT_8001_TCP": "tcp://10.0.0.1:8001",
    "FARTHING_PORT_8001_TCP_ADDR": "10.0.0.1",
    "FARTHING_PORT_8001_TCP_PORT": "8001",
    "FARTHING_PORT_8001_TCP_PROTO": "tcp",
    "FARTHING_SERVICE_HOST": "10.0.0.1",
    "FARTHING_SERVICE_PORT": "8001",
    "FARTHING_SERVICE_PORT_GRPC": "8001",
    "FARTHING_CANARY_PORT": "tcp://10.0.0.2:8001",
    "FARTHING_CANARY_PORT_8001_TCP_ADDR": "10.0.0.2",
    "FARTHING_CANARY_SERVICE_HOST": "10.0.0.2",
}


def refusal(argv: list[str], environment: dict[str, str] | None = None) -> str:
    with pytest.raises(InvalidSetting) as refused:
        arguments.read(argv, environment or {})
    assert "\n" not in str(refused.value)
    return str(refused.value)


def meta_of(name: str) -> Mapping[str, Any]:
    return next(knob.metadata for knob in fields(Settings) if knob.name == name)


def another(name: str) -> tuple[str, Any]:
    """A text for this knob that is not its default, and the value it stands for."""
    meta, default = meta_of(name), getattr(Settings(), name)
    if meta["kind"] is bool:
        return str(not default).lower(), not default
    if meta["low"] is not None:
        return str(meta["high"]), type(default)(meta["high"])
    if name == "control":
        return "settings,repository", "settings,repository"
    if name == "device":
        return "cuda:1", "cuda:1"
    if name == "otlp_endpoint":
        return "http://collector:4317", "http://collector:4317"
    text = meta["choices"][-1] if meta["choices"] else "elsewhere"
    return text, Path(text) if isinstance(default, Path) else text


def test_nothing_given_is_the_defaults() -> None:
    assert arguments.read([], {}) == Settings()


@pytest.mark.parametrize("name", KNOBS)
def test_environment_sets_every_knob(name: str) -> None:
    text, value = another(name)
    read = arguments.read([], {environment_name(name): text})
    assert read == Settings(**{name: value}) != Settings()


@pytest.mark.parametrize("name", [name for name in KNOBS if name not in (*SWITCHES, "repository")])
def test_flag_sets_every_knob(name: str) -> None:
    text, value = another(name)
    read = arguments.read([f"--{name.replace('_', '-')}", text], {})
    assert read == Settings(**{name: value}) != Settings()


def test_flag_wins_over_environment() -> None:
    environment = {"FARTHING_MAX_BATCH": "3", "FARTHING_INSTANCES": "5"}
    read = arguments.read(["--max-batch", "4"], environment)
    assert (read.max_batch, read.instances) == (4, 5)


def test_repository_given_as_argument_wins_over_environment() -> None:
    environment = {"FARTHING_REPOSITORY": "/from/environment"}
    assert arguments.read(["/from/argument"], environment).repository == Path("/from/argument")
    assert arguments.read([], environment).repository == Path("/from/environment")


@pytest.mark.parametrize("name", SWITCHES)
def test_flag_of_a_switch_wins_over_environment(name: str) -> None:
    option, variable = name.replace("_", "-"), environment_name(name)
    assert getattr(arguments.read([f"--no-{option}"], {variable: "true"}), name) is False
    assert getattr(arguments.read([f"--{option}"], {variable: "no"}), name) is True


@pytest.mark.parametrize("name", RANGED)
@pytest.mark.parametrize("end", ["low", "high"])
def test_value_out_of_range_is_refused_with_the_range(name: str, end: str) -> None:
    meta = meta_of(name)
    value = meta[end] + (1 if end == "high" else -1)
    text = refusal([], {environment_name(name): str(value)})
    assert text.startswith(f"{environment_name(name)} is {value}")
    assert text.endswith(f"; it takes {meta['low']} to {meta['high']}")
    option = f"--{name.replace('_', '-')}"
    assert refusal([f"{option}={value}"]).startswith(f"{option} is {value}")


@pytest.mark.parametrize("name", RANGED)
@pytest.mark.parametrize("end", ["low", "high"])
def test_ends_of_the_range_are_taken(name: str, end: str) -> None:
    value = meta_of(name)[end]
    assert getattr(arguments.read([], {environment_name(name): str(value)}), name) == value


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-batch", "many"),
        ("--max-batch", "1.5"),
        ("--max-batch", ""),
        ("--drain-s", "soon"),
        ("--drain-s", "nan"),
        ("--drain-s", "inf"),
        ("--log-level", "loud"),
    ],
)
def test_malformed_value_is_refused_by_what_was_said(option: str, value: str) -> None:
    variable = environment_name(option[2:].replace("-", "_"))
    assert refusal([option, value]).startswith(f"{option} is ")
    assert refusal([], {variable: value}).startswith(f"{variable} is ")
    assert refusal([option, value], {variable: "also bad"}).startswith(f"{option} is ")


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("none", set()),
        ("all", {"repository", "settings", "shared-memory"}),
        ("settings", {"settings"}),
        ("shared-memory, repository", {"shared-memory", "repository"}),
        ("cuda-shared-memory", {"cuda-shared-memory"}),
        (
            "all, cuda-shared-memory",
            {"repository", "settings", "shared-memory", "cuda-shared-memory"},
        ),
    ],
)
def test_control_names_groups_of_rpcs(text: str, groups: set[str]) -> None:
    assert arguments.read(["--control", text], {}).allowed == groups


@pytest.mark.parametrize("text", ["", "everything", "all,settings", "none,settings", "settings,"])
def test_unknown_group_of_control_rpcs_is_refused_with_those_there_are(text: str) -> None:
    told = refusal([], {"FARTHING_CONTROL": text})
    assert told.startswith("FARTHING_CONTROL is") and "repository, settings, shared-memory" in told


@pytest.mark.parametrize("word", ["maybe", "", "2"])
def test_malformed_switch_is_refused(word: str) -> None:
    assert "FARTHING_SPIN is" in refusal([], {"FARTHING_SPIN": word})


@pytest.mark.parametrize(
    "argv", [["--max-batches", "4"], ["--max-b", "4"], ["--max-batch"], ["one", "two"]]
)
def test_unknown_shortened_or_incomplete_option_is_refused(argv: list[str]) -> None:
    assert "farthing serve --help" in refusal(argv)


@pytest.mark.parametrize(
    "name",
    ["FARTHING_MAX_BATCHES", "FARTHING_", "FARTHING_GPRC_PORT", "FARTHING_METRIC_PORT"],
)
def test_unknown_variable_is_refused_by_name(name: str) -> None:
    assert name in refusal([], {name: "4"})


def test_variables_of_others_are_ignored() -> None:
    environment = {"FARTHINGS_MAX_BATCH": "x", "farthing_max_batch": "x", "PATH": "/bin"}
    assert arguments.read([], environment) == Settings()


@pytest.mark.parametrize("name", LINKS)
def test_service_link_of_kubernetes_is_ignored(name: str) -> None:
    assert arguments.read([], {name: LINKS[name]}) == Settings()


def test_real_ports_work_beside_service_links() -> None:
    environment = LINKS | {"FARTHING_GRPC_PORT": "9001", "FARTHING_METRICS_PORT": "9002"}
    read = arguments.read([], environment)
    assert (read.grpc_port, read.metrics_port) == (9001, 9002)


@pytest.mark.parametrize("name", ["FARTHING_GRPC_PORT", "FARTHING_METRICS_PORT"])
def test_malformed_real_port_is_not_taken_for_a_service_link(name: str) -> None:
    assert f"{name} is 'http'" in refusal([], {name: "http"})


def test_settings_never_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().max_batch = 4  # type: ignore[misc]


@pytest.mark.parametrize("name", KNOBS)
def test_help_ends_with_the_default_and_tells_the_range(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    printed = " ".join(arguments.parser().format_help().split())
    meta, default = meta_of(name), getattr(Settings(), name)
    said = "not said" if default is None else default
    assert f"{meta['help']} [default: {said}]" in printed
    if meta["low"] is None:
        return
    low, high = meta["low"], meta["high"]
    # The lowest value may stand for something else: "1 to 256; 0 takes what the model says".
    apart = f"{low + 1} to {high}" in meta["help"] and re.search(
        rf"[;,] {low} (takes|answers) ", meta["help"]
    )
    assert f"{low} to {high}" in meta["help"] or apart


def test_help_is_printed_and_ends_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments.read(["--help"], {})
    assert ended.value.code == 0
    assert "--max-queue-rows" in capsys.readouterr().out


def test_link_to_a_service_named_like_a_setting_is_no_setting() -> None:
    linked = {"FARTHING_METRICS_PORT": "tcp://10.0.0.7:9090", "FARTHING_GRPC_PORT": "9001"}
    found = arguments.read([], linked)
    assert (found.metrics_port, found.grpc_port) == (8002, 9001)


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "\udcff"])
def test_text_that_cannot_be_printed_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="--price-id has a character"):
        Settings(price_id=text)


@pytest.mark.parametrize(
    "address",
    ["collector:4317", "http://collector", "ftp://c:1", "http://c:99999", "http://a:b@c:1",
     "http://c:1/v1/traces", "http://:4317", "http://[c:1"],
)  # fmt: skip
def test_a_collector_is_a_host_and_a_port_of_a_scheme(address: str) -> None:
    told = refusal(["--otlp-endpoint", address])
    assert "it takes http://HOST:PORT or https://HOST:PORT" in told
    for good in ("http://collector:4317", "https://[::1]:4317/", ""):
        assert arguments.read(["--otlp-endpoint", good], {}).otlp_endpoint == good


@pytest.mark.parametrize("host", ["a b", "\u00e9", "ex%00ample", "[fe80::1%eth0 ]"])
def test_collector_whose_name_is_none_is_refused(host: str) -> None:
    told = refusal(["--otlp-endpoint", f"http://{host}:4317"])
    assert "it takes http://HOST:PORT or https://HOST:PORT" in told


@pytest.mark.parametrize("option", ["--host", "--control-host"])
def test_address_that_is_empty_is_refused_by_its_own_name(option: str) -> None:
    assert refusal([option, ""]) == (
        f"{option} is empty; it takes an address of this machine, or 0.0.0.0"
    )


def test_connections_last_a_tenth_of_a_second_or_for_ever() -> None:
    for age in ("0", "0.1"):
        assert arguments.read(["--max-connection-age-s", age], {}).max_connection_age_s < 1
    assert refusal(["--max-connection-age-s", "0.099"]) == (
        "--max-connection-age-s is 0.099; it takes 0.1 or more, or 0 for never"
    )


def test_what_counts_on_gpus_only_is_named_where_it_was_given(tmp_path: Path) -> None:
    given = ["--gpu-mem-mib", "100", "--cpu-fallback", "none", "--trt-cache", str(tmp_path)]
    chosen = arguments.read([*given, "--cuda-graphs", "on", "--control", "cuda-shared-memory"], {})
    assert arguments.idle_without_gpus(chosen) == [
        "--cpu-fallback", "--gpu-mem-mib", "--cuda-graphs", "--trt-cache",
        "--control cuda-shared-memory",
    ]  # fmt: skip
    assert not arguments.idle_without_gpus(arguments.read(["--control", "all"], {}))


def test_what_was_given_is_called_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert arguments.written("cpu_fallback", []) == "--cpu-fallback "
    monkeypatch.setenv("FARTHING_CPU_FALLBACK", "any")
    assert arguments.written("cpu_fallback", []) == "FARTHING_CPU_FALLBACK="
    assert arguments.written("cpu_fallback", ["--cpu-fallback", "none"]) == "--cpu-fallback "
