"""Which wheels of ONNX Runtime are installed, read without importing it: what is wrong with them.

The wheels for CPUs and GPUs bring files of the same names. Whichever comes last wins, and to
uninstall either takes away what both need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

FOR_CPU, FOR_GPU = "onnxruntime", "onnxruntime-gpu"
# The kernel module's own word, where it is loaded.
DRIVER = Path("/proc/driver/nvidia/version")
# Both first: pip takes a wheel for installed whose files went with the other.
EXTRA = "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'farthing[gpu]'"

Installed = Callable[[str], bool]


def installed(package: str) -> bool:
    """Whether pip takes a package for installed."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def damaged(path: Sequence[str] | None = None, there: Installed = installed) -> str:
    """What to do where ONNX Runtime's files are gone but for a few; empty where they are not.

    Args:
        path: where modules are looked for; None for where Python does.
        there: whether a package is installed.
    """
    found = PathFinder.find_spec("onnxruntime", path)
    if found is None or found.origin is not None:
        return ""
    lost = FOR_GPU if there(FOR_GPU) else FOR_CPU
    return (f"ONNX Runtime's files are gone, as where one of two wheels was uninstalled: "
            f"pip install --force-reinstall --no-deps {lost}")  # fmt: skip


def both(there: Installed = installed) -> str:
    """What to do where both wheels are installed; empty where they are not."""
    if not (there(FOR_CPU) and there(FOR_GPU)):
        return ""
    return (f"onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files, "
            f"which may lose CUDA; {EXTRA}")  # fmt: skip


def lost(wheel: str, there: Installed = installed, driver: Path = DRIVER) -> str:
    """Why a GPU might be expected where ONNX Runtime is not built for one; empty if for nothing.

    Args:
        wheel: ONNX Runtime's name and version.
        there: whether a package is installed.
        driver: a file that is there where NVIDIA's driver is.
    """
    if said := both(there):
        return said
    if there(FOR_GPU):
        return f"onnxruntime-gpu is installed, but {wheel} offers no CUDA; {EXTRA}"
    if driver.exists():
        return f"NVIDIA's driver is there, but {wheel} is built for CPUs only; {EXTRA}"
    return ""
