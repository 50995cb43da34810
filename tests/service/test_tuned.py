"""What was tuned is written in one step, read strictly, and found by hardware and CPUs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service import tuned
from service.errors import ModelUnusable
from service.tuned import Here, Tuned

HERE = Tuned(
    fingerprint="x86_64, some CPU", cpus=2, variant="fp32", sha256="d1", max_batch=8, instances=2,
    threads=1, spin=False, target_ms=20.0, figures={"rows_per_s": 100.5, "over_defaults": 1.2},
    onnxruntime="1.31.0", date="2026-11-22",
)  # fmt: skip


def spoiled(directory: Path, **fields: Any) -> None:
    path = tuned.write(directory, HERE)
    raw = json.loads(path.read_text())
    raw["tuned"][0] |= fields
    path.write_text(json.dumps(raw))


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    assert tuned.read(tmp_path) == ()
    path = tuned.write(tmp_path, HERE)
    assert tuned.read(tmp_path) == (HERE,)
    assert [found.name for found in tmp_path.iterdir()] == ["tuned.json"]
    assert path.stat().st_mode & 0o444 == 0o444, "the server runs as somebody else"


@pytest.mark.parametrize("other", [{"cpus": 4}, {"fingerprint": "aarch64, another"}])
def test_entries_of_other_hardware_and_other_cpus_stay(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    elsewhere = replace(HERE, **other)
    for entry in (elsewhere, HERE, replace(HERE, threads=2)):
        tuned.write(tmp_path, entry)
    entries = tuned.read(tmp_path)
    assert entries == (elsewhere, replace(HERE, threads=2))
    assert tuned.find(entries, HERE.fingerprint, 2) == replace(HERE, threads=2)
    assert tuned.find(entries, elsewhere.fingerprint, elsewhere.cpus) == elsewhere


@pytest.mark.parametrize(("mark", "cpus"), [("another", 2), (HERE.fingerprint, 3)])
def test_other_hardware_finds_nothing(mark: str, cpus: int) -> None:
    assert tuned.find([HERE], mark, cpus) is None


@pytest.mark.parametrize(
    ("cpus", "digests", "why", "stale"),
    [
        (2, {"fp32": "d1", "int8": "d2"}, "", False),
        (
            3,
            {"fp32": "d1"},
            "it was tuned for x86_64, some CPU with 2 CPUs; this is x86_64, some CPU with 3 CPUs",
            False,
        ),
        (2, {"int8": "d1"}, "the tuned variant 'fp32' is not published", True),
        (2, {"fp32": "d2"}, "variant 'fp32' is not what was measured", True),
        (2, {"fp32": None}, "variant 'fp32' is not what was measured", True),
    ],
)
def test_only_what_was_measured_here_on_these_files_holds(
    tmp_path: Path, cpus: int, digests: dict[str, str | None], why: str, stale: bool
) -> None:
    tuned.write(tmp_path, HERE)
    found = tuned.here(tmp_path, digests, fingerprint=HERE.fingerprint, cpus=cpus)
    assert found == Here(None if why else HERE, why, stale)


def test_removed_entry_is_gone_and_those_of_other_hardware_stay(tmp_path: Path) -> None:
    elsewhere = replace(HERE, cpus=1)
    for entry in (elsewhere, HERE):
        tuned.write(tmp_path, entry)
    assert tuned.remove(tmp_path, HERE.fingerprint, 2) == tmp_path / tuned.FILENAME
    assert tuned.read(tmp_path) == (elsewhere,)
    assert tuned.remove(tmp_path, HERE.fingerprint, 2) is None
    assert tuned.remove(tmp_path, HERE.fingerprint, 1) == tmp_path / tuned.FILENAME
    assert list(tmp_path.iterdir()) == []


def test_what_was_tuned_is_told_with_its_target_and_what_was_measured() -> None:
    assert HERE.said == (
        "up to 8 rows a run, 2 x 1 thread, spinning off; for answers within 20 ms; 100 rows/s in "
        "process, without the network, 1.20x the defaults"
    )
    assert "within" not in replace(HERE, target_ms=0.0).said


def test_nothing_holds_where_nothing_was_tuned_and_there_is_nothing_to_tell(
    tmp_path: Path,
) -> None:
    assert tuned.here(tmp_path, {"fp32": "d1"}, fingerprint="here", cpus=2) == Here(None)


@pytest.mark.parametrize(
    "fields",
    [
        {"threads": 0}, {"threads": 1025}, {"instances": 0}, {"instances": 257}, {"threads": 1.5},
        {"max_batch": -1}, {"max_batch": 4097}, {"cpus": "2"}, {"instances": True}, {"spin": 1},
        {"variant": 7}, {"sha256": None}, {"date": 2026}, {"target_ms": "20"}, {"figures": [1]},
        {"figures": {"rows_per_s": "many"}}, {"colour": "blue"},
        # What metrics, logs and answers could not tell.
        {"figures": {"rows_per_s": 10**400}}, {"figures": {"run_ms": float("nan")}},
        {"figures": {"\ud800": 1.0}}, {"figures": {f"n{n}": 1.0 for n in range(65)}},
        {"figures": {"rows per s": 1.0}}, {"target_ms": float("inf")}, {"date": "\ud800"},
        {"onnxruntime": "1" * 1025},
    ],
)  # fmt: skip
def test_entry_that_cannot_be_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    spoiled(tmp_path, **fields)
    with pytest.raises(ModelUnusable, match=r"tuned\.json .*tune again") as refused:
        tuned.read(tmp_path)
    assert str(tmp_path) not in refused.value.told


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 2, "tuned": []}', "[" * 9999])
def test_file_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / tuned.FILENAME).write_text(text)
    with pytest.raises(ModelUnusable, match="tune again"):
        tuned.read(tmp_path)


def test_pipe_in_its_place_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / tuned.FILENAME)
    with pytest.raises(ModelUnusable):
        tuned.read(tmp_path)


def test_broken_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / tuned.FILENAME).write_text("of a later version")
    with pytest.raises(ModelUnusable):
        tuned.write(tmp_path, HERE)
    assert (tmp_path / tuned.FILENAME).read_text() == "of a later version"


def test_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tuned.write(tmp_path, HERE)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyboardInterrupt):
        tuned.write(tmp_path, replace(HERE, threads=2))
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["tuned.json"]


ON_GPU = replace(HERE, fingerprint="NVIDIA H200, compute 9.0, cuda", cpus=1, cuda_graphs=True)


def test_entry_of_a_gpu_is_told_with_its_graphs_and_lies_beside_that_of_the_cpu(
    tmp_path: Path,
) -> None:
    for entry in (HERE, ON_GPU):
        tuned.write(tmp_path, entry)
    assert tuned.read(tmp_path) == (HERE, ON_GPU)
    assert ON_GPU.said.startswith("up to 8 rows a run, 2 instances, CUDA graphs on; for answers")
    found = tuned.here(tmp_path, {"fp32": "d1"}, fingerprint=ON_GPU.fingerprint, cpus=1)
    assert found == Here(ON_GPU)


def test_file_of_a_cpu_has_no_word_of_graphs_and_an_older_one_is_read(tmp_path: Path) -> None:
    path = tuned.write(tmp_path, HERE)
    assert "cuda_graphs" not in path.read_text()
    assert tuned.read(tmp_path) == (HERE,)


@pytest.mark.parametrize("graphs", [1, "on", []])
def test_graphs_are_on_or_off(tmp_path: Path, graphs: Any) -> None:
    spoiled(tmp_path, cuda_graphs=graphs)
    with pytest.raises(ModelUnusable, match="tune again"):
        tuned.read(tmp_path)
