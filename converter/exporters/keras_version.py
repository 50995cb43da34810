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
