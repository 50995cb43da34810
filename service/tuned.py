"""What ``farthing tune`` found for one version: options by hardware and number of CPUs.

``<repository>/<name>/<version>/tuned.json`` is written by ``farthing tune`` and read by the server;
this file is the only one that knows its form. It needs neither ONNX Runtime nor gRPC.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from service.devices import CUDA, TENSORRT
from service.errors import ModelUnusable
from service.manifest import check_figures

FILENAME = "tuned.json"
SCHEMA = 1
_MAX_BYTES = 2**20
_LONGEST = 1024
# As the knobs of the same names; 0 rows is "no batch dimension".
_RANGES = {"cpus": (1, 2**16), "max_batch": (0, 4096), "instances": (1, 256), "threads": (1, 1024)}
_TEXTS = ("fingerprint", "variant", "sha256", "onnxruntime", "date")


@dataclass(frozen=True)
class Tuned:
    """The options that won on one kind of hardware.

    Attributes:
        fingerprint: of the hardware (``hardware.fingerprint``).
        cpus: that the process had (``hardware.cpus``), or its GPUs where it ran on some; another
            number wants other threads, or other instances.
        variant: that was measured.
        sha256: digest of that variant's file; what was measured on another file says nothing.
        max_batch: rows in one run; 0 for a model without a batch dimension.
        instances: runs at the same time; of GPUs on all of them together.
        threads: of one run.
        spin: whether idle threads wait in a busy loop.
        target_ms: the latency that was asked for; 0 for none.
        figures: what was measured: ``rows_per_s``, ``run_ms``, ``worst_ms``, ``over_defaults``.
        onnxruntime: its version then.
        date: of the measurement, e.g. ``2026-11-22``.
        cuda_graphs: whether a GPU's runs are recorded and replayed; None on a CPU.
    """

    fingerprint: str
    cpus: int
    variant: str
    sha256: str
    max_batch: int
    instances: int
    threads: int
    spin: bool
    target_ms: float
    figures: Mapping[str, float] = field(default_factory=dict)
    onnxruntime: str = ""
    date: str = ""
    cuda_graphs: bool | None = None

    @property
    def said(self) -> str:
        """The options, the target and what they came to, in words."""
        text = said(max_batch=self.max_batch, instances=self.instances, threads=self.threads,
                    spin=self.spin, cuda_graphs=self.cuda_graphs)  # fmt: skip
        if self.target_ms:
            text += f"; for answers within {self.target_ms:g} ms"
        if {"rows_per_s", "over_defaults"} <= set(self.figures):
            rate, over = self.figures["rows_per_s"], self.figures["over_defaults"]
            text += f"; {said_rate(rate)} rows/s in process, without the network, "
            text += f"{over:.2f}x the defaults"
        return text


def said(
    *, max_batch: int, instances: int, threads: int, spin: bool, cuda_graphs: bool | None = None
) -> str:
    """Options in words, as ``Tuned`` has them."""
    rows = {0: "", 1: "single rows, "}.get(max_batch, f"up to {max_batch} rows a run, ")
    if cuda_graphs is not None:  # on GPUs, where the threads are theirs
        lanes = counted(instances, "instance")
        return f"{rows}{lanes}, CUDA graphs {'on' if cuda_graphs else 'off'}"
    count = counted(threads, "thread")
    return f"{rows}{instances} x {count}, spinning {'on' if spin else 'off'}"


def units(fingerprint: str, number: int) -> str:
    """CPUs, or GPUs, of what has this fingerprint, e.g. ``2 GPUs``."""
    on_gpu = fingerprint.rpartition(", ")[2] in (CUDA, TENSORRT)
    return counted(number, "GPU" if on_gpu else "CPU")


def counted(number: int, noun: str) -> str:
    """A number of things, e.g. ``1 CPU``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def said_rate(rows_per_s: float) -> str:
    """A rate with as many digits as mean something."""
    return f"{rows_per_s:,.0f}" if rows_per_s >= 100 else f"{rows_per_s:.3g}"


@dataclass(frozen=True)
class Here:
    """What holds of what was tuned, on one machine and for the files that are there.

    Attributes:
        entry: None where nothing holds.
        why: nothing does; empty where nothing was ever tuned, or where something holds.
        stale: whether that is because the files are not those that were measured.
    """

    entry: Tuned | None
    why: str = ""
    stale: bool = False


