"""The contract of one published model version: tensors, variants, digests, verification.

``<repository>/<name>/<version>/manifest.json`` is written by the converter and read by the server;
this file is the only one that knows its form. It needs neither ONNX Runtime nor gRPC.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from service.datatypes import BY_NAME
from service.errors import ModelUnusable

FILENAME = "manifest.json"
MODEL_FILE = "model.onnx"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
SCHEMA = 1
REFERENCE = "fp32"
_MAX_BYTES = 16 * 2**20
_MOST_FIGURES = 64

# name -> what was measured; units are in the names
Figures = Mapping[str, float]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: the framework's own tensor name.
        datatype: the v2 protocol's name, e.g. ``FP32``.
        shape: with the batch dimension; -1 where a dimension is free.
        optional: an input that requests may leave out; the graph has a value for it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Variant:
    """One form of the model, published or refused.

    Attributes:
        name: ``fp32``, ``fp16``, ``int8-static`` ...
        accepted: whether it was published; a refused one has no file.
        reason: one sentence: why it was accepted or refused.
        file: its name beside the manifest.
        sha256: digest of that file; the server does not load a file that differs.
        bytes: size of that file (of the candidate, where it was refused).
        figures: what was measured, e.g. ``accuracy``, ``agreement``, ``speedup_batch_1``.
        outcome: ``holds``, ``fails`` or ``not proven``; empty if it was not built.
        device: where it is meant to be fast: ``cpu`` or ``gpu``.
        made: how it was made: excluded regions, digest of the ranges, trials, looks at the held-out
            rows.
    """

    name: str
    accepted: bool
    reason: str
    file: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    figures: Figures = field(default_factory=dict)
    outcome: str = ""
    device: str = "cpu"
    made: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Golden:
    """Reference inputs and fp32's answers for them, in a file beside the manifest.

    Attributes:
        file: an .npz with arrays ``in:NAME`` and ``out:NAME``.
        sha256: its digest.
        rows: how many.
        tolerance: variant -> output -> largest absolute difference from fp32's answers that is
            that variant's own, with a margin for another CPU's kernels.
    """

    file: str
    sha256: str
    rows: int
    tolerance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """The variant to serve on one kind of hardware, and why."""

    variant: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """All that is known about one version of a model.

    Attributes:
        name: the model's name, as callers say it.
        batched: whether the first dimension of every tensor counts rows.
        inputs: in the model's order.
        outputs: in the model's order.
        variants: the reference first.
        chosen: hardware fingerprint -> what to serve there.
        source: kind, file name and digest of the trained model, and the route it took.
        samples: counts and digests of the calibration and held-out rows.
        tools: package -> version that took part.
        reproduce: the command that made this version.
        golden: samples for the server's warm-up, or None.
        bounds: what the variants had to hold.
    """

    name: str
    batched: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: tuple[Variant, ...]
    chosen: Mapping[str, Choice] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    reproduce: str = ""
    golden: Golden | None = None
    bounds: Mapping[str, Any] = field(default_factory=dict)

    def variant(self, name: str) -> Variant:
        """The published variant of that name.

        Raises:
            ModelUnusable: it was never built, or it was refused.
        """
        for variant in self.variants:
            if variant.name == name:
                if variant.accepted:
                    return variant
                raise ModelUnusable(
                    f"variant '{name}' of '{self.name}' was refused when the model was "
                    f"converted: {variant.reason}"
                )
        raise ModelUnusable(
            f"model '{self.name}' has no variant '{name}'; it has {', '.join(self.published)}"
        )

    @property
    def published(self) -> tuple[str, ...]:
        """Names of the variants that can be served."""
        return tuple(variant.name for variant in self.variants if variant.accepted)

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n"


def load(directory: Path) -> Manifest:
    """Read and check ``manifest.json`` in a version's directory.

    Raises:
        ModelUnusable: it is unreadable, of another schema, or contradicts itself.
    """
    path = directory / FILENAME
    try:
        # A pipe would keep every other load waiting, too.
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is no file of at most {_MAX_BYTES} bytes")
        return _from_json(json.loads(path.read_text(encoding="utf-8")))
    except ModelUnusable:
        raise
    except (OSError, ArithmeticError, LookupError, ValueError, TypeError, AttributeError,
            RecursionError) as error:  # fmt: skip
        detail = f"{type(error).__name__}: {error}"
        raise ModelUnusable(
            f"{path} is not a manifest that this version reads ({detail}); convert the model again",
            told="the manifest cannot be read; convert the model again",
        ) from error


def _from_json(raw: dict[str, Any]) -> Manifest:
    schema = raw.pop("schema")
    if schema != SCHEMA:
        raise ModelUnusable(
            f"the manifest has schema {schema}, this version reads {SCHEMA}; "
            "convert the model again"
        )
    raw["inputs"] = tuple(_tensor(item) for item in raw["inputs"])
    raw["outputs"] = tuple(_tensor(item) for item in raw["outputs"])
    raw["variants"] = tuple(_variant(item) for item in raw["variants"])
    raw["chosen"] = {mark: Choice(**choice) for mark, choice in raw["chosen"].items()}
    if not all(isinstance(choice.reason, str) for choice in raw["chosen"].values()):
        raise TypeError("the reason of a choice must be a text")
    if raw.get("golden") is not None:
        raw["golden"] = Golden(**raw["golden"])
        for bounds in raw["golden"].tolerance.values():
            if not all(isinstance(bound, int | float) for bound in bounds.values()):
                raise TypeError("golden tolerances must be numbers")
        if raw["golden"].file != Path(raw["golden"].file).name.strip("."):
            raise ModelUnusable("the manifest's golden samples lie elsewhere")
    if not any(variant.accepted for variant in raw["variants"]):
        raise ModelUnusable("the manifest publishes no variant; convert the model again")
    if not (isinstance(raw["name"], str) and isinstance(raw["batched"], bool)):
        raise TypeError("'name' must be a text, 'batched' true or false")
    return Manifest(**raw)


def _tensor(raw: dict[str, Any]) -> TensorSpec:
    if raw["datatype"] not in BY_NAME:
        raise ModelUnusable(f"the manifest names an unknown datatype '{raw['datatype']}'")
    shape = tuple(int(size) for size in raw["shape"])
    return TensorSpec(raw["name"], raw["datatype"], shape, bool(raw.get("optional", False)))


def _variant(raw: dict[str, Any]) -> Variant:
    variant = Variant(**raw)
    if not (isinstance(variant.name, str) and isinstance(variant.accepted, bool)):
        raise TypeError("a variant's 'name' must be a text, 'accepted' true or false")
    check_figures(variant.figures)
    if variant.accepted and (not variant.file or not variant.sha256):
        raise ModelUnusable(f"the manifest's variant '{variant.name}' has no file or no digest")
    if variant.file is not None and variant.file != Path(variant.file).name.strip("."):
        raise ModelUnusable(f"the manifest's variant '{variant.name}' names a file elsewhere")
    return variant


def check_figures(figures: Figures) -> None:
    """Make sure that figures can be told to everybody who asks.

    Raises:
        ValueError: there are too many, or one has a name or a value that metrics cannot have.
    """
    if len(figures) > _MOST_FIGURES:
        raise ValueError(f"there are {len(figures)} figures; there may be {_MOST_FIGURES}")
    for name, value in figures.items():
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r:.80} is no name of a figure")
        # An int may be too large for a float, which raises an ArithmeticError.
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ValueError(f"figure '{name}' must be a number")


def versions_in(model: Path) -> list[int]:
    """The versions in a model's directory, oldest first: directories named by a positive number."""
    if not model.is_dir():
        return []
    found = (path for path in model.iterdir() if path.is_dir() and is_version(path.name))
    return sorted(int(path.name) for path in found)


def is_version(name: str) -> bool:
    """Whether a directory's name is a version: a positive number without leading zeros."""
    return name.isascii() and name.isdigit() and not name.startswith("0")


def check_digest(path: Path, variant: Variant) -> None:
    """Make sure that a file is the one that was verified.

    Raises:
        ModelUnusable: it is not there, or its digest differs from the manifest's.
    """
    if not path.is_file() or sha256_of(path) != variant.sha256:
        raise ModelUnusable(
            f"{path} is not the file that was verified (its digest differs from the manifest's); "
            "convert the model again",
            told="the file's digest differs from the manifest's; convert the model again",
        )


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
