"""Routes that fall and routes that hold, with the exporters' process replaced."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import child, sources
from converter.child import ChildFailed, Limits
from converter.exporters import KINDS, trained
from converter.exporters.trained import Request
from converter.sources import Exported, ExportRefused
from tests import models

LIMITS = Limits(seconds=60, memory_bytes=6_000_000_000)


class Exporter:
    """In place of the child: what each route leaves behind, or how it ends."""

    def __init__(self, **routes: Any) -> None:
        self.routes = routes
        self.asked: list[str] = []

    def run(self, module: str, arguments: list[str], *, directory: Path, limits: Limits) -> None:
        assert module == "converter.exporters"
        route = Request.read(Path(arguments[0])).route
        self.asked.append(route)
        ending = self.routes[route]
        if isinstance(ending, Exception):
            raise ending
        if ending is None:
            return
        ending(directory)


def doubled(directory: Path, *, factor: float = 2.0, probe: str = "x", noise: float = 0.0) -> None:
    """A graph that multiplies by a factor, of a framework that doubles."""
    models.double(directory / trained.MODEL, factor=factor)
    rows = np.random.default_rng(0).random((10, 4), np.float32)
    np.savez(directory / trained.PROBE, **{f"in:{probe}": rows, "out:y": 2 * rows})
    facts = {
        "batches": [1, 2, 7],
        "noise": noise,
        "notes": [],
        "dimensions": {},
        "tools": {"framework": "1"},
    }
    (directory / trained.FACTS).write_text(json.dumps(facts))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    kind = replace(KINDS["keras"], routes=("first", "second"))
    monkeypatch.setitem(KINDS, "keras", kind)
    return tmp_path


def exported_by(monkeypatch: pytest.MonkeyPatch, shelf: Path, **routes: Any) -> Exported:
    monkeypatch.setattr(child, "run", Exporter(**routes).run)
    return sources.export(Request("keras", shelf / "m.keras", ""), shelf, LIMITS)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (ChildFailed("converter.exporters was killed by signal 11", -11), "killed by signal 11"),
        (ChildFailed("converter.exporters took more than 1 GB", None), "took more than 1 GB"),
        (ChildFailed("tf2onnx cannot convert it", 3), "tf2onnx cannot convert it"),
        (lambda d: doubled(d, factor=2.1), "answers differ from the trained model's at batch 1"),
        (lambda d: doubled(d, probe="z"), "the export takes ['x'], the trained model ['z']"),
        (lambda d: doubled(d, factor=np.nan), "weight 'factor' of the export holds NaN"),
    ],
)
def test_a_route_that_falls_is_recorded_and_the_next_is_taken(
    monkeypatch: pytest.MonkeyPatch, shelf: Path, first: Any, reason: str
) -> None:
    exported = exported_by(monkeypatch, shelf, first=first, second=doubled)
    assert exported.facts["route"] == "second"
    assert list(exported.facts["routes_fallen"]) == ["first"]
    assert reason in exported.facts["routes_fallen"]["first"]
    assert exported.facts["largest_difference"] == 0
    assert exported.tools == {"framework": "1"}
    assert exported.expected is None


def test_a_route_that_writes_nothing_does_not_leave_the_graph_of_another(
    monkeypatch: pytest.MonkeyPatch, shelf: Path
) -> None:
    doubled(shelf)
    with pytest.raises(ExportRefused, match=r"exported\.onnx cannot be read"):
        exported_by(monkeypatch, shelf, first=None, second=None)


def test_a_framework_that_rounds_is_met_within_its_noise_and_no_truth_for_others(
    monkeypatch: pytest.MonkeyPatch, shelf: Path
) -> None:
    def rounded(directory: Path, *, factor: float) -> None:
        doubled(directory, factor=factor, noise=0.05)
        np.savez(directory / trained.EXPECTED, **{"out:y": np.zeros((1, 4), np.float32)})

    exported = exported_by(
        monkeypatch,
        shelf,
        first=lambda directory: rounded(directory, factor=2.2),
        second=lambda directory: rounded(directory, factor=2.05),
    )
    assert list(exported.facts["routes_fallen"]) == ["first"]
    assert exported.expected is None


def test_a_batch_that_was_baked_in_is_found(monkeypatch: pytest.MonkeyPatch, shelf: Path) -> None:
    def baked(directory: Path) -> None:
        doubled(directory)
        models.double(directory / trained.MODEL, batch=1)

    exported = exported_by(monkeypatch, shelf, first=baked, second=doubled)
    assert "the export fails at batch 2" in exported.facts["routes_fallen"]["first"]


def test_where_all_routes_fall_each_is_named_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, shelf: Path
) -> None:
    with pytest.raises(ExportRefused) as error:
        exported_by(
            monkeypatch, shelf, first=ChildFailed("it broke", 3), second=ChildFailed("it too", -9)
        )
    assert str(error.value) == (
        f"{shelf / 'm.keras'} cannot be exported. first: it broke; second: it too"
    )


def test_an_onnx_file_is_taken_as_it_is(tmp_path: Path) -> None:
    source = models.double(tmp_path / "double.onnx")
    assert sources.kind_of(source) == sources.ONNX
    exported = sources.export(Request(sources.ONNX, source, ""), tmp_path, LIMITS)
    assert exported.facts["route"] == "as it is"
    assert exported.path.read_bytes() != b"" and exported.expected is None


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        ("m.keras", "keras"), ("m.H5", "keras"), ("m.tflite", "tflite"), ("m.pt2", "torch-program"),
        ("m.pt", "torchscript"), ("m.joblib", "sklearn"), ("m.onnx", "onnx"),
        ("d/saved_model.pb", "saved-model"), ("d/config.json", "huggingface"),
    ],
)  # fmt: skip
def test_what_a_model_is_shows_in_its_path(tmp_path: Path, made: str, kind: str) -> None:
    path = tmp_path / made
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert sources.kind_of(path.parent if made.startswith("d/") else path) == kind


def test_what_is_no_model_is_refused_with_what_can_be_converted(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match=r"neither a SavedModel .* nor a Hugging Face folder"):
        sources.kind_of(tmp_path)
    with pytest.raises(ExportRefused, match=r"none of the kinds that can be converted: \.h5,"):
        sources.kind_of(tmp_path / "model.zip")
