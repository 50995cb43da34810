"""Pure: what changed from some profiles to others, and what of that is more than noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.profile import Profile
from loadtests.reports import changes, wording
from loadtests.reports.changes import BETTER, UNKNOWN, WORSE, Change, Pair
from loadtests.reports.resampling import CONFIDENCE, Resampler
from service.errors import InvalidSetting

SCHEMA = "farthing.comparison/1"


@dataclass(frozen=True)
class Comparison:
    """All that was compared.

    Attributes:
        changes: a figure each.
        differences: what else is not the same, in sentences.
        unpaired: names that are only on one side.
    """

    changes: tuple[Change, ...]
    differences: tuple[str, ...]
    unpaired: tuple[str, ...]

    def regressions(self, threshold: float) -> list[Change]:
        """What is worse beyond noise, or what it may, and by more than the threshold."""
        return [each for each in self.changes if each.is_regression(threshold)]

    def said(self, threshold: float) -> str:
        """The end of it in one sentence."""
        worse, many = self.regressions(threshold), len(self.changes)
        if worse:
            said = [f"Worse than the thresholds allow, and beyond noise: {_named(worse)}"]
        else:
            changed = sum(each.verdict in (BETTER, WORSE) for each in self.changes)
            said = [
                "Nothing that is judged is worse than the thresholds allow, and beyond noise",
                f"{changed} of {many} figures changed beyond noise or bounds",
            ]
        told = [each for each in self.changes if each.is_told_only and each.is_beyond(threshold)]
        if told:
            said.append(f"worse, but only told, since one short run says little: {_named(told)}")
        untold = sum(each.verdict == UNKNOWN for each in self.changes)
        if untold:
            said.append(f"{untold} of {many} figures could not be told")
        return f"{'; '.join(said)}."

    def to_dict(self, threshold: float) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "schema": SCHEMA,
            "confidence": CONFIDENCE,
            "threshold": threshold,
            "said": self.said(threshold),
            "regressions": [each.to_dict() for each in self.regressions(threshold)],
            "changes": [each.to_dict() for each in self.changes],
            "differences": list(self.differences),
            "unpaired": list(self.unpaired),
        }


def _named(changes: Sequence[Change]) -> str:
    return wording.listed([f"{each.name}: {each.figure} {each.said}" for each in changes])


def compare(
    before: Sequence[Profile],
    after: Sequence[Profile],
    *,
    only: str = "",
    points: float = changes.POINTS,
    seed: int = 1,
) -> Comparison:
    """Pair what belongs together, and judge each figure of each pair.

    Args:
        before: some profiles.
        after: others.
        only: name of the one pair to look at; empty for all.
        points: that the accuracy may fall.
        seed: of the draws.

    Raises:
        InvalidSetting: nothing belongs together, it is other work, or something is void.
    """
    pairs = [pair for pair in paired(before, after) if only in ("", pair[0].name)]
    if not pairs:
        raise InvalidSetting(f"no profile called '{only}' is on both sides")
    for one, other in pairs:
        work = wording.other_work(one, other)
        if work:
            raise InvalidSetting(f"{work}; only the same work can be compared")
        for side, each in (("before", one), ("after", other)):
            if each.lacking:
                raise InvalidSetting(
                    f"'{each.name}' ({side}) is void, since {wording.void(each)}; what is void "
                    f"cannot be compared: measure it again, or leave it out with --only NAME"
                )
    resampler = Resampler(len(pairs) * changes.JUDGED, seed=seed)
    known = {each.name for pair in pairs for each in pair}
    return Comparison(
        tuple(change for pair in pairs for change in changes.of(pair, resampler, points=points)),
        tuple(text for pair in pairs for text in _differences(pair, alone=len(pairs) == 1)),
        () if only else tuple(sorted({each.name for each in (*before, *after)} - known)),
    )


def paired(before: Sequence[Profile], after: Sequence[Profile]) -> list[Pair]:
    """By name; else by variant; else the only one with the only one.

    Raises:
        InvalidSetting: nothing belongs together.
    """
    for key in (lambda each: each.name, lambda each: each.subject.variant):
        mine, others = _by(before, key), _by(after, key)
        if set(mine) & set(others):
            return [(one, others[name]) for name, one in mine.items() if name in others]
    if len(before) == len(after) == 1:
        return [(before[0], after[0])]
    names = (", ".join(each.name for each in side) or "nothing" for side in (before, after))
    raise InvalidSetting(
        "no name and no variant is on both sides: before {}; after {}".format(*names)
    )


def _by(profiles: Sequence[Profile], key: Callable[[Profile], str | None]) -> dict[str, Profile]:
    """Those that a key tells apart."""
    keys = [key(each) for each in profiles]
    return {
        name: each
        for name, each in zip(keys, profiles, strict=True)
        if name and keys.count(name) == 1
    }


# Conditions that are figures of their own.
_OF_EACH_RUN = ("Generator's lag", "Measured", "Energy")


def _differences(pair: Pair, *, alone: bool) -> list[str]:
    """Conditions that are not the same on both sides; the model's file may well be another."""
    found = []
    sides = [wording.conditions([each]) for each in pair]
    for mine, other in zip(*sides, strict=True):
        if mine.said != other.said and mine.what not in _OF_EACH_RUN:
            of = "" if alone else f"{pair[0].name}: "
            found.append(f"{of}{mine.what}: before {mine.said}; after {other.said}")
    return found
