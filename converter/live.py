"""A model object in memory -> a file that a process of its own can convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converter.recipe import Source
from service.errors import InvalidSetting


def on_disk(model: Any, directory: Path, example: Path | None) -> Source:
    """Write a live model down.

    A Keras model becomes a SavedModel, a PyTorch module a .pt2, a scikit-learn estimator a joblib
    file; these are trusted, since they are the caller's own.

    Args:
        model: the object.
        directory: where to write.
        example: .npz with some rows, which a PyTorch module must be traced with.

    Raises:
        InvalidSetting: it is none of these, or a PyTorch module without rows.
    """
    what = type(model).__name__
    families = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    directory.mkdir(parents=True, exist_ok=True)
    if "keras" in families:
        return Source(_keras(model, directory / "saved_model"), trust=True, live=what)
    if "torch" in families:
        return Source(_torch(model, directory / "model.pt2", example), trust=True, live=what)
    if "sklearn" in families:
        import joblib

        joblib.dump(model, directory / "model.joblib")
        return Source(directory / "model.joblib", trust=True, live=what)
    raise InvalidSetting(
        f"cannot convert a {what}: give a path, a Keras model, a PyTorch module or "
        "a scikit-learn estimator"
    )


def _keras(model: Any, directory: Path) -> Path:
    from converter.exporters import keras_model

    keras_model.save(model, directory)
    return directory


def _torch(model: Any, path: Path, example: Path | None) -> Path:
    from converter.exporters import torch_graph

    if example is None:
        raise InvalidSetting(
            "a PyTorch module is traced with some rows: give example= (or calibration=, evaluate=)"
        )
    torch_graph.save_program(model, torch_graph.example_of(model, example), path)
    return path
