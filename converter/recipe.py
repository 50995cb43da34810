"""What to convert, from what, and which bounds a variant has to hold."""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from converter import fold
from service import devices, hardware, manifest
from service.errors import InvalidSetting
from service.manifest import NAME, REFERENCE

ALL_VARIANTS = ("fp32", "fp16", "int8-dynamic", "int8-static", "pruned", "pruned-int8")
METRICS = ("auto", "accuracy", "agreement", "distance")
# pkg.mod:rows
ROWS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Source:
    """A trained model, and what must be known to load it.

    Attributes:
        path: its file or directory; of a factory the weights, or None.
        signature: of a SavedModel with several.
        factory: ``pkg.mod:build``, a function that builds a PyTorch module.
        imports: modules to import first; they register custom layers.
        trust: whether code in the file may be run.
        live: what it was before it was written down, where it or its rows came as objects; or
            empty.
        given: how the user named it, where that is not the path: ``zoo:NAME``.
        memory_gb: most resident memory of the export's process, in 1e9 bytes.
        minutes: most time of each route of the export.
    """

    path: Path | None
    signature: str = ""
    factory: str = ""
    imports: tuple[str, ...] = ()
    trust: bool = False
    live: str = ""
    given: str = ""
    memory_gb: float = field(default_factory=lambda: 0.8 * hardware.memory_bytes() / 1e9)
    minutes: float = 30.0

    def sha256(self) -> str:
        """Digest of the file; of a directory that of its files' names and digests."""
        if self.path is None:
            return ""
        if self.path.is_file():
            return manifest.sha256_of(self.path)
        whole = hashlib.sha256()
        for path in sorted(path for path in self.path.rglob("*") if path.is_file()):
            whole.update(f"{path.relative_to(self.path)} {manifest.sha256_of(path)}\n".encode())
        return whole.hexdigest()

    @property
    def told(self) -> str:
        """How to call it in a sentence."""
        return self.live or self.factory or (self.path.name if self.path else "")


@dataclass(frozen=True)
class Bounds:
    """What a variant has to hold.

    Attributes:
        max_drop: points of the metric that may be lost, at 95 % confidence.
        min_speedup: how many times faster than fp32 a variant must be here: an int8 or pruned one
            on a CPU, each one on a GPU.
        metric: ``accuracy`` (labels decide), ``agreement`` (the trained model's decisions do),
            ``distance`` (of its numbers), or ``auto``: the first of these that can be had.
        tolerance: of the metric ``distance``: how far a row's answer may move, as a share of the
            outputs' spread.
        accept_unproven: publish what too few rows can neither prove nor refute.
    """

    max_drop: float = 1.0
    min_speedup: float = 1.1
    metric: str = "auto"
    tolerance: float = 0.05
    accept_unproven: bool = False


@dataclass(frozen=True)
class Budget:
    """What a search may take.

    Attributes:
        seconds: no new trial is begun after these.
        trials: at most so many candidates, probes among them.
    """

    seconds: float = 60.0
    trials: int = 200


