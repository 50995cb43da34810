"""Golden warm-up: the answers to the manifest's samples, beside those that were verified."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from service import manifest
from service.errors import ModelUnusable
from service.manifest import Golden

Arrays = Mapping[str, np.ndarray[Any, Any]]


def read(directory: Path, golden: Golden) -> tuple[dict[str, Any], dict[str, Any]]:
    """The reference inputs, and fp32's outputs for them.

    Raises:
        ModelUnusable: the file is not the one that was published, or cannot be read.
    """
    path = directory / golden.file
    if not path.is_file() or manifest.sha256_of(path) != golden.sha256:
        raise ModelUnusable(
            f"{path} is not the file that was published (its digest differs from the manifest's); "
            "convert the model again",
            told="the golden samples are not those that were published; convert the model again",
        )
    try:
        # Opened here: numpy leaves the file open when it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError, TypeError) as error:
        raise ModelUnusable(f"{path} cannot be read ({error}); convert the model again") from error
    for name, array in found.items():
        if array.dtype.kind == "U":  # ONNX Runtime takes texts as objects
            found[name] = array.astype(np.object_)
    inputs = {n.removeprefix("in:"): array for n, array in found.items() if n.startswith("in:")}
    outputs = {n.removeprefix("out:"): array for n, array in found.items() if n.startswith("out:")}
    return inputs, outputs


def check(
    run: Callable[[Arrays], Arrays],
    directory: Path,
    golden: Golden,
    *,
    variant: str,
) -> None:
    """Make sure that a variant answers here as it did where it was verified.

    Args:
        run: the loaded variant.
        directory: of the version.
        golden: the manifest's.
        variant: whose tolerance counts.

    Raises:
        ModelUnusable: an output is missing, of another shape, or further from fp32's than the
            variant's own tolerance.
    """
    inputs, wanted = read(directory, golden)
    try:
        given = run(inputs)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise ModelUnusable(
            f"variant '{variant}' fails on the golden samples in {directory}: {error}",
            told=f"variant '{variant}' fails on the golden samples",
        ) from error
    for name, tolerance in golden.tolerance.get(variant, {}).items():
        distance = _distance(given.get(name), wanted.get(name))
        if not distance <= tolerance:
            sentence = (
                f"variant '{variant}' is {distance:.3g} from the golden answers in output "
                f"'{name}', where {tolerance:.3g} is its own; convert the model on this hardware, "
                "or serve another variant"
            )
            raise ModelUnusable(f"{directory}: {sentence}", told=sentence)


def _distance(given: Any, wanted: Any) -> float:
    """The largest absolute difference; infinite where the two cannot be compared or NaN differs."""
    if given is None or wanted is None or given.shape != wanted.shape:
        return float("inf")
    if wanted.dtype.kind not in "fiub":
        return 0.0 if bool((given == wanted).all()) else float("inf")
    mine, theirs = given.astype(np.float64), wanted.astype(np.float64)
    same = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
    if same.all():
        return 0.0
    difference = np.abs(mine - theirs)[~same]
    return float("inf") if np.isnan(difference).any() else float(difference.max())
