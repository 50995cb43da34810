"""What farthing's own /metrics tells of a stretch of time: its phases, its ledger, its memory."""

from __future__ import annotations

import math
import re
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from loadtests import outside
from loadtests.energy import Card
from service.errors import InvalidSetting

_ANSWER_S = 10.0
_MOST_BYTES = 16 * 2**20
# Of lines that are sums: no more than rounding may they fall.
_ROUNDING_S = 1e-6
_UNSETTLED = "unsettled"
_LINES = re.compile("farthing_(core|gpu)_seconds_total")
_OPEN = re.compile("farthing_unsettled_(core|gpu)_seconds")
_PAID = re.compile("farthing_paid_(core|gpu)_seconds_total")
_OF_GPUS = {
    "farthing_gpu_info": "name", "farthing_gpu_watched_seconds_total": "seconds",
    "farthing_gpu_busy_seconds_total": "busy_s", "farthing_gpu_energy_joules_total": "energy_j",
}  # fmt: skip
Sums = defaultdict[str, float]
PHASES = ("decode", "queue", "assembly", "run", "encode", "request")


@dataclass(frozen=True)
class Scrape:
    """Counters at one moment, of one process or the sum of several.

    Attributes:
        lines: line of the ledger -> core-seconds so far, or GPU-seconds; empty where the server
            keeps none.
        phases: phase -> (seconds so far, answered requests so far), of one model.
        memory_bytes: resident; 0 where it is not told.
        paid_core_s: cores x seconds so far, which the lines come to; None where it is not told.
        starts: when each process began, in seconds of its clock; of those that tell it.
        unit: of the lines: ``core`` or ``gpu``.
        gpus: those that are watched, by uuid: replicas may share one.
    """

    lines: Mapping[str, float] = field(default_factory=dict)
    phases: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    memory_bytes: int = 0
    paid_core_s: float | None = None
    starts: tuple[float, ...] = ()
    unit: str = "core"
    gpus: Mapping[str, Card] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        """Requests of the model that were answered so far."""
        return int(self.phases.get("request", (0.0, 0.0))[1])

    def anew(self, before: Scrape) -> str:
        """Why this cannot be what came on top of that, in words; empty where it can."""
        if any(abs(a - b) > 1 for a, b in zip(self.starts, before.starts, strict=False)):
            return "a server was restarted while it was measured"
        sums = (*before.lines.items(), ("paid", before.paid_core_s or 0.0))
        now = {**self.lines, "paid": self.paid_core_s or 0.0}
        for line, core_s in sums:
            if line != _UNSETTLED and now.get(line, 0.0) < core_s - _ROUNDING_S:
                return f"a server's sum of {self.unit}-seconds fell while it was measured: {line}"
        return ""

    def paid(self, before: Scrape) -> float | None:
        """Core-seconds that had to be paid since then; None where the server does not tell."""
        if self.paid_core_s is None or self.anew(before):
            return None
        return self.paid_core_s - (before.paid_core_s or 0.0)

    def bill(self, before: Scrape) -> dict[str, float] | None:
        """Core-seconds by line since then; None without a ledger, or where ``anew`` says why."""
        if not self.lines or self.anew(before):
            return None
        return {line: self.lines[line] - before.lines.get(line, 0.0) for line in sorted(self.lines)}

    def means(self, before: Scrape) -> dict[str, float] | None:
        """Phase -> mean seconds of what was answered since then; None if nothing was."""
        found = dict[str, float]()
        if self.anew(before):
            return None
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
    memory, paid, starts, units = 0, None, list[float](), set[str]()
    samples = _samples(text)
    for sample in samples:
        phase = sample.name.removeprefix("farthing_").partition("_seconds_")[0]
        if line := _LINES.fullmatch(sample.name):
            if "kind" not in sample.labels:
                raise ValueError(f"its {sample.name} is of no kind")
            lines[outside.plain(sample.labels["kind"])] += _value(sample)
            units.add(line[1])
        elif _OPEN.fullmatch(sample.name):
            lines[_UNSETTLED] += _value(sample)
        elif _PAID.fullmatch(sample.name):
            paid = _value(sample)
        elif sample.name == "process_resident_memory_bytes":
            memory = int(_value(sample))
        elif sample.name == "process_start_time_seconds":
            starts.append(_value(sample))
        elif phase in PHASES and sample.labels.get("model") == model:
            sums[phase] += _value(sample) if sample.name.endswith("_sum") else 0.0
            counts[phase] += _value(sample) if sample.name.endswith("_count") else 0.0
    phases = {phase: (sums[phase], counts[phase]) for phase in PHASES if counts[phase]}
    if len(units) > 1:
        raise ValueError("its ledger is of cores and of GPUs, which do not add up")
    unit = next(iter(units), "core")
    return Scrape(lines, phases, memory, paid, tuple(starts), unit, _gpus(samples))