@dataclass(frozen=True)
class Recipe:
    """One conversion.

    Attributes:
        source: the trained model.
        name: what callers will call it.
        out: the model repository; made if it is not there.
        calibration: rows that set ranges: an .npz, or ``pkg.mod:rows``; or None.
        evaluate: held-out rows in the same form, and labels under ``y``; or None.
        example: some rows for a model that does not tell its inputs, or None; the others do too.
        variants: which to build; fp32 is always among them.
        bounds: what each has to hold.
        budget: what the search for a variant that holds may take, for each variant.
        prune: share of the channels that ``pruned`` cuts.
        uint8: the input that is to take bytes, and its normalization (``fold.parse``); or empty.
        top_k: how many best classes to answer with instead of all scores; 0 for all.
        device: what variants are judged on, as ``--device`` takes it, with one GPU at most.
    """

    source: Source
    name: str
    out: Path
    calibration: str | None = None
    evaluate: str | None = None
    example: str | None = None
    variants: tuple[str, ...] = ALL_VARIANTS
    bounds: Bounds = field(default_factory=Bounds)
    budget: Budget = field(default_factory=Budget)
    prune: float = 0.3
    uint8: str = ""
    top_k: int = 0
    device: str = devices.AUTO

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is started.

        Raises:
            InvalidSetting: a missing file, a name that is no directory's name, an unknown variant
                or device, or a bound out of range.
        """
        if self.source.path is None and not self.source.factory:
            raise InvalidSetting("give a trained model, or --factory pkg.mod:build")
        if self.source.path is not None and not self.source.path.exists():
            raise InvalidSetting(f"{self.source.path} does not exist")
        if self.source.factory and not ROWS.fullmatch(self.source.factory):
            raise InvalidSetting(f"'{self.source.factory}' is no factory; write pkg.mod:build")
        for rows in (self.calibration, self.evaluate, self.example):
            if rows is not None and not ROWS.fullmatch(rows) and not Path(rows).is_file():
                what = "is not a file" if Path(rows).exists() else "does not exist"
                raise InvalidSetting(f"{rows} {what}")
        if not NAME.fullmatch(self.name):
            raise InvalidSetting(
                f"'{self.name}' cannot be a model's name: letters, digits, '_', '-' and '.', not "
                "starting with a dot or dash, at most 128"
            )
        unknown = set(self.variants) - set(ALL_VARIANTS)
        if unknown:
            raise InvalidSetting(
                f"there is no variant '{min(unknown)}'; there are {', '.join(ALL_VARIANTS)}"
            )
        if self.uint8:
            fold.parse(self.uint8)
        if len(devices.asked(self.device).indices) > 1:
            raise InvalidSetting(
                f"--device is '{self.device}'; variants are judged on one GPU, such as cuda:0"
            )
        self._check_numbers()

    def _check_numbers(self) -> None:
        bounds = self.bounds
        if bounds.metric not in METRICS:
            raise InvalidSetting(f"there is no metric '{bounds.metric}'; {', '.join(METRICS)}")
        for name, value, low, high in (
            ("the largest drop in points", bounds.max_drop, 0, 100),
            ("the tolerance", bounds.tolerance, 0, 100),
            ("the budget in seconds", self.budget.seconds, 0, 86_400),
            ("the number of top classes", self.top_k, 0, 10_000),
        ):
            if not low <= value <= high:
                raise InvalidSetting(f"{name} is {value:g}; it takes {low} to {high}")
        for name, number, most in (
            ("the least speed-up", bounds.min_speedup, 100),
            ("the share of channels to prune", self.prune, 0.9),
            ("the memory in GB", self.source.memory_gb, 1e6),
        ):
            if not 0 < number <= most:
                raise InvalidSetting(
                    f"{name} is {number:g}; it takes more than 0, at most {most:g}"
                )

    @property
    def wanted(self) -> tuple[str, ...]:
        """The variants to build, in the table's order; the reference always and first."""
        return tuple(n for n in ALL_VARIANTS if n in self.variants or n == REFERENCE)

    def command(self) -> str:
        """The command line that does the same again; of a live object the call."""
        source, bounds = self.source, self.bounds
        if source.live:
            return (
                f"farthing.convert(model, name={self.name!r}, out={str(self.out)!r}, ...) with the "
                f"{source.live} and the rows whose digests stand here"
            )
        words = ["farthing", "convert"]
        if source.factory:
            words += ["--factory", source.factory]
            words += ["--weights", str(source.path)] if source.path else []
        else:
            words += [source.given or str(source.path)]
        words += ["--name", self.name, "--out", str(self.out)]
        texts: tuple[tuple[str, object], ...] = (
            ("--calibration", "" if source.given else self.calibration),
            ("--evaluate", "" if source.given else self.evaluate),
            ("--signature", source.signature),
            ("--uint8-input", self.uint8),
            ("--top-k", self.top_k),
        )
        for option, value in texts:
            words += [option, str(value)] if value else []
        words += ["--device", self.device] if self.device != devices.AUTO else []
        for module in source.imports:
            words += ["--import", module]
        words += ["--trust"] if source.trust and not source.given else []
        words += ["--accept-unproven"] if bounds.accept_unproven else []
        words += ["--variants", ",".join(self.variants), "--metric", bounds.metric]
        for option, number in (
            ("--max-drop", bounds.max_drop),
            ("--min-speedup", bounds.min_speedup),
            ("--tolerance", bounds.tolerance),
            ("--budget", self.budget.seconds),
            ("--prune", self.prune),
        ):
            words += [option, repr(number)]
        return shlex.join(words)
