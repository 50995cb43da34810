"""The commands as a user types them; every mistake is one sentence and a code, no traceback."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import models
from tests.system.servers import farthing, serving

VERBS = ("convert", "inspect", "serve", "tune", "load", "demo", "doctor")


@pytest.mark.parametrize("verb", VERBS)
def test_help_explains_every_option(verb: str) -> None:
    done = farthing(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    options = re.findall(r"--[a-z][a-z-]+", done.stdout)
    assert len(set(options)) >= 2
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_help_lists_the_verbs() -> None:
    done = farthing("--help")
    assert done.returncode == 0
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fly",), "no verb 'fly'"),
        (("serve", "/nonexistent/models"), "does not exist"),
        (("serve", "models", "--speed", "9"), "--speed"),
        (("serve", "models", "--grpc-port", "99999"), "0 to 65535"),
        (("serve", "models", "--max-batch", "many"), "takes a whole number"),
        (("convert", "/nonexistent.keras", "--name", "n"), "does not exist"),
        (("convert", "model.keras"), "model.keras does not exist"),
        (("convert",), "--factory"),
        (("convert", "zoo:nothing"), "the zoo has no"),
        (("convert", "model.keras", "--name", "n", "--speed", "9"), "--speed"),
        (("inspect", "/nonexistent"), "does not exist"),
        (("load", "--target", "127.0.0.1:1", "--model", "m"), "nothing answers"),
        (("load", "--target", "127.0.0.1:1", "--model", "m", "--users", "0"), "--users"),
        (("load", "--model", "m"), "--target"),
        (("load", "--target", "http://127.0.0.1:1", "--model", "m"), "without http://"),
        (("serve", "README.md"), "no .onnx file"),
        (("demo", "--price", "free"), "no price 'free'"),
        (("demo", "--seconds", "fast"), "--seconds"),
        (("demo", "--directory", "/dev/null/demo"), "cannot use /dev/null/demo"),
        (("doctor", "--colour"), "--colour"),
        (("tune", "/nonexistent", "--model", "m"), "does not exist"),
        (("tune", "README.md", "--model", "m"), "README.md is a file"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(arguments: tuple[str, ...], says: str) -> None:
    done = farthing(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["text.onnx", "text.keras", "text.txt"])
def test_an_unreadable_model_is_one_sentence_and_an_untouched_repository(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("this is no model")
    repository = tmp_path / "models"
    done = farthing("convert", str(tmp_path / name), "--name", "n", "--out", str(repository))
    assert done.returncode == 2
    assert name in done.stderr
    assert "Traceback" not in done.stderr
    assert list(repository.iterdir()) == []


@pytest.mark.parametrize("option", ["--grpc-port", "--metrics-port"])
def test_a_port_in_use_is_one_sentence(double_repository: Path, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"--grpc-port": "0", "--metrics-port": "0", option: str(taken.getsockname()[1])}
        words = [word for pair in ports.items() for word in pair]
        done = farthing("serve", str(double_repository), "--host", "127.0.0.1", *words)
    assert done.returncode == 2
    *logged, last = done.stderr.strip().splitlines()
    assert last.startswith("farthing: ") and f"choose another with {option}" in last
    assert {json.loads(line)["level"] for line in logged} == {"info"}


@pytest.mark.parametrize("host", ["198.51.100.7", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_one_sentence_about_the_host(
    double_repository: Path, host: str
) -> None:
    done = farthing("serve", str(double_repository), "--host", host, "--grpc-port", "0")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"farthing: cannot listen on {host}:0 for gRPC (")
    assert last.endswith("; give an address of this machine with --host")


def test_serving_one_models_directory_says_where_the_repository_is(double_repository: Path) -> None:
    done = farthing("serve", str(double_repository / "double"))
    assert done.returncode == 2
    assert f"the repository it lies in: {double_repository}" in done.stderr


def test_a_server_says_where_it_listens_in_one_json_line(double_repository: Path) -> None:
    with serving(double_repository) as server:
        assert server.ready["ready"] is True
        assert server.ready["models"][0]["name"] == "double"
        code, log = server.end()
    assert code == 0
    assert all(json.loads(line)["level"] == "info" for line in log.splitlines())


def test_settings_come_from_the_environment_too(double_repository: Path) -> None:
    environment = os.environ | {"FARTHING_MAX_BATCH": "4097"}
    done = subprocess.run(
        [sys.executable, "-m", "farthing", "serve", str(double_repository)],
        capture_output=True, text=True, env=environment, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "FARTHING_MAX_BATCH is 4097; it takes 0 to 4096" in done.stderr


def test_load_measures_a_running_server(double_repository: Path) -> None:
    with serving(double_repository) as server:
        target = ("--target", server.grpc, "--model", "double")
        done = farthing(
            "load", *target, "--users", "2", "--seconds", "1", "--warmup", "0", "--json"
        )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["endings"] == {"good": measured["offered"]}
    assert measured["offered"] > 50
    assert 0 < measured["latency_ms"]["p50"] <= measured["latency_ms"]["p95"]


def test_load_counts_failures_as_offered_and_by_status(tmp_path: Path) -> None:
    models.classifier(tmp_path / "slow" / "1" / "model.onnx", channels=512)
    with serving(tmp_path, "--threads", "1") as server:
        target = ("--target", server.grpc, "--model", "slow", "--deadline-ms", "1")
        done = farthing("load", *target, "--users", "1", "--seconds", "1", "--json")
    assert done.returncode == 1, done.stderr
    measured = json.loads(done.stdout)
    assert measured["endings"].get("DEADLINE_EXCEEDED", 0) > 0
    assert measured["offered"] == sum(measured["endings"].values())


def test_load_that_the_server_refuses_is_one_sentence(double_repository: Path) -> None:
    with serving(double_repository, "--max-batch", "4", "--max-queue-rows", "4") as server:
        target = ("--target", server.grpc, "--model", "double")
        done = farthing("load", *target, "--rows", "9")
    assert done.returncode == 2
    assert "takes at most 8 of this model" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture
def broken_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime whose libraries are missing, as processes started from here see it."""
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libcudart.so.13 is missing')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("broken_onnxruntime")
def test_doctor_speaks_where_onnxruntime_cannot_be_imported() -> None:
    done = farthing("doctor", "--json")
    assert done.returncode == 1
    problems = [found for found in json.loads(done.stdout) if found["state"] == "problem"]
    assert ["libcudart.so.13 is missing" in problem["text"] for problem in problems] == [True]


