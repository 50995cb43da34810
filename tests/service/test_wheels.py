"""Two wheels of ONNX Runtime are told apart from one, and from what is left of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from service import wheels


def only(*packages: str) -> wheels.Installed:
    return lambda package: package in packages


def test_sound_wheel_is_not_taken_for_damaged_nor_is_none_at_all(tmp_path: Path) -> None:
    assert not wheels.damaged()
    assert not wheels.damaged([str(tmp_path)])


@pytest.mark.parametrize(
    ("packages", "named"),
    [(("onnxruntime",), "onnxruntime"), (("onnxruntime-gpu",), "onnxruntime-gpu")],
)
def test_files_that_went_with_the_other_wheel_are_told_with_what_brings_them_back(
    tmp_path: Path, packages: tuple[str, ...], named: str
) -> None:
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    said = wheels.damaged([str(tmp_path)], only(*packages))
    assert said.endswith(f"pip install --force-reinstall --no-deps {named}")


@pytest.mark.parametrize(
    ("packages", "driver", "words"),
    [
        ((), False, ""),
        (("onnxruntime",), False, ""),
        (("onnxruntime",), True, "driver is there, but onnxruntime 9 is built for CPUs only"),
        (("onnxruntime-gpu",), False, "is installed, but onnxruntime 9 offers no CUDA"),
        (("onnxruntime", "onnxruntime-gpu"), True, "both installed"),
    ],
)
def test_gpu_is_missed_where_there_is_a_reason_to_expect_one(
    tmp_path: Path, packages: tuple[str, ...], driver: bool, words: str
) -> None:
    version = tmp_path / "version"
    if driver:
        version.write_text("NVRM version: 580")
    said = wheels.lost("onnxruntime 9", only(*packages), version)
    assert words in said and bool(said) == bool(words)
    # One alone would take the files of both away.
    assert not said or said.endswith(
        "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'farthing[gpu]'"
    )
