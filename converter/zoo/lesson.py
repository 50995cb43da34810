"""What every trainer of the zoo is given, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from service.errors import InvalidSetting

SEED = 0

Array = np.ndarray[Any, Any]


def _silent(done: int, total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Lesson:
    """One training.

    Attributes:
        directory: where the model and its rows are written; it exists.
        quick: a smaller net or fewer rows, for a first look and for tests.
        weights: a file of pretrained weights, where the net can start from one.
        tensorboard: where to write logs for TensorBoard, or None.
        progress: called with the batches done and the batches in all.
    """

    directory: Path
    quick: bool = False
    weights: Path | None = None
    tensorboard: Path | None = None
    progress: Callable[[int, int], None] = _silent

    def __post_init__(self) -> None:
        """Refuse what would fail only after the first epoch.

        Raises:
            InvalidSetting: logs for TensorBoard are wanted, and it is not there to write them.
        """
        if self.tensorboard is not None and find_spec("tensorboard") is None:
            raise InvalidSetting("logs for TensorBoard need it: pip install tensorboard brings it")

    def save_rows(
        self,
        calibration: Mapping[str, Array],
        held_out: Mapping[str, Array],
        labels: Array | None = None,
    ) -> None:
        """Write ``calibration.npz`` and ``heldout.npz``, as ``farthing convert`` reads them.

        Args:
            calibration: input name -> array of shape [rows, ...]; training may have seen them.
            held_out: the same for other rows, which nothing has seen.
            labels: the classes of the held-out rows, of shape [rows]; None where there are none.
        """
        seen: dict[str, Any] = dict(calibration)  # numpy's types want Any here
        judged: dict[str, Any] = dict(held_out) if labels is None else {**held_out, "y": labels}
        np.savez(self.directory / "calibration.npz", **seen)
        np.savez(self.directory / "heldout.npz", **judged)

    def keras_callbacks(self, batches: int) -> list[Any]:
        """Callbacks for ``fit``: progress over so many batches, and TensorBoard where asked."""
        import keras

        done = iter(range(1, batches + 1))
        callbacks = [
            keras.callbacks.LambdaCallback(
                # Early stopping ends before the last of them; the bar then just stands.
                on_train_batch_end=lambda batch, logs=None: self.progress(
                    next(done, batches), batches
                )
            )
        ]
        if self.tensorboard is not None:
            callbacks.append(keras.callbacks.TensorBoard(self.tensorboard))
        return callbacks
