"""Into the repository whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from converter import publish, triton
from service import manifest
from service.errors import InvalidSetting
from service.manifest import Manifest, TensorSpec, Variant

ROWS = TensorSpec("x", "FP32", (-1, 4))


def contract(**changes: object) -> Manifest:
    variant = Variant("fp32", True, "it is the reference", "model.onnx", "0" * 64, 5)
    return dataclasses.replace(Manifest("m", True, (ROWS,), (ROWS,), (variant,)), **changes)


def tree(directory: Path) -> dict[str, bytes | None]:
    """Everything below a directory: path -> content, None for a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def publish_one(out: Path, version: Manifest, content: str = "graph") -> Path:
    with publish.staging(out) as stage:
        (stage / "built.onnx").write_text(content)
        return publish.publish(version, {"model.onnx": stage / "built.onnx"}, out=out, stage=stage)


def test_the_first_version_comes_with_the_models_directory(tmp_path: Path) -> None:
    out = tmp_path / "not" / "yet" / "there"
    directory = publish_one(out, contract())
    assert directory == out / "m" / "1"
    assert (directory / "model.onnx").read_text() == "graph"
    assert manifest.load(directory) == contract()


def test_the_second_version_is_added_beside_the_first(tmp_path: Path) -> None:
    publish_one(tmp_path, contract(), "old")
    before = tree(tmp_path / "m" / "1")
    assert publish_one(tmp_path, contract(), "new") == tmp_path / "m" / "2"
    assert tree(tmp_path / "m" / "1") == before
    assert (tmp_path / "m" / "2" / "model.onnx").read_text() == "new"


def test_the_next_version_follows_the_highest_number_and_not_the_text(tmp_path: Path) -> None:
    for version in ("2", "10", "009", "backup"):
        (tmp_path / "m" / version).mkdir(parents=True)
    assert publish_one(tmp_path, contract()) == tmp_path / "m" / "11"


def test_what_others_put_beside_the_versions_stays(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text("max_batch_size: 8")
    assert publish_one(tmp_path, contract()) == tmp_path / "m" / "1"
    assert (tmp_path / "m" / "config.pbtxt").read_text() == "max_batch_size: 8"


def test_another_models_versions_do_not_count(tmp_path: Path) -> None:
    publish_one(tmp_path, contract())
    assert publish_one(tmp_path, contract(name="n")) == tmp_path / "n" / "1"


@pytest.mark.parametrize("side", ["inputs", "outputs"])
@pytest.mark.parametrize(
    "spec",
    [TensorSpec("z", "FP32", (-1, 4)), TensorSpec("x", "FP16", (-1, 4)),
     TensorSpec("x", "FP32", (-1, 5))],
)  # fmt: skip
def test_a_changed_contract_is_refused_and_the_repository_is_as_it_was(
    tmp_path: Path, side: str, spec: TensorSpec
) -> None:
    publish_one(tmp_path, contract())
    before = tree(tmp_path)
    with pytest.raises(InvalidSetting, match="other inputs or outputs") as error:
        publish_one(tmp_path, contract(**{side: (spec,)}))
    assert "--name" in str(error.value)
    assert tree(tmp_path) == before


def test_a_version_that_is_not_ours_keeps_no_contract(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").write_text("somebody else's")
    assert publish_one(tmp_path, contract()) == tmp_path / "m" / "2"


def test_a_missing_file_leaves_the_repository_as_it_was(tmp_path: Path) -> None:
    publish_one(tmp_path, contract())
    before = tree(tmp_path)
    with pytest.raises(InvalidSetting, match="as it was before"), publish.staging(tmp_path) as st:
        (st / "a.onnx").write_text("graph")
        files = {"model.onnx": st / "a.onnx", "model.fp16.onnx": st / "missing.onnx"}
        publish.publish(contract(), files, out=tmp_path, stage=st)
    assert tree(tmp_path) == before


def test_a_file_in_the_models_place_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("notes")
    with pytest.raises(InvalidSetting, match="cannot publish into"):
        publish_one(tmp_path, contract())
    assert tree(tmp_path) == {"m": b"notes"}


def test_the_stage_is_gone_after_success(tmp_path: Path) -> None:
    with publish.staging(tmp_path) as stage:
        (stage / "deep").mkdir()
        (stage / "deep" / "file").write_text("x")
        assert stage.parent == tmp_path
        assert stage.name.startswith(".")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("ending", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_stage_is_gone_however_the_work_ends(
    tmp_path: Path, ending: type[BaseException]
) -> None:
    with pytest.raises(ending), publish.staging(tmp_path) as stage:
        (stage / "half.onnx").write_text("x")
        raise ending
    assert tree(tmp_path) == {}


def test_a_repository_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "models"
    with pytest.raises(InvalidSetting) as error, publish.staging(out):
        pytest.fail("there is nowhere to write")
    assert str(error.value) == f"cannot write into {out}: Not a directory"
    assert tree(tmp_path) == {"file": b"in the way"}


def test_a_stage_that_fills_the_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting) as error, publish.staging(tmp_path) as stage:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(stage / "model.onnx"))
    assert str(error.value).startswith("cannot use ") and "No space left" in str(error.value)
    assert tree(tmp_path) == {}


def test_the_first_publication_writes_the_configuration_for_triton(tmp_path: Path) -> None:
    publish_one(tmp_path, contract())
    assert (tmp_path / "m" / triton.FILE).read_text() == triton.config(contract())


def test_later_publications_leave_the_configuration_alone(tmp_path: Path) -> None:
    publish_one(tmp_path, contract())
    (tmp_path / "m" / triton.FILE).write_text("changed by hand")
    publish_one(tmp_path, contract())
    assert (tmp_path / "m" / triton.FILE).read_text() == "changed by hand"
    (tmp_path / "m" / triton.FILE).unlink()
    publish_one(tmp_path, contract())
    assert not (tmp_path / "m" / triton.FILE).exists()


class Full:
    """A disk that refuses one call of one function."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
        self.calls = 0
        works = getattr(owner, name)

        def refusing(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return works(*args, **options)

        monkeypatch.setattr(owner, name, refusing)


@pytest.mark.parametrize("versions", [0, 1])
@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [(Path, "mkdir", 1), (Path, "rename", 2), (Path, "write_text", 2), (os, "fsync", 7)],
    ids=["mkdir", "rename", "write", "fsync"],
)
def test_a_full_disk_leaves_the_repository_as_it_was_or_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    versions: int,
    owner: Any,
    name: str,
    calls: int,
) -> None:
    refused = 0
    for call in range(1, calls + 1):
        out = tmp_path / str(call)
        out.mkdir()
        for _ in range(versions):
            publish_one(out, contract(), "old")
        before = tree(out)
        with publish.staging(out) as stage, monkeypatch.context() as patched:
            (stage / "built.onnx").write_text("new")
            full = Full(patched, owner, name, call)
            try:
                publish.publish(
                    contract(), {"model.onnx": stage / "built.onnx"}, out=out, stage=stage
                )
            except InvalidSetting as error:
                assert "No space left on device" in str(error) and "\n" not in str(error)
                assert full.calls == call
                refused += 1
        new = out / "m" / str(versions + 1)
        if tree(out) != before:
            assert manifest.load(new) == contract()
            assert (new / "model.onnx").read_text() == "new"
            assert (out / "m" / triton.FILE).read_text() == triton.config(contract())
            assert {path: text for path, text in tree(out).items() if path in before} == before
    assert refused >= calls - (1 if versions else 0)
