"""The contract that was asked for: bytes in place of floats, the best classes in place of all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from converter import compare, fold, graphs, samples, verify
from converter.recipe import Recipe
from converter.sources import Exported
from service import rows
from service.errors import FarthingError
from service.session import Session, SessionOptions


def for_framework(recipe: Recipe, path: Path | None, target: Path) -> Path | None:
    """Rows as the framework takes them: bytes normalised, where the graph will do that itself.

    Args:
        recipe: says whether.
        path: the rows that the folded graph takes, or None.
        target: where to write those that the framework takes.

    Raises:
        BadRows: the rows are not whole numbers from 0 to 255.
    """
    if path is None or not recipe.uint8:
        return path
    normalization = fold.parse(recipe.uint8)
    try:
        # Opened here: numpy leaves a file that is cut off open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged file raises nearly anything
        raise rows.BadRows(f"{path} is not an .npz file of plain arrays") from error
    key = normalization.name if normalization.name in arrays else rows.ONLY_INPUT
    if key not in arrays or arrays[key].dtype != np.uint8:
        raise rows.BadRows(
            f"'{normalization.name}' in {path} must be uint8, since --uint8-input folds the "
            "normalization into the graph"
        )
    arrays[key] = normalization.normalise(arrays[key])
    np.savez(target, **arrays)
    return target


def reshaped(exported: Exported, recipe: Recipe, floats: Path | None) -> Exported:
    """fp32 with the contract that was asked for.

    Args:
        exported: as its framework has it.
        recipe: says what is folded in.
        floats: the held-out rows as the framework takes them, or None.

    Raises:
        CannotFold: the graph cannot be changed so.
        FarthingError: it does not answer as its framework, so that it is not even the start.
    """
    expected, folded = exported.expected, []
    if recipe.top_k:
        session = Session(exported.path, SessionOptions())
        if expected is not None and floats is not None:
            answers = verify.predict(session, samples.read(floats, session.inputs))
            if not compare.close(answers, expected):
                raise FarthingError(
                    "the fp32 export answers the held-out rows differently from its framework"
                )
        # Near ties may change places between two libraries: from here on fp32's answers count.
        expected = None
        scores = session.outputs[0].name
        graph = fold.top_k(onnx.load(exported.path), scores, recipe.top_k)
        graphs.write(graph, exported.path)
        folded.append(f"the best {recipe.top_k} of '{scores}'")
    if recipe.uint8:
        n = fold.parse(recipe.uint8)
        graph = fold.uint8_input(
            onnx.load(exported.path), n.name, scale=n.scale, mean=n.mean, std=n.std, axis=n.axis
        )
        graphs.write(graph, exported.path)
        folded.append(f"the normalization of '{n.name}'")
    graphs.check(exported.path, "the graph with what was folded in")
    return replace(exported, expected=expected, facts={**exported.facts, "folded": folded})
