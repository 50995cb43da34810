"""Accepted variants and their manifest -> the repository, in one atomic step."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from converter import triton
from service import manifest
from service.errors import InvalidSetting, ModelUnusable
from service.manifest import Manifest, TensorSpec, versions_in

_PREFIX = ".farthing-"
_LEFT_S = 24 * 3600


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A directory on the repository's own file system, gone afterwards.

    Its name starts with a dot, so that no server takes it for a model.

    Raises:
        InvalidSetting: nothing can be written there, or something else cannot be used.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=out))
    except OSError as error:
        raise InvalidSetting(f"cannot write into {out}: {error.strerror}") from None
    _sweep(out)
    try:
        yield directory
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        raise InvalidSetting(f"cannot use {error.filename or out}: {why}") from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _sweep(out: Path) -> None:
    """Remove what conversions left that were killed; a day old, so that none can still be alive."""
    for left in out.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_S:  # noqa: TID251 - beside a file's time
                shutil.rmtree(left, ignore_errors=True)


def publish(contract: Manifest, files: dict[str, Path], *, out: Path, stage: Path) -> Path:
    """Move a version into the repository, whole or not at all.

    Args:
        contract: its manifest, with the digests of the files.
        files: name in the version's directory -> where it lies now, on the same file system.
        out: the repository.
        stage: an empty place on the same file system.

    Returns:
        The new version's directory.

    Raises:
        InvalidSetting: the model exists with other inputs or outputs, or the disk refuses.
        ModelUnusable: the latest version there has a manifest that cannot be read.
    """
    model = out / contract.name
    check_contract(model, contract.inputs, contract.outputs)
    version = stage / "publish" / contract.name / str(max(versions_in(model), default=0) + 1)
    try:
        version.mkdir(parents=True)
        for name, path in files.items():
            path.rename(version / name)
        (version / manifest.FILENAME).write_text(contract.to_json(), encoding="utf-8")
        if not model.exists():
            config = version.parent / triton.FILE
            config.write_text(triton.config(contract), encoding="utf-8")
            _to_disk(config)
        for path in (*version.iterdir(), version, version.parent):
            _to_disk(path)
        if model.exists():
            # Its config.pbtxt stays: it may have been changed by hand.
            version.rename(model / version.name)
        else:
            version.parent.rename(model)
    except OSError as error:
        raise InvalidSetting(
            f"cannot publish into {out}: {error.strerror}; it is as it was before"
        ) from None
    try:
        for path in (model, out):  # the renames themselves
            _to_disk(path)
    except OSError as error:
        raise InvalidSetting(
            f"{model / version.name} is published, but may not outlast a power cut: the disk "
            f"answers {error.strerror}"
        ) from None
    return model / version.name


def check_contract(
    model: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """Callers of the old version must be able to call the new one.

    Raises:
        InvalidSetting: the model exists with other inputs or outputs, or its latest version has a
            manifest that cannot be read.
    """
    versions = versions_in(model)
    if not versions or not (model / str(versions[-1]) / manifest.FILENAME).exists():
        return  # nothing there, or not one of ours: there is no contract to keep
    latest = model / str(versions[-1])
    try:
        old = manifest.load(latest)
    except ModelUnusable as error:
        raise InvalidSetting(
            f"{error}, so its contract is unknown; remove {latest}, or publish under another --name"
        ) from error
    if (old.inputs, old.outputs) != (inputs, outputs):
        raise InvalidSetting(
            f"{latest} has other inputs or outputs than this model; publish it under another "
            "--name, so that callers of the old one are not broken"
        )


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
