"""From Keras to an independent client: what is served is what was trained and verified."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from loadtests import demo
from loadtests.profile import Subject
from service.manifest import Variant, load, sha256_of
from tests import models
from tests.loadtests.profiles import price, profile
from tests.system.conftest import Digits
from tests.system.servers import Served, farthing, serving


def labels(server: Served, rows: np.ndarray) -> np.ndarray:
    with triton.InferenceServerClient(server.grpc) as client:
        found = []
        for start in range(0, len(rows), 10):
            part = rows[start : start + 10]
            tensor = triton.InferInput("x", list(part.shape), "FP32")
            tensor.set_data_from_numpy(part)
            found.append(client.infer("digits", [tensor]).as_numpy("digit").argmax(axis=1))
        return np.concatenate(found)


def rows(digits: Digits) -> np.ndarray:
    return np.load(digits.data / "heldout.npz")["x"]


def manifest(digits: Digits) -> dict:
    return json.loads((digits.repository / "digits" / "1" / "manifest.json").read_text())


def test_the_served_fp32_gives_the_labels_that_keras_gives(digits: Digits) -> None:
    with serving(digits.repository, "--variant", "fp32") as server:
        served = labels(server, rows(digits)[:100])
    np.testing.assert_array_equal(served, digits.keras_labels[:100])


def test_the_net_is_worth_serving(digits: Digits) -> None:
    truth = np.load(digits.data / "heldout.npz")["y"]
    assert len(truth) >= 600
    assert np.mean(digits.keras_labels == truth) >= 0.97


@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8-dynamic", "int8-static"])
def test_each_variant_is_published_whole_or_refused_with_a_reason(
    digits: Digits, variant: str
) -> None:
    entry = next(item for item in manifest(digits)["variants"] if item["name"] == variant)
    assert entry["reason"]
    if not entry["accepted"]:
        assert entry["file"] is None
        return
    path = digits.repository / "digits" / "1" / entry["file"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
    with serving(digits.repository, "--variant", variant) as server:
        assert server.ready["models"][0]["sha256"] == entry["sha256"]
        truth = np.load(digits.data / "heldout.npz")["y"][:200]
        accuracy = np.mean(labels(server, rows(digits)[:200]) == truth)
    assert accuracy >= 0.95


def test_the_server_takes_what_was_recorded_for_this_hardware(digits: Digits) -> None:
    (choice,) = manifest(digits)["chosen"].values()
    with serving(digits.repository) as server:
        model = server.ready["models"][0]
    assert (model["variant"], model["reason"]) == (choice["variant"], choice["reason"])


def test_a_swapped_file_is_not_served(digits: Digits, tmp_path: Path) -> None:
    copy = tmp_path / "models"
    shutil.copytree(digits.repository, copy)
    version = copy / "digits" / "1"
    shutil.copyfile(version / "model.fp16.onnx", version / "model.onnx")
    done = farthing("serve", str(copy), "--variant", "fp32", "--grpc-port", "0")
    assert done.returncode == 2
    assert "digest differs" in done.stderr.splitlines()[-1]
    assert farthing("doctor", "--repository", str(copy)).returncode == 1


def measured(stage: demo.Stage, variant: Variant) -> Subject:
    with demo.serve(stage, variant) as endpoint:
        return demo.measured(
            stage, variant, endpoint, price=price(), base=profile(), told=lambda _: None
        ).subject


def test_the_tables_figures_are_those_of_the_file_that_is_served(
    digits: Digits, tmp_path: Path
) -> None:
    shutil.copytree(digits.repository, tmp_path / "models")
    (tmp_path / "data").symlink_to(digits.data)
    version = tmp_path / "models" / "digits" / "1"
    stage = demo.Stage(tmp_path, 2.0, demo.Cores(None, None), sys.stdout)
    before = measured(stage, load(version).variant("fp32"))
    models.always(version / "model.onnx", label=3)
    swapped = json.loads((version / "manifest.json").read_text())
    swapped["variants"][0]["sha256"] = sha256_of(version / "model.onnx")
    swapped["golden"] = None  # by which the server would notice
    (version / "manifest.json").write_text(json.dumps(swapped))
    after = measured(stage, load(version).variant("fp32"))
    assert before.accuracy is not None and before.accuracy >= 0.97
    assert after.accuracy is not None and after.accuracy < 0.2
    assert after.sha256 != before.sha256


def test_the_first_version_stays_when_a_second_is_published(digits: Digits, tmp_path: Path) -> None:
    copy = tmp_path / "models"
    shutil.copytree(digits.repository, copy)
    done = farthing(
        "convert", str(copy / "digits" / "1" / "model.onnx"), "--name", "digits",
        "--out", str(copy), "--variants", "fp32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = sorted(path.name for path in (copy / "digits").iterdir())
    assert found == ["1", "2", "config.pbtxt"]
    with serving(copy) as server:
        assert server.ready["models"][0]["version"] == "2"


def test_inspect_prints_what_was_published(digits: Digits) -> None:
    printed = json.loads(farthing("inspect", str(digits.repository / "digits"), "--json").stdout)
    assert printed == manifest(digits)
    table = farthing("inspect", str(digits.repository / "digits")).stdout
    assert all(name in table for name in ("fp32", "fp16", "int8-dynamic", "int8-static"))
    assert "takes x FP32 [-1, 32, 32, 1]" in table
    assert max(map(len, table.splitlines())) <= 100
