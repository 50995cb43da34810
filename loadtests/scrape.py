"""What farthing's own /metrics tells of a stretch of time: its phases, its ledger, its memory."""

from __future__ import annotations

import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.error import URLError

from prometheus_client.parser import text_string_to_metric_families

from service.errors import InvalidSetting

_ANSWER_S = 10.0
Sums = defaultdict[str, float]
PHASES = ("decode", "queue", "assembly", "run", "encode", "request")


@dataclass(frozen=True)
class Scrape:
    """Counters at one moment, of one process or the sum of several.

    Attributes:
        lines: line of the ledger -> core-seconds so far; empty where the server keeps none.
        phases: phase -> (seconds so far, answered requests so far), of one model.
        memory_bytes: resident; 0 where it is not told.
        paid_core_s: cores x seconds so far, which the lines come to; None where it is not told.
    """

    lines: Mapping[str, float] = field(default_factory=dict)
    phases: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    memory_bytes: int = 0
    paid_core_s: float | None = None

    def paid(self, before: Scrape) -> float | None:
        """Core-seconds that had to be paid since then; None where the server does not tell."""
        if self.paid_core_s is None:
            return None
        return self.paid_core_s - (before.paid_core_s or 0.0)

    def bill(self, before: Scrape) -> dict[str, float] | None:
        """Core-seconds by line since then; None where the server keeps no ledger."""
        if not self.lines:
            return None
        return {line: self.lines[line] - before.lines.get(line, 0.0) for line in sorted(self.lines)}

    def means(self, before: Scrape) -> dict[str, float] | None:
        """Phase -> mean seconds of what was answered since then; None if nothing was."""
        found = {}
        for phase, (seconds, count) in self.phases.items():
            seconds_before, count_before = before.phases.get(phase, (0.0, 0.0))
            if count > count_before:
                found[phase] = (seconds - seconds_before) / (count - count_before)
        return found or None


def parsed(text: str, *, model: str) -> Scrape:
    """One scrape, of one process.

    Args:
        text: in Prometheus' format.
        model: whose phases.

    Raises:
        ValueError: it is no such text.
    """
    lines, sums, counts = Sums(float), Sums(float), Sums(float)
    memory, paid = 0, None
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            phase = sample.name.removeprefix("farthing_").partition("_seconds_")[0]
            if sample.name == "farthing_core_seconds_total":
                lines[sample.labels["kind"]] += sample.value
            elif sample.name == "farthing_unsettled_core_seconds":
                lines["unsettled"] += sample.value
            elif sample.name == "farthing_paid_core_seconds_total":
                paid = sample.value
            elif sample.name == "process_resident_memory_bytes":
                memory = int(sample.value)
            elif phase in PHASES and sample.labels.get("model") == model:
                sums[phase] += sample.value if sample.name.endswith("_sum") else 0.0
                counts[phase] += sample.value if sample.name.endswith("_count") else 0.0
    phases = {phase: (sums[phase], counts[phase]) for phase in PHASES if counts[phase]}
    return Scrape(lines, phases, memory, paid)


def together(scrapes: Iterable[Scrape]) -> Scrape:
    """The sum over replicas; what is paid only where all of them tell it."""
    scrapes = list(scrapes)
    lines, memory = Sums(float), 0
    phases: dict[str, tuple[float, float]] = {}
    for each in scrapes:
        for line, seconds in each.lines.items():
            lines[line] += seconds
        memory += each.memory_bytes
        for phase, (total, count) in each.phases.items():
            before = phases.get(phase, (0.0, 0.0))
            phases[phase] = (before[0] + total, before[1] + count)
    told = [each.paid_core_s for each in scrapes if each.paid_core_s is not None]
    paid = sum(told) if told and len(told) == len(scrapes) else None
    return Scrape(lines, phases, memory, paid)


def read(urls: Iterable[str], *, model: str) -> Scrape:
    """What these replicas tell now, summed.

    Raises:
        InvalidSetting: one does not answer with metrics.
    """
    return together(_read(url, model) for url in urls)


def _read(url: str, model: str) -> Scrape:
    try:
        if not url.startswith(("http://", "https://")):
            raise ValueError("it does not begin with http://")
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as answer:
            return parsed(answer.read().decode("utf-8"), model=model)
    except (URLError, OSError, ValueError) as error:
        raise InvalidSetting(f"{url} does not answer with metrics: {error}") from None
