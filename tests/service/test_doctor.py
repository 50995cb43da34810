"""The report that tells what is wrong, to people and to programs."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from service import hardware, layout, manifest, opening, repository, tuned
from service.cuda import Gpu
from service.devices import Device
from service.doctor import _model as findings_of
from service.doctor import doctor
from service.errors import InvalidSetting, ModelUnusable
from service.machine import Machine
from service.settings import Settings
from service.tuned import Tuned
from tests import models


def report(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[dict[str, Any]]]:
    code = doctor([*argv, "--json"])
    return code, json.loads(capsys.readouterr().out)


def texts(findings: list[dict[str, Any]], area: str, state: str) -> list[str]:
    return [f["text"] for f in findings if (f["area"], f["state"]) == (area, state)]


def published(root: Path) -> Path:
    """A bare model with the manifest that a converter would have written for it."""
    path = models.double(root / "double" / "1" / "model.onnx")
    contract = opening.contract_of_file(path, "double")
    (path.parent / manifest.FILENAME).write_text(contract.to_json())
    return path


def test_sound_machine_has_no_problem(capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = report(capsys)
    assert (code, [f for f in findings if f["state"] == "problem"]) == (0, [])
    assert all(set(finding) == {"area", "state", "text"} for finding in findings)


def test_report_tells_hardware_versions_and_providers(capsys: pytest.CaptureFixture[str]) -> None:
    _, findings = report(capsys)
    assert texts(findings, "fingerprint", "ok") == [hardware.fingerprint()]
    versions = texts(findings, "versions", "ok")[0]
    names = ("onnxruntime", "onnxruntime-gpu")
    assert any(f"{name} {onnxruntime.__version__}" in versions for name in names)
    assert "CPUExecutionProvider" in texts(findings, "providers", "ok")[0]


NOWHERE = "cuda:999"


@pytest.mark.parametrize("named", [["--device", NOWHERE], []])
def test_gpu_that_serve_would_not_get_is_a_problem_whoever_names_it(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    named: list[str],
) -> None:
    published(tmp_path)
    if not named:
        monkeypatch.setenv("FARTHING_DEVICE", NOWHERE)
    code, findings = report(capsys, *named, "--repository", str(tmp_path))
    (problem,) = texts(findings, "device", "problem")
    assert code == 1 and problem.startswith(f"--device {NOWHERE}: ")
    assert not texts(findings, "repository", "ok")  # serve would not start


def test_device_that_is_named_is_the_one_that_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = report(capsys, "--device", "cpu")
    assert (code, texts(findings, "device", "ok")) == (0, ["--device cpu takes cpu"])
    with pytest.raises(InvalidSetting, match="it takes auto, cpu, cuda or tensorrt"):
        doctor(["--device", "gpu"])


def test_text_has_one_line_for_each_finding(capsys: pytest.CaptureFixture[str]) -> None:
    _, findings = report(capsys, "--port", "1")
    doctor(["--port", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(findings)
    assert all(found["text"] in line for found, line in zip(findings, lines, strict=True))


def test_sound_repository_tells_what_auto_serves(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    published(tmp_path)
    code, findings = report(capsys, "--repository", str(tmp_path))
    assert code == 0
    (text,) = texts(findings, "repository", "ok")
    assert text.startswith("double/1: as-is; auto serves as-is")


@pytest.mark.parametrize(
    ("fields", "serves", "note"),
    [
        ({}, "auto serves as-is: tuned on ", ""),
        ({"sha256": "of another file"}, "auto serves as-is: nothing else", "is not what was"),
        ({"variant": "int8"}, "auto serves as-is: nothing else", "'int8' is not published"),
        ({"fingerprint": "another"}, "auto serves as-is: nothing else", "tuned for another with"),
    ],
)
def test_what_was_tuned_is_said_to_be_served_only_where_serve_takes_it(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    fields: dict[str, Any],
    serves: str,
    note: str,
) -> None:
    path = published(tmp_path)
    entry = Tuned(
        fingerprint=hardware.fingerprint(), cpus=hardware.cpus(), variant="as-is",
        sha256=manifest.sha256_of(path), max_batch=4, instances=1, threads=1, spin=False,
        target_ms=0.0,
    )  # fmt: skip
    tuned.write(path.parent, replace(entry, **fields))
    code, findings = report(capsys, "--repository", str(tmp_path))
    (served,) = repository.load(Settings(repository=tmp_path))
    (text,) = texts(findings, "repository", "ok")
    assert code == 0 and serves in text
    assert served.why in text
    assert [note in told for told in texts(findings, "repository", "note")] == [True] * bool(note)


def test_file_that_is_not_what_was_verified_is_a_problem(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    models.double(published(tmp_path), factor=9.0)
    code, findings = report(capsys, "--repository", str(tmp_path))
    assert code == 1
    (problem,) = texts(findings, "repository", "problem")
    assert problem.startswith("double/1: ") and "not the file that was verified" in problem


def test_file_that_serve_would_refuse_is_not_said_to_be_served(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    models.double(published(tmp_path), factor=9.0)
    _, findings = report(capsys, "--repository", str(tmp_path))
    assert texts(findings, "repository", "ok") == []


def test_one_bad_model_does_not_hide_the_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    published(tmp_path)
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "manifest.json").write_text("{")
    code, findings = report(capsys, "--repository", str(tmp_path))
    assert code == 1
    assert len(texts(findings, "repository", "ok")) == 1
    assert texts(findings, "repository", "problem")[0].startswith("broken/1: ")


@pytest.mark.parametrize(("name", "text"), [("", "holds no model"), ("no", "is not a directory")])
def test_empty_or_missing_repository_is_a_problem(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, text: str
) -> None:
    code, findings = report(capsys, "--repository", str(tmp_path / name))
    assert code == 1
    assert texts(findings, "repository", "problem") == [f"{tmp_path / name} {text}"]


SPECIFIC = "version_policy { specific { versions: 3 } }"
WRONG_DIMS = """max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: 5 }
output { name: "y" data_type: TYPE_FP32 dims: 4 }"""
LABELS = """max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: 4 }
output { name: "y" data_type: TYPE_FP32 dims: 4 label_filename: "names.txt" }"""


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("max_batch: 4", "max_batch"),
        ("sequence_batching { }", "sequence_batching"),
        (SPECIFIC, "asks for, 3; it has 1"),
        (WRONG_DIMS, "input 'x'"),
        (LABELS, "names.txt"),
        ('model_warmup { name: "w" batch_size: 1 }', "lacks the input 'x'"),
    ],
)
def test_config_that_serve_would_refuse_is_a_problem(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, config: str, text: str, *, bare: bool
) -> None:
    path = published(tmp_path)
    if bare:
        path.with_name(manifest.FILENAME).unlink()
    (tmp_path / "double" / "config.pbtxt").write_text(config)
    code, findings = report(capsys, "--repository", str(tmp_path))
    assert (code, texts(findings, "repository", "ok")) == (1, [])
    (problem,) = texts(findings, "repository", "problem")
    assert problem.startswith("double") and text in problem
    with pytest.raises(ModelUnusable) as refused:
        repository.load(Settings(repository=tmp_path, threads=1))
    assert problem.endswith(str(refused.value))


def test_config_decides_which_versions_and_file_are_looked_at(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for version in ("1", "2", "3"):
        models.double(tmp_path / "m" / version / "net.onnx")
    (tmp_path / "m" / "3" / "net.onnx").write_text("this is no graph")
    (tmp_path / "m" / "config.pbtxt").write_text("""default_model_filename: "net.onnx"
        version_policy { specific { versions: [ 1, 2 ] } } response_cache { enable: true }""")
    code, findings = report(capsys, "--repository", str(tmp_path))
    assert code == 0
    assert [text[:4] for text in texts(findings, "repository", "ok")] == ["m/1:", "m/2:"]
    (note,) = texts(findings, "repository", "note")
    assert "response_cache" in note


def test_skipped_entry_is_noted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    published(tmp_path)
    models.double(tmp_path / "my net" / "1" / "model.onnx")
    code, findings = report(capsys, "--repository", str(tmp_path))
    assert (code, texts(findings, "repository", "note")) == (0, layout.skipped(tmp_path))
    assert layout.skipped(tmp_path)


def test_taken_port_is_noted_and_a_free_one_is_ok(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, findings = report(capsys, "--port", str(port))
        assert (code, len(texts(findings, "ports", "note"))) == (0, 1)
        assert texts(findings, "ports", "note")[0].startswith(f"{port} cannot be bound")
    _, findings = report(capsys, "--port", str(port))
    assert texts(findings, "ports", "ok") == [f"{port} is free"]


@pytest.mark.parametrize(
    "argv", [["--nope"], ["--port", "http"], ["--port", "0"], ["--port", "65536"], ["--js"]]
)
def test_bad_option_is_refused_in_one_sentence(argv: list[str]) -> None:
    with pytest.raises(InvalidSetting) as refused:
        doctor(argv)
    assert argv[0] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_model_is_told_to_be_served_as_where_it_is_placed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    published(tmp_path)
    (tmp_path / "double" / "config.pbtxt").write_text(
        "optimization { cuda { graphs: true } } instance_group { kind: KIND_CPU count: 1 }"
    )
    on_gpu = Machine((Device("cuda", 0),), (Gpu(0, "H", "GPU-0", 2**30, (9, 0)),))
    (place,) = layout.places(tmp_path).values()
    found = [finding.text for finding in findings_of(place, on_gpu)]
    assert any("optimization.cuda has no effect here" in text for text in found)
    assert any("double/1: as-is; auto serves as-is" in text for text in found)
