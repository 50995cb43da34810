"""Which Keras wrote a file; without importing any."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path


def is_keras_2(path: Path) -> bool:
    """Whether a model file says that Keras 1 or 2 wrote it."""
    import h5py

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                version = json.loads(archive.read("metadata.json"))["keras_version"]
        else:
            with h5py.File(path) as file:
                version = file.attrs["keras_version"]
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
        return False
    text = version.decode() if isinstance(version, bytes) else str(version)
    return text.startswith(("1.", "2."))


def has_lambda(path: Path) -> bool:
    """Whether an .h5 model's configuration names a Lambda layer, or cannot be read."""
    import h5py

    if path.suffix.lower() not in (".h5", ".hdf5"):
        return False
    try:
        with h5py.File(path) as file:
            config = file.attrs["model_config"]
    except (OSError, KeyError):
        return True
    return '"Lambda"' in (config.decode() if isinstance(config, bytes) else str(config))
