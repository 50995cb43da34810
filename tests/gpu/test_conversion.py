"""fp16 judged where its overflow shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter import pipeline
from converter.recipe import Bounds, Budget, Recipe, Source
from converter.target import target_of
from service.devices import Device
from service.manifest import Manifest
from service.session import Session, SessionOptions
from tests.converter import nets, pretended
from tests.converter.nets import node

pytestmark = pytest.mark.gpu


def overflowing(path: Path) -> Path:
    """A net whose middle is beyond 65504, the largest half; its ends are about one in size."""
    names = ["MatMul.0", "MatMul.1", "Mul.2", "Tanh.3", "MatMul.4"]
    nodes = [
        node("MatMul", "x w1", "a"), node("MatMul", "a w2", "b"), node("Mul", "b small", "c"),
        node("Tanh", "c", "d"), node("MatMul", "d w3", "scores"),
    ]  # fmt: skip
    for each, name in zip(nodes, names, strict=True):
        each.name = name
    weights = {
        "w1": 500 * nets.normal(48, 48), "w2": 500 * nets.normal(48, 48, seed=1),
        "small": np.array(4e-6, np.float32), "w3": nets.normal(48, 10, seed=2),
    }  # fmt: skip
    return nets.build(path, nodes, {"x": ["batch", 48]}, {"scores": ["batch", 10]}, weights)


def converted(folder: Path, source: Path, device: Device) -> Manifest:
    rows = pretended.rows(700)
    np.savez(folder / "calibration.npz", x=rows[:300])
    np.savez(folder / "held-out.npz", x=rows[300:])
    recipe = Recipe(
        Source(source), "m", folder / "out", str(folder / "calibration.npz"),
        str(folder / "held-out.npz"), variants=("fp16",), budget=Budget(seconds=120),
        bounds=Bounds(min_speedup=0.01, metric="agreement", max_drop=2.0),
    )  # fmt: skip
    return pipeline.run(recipe, target=target_of(str(device)) if device.is_gpu else pretended.gpu())


def test_fp16_that_overflows_is_published_only_with_what_overflows_in_fp32(
    tmp_path: Path, device: Device
) -> None:
    contract = converted(tmp_path, overflowing(tmp_path / "net.onnx"), device)
    (fp16,) = [variant for variant in contract.variants if variant.name == "fp16"]
    assert fp16.accepted, fp16.reason
    if device.is_gpu:
        assert fp16.made["excluded"], "a GPU's halves end at 65504, and this net goes beyond"
        assert fp16.made["judged_on"]["provider"] == "cuda"
        assert all(fp16.figures[f"speedup_batch_{batch}"] > 0 for batch in (1, 8, 32))
    directory = tmp_path / "out" / "m" / "1"
    fed = {"x": pretended.rows(64, seed=3)}
    exact = Session(tmp_path / "net.onnx", SessionOptions(threads=1)).run(fed)["scores"]
    there = Session(directory / str(fp16.file), SessionOptions(devices=(device,))).run(fed)
    assert np.isfinite(there["scores"]).all()
    np.testing.assert_allclose(there["scores"], exact, rtol=5e-2, atol=5e-2)


def test_fp16_that_holds_is_published_whole(tmp_path: Path, device: Device) -> None:
    contract = converted(tmp_path, pretended.lossy(tmp_path / "net.onnx"), device)
    (fp16,) = [variant for variant in contract.variants if variant.name == "fp16"]
    assert fp16.accepted and not fp16.made["excluded"], fp16.reason
