"""However a conversion ends, the repository is as it was, or whole."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import farthing
from converter import golden, pipeline, triton
from converter.pipeline import Tell
from converter.recipe import Recipe, Source
from service import manifest
from service.errors import FarthingError
from tests import models
from tests.converter.conftest import Material


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def test_an_interrupted_conversion_leaves_nothing(material: Material, tmp_path: Path) -> None:
    @contextmanager
    def interrupted(what: str) -> Iterator[Tell]:
        if what.startswith("publishing"):
            raise KeyboardInterrupt
        yield lambda text: None

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(Recipe(Source(material.source), "m", tmp_path), interrupted)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("call", range(1, 9))
def test_a_disk_that_fills_up_while_saving_is_one_sentence(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    calls = 0
    save, savez = onnx.save, np.savez

    def full(works: Callable[..., Any]) -> Callable[..., Any]:
        def saving(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return works(*args, **options)

        return saving

    monkeypatch.setattr(onnx, "save", full(save))
    monkeypatch.setattr(np, "savez", full(savez))
    try:
        farthing.convert(
            material.source, name="m", out=tmp_path, variants=("fp16",),
            calibration=material.calibration, evaluate=material.held_out,
        )  # fmt: skip
    except FarthingError as error:
        assert "No space left" in str(error) and "\n" not in str(error)
        assert files(tmp_path) == set()
    else:  # fp16 alone could not be built, or all was well
        contract = manifest.load(tmp_path / "m" / "1")
        refused = [v.reason for v in contract.variants if not v.accepted]
        assert all("No space left" in reason for reason in refused)
        for name in contract.published:
            variant = contract.variant(name)
            manifest.check_digest(tmp_path / "m" / "1" / str(variant.file), variant)


# Conversions without end, of which each first becomes a new model and then its second version.
_FOR_EVER = """
import sys, farthing
source, out, first = sys.argv[1:]
for number in range(int(first), 10**6):
    for _ in range(2):
        farthing.convert(source, name=f"m{number}", out=out, variants=())
        print(number, flush=True)
"""


def whole(version: Path) -> bool:
    """Whether all of a version is there as its manifest says."""
    contract = manifest.load(version)
    for name in contract.published:
        variant = contract.variant(name)
        manifest.check_digest(version / str(variant.file), variant)
    made = contract.golden
    assert made is not None
    assert {path.name for path in version.iterdir()} == {
        manifest.FILENAME, manifest.MODEL_FILE, golden.FILE
    }  # fmt: skip
    return manifest.sha256_of(version / made.file) == made.sha256


@pytest.mark.parametrize("turn", range(4))
def test_a_conversion_that_is_killed_leaves_whole_versions_only(tmp_path: Path, turn: int) -> None:
    source, out = models.double(tmp_path / "model.onnx"), tmp_path / "out"
    words = [sys.executable, "-c", _FOR_EVER, str(source), str(out), "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(1 + turn):
            assert child.stdout.readline()  # so many are published
        time.sleep(random.uniform(0, 0.2))  # at any moment of the next
        os.kill(child.pid, signal.SIGKILL)
    published = [path for path in out.iterdir() if not path.name.startswith(".")]
    versions = [model / str(n) for model in published for n in manifest.versions_in(model)]
    assert len(versions) >= 1 + turn
    assert all(whole(version) for version in versions)
    for model in published:
        assert (model / triton.FILE).read_text().startswith(f'name: "{model.name}"')
        assert {path.name for path in model.iterdir()} <= {"1", "2", triton.FILE}