def _gpus(samples: Iterable[Sample]) -> dict[str, Card]:
    found = dict[str, Card]()
    for sample in samples:
        uuid = outside.plain(sample.labels.get("uuid", ""))
        field_of = _OF_GPUS.get(sample.name)
        if uuid and field_of:
            gpu = found.get(uuid, Card())
            if field_of == "name":
                told: dict[str, Any] = {"name": outside.plain(sample.labels.get("name", ""))}
            else:
                told = {field_of: _value(sample)}
            if field_of == "energy_j":
                told["counted"] = sample.labels.get("how") == "counter"
            found[uuid] = replace(gpu, **told)
    return found


def _samples(text: str) -> list[Sample]:
    try:
        return [sample for family in text_string_to_metric_families(text)
                for sample in family.samples]  # fmt: skip
    except (LookupError, TypeError, AttributeError):  # its ValueErrors say what is wrong
        raise ValueError("it is not in Prometheus' format") from None


def _value(sample: Sample) -> float:
    if not 0 <= sample.value < math.inf:
        raise ValueError(f"its {sample.name} is {sample.value}")
    return sample.value


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
    units = {each.unit for each in scrapes if each.lines}
    if len(units) > 1:
        raise InvalidSetting(
            "some of these replicas pay for cores and some for GPUs, which do not add up; measure "
            "each kind for itself"
        )
    return Scrape(
        lines, phases, memory, paid, tuple(each for s in scrapes for each in s.starts),
        next(iter(units), "core"), {uuid: gpu for s in scrapes for uuid, gpu in s.gpus.items()},
    )  # fmt: skip


def read(urls: Iterable[str], *, model: str) -> Scrape:
    """What these replicas tell now, summed.

    Raises:
        InvalidSetting: one does not answer with metrics.
    """
    return together(_read(url, model) for url in urls)


def _read(url: str, model: str) -> Scrape:
    found: list[Scrape | Exception] = []
    # Timeouts of sockets begin anew with each byte: only a thread of its own can be left in time.
    asking = threading.Thread(target=lambda: found.append(_asked(url, model)), daemon=True)
    asking.start()
    asking.join(_ANSWER_S)
    scrape = found[0] if found else TimeoutError(f"no whole answer in {_ANSWER_S:g} s")
    if isinstance(scrape, Exception):
        said = outside.plain(f"{url} does not answer with metrics: {scrape}")
        raise InvalidSetting(said) from None
    return scrape


def _asked(url: str, model: str) -> Scrape | Exception:
    try:
        if not url.startswith(("http://", "https://")):
            raise ValueError("it does not begin with http://")
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as answer:
            content = answer.read(_MOST_BYTES + 1)
            cut = bool(answer.length) and len(content) <= _MOST_BYTES
        if cut:
            raise ValueError("the connection ended before the answer did")
        if len(content) > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES >> 20} MiB")
        return parsed(content.decode("utf-8"), model=model)
    except (OSError, HTTPException, ValueError) as error:
        return error
