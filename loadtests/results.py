"""What the demo found: rows, the conditions they were measured under, and the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from loadtests.histogram import Histogram, samples_for
from loadtests.observed import GOOD, LATE, Observed
from loadtests.prices import Price, usd_per_million
from service import hardware
from service.manifest import Manifest, Variant

BASELINE = "keras"
# Where the distribution is kept for the plots.
PERCENTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: ``keras`` for the baseline, else the variant's.
        accuracy: on the held-out rows, of the answers that were served (0 to 1).
        bytes: size of the model's file.
        latency_ms: percentile -> milliseconds with one caller; empty where it was not loaded.
        calls: successful calls behind those percentiles.
        requests_per_s: with several callers.
        failures: gRPC status -> calls that ended with it, in both runs.
        sha256: digest of the file that was served.
        refused: why it was not published, or None.
    """

    name: str
    accuracy: float | None = None
    bytes: int | None = None
    latency_ms: dict[float, float] | None = None
    calls: int = 0
    requests_per_s: float | None = None
    failures: dict[str, int] | None = None
    sha256: str | None = None
    refused: str | None = None

    @classmethod
    def baseline(cls, figures: dict[str, Any]) -> Row:
        """The Keras model in process, from what ``loadtests.baseline`` printed."""
        latencies = np.array(figures["latencies_ms"])
        return cls(
            name=BASELINE,
            accuracy=figures["accuracy"],
            bytes=figures["bytes"],
            latency_ms=_percentiles(Histogram(latencies / 1e3)),
            calls=len(latencies),
            requests_per_s=figures["requests_per_s"],
        )

    @classmethod
    def served(cls, variant: Variant, accuracy: float, alone: Observed, together: Observed) -> Row:
        """A published variant, measured over the wire."""
        endings = alone.endings + together.endings
        failures = {code: n for code, n in endings.items() if code not in (GOOD, LATE)}
        return cls(
            name=variant.name,
            accuracy=accuracy,
            bytes=variant.bytes,
            latency_ms=_percentiles(alone.latency),
            calls=len(alone.latency),
            requests_per_s=together.answers_per_s,
            failures=failures,
            sha256=variant.sha256,
        )

    @classmethod
    def not_published(cls, variant: Variant) -> Row:
        """A refused variant: what the converter measured, and why."""
        return cls(
            name=variant.name,
            accuracy=variant.figures.get("accuracy"),
            bytes=variant.bytes,
            refused=variant.reason,
        )

    @property
    def p50_ms(self) -> float | None:
        """Median latency with one caller."""
        return self.latency_ms[50] if self.latency_ms else None

    @property
    def p99_ms(self) -> float | None:
        """p99 with one caller; None where there were too few calls to say."""
        return self.latency_ms.get(99) if self.latency_ms else None


@dataclass(frozen=True)
class Conditions:
    """What every figure depends on."""

    price: Price
    cpus: int
    shared: bool
    trained: dict[str, Any]
    contract: Manifest
    users: int
    seconds: float

    def sentences(self) -> list[str]:
        """The conditions in words, one a line."""
        where = (
            "the server and the load generator shared these CPUs, so both are slower than alone"
            if self.shared
            else "the load generator had CPUs of its own"
        )
        rows = self.trained["rows"]
        return [
            f"Hardware: {hardware.cpu_name()} ({' '.join(hardware.cpu_flags())}), {self.cpus} "
            f"CPUs priced; {where}.",
            f"Price, an assumption: {self.price.said(self.cpus)}. Not counted: load balancer, "
            "storage, network, people.",
            f"Data: scikit-learn's digits; {rows['train']} rows to train, {rows['calibration']} to "
            f"calibrate, {rows['held_out']} held out, disjoint. Accuracy is that of the served "
            "answers; a refused variant's is the converter's.",
            f"Load: Locust, closed loop over gRPC, {self.seconds:g} s each, one row a request; "
            f"latency with one caller, rate with {self.users}. p99 from {samples_for(99)} calls "
            "up.",
            "keras: the trained model called in process, tf.function, one row a call, no network: "
            "generous to it.",
        ]


@dataclass(frozen=True)
class Report:
    """Rows, conditions, and the variant that would be served."""

    rows: list[Row]
    conditions: Conditions
    chosen: str
    why: str

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def usd_per_million(self, row: Row) -> float | None:
        """Dollars for a million requests at the row's rate."""
        if not row.requests_per_s:
            return None
        share = self.conditions.price.share_per_hour(self.conditions.cpus)
        return usd_per_million(share, row.requests_per_s)

    def ratio(self, row: Row) -> float | None:
        """Its dollars over the baseline's."""
        mine, base = self.usd_per_million(row), self.usd_per_million(self.row(BASELINE))
        return mine / base if mine and base else None

    def verdict(self) -> str:
        """One sentence: what to serve, why, and what it saves."""
        row = self.row(self.chosen)
        ratio = self.ratio(row)
        saved = ""
        if ratio is not None:
            change = "less" if ratio < 1 else "more"
            saved = f" It costs {abs(1 - ratio):.0%} {change} per request than Keras in process."
        return f"farthing would serve {self.chosen}: {self.why}.{saved}"

    def to_dict(self) -> dict[str, Any]:
        """All of it, for report.json."""
        conditions = self.conditions
        return {
            "verdict": self.verdict(),
            "chosen": self.chosen,
            "why": self.why,
            "rows": [
                {
                    **asdict(row),
                    "p50_ms": row.p50_ms,
                    "p99_ms": row.p99_ms,
                    "usd_per_million": self.usd_per_million(row),
                    "usd_ratio_to_baseline": self.ratio(row),
                }
                for row in self.rows
            ],
            "conditions": {
                "sentences": conditions.sentences(),
                "price": conditions.price.to_dict(),
                "usd_per_hour": conditions.price.share_per_hour(conditions.cpus),
                "cpus": conditions.cpus,
                "generator_shares_cpus": conditions.shared,
                "fingerprint": hardware.fingerprint(),
                "users": conditions.users,
                "seconds": conditions.seconds,
                "trained": conditions.trained,
                "manifest": asdict(conditions.contract),
            },
        }


def _percentiles(latency: Histogram) -> dict[float, float]:
    seconds = {p: latency.judged(p) if p >= 99 else latency.at(p) for p in PERCENTILES}
    return {p: 1e3 * value for p, value in seconds.items() if value is not None}
