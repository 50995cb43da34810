"""How a search ended: what is stored of it, and what is said, in a sentence and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadtests.tuning.trials import Outcome, Setting, Tried
from service import hardware, tuned
from service.tuned import Tuned


@dataclass(frozen=True)
class Asked:
    """What was asked for.

    Attributes:
        model: its name.
        version: its number.
        cpus: that the process has, or GPUs.
        mark: the hardware's fingerprint.
        target_ms: 0 for none.
        budget_s: seconds that the search might take.
        dry_run: whether nothing may be written.
    """

    model: str
    version: int
    cpus: int
    target_ms: float
    budget_s: float
    dry_run: bool = False
    mark: str = field(default_factory=hardware.fingerprint)

    @property
    def title(self) -> str:
        """What is tuned, on what."""
        where = tuned.units(self.mark, self.cpus)
        if where.endswith(("GPU", "GPUs")):
            where += f" ({self.mark})"
        return f"{self.model}/{self.version} on {where}"


@dataclass(frozen=True)
class Ending:
    """What came of it.

    Attributes:
        outcome: of the search.
        entry: what there is to write; None where the defaults stay, or nothing meets the target.
        held: what servers took here of what was tuned before.
        seconds: that it took.
        written: the file, where the entry was written.
        old: the file that holds, or held, an older entry of this hardware; None without one.
    """

    outcome: Outcome
    entry: Tuned | None
    held: Tuned | None
    seconds: float
    written: Path | None = None
    old: Path | None = None


def store(
    directory: Path, outcome: Outcome, entry: Tuned | None, asked: Asked
) -> tuple[Path | None, Path | None]:
    """Write what won. Where the defaults stay, an older entry of this hardware goes.

    An entry that repeats the defaults would go on winning over a later ``config.pbtxt``.

    Returns:
        The file, if it was written; and the file that an older entry was removed from, or would
        have been without a dry run.

    Raises:
        ModelUnusable: the file that is there cannot be read.
        OSError: the disk refuses; what was there is as it was.
    """
    dry_run = asked.dry_run
    if entry is not None:
        return None if dry_run else tuned.write(directory, entry), None
    if not outcome.defaults_stay:
        return None, None
    mark = asked.mark, asked.cpus
    if dry_run:
        found = tuned.find(tuned.read(directory), *mark)
        return None, directory / tuned.FILENAME if found else None
    return None, tuned.remove(directory, *mark)


def figures(outcome: Outcome) -> Mapping[str, float]:
    """What is kept of the winner's figures, for as many digits as mean something."""
    assert outcome.measured is not None
    return {
        "rows_per_s": rounded(outcome.measured.rate),
        "run_ms": rounded(1e3 * outcome.measured.run_s_median),
        "worst_ms": rounded(1e3 * outcome.measured.worst_s),
        "over_defaults": rounded(outcome.over_defaults),
    }


def rounded(value: float) -> float:
    """To four significant digits."""
    return float(f"{value:.4g}")


def summary(asked: Asked, ending: Ending) -> dict[str, Any]:
    """All of it, to be printed as JSON."""
    entry, outcome = ending.entry, ending.outcome
    return {
        "model": asked.model,
        "version": asked.version,
        "cpus": asked.cpus,
        "target_ms": asked.target_ms,
        "budget_s": asked.budget_s,
        "seconds": rounded(ending.seconds),
        "winner": None if entry is None else _without_graphs(asdict(entry)),
        "defaults_stay": outcome.defaults_stay,
        "written": None if ending.written is None else str(ending.written),
        "removed_from": None if ending.old is None or asked.dry_run else str(ending.old),
        "tried": [_trial(each, asked.target_ms) for each in outcome.tried],
    }


