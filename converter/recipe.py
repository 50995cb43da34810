"""What to convert, from what, and which bounds a variant has to hold."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from service.errors import InvalidSetting
from service.manifest import NAME, REFERENCE

ALL_VARIANTS = ("fp32", "fp16", "int8-dynamic", "int8-static")


@dataclass(frozen=True)
class Recipe:
    """One conversion.

    Attributes:
        source: the trained model's file.
        name: what callers will call it.
        out: the model repository; made if it is not there.
        calibration: .npz with rows for static int8, or None.
        evaluate: .npz with held-out rows, and labels under ``y``, or None.
        variants: which to build; fp32 is always among them.
        max_drop: points of accuracy that a variant may lose, at 95 % confidence.
        min_speedup: how many times faster than fp32 an int8 variant must be on this machine.
    """

    source: Path
    name: str
    out: Path
    calibration: Path | None = None
    evaluate: Path | None = None
    variants: tuple[str, ...] = ALL_VARIANTS
    max_drop: float = 1.0
    min_speedup: float = 1.1

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is started.

        Raises:
            InvalidSetting: a missing file, a name that is no directory's name, an unknown variant,
                or a bound out of range.
        """
        for path in (self.source, self.calibration, self.evaluate):
            if path is not None and not path.is_file():
                what = "is not a file" if path.exists() else "does not exist"
                raise InvalidSetting(f"{path} {what}")
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
        if not 0 <= self.max_drop <= 100:
            raise InvalidSetting(f"the largest drop is {self.max_drop} points; it takes 0 to 100")
        if not 0 < self.min_speedup <= 100:
            raise InvalidSetting(
                f"the least speed-up is {self.min_speedup}; it takes more than 0, at most 100"
            )

    @property
    def wanted(self) -> tuple[str, ...]:
        """The variants to build, in the table's order; the reference always and first."""
        return tuple(n for n in ALL_VARIANTS if n in self.variants or n == REFERENCE)

    def command(self) -> str:
        """The command line that does the same again."""
        words = ["farthing", "convert", str(self.source), "--name", self.name]
        words += ["--out", str(self.out)]
        if self.calibration:
            words += ["--calibration", str(self.calibration)]
        if self.evaluate:
            words += ["--evaluate", str(self.evaluate)]
        words += ["--variants", ",".join(self.variants)]
        words += ["--max-drop", repr(self.max_drop), "--min-speedup", repr(self.min_speedup)]
        return shlex.join(words)
