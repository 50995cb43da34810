"""Writes models that no exporter can take, and asks the exporters for them: ``refused.json``."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import layers

from converter import child
from converter.exporters import __main__ as exporters
from converter.exporters.trained import Request


def write(directory: Path) -> None:
    numbers = keras.Input((1,), name="number", dtype="int64")
    keras.Model(numbers, layers.IntegerLookup(vocabulary=[7, 9])(numbers)).save(
        directory / "numbers.keras"
    )
    text = keras.Input((1,), name="text", dtype="string")
    keras.Model(text, layers.TextVectorization(vocabulary=["a", "b"])(text)).save(
        directory / "text.keras"
    )
    x = keras.Input((3,), name="x")
    keras.Model(x, layers.Lambda(lambda t: t * 2)(x)).save(directory / "code.keras")

    class Unregistered(layers.Layer):
        def call(self, t: Any) -> Any:
            return t * 2

    for name in ("unregistered.keras", "unregistered.h5"):
        keras.Model(x, Unregistered()(x)).save(directory / name)
    keras.Sequential([layers.Dense(2)]).save(directory / "unbuilt.keras")
    odd = keras.Input((3,), name="my input-1")
    keras.Model(odd, layers.Dense(2)(odd)).save(directory / "odd.keras")
    broken = keras.Model(x, layers.Dense(2, name="broken")(x))
    broken.get_layer("broken").kernel.assign(np.full((3, 2), np.nan))
    broken.save(directory / "nan.keras")

    (directory / "prose.keras").write_text("not a model")
    (directory / "prose.h5").write_text("not a model")
    whole = (directory / "mlp.keras").read_bytes()
    (directory / "cut.keras").write_bytes(whole[: len(whole) // 2])
    with h5py.File(directory / "old.h5", "w") as file:
        file.attrs["keras_version"] = "2.15.0"
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {}})
    with zipfile.ZipFile(directory / "old.keras", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        archive.writestr("config.json", json.dumps({"class_name": "Gone", "config": {}}))
    (directory / "prose.tflite").write_text("not a model")
    (directory / "rotten").mkdir()
    (directory / "rotten" / "saved_model.pb").write_text("not a model")
    (directory / "faulty.py").write_text("1 / 0\n")
    np.savez(directory / "wrong_rows.npz", q=np.zeros((3, 8), np.float32), r=np.zeros(3))
    np.savez(directory / "too_large_ids.npz", ids=np.full((3, 20), 9999))


REFUSED: dict[str, dict[str, Any]] = {
    "numbers.keras": {},
    "text.keras": {},
    "code.keras": {},
    "code.keras trusted": {"trust": True},
    "unregistered.keras": {},
    "unregistered.h5": {},
    "unbuilt.keras": {},
    "odd.keras": {},
    "nan.keras": {},
    "prose.keras": {},
    "prose.h5": {},
    "cut.keras": {},
    "old.h5": {},
    "old.keras": {},
    "mlp.keras with no such import": {"imports": ("no_such_module",)},
    "mlp.keras with a faulty import": {"imports": ("faulty",)},
    "mlp.keras with wrong rows": {"evaluate": "wrong_rows.npz"},
    "ids.keras with ids out of range": {"evaluate": "too_large_ids.npz"},
    "two": {"kind": "saved-model"},
    "two with no such signature": {"kind": "saved-model", "signature": "third"},
    "none": {"kind": "saved-model"},
    "anything": {"kind": "saved-model"},
    "mean": {"kind": "saved-model"},
    "rotten": {"kind": "saved-model"},
    "prose.tflite": {"kind": "tflite"},
}


def ask(directory: Path) -> None:
    """Ask the exporters for each, in this one process; exit codes and sentences as JSON."""
    said = {}
    for case, options in REFUSED.items():
        shelf = directory / "refused" / case
        shelf.mkdir(parents=True)
        source = directory / case.split()[0]
        request = Request(
            **{"kind": "keras", "source": source, "route": "ExportArchive", **options}
        )
        if request.evaluate:
            request = replace(request, evaluate=directory / request.evaluate)
        request.write(shelf)
        try:
            code = exporters.main([str(shelf)])
            said[case] = (code, (shelf / child.ERROR_FILE).read_text() if code else "")
        except Exception as error:
            said[case] = (1, f"{type(error).__name__}: {error}")
    (directory / "refused.json").write_text(json.dumps(said))
