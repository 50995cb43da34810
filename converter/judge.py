"""Which variants are published: built, compared with the trained model, timed beside fp32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from converter import verify
from converter.recipe import Recipe
from converter.samples import Samples
from converter.sources import Exported
from converter.variants import VARIANTS
from service import manifest
from service.errors import FarthingError
from service.manifest import REFERENCE, Choice, Variant
from service.repository import MODEL_FILE
from service.session import Session, SessionOptions


class Judge:
    """Decides on each variant of one model, against one reference and one set of rows."""

    def __init__(
        self,
        recipe: Recipe,
        exported: Exported,
        reference: Session,
        calibration: Samples | None,
        held_out: Samples | None,
    ) -> None:
        """Hold what all variants of one conversion are judged by."""
        self._recipe = recipe
        self._exported = exported
        self._reference = reference
        self._calibration = calibration
        self._held_out = held_out

    def variant(self, name: str, directory: Path) -> tuple[Variant, Path]:
        """Build one variant in the directory, and accept or refuse it with the reason.

        Returns:
            The decision, and the file it is about.

        Raises:
            FarthingError: fp32 itself does not answer as its framework does.
        """
        if name == REFERENCE:
            return self._fp32(), self._exported.path
        path = directory / f"{name}.onnx"
        return self._candidate(name, path), path

    def _fp32(self) -> Variant:
        figures: dict[str, float] = {}
        reason = "agrees with its framework on random rows; held-out rows would tell its accuracy"
        if self._held_out is not None:
            answers = verify.predict(self._reference, self._held_out)
            expected = self._exported.expected or answers
            if not verify.close(answers, expected):
                raise FarthingError(
                    "the fp32 export answers the held-out rows differently from its framework; "
                    "it is not what was trained"
                )
            verdict = verify.judge_accuracy(answers, expected, self._held_out.labels, max_drop=100)
            figures = verdict.figures
            if figures.get("accuracy") == 0:
                raise FarthingError(
                    "no held-out row is decided as its label says; labels are the indices of the "
                    "classes, from 0"
                )
            reason = (
                f"answers {len(self._held_out)} held-out rows as its framework does, within "
                f"{figures['largest_difference']:.1e}"
            )
        return _record(REFERENCE, self._exported.path, reason, figures, accepted=True)

    def _candidate(self, name: str, path: Path) -> Variant:
        build, rows = VARIANTS[name], self._held_out
        if rows is None:
            return _not_built(name, "give held-out rows with --evaluate to verify it on")
        if build.needs_calibration and self._calibration is None:
            return _not_built(name, "give rows for its ranges with --calibration")
        try:
            build.make(self._exported.path, path, self._calibration)
            session = Session(path, SessionOptions())
            answers = verify.predict(session, rows)
        except Exception as error:  # the quantizers raise anything
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return _not_built(name, f"building it failed: {first[:200]}")
        expected = self._exported.expected or verify.predict(self._reference, rows)
        verdict = verify.judge_accuracy(answers, expected, rows.labels, self._recipe.max_drop)
        figures = verdict.figures | verify.speed_up(self._reference, session, rows)
        if not verdict.holds:
            return _record(name, path, verdict.reason, figures, accepted=False)
        said = " and ".join(
            f"{figures[f'speedup_batch_{batch}']:.2f}x at batch {batch}"
            for batch in verify.SPEED_BATCHES
        )
        if build.device != "cpu":
            reason = f"{verdict.reason}; meant for a GPU, its speed is not judged here ({said})"
            return _record(name, path, reason, figures, accepted=True)
        if _least_speed_up(figures) < self._recipe.min_speedup:
            reason = (
                f"does not pay on this CPU: {said} against fp32, where "
                f"{self._recipe.min_speedup:g}x is asked"
            )
            return _record(name, path, reason, figures, accepted=False)
        return _record(name, path, f"{verdict.reason}; {said}", figures, accepted=True)


def choose(judged: Sequence[Variant]) -> Choice:
    """What to serve on this CPU: the accepted variant with the largest least speed-up."""
    paying = [
        variant
        for variant in judged
        if variant.accepted and variant.name != REFERENCE and VARIANTS[variant.name].device == "cpu"
    ]
    if not paying:
        return Choice(REFERENCE, "no cheaper variant was accepted on this CPU")
    best = max(paying, key=lambda variant: _least_speed_up(variant.figures))
    one, eight = (best.figures[f"speedup_batch_{batch}"] for batch in verify.SPEED_BATCHES)
    return Choice(
        best.name,
        f"the fastest variant that holds: {one:.2f}x fp32 at batch 1, {eight:.2f}x at batch 8 "
        "when it was converted on this CPU",
    )


def _least_speed_up(figures: manifest.Figures) -> float:
    return min(figures[f"speedup_batch_{batch}"] for batch in verify.SPEED_BATCHES)


def _record(
    name: str, path: Path, reason: str, figures: manifest.Figures, *, accepted: bool
) -> Variant:
    file = MODEL_FILE if name == REFERENCE else f"model.{name}.onnx"
    return Variant(
        name=name,
        accepted=accepted,
        reason=reason,
        file=file if accepted else None,
        sha256=manifest.sha256_of(path) if accepted else None,
        bytes=path.stat().st_size,
        figures=figures,
    )


def _not_built(name: str, reason: str) -> Variant:
    return Variant(name=name, accepted=False, reason=f"not built: {reason}")
