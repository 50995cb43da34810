"""What the ladders of one conversion are built from, and where their files go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from converter.samples import Samples
from service.devices import CPU, Device
from service.errors import FarthingError


class VariantFailed(FarthingError):
    """A variant of which no candidate could be built, with the reason."""


@dataclass
class Workshop:
    """What candidates are made of.

    Attributes:
        reference: the fp32 graph.
        directory: where they are written.
        rows: calibration rows that set ranges; None where there are none.
        seen: all calibration rows, those for the selection too.
        device: that variants are judged on, and so made for.
        fraction: share of the channels that ``pruned`` cuts.
        pruned: the pruned candidate, if it did well on the selection rows.
    """

    reference: Path
    directory: Path
    rows: Samples | None
    fraction: float = 0.3
    pruned: Path | None = None
    seen: Samples | None = None
    device: Device = CPU
    _made: int = 0

    def file(self, kind: str) -> Path:
        """A new file's name."""
        self._made += 1
        return self.directory / f"{kind}.{self._made}.onnx"

    def calibration(self) -> Samples:
        """The calibration rows.

        Raises:
            VariantFailed: there are none.
        """
        if self.rows is None:
            raise VariantFailed("give rows for its ranges with --calibration")
        return self.rows
