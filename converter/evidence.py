"""Held-out rows, each once, with what the trained model answers to them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from converter import compare, verify
from converter.recipe import Bounds
from converter.samples import Samples
from service.errors import FarthingError
from service.session import Session


@dataclass(frozen=True)
class Evidence:
    """Held-out rows, and what is right about them.

    Attributes:
        rows: the held-out rows, each once.
        answers: output name -> fp32's answers for them.
        expected: output name -> the framework's own answers; fp32's where there is no framework.
    """

    rows: Samples
    answers: compare.Arrays
    expected: compare.Arrays

    @classmethod
    def gather(
        cls,
        expected: compare.Arrays | None,
        reference: Session,
        held_out: Samples,
        tolerated: float = 0.0,
    ) -> Evidence:
        """Take each row once, with the framework's answers for it.

        Args:
            expected: the framework's answers, or None.
            reference: fp32.
            held_out: the rows.
            tolerated: share of the rows on which the two may differ.

        Raises:
            FarthingError: fp32 does not answer as its framework does, or not each row by itself.
        """
        answers = verify.predict(reference, held_out)
        for name, array in answers.items():
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise FarthingError(
                    f"the model answers NaN to held-out rows (output '{name}'), by which nothing "
                    "can be judged"
                )
        if expected is not None and not compare.close(answers, expected, tolerated):
            raise FarthingError(
                "the fp32 export answers the held-out rows differently from its framework; it is "
                "not what was trained"
            )
        verify.check_company(reference, held_out, answers)
        once = held_out.distinct()
        labels = None if held_out.labels is None else held_out.labels[once]
        rows = Samples({name: array[once] for name, array in held_out.feeds.items()}, labels)
        mine, right = (
            {name: array[once] for name, array in outputs.items()}
            for outputs in (answers, answers if expected is None else expected)
        )
        return cls(rows, mine, right)

    def answered_by(self, reference: Session, bounds: Bounds, where: str) -> Evidence:
        """The same, with fp32's answers as another device gives them.

        Args:
            reference: fp32 on that device.
            bounds: what fp32, too, has to hold there.
            where: the device, for the message.

        Raises:
            FarthingError: it does not answer as on the CPU.
        """
        return self.answered(verify.predict(reference, self.rows), bounds, where)

    def answered(self, answers: compare.Arrays, bounds: Bounds, where: str) -> Evidence:
        """``answered_by``, for answers that are there."""
        verdict = verify.judge_accuracy(answers, self.answers, self.rows.labels, bounds)
        if verdict.outcome == verify.FAILS:
            raise FarthingError(
                f"fp32 itself answers otherwise on {where} than on the CPU ({verdict.reason}), so "
                "nothing can be judged there; convert with --device cpu"
            )
        return replace(self, answers=answers)