def here(
    directory: Path, digests: Mapping[str, str | None], *, fingerprint: str, cpus: int
) -> Here:
    """What a server may take of what was tuned for a version.

    Args:
        directory: the version's.
        digests: published variant -> digest of its file.
        fingerprint: of this hardware.
        cpus: that this process has.

    Raises:
        ModelUnusable: the file cannot be read.
    """
    entries = read(directory)
    entry = find(entries, fingerprint, cpus)
    if entry is None:
        others = "; ".join(f"{e.fingerprint} with {units(e.fingerprint, e.cpus)}" for e in entries)
        this = f"{fingerprint} with {units(fingerprint, cpus)}"
        return Here(None, f"it was tuned for {others}; this is {this}" if others else "")
    if entry.variant not in digests:
        return Here(None, f"the tuned variant '{entry.variant}' is not published", stale=True)
    if digests[entry.variant] != entry.sha256:
        return Here(None, f"variant '{entry.variant}' is not what was measured", stale=True)
    return Here(entry)


def read(directory: Path) -> tuple[Tuned, ...]:
    """The entries in a version's directory; none without the file.

    Raises:
        ModelUnusable: the file is unreadable, of another schema, or holds what cannot be.
    """
    path = directory / FILENAME
    try:
        if not path.exists():
            return ()
        if not path.is_file():  # a pipe would keep every load waiting
            raise ValueError("it is no file")
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES} letters")
        raw = json.loads(text)
        if raw["schema"] != SCHEMA:
            raise ValueError(f"it has schema {raw['schema']}, this version reads {SCHEMA}")
        return tuple(_entry(item) for item in raw["tuned"])
    except (OSError, ArithmeticError, LookupError, ValueError, TypeError, AttributeError,
            RecursionError) as error:  # fmt: skip
        detail = f"{type(error).__name__}: {error}"
        raise ModelUnusable(
            f"{path} is not what `farthing tune` of this version writes ({detail}); remove it, and "
            "tune again",
            told=f"{FILENAME} cannot be read; tune again",
        ) from error


def _entry(raw: dict[str, Any]) -> Tuned:
    entry = Tuned(**raw)
    for name in _TEXTS:
        text = getattr(entry, name)
        # Half of a surrogate pair is a text in JSON, and none in an answer.
        if not isinstance(text, str) or len(text.encode()) > _LONGEST:
            raise TypeError(f"'{name}' must be a text of at most {_LONGEST} bytes")
    for name, (low, high) in _RANGES.items():
        value = getattr(entry, name)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"'{name}' is {value!r}; it takes {low} to {high}")
    if not isinstance(entry.spin, bool):
        raise TypeError("'spin' must be true or false")
    if not (entry.cuda_graphs is None or isinstance(entry.cuda_graphs, bool)):
        raise TypeError("'cuda_graphs' must be true, false or null")
    check_figures({"target_ms": entry.target_ms, **entry.figures})
    return entry


def find(entries: Iterable[Tuned], fingerprint: str, cpus: int) -> Tuned | None:
    """The entry for this hardware and number of CPUs, the last one if there are more."""
    found = [e for e in entries if (e.fingerprint, e.cpus) == (fingerprint, cpus)]
    return found[-1] if found else None


def write(directory: Path, entry: Tuned) -> Path:
    """Put an entry into a version's directory, in one step; those of other hardware stay.

    Returns:
        The file.

    Raises:
        ModelUnusable: the file that is there cannot be read.
        OSError: the disk refuses; what was there is as it was.
    """
    return _put(directory, [*_others(directory, entry.fingerprint, entry.cpus), entry])


def remove(directory: Path, fingerprint: str, cpus: int) -> Path | None:
    """Take the entries of one kind of hardware out, in one step; the file goes with the last.

    Returns:
        The file, or None where there was no such entry.

    Raises:
        ModelUnusable: the file that is there cannot be read.
        OSError: the disk refuses; what was there is as it was.
    """
    kept = _others(directory, fingerprint, cpus)
    if len(kept) == len(read(directory)):
        return None
    if kept:
        return _put(directory, kept)
    path = directory / FILENAME
    path.unlink()
    _to_disk(directory)
    return path


def _others(directory: Path, fingerprint: str, cpus: int) -> list[Tuned]:
    mark = (fingerprint, cpus)
    return [entry for entry in read(directory) if (entry.fingerprint, entry.cpus) != mark]


def _put(directory: Path, entries: Iterable[Tuned]) -> Path:
    found = [asdict(each) for each in entries]
    for raw in found:
        if raw["cuda_graphs"] is None:  # of a CPU, as versions before GPUs read it
            del raw["cuda_graphs"]
    text = json.dumps({"schema": SCHEMA, "tuned": found}, indent=2) + "\n"
    path = directory / FILENAME
    # In the same directory: a rename is one step only within a file system.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{FILENAME}-", dir=directory)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(descriptor, 0o644)  # servers run as others than who tuned
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:  # an interrupt, too
        Path(temporary).unlink(missing_ok=True)
        raise
    _to_disk(directory)
    return path


def _to_disk(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the rename itself
    finally:
        os.close(descriptor)
