"""Which variants are published: built, compared with the trained model, timed beside fp32."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from converter import verify
from converter.recipe import Recipe
from converter.samples import Samples
from converter.sources import Exported
from converter.variants import VARIANTS
from service import hardware, manifest
from service.errors import FarthingError
from service.manifest import MODEL_FILE, REFERENCE, Choice, Figures, Variant
from service.session import Session, SessionOptions

# A file this large beside fp32's was hardly quantized at all.
_UNTOUCHED = 0.9


@dataclass(frozen=True)
class Evidence:
    """Held-out rows, and what is right about them.

    Attributes:
        rows: the held-out rows, each once.
        answers: output name -> fp32's answers for them.
        expected: output name -> the framework's own answers; fp32's where there is no framework.
    """

    rows: Samples
    answers: verify.Arrays
    expected: verify.Arrays

    @classmethod
    def gather(cls, exported: Exported, reference: Session, held_out: Samples) -> Evidence:
        """Take each row once, with the framework's answers for it.

        Raises:
            FarthingError: fp32 does not answer as its framework does.
        """
        answers = verify.predict(reference, held_out)
        if exported.expected is not None and not verify.close(answers, exported.expected):
            raise FarthingError(
                "the fp32 export answers the held-out rows differently from its framework; it is "
                "not what was trained"
            )
        once = held_out.distinct()
        expected = answers if exported.expected is None else exported.expected
        labels = None if held_out.labels is None else held_out.labels[once]
        rows = Samples({name: array[once] for name, array in held_out.feeds.items()}, labels)
        mine, right = (
            {name: array[once] for name, array in outputs.items()}
            for outputs in (answers, expected)
        )
        return cls(rows, mine, right)


class Judge:
    """Decides on each variant of one model, against one reference and one set of rows."""

    def __init__(
        self,
        recipe: Recipe,
        exported: Exported,
        reference: Session,
        *,
        calibration: Samples | None,
        held_out: Samples | None,
    ) -> None:
        """Hold what all variants of one conversion are judged by.

        Raises:
            FarthingError: the export or the labels cannot be what they should be.
        """
        self._recipe = recipe
        self._exported = exported
        self._calibration = calibration
        self._reference = reference
        self._evidence: Evidence | None = None
        if held_out is not None:
            self._evidence = Evidence.gather(exported, self._reference, held_out)
            if self._evidence.rows.labels is not None:
                # Of what decides nothing only fp32 is published, and each variant says why.
                with suppress(verify.NotJudged):
                    verify.check_labels(self._evidence.expected, self._evidence.rows.labels)

    def variant(self, name: str, directory: Path) -> tuple[Variant, Path]:
        """Build one variant in the directory, and accept or refuse it with the reason.

        Returns:
            The decision, and the file it is about.
        """
        if name == REFERENCE:
            return self._fp32(), self._exported.path
        path = directory / f"{name}.onnx"
        return self._candidate(name, path), path

    def _fp32(self) -> Variant:
        difference = self._exported.facts.get("largest_difference")
        reason = "as it is; there is no framework to compare it with"
        if difference is not None:
            reason = f"answers random rows as its framework does, within {difference:.1e}"
        figures: dict[str, float] = {}
        if self._evidence is not None:
            evidence = self._evidence
            with suppress(verify.NotJudged):  # then it has no accuracy, but may be published
                figures = verify.judge_accuracy(
                    evidence.answers, evidence.expected, evidence.rows.labels, max_drop=100
                ).figures
            if self._exported.expected is not None:
                difference = verify.largest_difference(evidence.answers, evidence.expected)
                reason = (
                    f"answers {len(evidence.rows)} held-out rows as its framework does, within "
                    f"{difference:.1e}"
                )
        return _record(REFERENCE, self._exported.path, reason, figures, accepted=True)

    def _candidate(self, name: str, path: Path) -> Variant:
        build, evidence = VARIANTS[name], self._evidence
        if evidence is None:
            return _not_built(name, "give held-out rows with --evaluate to verify it on")
        if build.needs_calibration and self._calibration is None:
            return _not_built(name, "give rows for its ranges with --calibration")
        try:
            build.make(self._exported.path, path, self._calibration)
            session = Session(path, SessionOptions())
            answers = verify.predict(session, evidence.rows)
        except Exception as error:  # the quantizers raise anything
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return _not_built(name, f"building or running it failed: {first[:200]}")
        return self._decide(name, path, session, answers)

    def _decide(self, name: str, path: Path, session: Session, answers: verify.Arrays) -> Variant:
        assert self._evidence is not None
        try:
            verdict = verify.judge_accuracy(
                answers,
                self._evidence.expected,
                self._evidence.rows.labels,
                max_drop=self._recipe.max_drop,
            )
        except verify.NotJudged as error:
            reason = f"not judged: {error}; so far only classifiers are"
            return _record(name, path, reason, {}, accepted=False)
        feeds = self._evidence.rows.slice(0, max(verify.SPEED_BATCHES))
        figures = verdict.figures | verify.speed_up(self._reference, session, feeds)
        if VARIANTS[name].device != "cpu":
            reason = f"{verdict.reason}; meant for a GPU, its speed is not judged here"
            reason += f" ({_speeds(figures)})"
            return _record(name, path, reason, figures, accepted=verdict.holds)
        if verify.least_speed_up(figures) >= self._recipe.min_speedup:
            reason = f"{verdict.reason}; {_speeds(figures)}"
            return _record(name, path, reason, figures, accepted=verdict.holds)
        reason = (
            f"does not pay on this CPU: {_speeds(figures)} against fp32, where "
            f"{self._recipe.min_speedup:g}x is asked"
        )
        if path.stat().st_size > _UNTOUCHED * self._exported.path.stat().st_size:
            reason += "; it found almost no weights that it can make smaller"
        if not verdict.holds:
            reason += f"; and {verdict.reason}"
        return _record(name, path, reason, figures, accepted=False)


def choose(judged: Sequence[Variant]) -> Choice:
    """What to serve on this CPU: the accepted variant with the largest least speed-up."""
    paying = [
        variant
        for variant in judged
        if variant.accepted and variant.name != REFERENCE and VARIANTS[variant.name].device == "cpu"
    ]
    if not paying:
        return Choice(REFERENCE, "no cheaper variant was accepted on this CPU")
    best = max(paying, key=lambda variant: verify.least_speed_up(variant.figures))
    one, eight = (best.figures[f"speedup_batch_{batch}"] for batch in verify.SPEED_BATCHES)
    return Choice(
        best.name,
        f"the fastest variant that holds: {one:.2f}x fp32 at batch 1, {eight:.2f}x at batch 8, on "
        f"this CPU with {hardware.cpus()} threads",
    )


def _speeds(figures: Figures) -> str:
    return " and ".join(
        f"{figures[f'speedup_batch_{batch}']:.2f}x at batch {batch}"
        for batch in verify.SPEED_BATCHES
    )


def _record(name: str, path: Path, reason: str, figures: Figures, *, accepted: bool) -> Variant:
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
