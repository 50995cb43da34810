"""The child process: load a trained model, write down its answers, and write it as ONNX."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from converter import samples
from converter.child import ERROR_FILE
from converter.exporters import KINDS
from converter.exporters import trained as contract
from converter.exporters.trained import (
    Arrays,
    NotExportable,
    Request,
    RouteFailed,
    Trained,
    first_line,
)
from service.errors import FarthingError

_CHUNK_ROWS = 16
# Exit codes: the model itself cannot be exported, or this route did not work.
REFUSED, NO_ROUTE = 2, 3


def main(argv: list[str] | None = None) -> int:
    """Export by ``DIRECTORY/request.json``; 0, or 2 or 3 with a sentence in ``error.txt``."""
    directory = Path((sys.argv[1:] if argv is None else argv)[0])
    try:
        _export(Request.read(directory), directory)
    except FarthingError as error:
        (directory / ERROR_FILE).write_text(str(error), encoding="utf-8")
        return NO_ROUTE if isinstance(error, RouteFailed) else REFUSED
    return 0


def _export(request: Request, directory: Path) -> None:
    model = _loaded(request)
    batches = contract.PROBE_BATCHES if model.batched else (1,)
    rows = sum(batches)
    probe = model.sample(rows) if model.sample else contract.random_rows(model.inputs, rows)
    answers = _answers(model, _split(probe, batches), f"{request.source} on random rows")
    _write(directory / contract.PROBE, probe, answers)
    if request.evaluate is not None and model.batched:
        feeds = samples.read(request.evaluate, model.inputs).feeds
        rows = len(next(iter(feeds.values())))
        chunks = [_CHUNK_ROWS] * (rows // _CHUNK_ROWS) + [rows % _CHUNK_ROWS] * bool(
            rows % _CHUNK_ROWS
        )
        parts = _split(feeds, tuple(chunks))
        answers = _answers(model, parts, f"{request.source} on {request.evaluate}")
        _write(directory / contract.EXPECTED, {}, answers)
    try:
        model.write(directory / contract.MODEL)
    except FarthingError:
        raise
    except Exception as error:  # exporters raise anything
        raise RouteFailed(f"{request.route} failed: {first_line(error)}") from error
    facts = {
        "inputs": [asdict(spec) for spec in model.inputs],
        "outputs": list(model.outputs),
        "tools": dict(model.tools),
        "notes": list(model.notes),
        "batches": list(batches),
        "noise": model.noise,
        "dimensions": {name: list(names) for name, names in model.dimensions.items()},
    }
    (directory / contract.FACTS).write_text(json.dumps(facts), encoding="utf-8")


def _loaded(request: Request) -> Trained:
    kind = KINDS[request.kind]
    if request.imports or request.factory:
        sys.path.append(str(Path.cwd()))  # where the user's own modules lie
    for name in request.imports:
        try:
            importlib.import_module(name)
        except Exception as error:  # it is the user's own code
            raise NotExportable(
                f"--import {name} failed ({type(error).__name__}: {first_line(error)}); the module "
                "must be importable from the current directory"
            ) from error
    try:
        module = importlib.import_module(f"converter.exporters.{kind.module}")
        model: Trained = module.load(request)
    except FarthingError:
        raise
    except ImportError as error:
        raise NotExportable(
            f"{request.source} needs a package that is not installed ({first_line(error)}); "
            f"pip install 'farthing[cpu,{kind.extra}]' brings its framework"
        ) from error
    except Exception as error:  # a framework raises anything
        raise NotExportable(
            f"{request.source} cannot be traced by its own framework: {first_line(error)}"
        ) from error
    return model


def _answers(
    model: Trained, parts: list[dict[str, np.ndarray[Any, Any]]], what: str
) -> dict[str, np.ndarray[Any, Any]]:
    """What the framework says to all the parts, joined."""
    try:
        answers = [model.answer(part) for part in parts]
    except FarthingError:
        raise
    except Exception as error:  # as above
        raise NotExportable(f"its own framework fails with {what}: {first_line(error)}") from error
    arrays = [{name: np.asarray(given[name]) for name in model.outputs} for given in answers]
    for part, given in zip(parts, arrays, strict=True):
        rows = len(next(iter(part.values())))
        for name, array in given.items():
            if model.batched and array.shape[:1] != (rows,):
                raise NotExportable(
                    f"{what}: output '{name}' has shape {list(array.shape)} for {rows} rows, so "
                    "its rows cannot be told apart; give it one row for each of the inputs'"
                )
    return _joined(arrays)


def _split(feeds: Arrays, batches: tuple[int, ...]) -> list[dict[str, np.ndarray[Any, Any]]]:
    """The feeds in parts of so many rows; a fixed first dimension has one part."""
    if len(batches) == 1:
        return [dict(feeds)]
    ends = np.cumsum(batches)
    return [
        {name: array[end - batch : end] for name, array in feeds.items()}
        for batch, end in zip(batches, ends, strict=True)
    ]


def _joined(parts: list[dict[str, np.ndarray[Any, Any]]]) -> dict[str, np.ndarray[Any, Any]]:
    return {
        name: np.concatenate([part[name] for part in parts]) if len(parts) > 1 else array
        for name, array in parts[0].items()
    }


def _write(path: Path, feeds: Arrays, answers: Arrays) -> None:
    arrays: dict[str, Any] = {f"in:{name}": array for name, array in feeds.items()}
    arrays |= {f"out:{name}": array for name, array in answers.items()}
    # Texts as such, not as objects: those would be pickled.
    plain: dict[str, Any] = {name: _plain(array) for name, array in arrays.items()}
    np.savez(path, **plain)


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype.kind != "O":
        return array
    texts = [x.decode() if isinstance(x, bytes) else str(x) for x in array.ravel()]
    return np.array(texts, dtype=np.str_).reshape(array.shape)


if __name__ == "__main__":
    sys.exit(main())
