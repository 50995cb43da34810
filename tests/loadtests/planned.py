"""Profiles and plans of tests: two variants on a small machine, and one on an accelerator."""

from __future__ import annotations

import datetime
import io

from rich.console import Console

from loadtests.plans import plantables
from loadtests.plans.plan import Plan
from loadtests.profile import Profile
from loadtests.screen import WIDTH
from loadtests.slo import Slo
from tests.loadtests.profiles import price, profile

SLO = Slo(99, 0.1, 0.99)
TODAY = datetime.date(2026, 11, 22)
FP32 = profile(slo=SLO)
INT8 = profile("net int8", row_s=0.006, rate=120.0, variant="int8-static", slo=SLO)
GPU = profile(
    "net gpu", row_s=0.001, rate=900.0, variant="fp16", slo=SLO,
    price=price("cloud-gpu", usd_per_hour=0.5, accelerator="T4", accelerators=1),
)  # fmt: skip


def bound(name: str = "net int8", rate: float = 120.0) -> Profile:
    """One that only the generator kept from more."""
    return profile(name, row_s=0.006, rate=rate, slo=SLO, generator_bound=True)


def printed(made: Plan) -> str:
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    plantables.show(console, made)
    return console.export_text()