def _trial(each: Tried, target_ms: float) -> dict[str, Any]:
    measured = each.measured
    worst_ms, cpu_s = 1e3 * measured.worst_s, measured.sparse_cpu_s
    return {
        "knob": each.knob,
        **_without_graphs(asdict(each.setting)),
        "rows_per_s": rounded(measured.rate),
        "run_ms": rounded(1e3 * measured.run_s_median),
        "worst_ms": rounded(worst_ms),
        "sparse_cpu_ms": None if cpu_s is None else rounded(1e3 * cpu_s),
        "rounds": len(measured.rates),
        "spread": rounded(measured.spread),
        "ratio": rounded(each.ratio),
        "meets_target": worst_ms <= target_ms if target_ms else None,
        "stays": each.stays,
        "reason": each.reason,
    }


def _without_graphs(raw: dict[str, Any]) -> dict[str, Any]:
    """A CPU's options have no CUDA graphs."""
    return {k: v for k, v in raw.items() if k != "cuda_graphs" or v is not None}


def last_words(asked: Asked, ending: Ending) -> str:
    """What became of it, in a sentence or two."""
    outcome = ending.outcome
    if outcome.winner is None:
        return _failed(asked, ending)
    assert outcome.measured is not None
    kept = f"it answers within {1e3 * outcome.measured.worst_s:.3g} ms at worst"
    if asked.target_ms:
        kept += f", {asked.target_ms:g} ms is the target"
    if outcome.defaults_stay:
        text = f"* The defaults stay: nothing that was tried beat them. {said(outcome.winner)}; "
        text += f"{kept}; nothing was written"
        if ending.old:
            done = "would be removed without --dry-run" if asked.dry_run else "was removed"
            text += f", and the earlier entry of this hardware {done} from {ending.old}"
        return f"{text}."
    where = f"written to {ending.written}" if ending.written else "nothing was written (--dry-run)"
    rate = tuned.said_rate(rounded(outcome.measured.rate))
    over = f"{outcome.over_defaults:.2f}x the defaults' rows/s"
    if asked.target_ms and 1e3 * outcome.defaults_worst_s > asked.target_ms:
        over += f", which miss the target with {1e3 * outcome.defaults_worst_s:.3g} ms"
    return (
        f"* {said(outcome.winner)}: {rate} rows/s in process, {over}; {kept}"
        f"{_cost(outcome)}; {where}."
    )


def _failed(asked: Asked, ending: Ending) -> str:
    nearest = ending.outcome.nearest
    text = (
        f"Nothing that was tried answers within {asked.target_ms:g} ms: the nearest, "
        f"{said(nearest.setting)}, takes {1e3 * nearest.measured.worst_s:.3g} ms at worst; "
        "nothing was written."
    )
    if ending.held is not None:
        text += (
            f" {tuned.FILENAME} stays as it was, and servers go on taking what was tuned on "
            f"{ending.held.date}: {ending.held.variant}, {ending.held.said}."
        )
    return text


def _cost(outcome: Outcome) -> str:
    """What spinning costs, where the winner spins."""
    cpu_s = outcome.sparse_cpu_s
    if outcome.winner is None or not outcome.winner.spin or len(cpu_s) < 2:
        return ""
    return (
        f"; spinning takes {1e3 * cpu_s[True]:.2g} ms of CPU for a lone request, "
        f"{1e3 * cpu_s[False]:.2g} ms without"
    )


def notes(asked: Asked, ending: Ending) -> str:
    """How long it took; and what varied more than a quiet machine lets it."""
    text = f"It took {ending.seconds:.0f} of {asked.budget_s:g} s."
    noisiest = ending.outcome.noisiest
    if not noisiest.measured.noisy:
        return text
    return (
        f"{text} The rounds of {said(noisiest.setting)} differ by "
        f"{100 * noisiest.measured.spread:.0f} % between their quartiles: if something else runs "
        "on this machine, tune again when it is quiet; small differences mean little here."
    )


def said(setting: Setting) -> str:
    """A setting in words."""
    options = asdict(setting)
    return f"{options.pop('variant')}, {tuned.said(**options)}"
