"""Which variants are published: built, compared with the trained model, timed beside fp32."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from converter import compare, search, speed, verify
from converter.evidence import Evidence
from converter.predecessor import JUDGED_ON
from converter.recipe import Recipe
from converter.samples import Samples
from converter.search import Found, Selection
from converter.sources import Exported
from converter.target import Target, this_cpu
from converter.variants import VARIANTS, meant_for, refused
from converter.verify import FAILS, HOLDS, UNPROVEN
from converter.workshop import Workshop
from service import manifest
from service.errors import FarthingError, InvalidSetting
from service.manifest import MODEL_FILE, REFERENCE, Figures, Variant
from service.session import Session, SessionOptions

# A file this large beside fp32's was hardly quantized at all.
_UNTOUCHED = 0.9
Tell = Callable[[str], None]
_UNSEEN = "; meant for a GPU, speed not measured here"
# A few rounds are noisy: a candidate is only given up if it is clearly too slow.
_HOPELESS = 0.75


class Judge:
    """Decides on each variant of one model, against one reference and one set of rows.

    Attributes:
        bounds: what variants have to hold, with the metric that decides.
    """

    def __init__(
        self,
        recipe: Recipe,
        exported: Exported,
        shop: Workshop,
        *,
        selection: Samples | None,
        held_out: Samples | None,
        target: Target | None = None,
    ) -> None:
        """Hold what all variants of one conversion are judged by.

        Args:
            recipe: the bounds and the budget.
            exported: fp32, and what its framework answered.
            shop: where candidates are made, and of what.
            selection: rows to search on; None where there are none.
            held_out: rows to judge on; None where there are none.
            target: where variants are judged; this CPU unless said.

        Raises:
            FarthingError: the export, the labels or the metric cannot be what they should be, or
                fp32 loses too much on the target itself.
        """
        self._target = target or this_cpu()
        self._budget = recipe.budget
        self.bounds = recipe.bounds
        self._exported = exported
        self._shop = shop
        self._reference = Session(exported.path, SessionOptions())
        verify.check_runs(self._reference, held_out)
        self._selection: Selection | None = None
        self._evidence: Evidence | None = None
        if held_out is None:
            verify.check_company(self._reference, None)
            return
        self._evidence = Evidence.gather(
            exported.expected, self._reference, held_out, exported.tolerated
        )
        self.bounds = replace(recipe.bounds, metric=self._metric(self._evidence))
        if self._target.device.is_gpu:
            # The export was held against its framework on the CPU; from here on it is the GPU's.
            self._reference = self._target.session(exported.path)
            self._evidence = self._evidence.answered_by(
                self._reference, self.bounds, self._target.told
            )
        if selection is not None:
            self._selection = Selection(self._reference, selection, self.bounds, self._target)

    def variant(self, name: str, tell: Tell = lambda text: None) -> tuple[Variant, Path]:
        """Build one variant, and accept or refuse it with the reason.

        Args:
            name: of the variant.
            tell: called with what is being tried.

        Returns:
            The decision, and the file it is about.
        """
        if name == REFERENCE:
            return self._fp32(), self._exported.path
        nothing = self._exported.path
        build = VARIANTS[name]
        why = refused(name, self._target.device)
        if why:
            return self._not_built(name, why), nothing
        missing = []
        if build.needs and self._shop.rows is None:
            missing.append(f"{build.needs} with --calibration")
        if self._evidence is None:
            missing.append("held-out rows to verify it on with --evaluate")
        if missing or self._evidence is None:
            return self._not_built(name, f"give {' and '.join(missing)}"), nothing
        try:
            found = self._search(name, tell)
            with self._target.opened(found.candidate.path) as session:
                variant = self._decide(name, found, self._evidence, session=session, tell=tell)
        except FarthingError as error:
            return self._not_built(name, str(error)), nothing
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # nothing after it could be written either
            return self._not_built(name, f"building or running it failed: {error}"), nothing
        except Exception as error:  # the quantizers raise anything
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return self._not_built(name, f"building or running it failed: {first[:200]}"), nothing
        if name == "pruned" and found.score.good:
            # By the selection rows: by the held-out ones would be a look at them for pruned-int8.
            self._shop.pruned = found.candidate.path
        return variant, found.candidate.path

    def close(self) -> None:
        """Give a GPU's memory back; nothing may be judged after it."""
        if self._target.device.is_gpu:
            self._reference.close()

    def _metric(self, evidence: Evidence) -> str:
        """What `auto` stands for; labels that say nothing about the model are refused."""
        labels = evidence.rows.labels
        try:
            metric = verify.metric_for(self.bounds, evidence.expected, labels)
        except compare.NotJudged as error:
            raise InvalidSetting(f"cannot judge by {self.bounds.metric}: {error}") from None
        if metric == "accuracy" and labels is not None:
            verify.check_labels(evidence.expected, labels)
        return metric

    def _fp32(self) -> Variant:
        """The reference: not gated, since it equals its framework; what it did is told."""
        difference = self._exported.facts.get("largest_difference")
        reason = "as it is; there is no framework to compare it with"
        if difference is not None:
            reason = f"answers random rows as its framework does, within {difference:.1e}"
        if self._evidence is None:
            return self._record(
                REFERENCE, self._exported.path, reason, {}, accepted=True, outcome=""
            )
        evidence = self._evidence
        verdict = verify.judge_accuracy(
            evidence.answers, evidence.expected, evidence.rows.labels, self.bounds
        )
        if difference is not None:
            largest = verdict.figures["largest_difference"]
            reason += f", and {len(evidence.rows)} held-out rows within {largest:.1e}"
        if verdict.figures["newly_wrong"]:  # rows on a tree's threshold
            reason += f"; {verdict.reason}"
        return self._record(
            REFERENCE, self._exported.path, reason, verdict.figures, accepted=True,
            # Few rows prove little about a variant, but do not make the reference wrong.
            outcome=verdict.outcome if verdict.figures["newly_wrong"] else HOLDS,
        )  # fmt: skip

    def _search(self, name: str, tell: Tell) -> Found:
        """The candidate to judge: the first without selection rows, else what a search finds."""
        build = VARIANTS[name]
        ladder = build.ladder(self._shop)
        gated = meant_for(name, self._target.device) == self._target.device.meant
        if self._selection is None:
            candidate = next(ladder)
            ladder.close()
            return Found(candidate, search.UNSEEN, 1)
        selection = self._selection
        return search.best(
            ladder,
            lambda candidate: selection.score(candidate, gated=gated),
            least_speedup=_HOPELESS * self.bounds.min_speedup if gated else 0.0,
            budget=self._budget,
            tell=lambda how: tell(f"{name}: {how}"),
        )

    def _decide(
        self, name: str, found: Found, evidence: Evidence, *, session: Session, tell: Tell
    ) -> Variant:
        path = found.candidate.path
        made = {
            "how": found.candidate.how,
            "excluded": list(found.candidate.excluded),
            "ranges_sha256": found.candidate.ranges_sha256,
            "trials": found.trials,
            "looks": 0,
        }
        target = self._target
        gated = meant_for(name, target.device) == target.device.meant
        if target.device.is_gpu:
            made[JUDGED_ON] = {"provider": target.device.kind, "gpu": target.name}
        figures: dict[str, float] = {}
        if gated:
            tell(f"{name}: timing it beside fp32")
            feeds = evidence.rows.slice(0, max(target.batches))
            # What was hardly changed is as fast as fp32: no need to know it to a percent.
            rounds = speed.FEW_ROUNDS if self._untouched(path) else speed.ROUNDS
            figures = speed.speed_up(
                self._reference, session, feeds,
                rounds=rounds, batches=target.batches, warm=target.warm,
            )  # fmt: skip
            if not target.pays(figures, self.bounds.min_speedup):
                reason = self._does_not_pay(path, figures)
                if target.device.is_gpu and found.candidate.excluded:
                    reason += f"; {found.candidate.how}"
                return self._record(name, path, reason, figures, accepted=False, made=made)
        tell(f"{name}: judging it on {len(evidence.rows)} held-out rows")
        made["looks"] = 1
        answers = verify.predict_in_company(session, evidence.rows)
        verdict = verify.judge_accuracy(
            answers, evidence.expected, evidence.rows.labels, self.bounds
        )
        figures |= verdict.figures
        accepted = verdict.outcome == HOLDS
        reason = verdict.reason
        if verdict.outcome == UNPROVEN and self.bounds.accept_unproven:
            accepted, reason = True, f"{reason}; published by --accept-unproven"
        if found.candidate.excluded:
            reason += f"; {found.candidate.how}"
        if found.told and not accepted:
            reason += f"; {found.told}"
        reason += f"; {speed.said(figures)}" if gated else _UNSEEN
        return self._record(
            name, path, reason, figures, accepted=accepted, made=made, outcome=verdict.outcome
        )

    def _does_not_pay(self, path: Path, figures: Figures) -> str:
        reason = (
            f"does not pay on {self._target.told}: {speed.said(figures)} against fp32, and no more "
            f"than {speed.least(figures):.2f}x in a quarter of the rounds, where "
            f"{self.bounds.min_speedup:g}x is asked"
        )
        if self._untouched(path):
            reason += "; it found almost no weights that it can make smaller"
        return reason

    def _untouched(self, path: Path) -> bool:
        # TensorRT's int8 keeps its weights as floats.
        whole = self._exported.path.stat().st_size
        return not self._target.device.is_gpu and path.stat().st_size > _UNTOUCHED * whole

    def _record(
        self,
        name: str,
        path: Path,
        reason: str,
        figures: Figures,
        *,
        accepted: bool,
        made: dict[str, object] | None = None,
        outcome: str = FAILS,
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
            outcome=outcome,
            device=meant_for(name, self._target.device),
            made=made or {},
        )

    def _not_built(self, name: str, reason: str) -> Variant:
        device = meant_for(name, self._target.device)
        return Variant(name=name, accepted=False, reason=f"not built: {reason}", device=device)