@pytest.mark.usefixtures("broken_onnxruntime")
def test_serve_without_onnxruntime_is_one_sentence() -> None:
    done = farthing("serve", "models")
    assert done.returncode == 2
    assert "libcudart.so.13 is missing" in done.stderr
    assert "farthing[cpu]" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_load_of_rows_that_do_not_fit_is_one_sentence(
    double_repository: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.npz"
    np.savez(rows, x=np.ones((8, 3), np.float32))
    with serving(double_repository) as server:
        target = ("--target", server.grpc, "--model", "double")
        done = farthing("load", *target, "--rows-file", str(rows))
    assert done.returncode == 2
    assert "has rows of shape [3]; the model takes [4]" in done.stderr


def test_load_of_a_model_that_is_not_there_is_one_sentence(double_repository: Path) -> None:
    with serving(double_repository) as server:
        done = farthing("load", "--target", server.grpc, "--model", "triple")
    assert done.returncode == 2
    assert "does not serve model 'triple'" in done.stderr


def test_what_tune_finds_is_what_serve_says_it_runs_with(double_repository: Path) -> None:
    (double_repository / "double" / "config.pbtxt").write_text("max_batch_size: 1")
    done = farthing("tune", str(double_repository), "--model", "double", "--budget-s", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "written to" in done.stdout
    shown = " ".join(farthing("inspect", str(double_repository / "double")).stdout.split())
    assert "`farthing serve` takes as-is, as tuned on " in shown
    with serving(double_repository) as server:
        told = server.ready["models"][0]
        assert told["reason"].startswith("tuned on ")
        _, log = server.end()
    assert [
        line for line in map(json.loads, log.splitlines()) if line["message"] == "runs as tuned"
    ]
