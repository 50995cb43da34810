"""What a person sees of a published model is what the server does with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import farthing
from service import hardware, manifest, opening, repository, tuned
from service.manifest import Choice
from service.settings import Settings
from service.tuned import Tuned
from tests import models


def published(root: Path) -> Path:
    """A bare model with a manifest that has a choice recorded for this hardware."""
    path = models.double(root / "double" / "1" / "model.onnx")
    contract = opening.contract_of_file(path, "double")
    recorded = {hardware.fingerprint(): Choice("as-is", "recorded by convert")}
    text = replace(contract, chosen=recorded).to_json()
    (path.parent / manifest.FILENAME).write_text(text)
    return path


@pytest.mark.parametrize(
    ("fields", "tells"),
    [
        ({}, ["`farthing serve` takes as-is, as tuned on 2026-11-22: up to 4 rows a run"]),
        (
            {"sha256": "of another file"},
            ["takes as-is: recorded by convert.", "does not take it, since variant 'as-is' is not"],
        ),
        (
            {"variant": "int8"},
            ["takes as-is: recorded by convert.", "variant 'int8' is not published"],
        ),
        (
            {"fingerprint": "another"},
            ["takes as-is: recorded by convert.", "Tuned on 2026-11-22 for another with "],
        ),
    ],
)  # fmt: skip
def test_inspect_says_once_what_serve_takes_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], tells: list[str]
) -> None:
    path = published(tmp_path)
    entry = Tuned(
        fingerprint=hardware.fingerprint(), cpus=hardware.cpus(), variant="as-is",
        sha256=manifest.sha256_of(path), max_batch=4, instances=1, threads=1, spin=False,
        target_ms=0.0, date="2026-11-22",
    )  # fmt: skip
    tuned.write(path.parent, replace(entry, **fields))
    assert farthing.main(["inspect", str(tmp_path / "double")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(text in shown for text in tells), shown
    assert shown.count("`farthing serve` takes") == 1
    (served,) = repository.load(Settings(repository=tmp_path))
    assert (served.chosen.how == "tuned") is ("as tuned on" in shown)


def test_inspect_tells_of_a_tuned_file_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = published(tmp_path)
    (path.parent / tuned.FILENAME).write_text("{")
    assert farthing.main(["inspect", str(path.parent)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "takes as-is: recorded by convert." in shown and "tune again" in shown


def test_what_gpus_take_and_what_only_a_gpu_shows_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = published(tmp_path)
    contract = manifest.load(path.parent)
    ratios = {f"speedup_batch_{n}{low}": 2.0 for n in (1, 8, 32) for low in ("", "_low")}
    made = {"judged_on": {"provider": "cuda", "gpu": "NVIDIA H200"}}
    there = replace(contract.variants[0], name="pruned", figures=ratios, device="gpu", made=made)
    unseen = replace(there, name="fp16", figures={}, made={})
    choices = {**contract.chosen, "NVIDIA H200, compute 9.0, cuda": Choice("pruned", "it won")}
    text = replace(contract, variants=(*contract.variants, there, unseen), chosen=choices)
    (path.parent / manifest.FILENAME).write_text(text.to_json())
    assert farthing.main(["inspect", str(tmp_path / "double")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "On NVIDIA H200, compute 9.0, cuda `farthing serve` takes pruned: it won." in shown
    assert "What fp16 is worth shows on a GPU: convert there with --device cuda." in shown
    assert "2.00 / 2.00 / 2.00" in shown and "What pruned is worth" not in shown
