"""The main job on real data, from a trained model to a priced table; the story, top to bottom."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from loadtests import client, load, processes
from loadtests.observed import Observed
from loadtests.prices import Price
from loadtests.pricing import measure
from loadtests.pricing.identity import Said
from loadtests.pricing.measure import Effort
from loadtests.pricing.rig import Told, Work
from loadtests.processes import Endpoint
from loadtests.profile import Profile
from loadtests.reports.figures import Refused
from loadtests.reports.wording import Condition
from loadtests.slo import Slo
from service import choice, hardware, manifest
from service.errors import FarthingError
from service.manifest import Manifest, Variant

NAME = "digits"
BASELINE = "keras"
LEAST_ACCURACY = 0.97
SLO = Slo(99, 0.1, 0.999)
_LOCUST_S = 5.0
# Pruning would add half a minute to the first look.
VARIANTS = "fp16,int8-dynamic,int8-static"
Step = Callable[[str], AbstractContextManager[Told]]


@dataclass(frozen=True)
class Findings:
    """What the demo found.

    Attributes:
        profiles: the baseline's, and those of the published variants.
        refused: the others.
        notes: what the figures depend on besides.
        served: the variant that farthing would serve.
        why: it would.
    """

    profiles: list[Profile]
    refused: list[Refused]
    notes: list[Condition]
    served: str
    why: str


@dataclass(frozen=True)
class Cores:
    """Which CPUs the server and the load generator run on; None where they share all of them."""

    server: frozenset[int] | None
    generator: frozenset[int] | None

    @classmethod
    def divided(cls, available: frozenset[int]) -> Cores:
        """Apart where there are more than two: one in four, one or two, for the generator.

        Shared under a cgroup quota, which both would draw on whatever they are pinned to.
        """
        if len(available) < 3 or hardware.cpu_quota() is not None:
            return cls(None, None)
        ordered = sorted(available)
        generator = frozenset(ordered[-min(2, max(1, len(ordered) // 4)) :])
        return cls(available - generator, generator)

    @property
    def served_on(self) -> int:
        """CPUs that are paid for: those of the server, or all if they are shared."""
        return len(self.server) if self.server else hardware.cpus()


@dataclass(frozen=True)
class Stage:
    """Where the demo plays.

    Attributes:
        directory: everything is written below it; its ``models`` is made anew.
        budget_s: seconds to measure each variant.
        cores: who runs where.
        screen: where the steps that are processes of their own show their progress.
    """

    directory: Path
    budget_s: float
    cores: Cores
    screen: IO[str]

    @property
    def data(self) -> Path:
        """The trained model and its rows."""
        return self.directory / "data"

    @property
    def models(self) -> Path:
        """The model repository."""
        return self.directory / "models"

    @property
    def log(self) -> Path:
        """What all processes say on standard error."""
        return self.directory / "demo.log"


def run(stage: Stage, price: Price, step: Step, *, quick: bool) -> Findings:
    """Train, convert, serve, measure and price.

    Args:
        stage: where.
        price: what a machine costs.
        step: called with what is being done; yields what takes another text meanwhile.
        quick: train a small net.

    Raises:
        FarthingError: a step failed; the sentence says which.
    """
    stage.directory.mkdir(parents=True, exist_ok=True)
    for name in ("demo.log", "report.html", "report.json", "report.csv"):  # of an earlier run
        (stage.directory / name).unlink(missing_ok=True)
    shutil.rmtree(stage.models, ignore_errors=True)
    trained = _train(stage, quick=quick)
    with step("keras to ONNX and its variants, each verified"):
        contract, table = _convert(stage)
    stage.screen.write(table)
    with step("keras in process: highest rate at the SLO, levels, overload"):
        base = _baseline(stage, price)
        if base.lacking:  # everything is told beside it
            base = _baseline(stage, price)
    serving = choice.known(contract, choice.AUTO, hardware.fingerprint())
    assert serving is not None, "convert records a choice for this hardware"
    profiles, refused, notes = [base], list[Refused](), _notes(trained)
    for variant in contract.variants:
        if not variant.accepted:
            refused.append(_refused(variant))
            continue
        with (
            step(f"{variant.name}: checking its answers") as told,
            serve(stage, variant) as endpoint,
        ):
            named = _named(variant, told)
            profile = measured(stage, variant, endpoint, price=price, base=base, told=named)
            profiles.append(profile)
            if variant == serving.variant and profile.levels:
                named("once more by Locust")
                notes.append(_by_locust(stage, endpoint, profile))
    return Findings(profiles, refused, notes, serving.variant.name, serving.why)


@contextmanager
def serve(stage: Stage, variant: Variant) -> Iterator[Endpoint]:
    """Serve one variant as a process of its own, on cores of its own where there are enough.

    Raises:
        FarthingError: the server does not start, or serves another file than the variant's.
    """
    with processes.serving(
        stage.models, variant=variant.name, log=stage.log, cpus=stage.cores.server
    ) as endpoint:
        if endpoint.sha256 != variant.sha256:
            raise FarthingError(f"the server took another file for {variant.name}")
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, stage.cores.generator or before)
        try:
            yield endpoint
        finally:
            os.sched_setaffinity(0, before)


def measured(
    stage: Stage, variant: Variant, endpoint: Endpoint, *, price: Price, base: Profile, told: Told
) -> Profile:
    """A variant's accuracy over the wire, and its profile.

    Raises:
        FarthingError: the server does not answer as it must.
    """
    rows_file = stage.data / "heldout.npz"
    with np.load(rows_file) as archive:
        rows, labels = archive["x"], archive["y"]
    with client.connected(endpoint.target) as caller:
        answers = caller.answers(NAME, rows, chunk=16)
    accuracy = float(np.mean(answers.argmax(axis=1) == labels))
    work = Work(
        targets=(endpoint.target,),
        model=NAME,
        rows_file=rows_file,
        metrics=(f"http://127.0.0.1:{endpoint.metrics_port}/metrics",),
        shared=stage.cores.server is None,
    )
    said = Said(
        bytes=variant.bytes, accuracy=accuracy,
        accuracy_change=100 * (accuracy - (base.subject.accuracy or 0.0)),
        cpus=stage.cores.served_on, price=price,
    )  # fmt: skip
    effort = Effort(budget_s=stage.budget_s)
    return measure.profile_of(work, said, SLO, effort, name=variant.name, told=told)


def _by_locust(stage: Stage, endpoint: Endpoint, profile: Profile) -> Condition:
    """What Locust's open loop sees at a rate at which ours has been."""
    level = profile.levels[len(measure.SHARES) // 2]
    plan = load.Plan(
        endpoint.target, NAME, users=4, seconds=_LOCUST_S, arrivals="poisson", rate=level.rate,
        rows_file=stage.data / "heldout.npz", limit_ms=1e3 * SLO.limit_s,
        cpus=stage.cores.generator,
    )  # fmt: skip
    seen = load.run(plan, log=stage.log)
    return Condition(
        "Locust",
        f"its own open loop at {level.rate:.0f}/s on {profile.name}: {_said(seen)}; the generator "
        f"of these figures, at that rate: {_said(level.seen)}",
    )


def _said(seen: Observed) -> str:
    if seen.void:
        return f"void, {seen.void}"
    values = ((percent, seen.percentile_ms(percent)) for percent in (50, 99))
    told = [f"p{percent} {value:.1f} ms" for percent, value in values if value is not None]
    return ", ".join([*told, f"{seen.good} of {seen.offered} in time"])


def _train(stage: Stage, *, quick: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "converter.zoo.digits", str(stage.data)]
    command += ["--quick"] if quick else []
    processes.finish(command, log=stage.log, screen=stage.screen)
    text = (stage.data / "split.json").read_text(encoding="utf-8")
    trained: dict[str, Any] = json.loads(text)
    if trained["held_out_accuracy"] < LEAST_ACCURACY:
        raise FarthingError(
            f"the net reached {trained['held_out_accuracy']:.1%} on the held-out rows, less than "
            f"{LEAST_ACCURACY:.0%}; the training did not work, and its log is {stage.log}"
        )
    return trained


def _convert(stage: Stage) -> tuple[Manifest, str]:
    """What was published, and what the converter prints of it."""
    command = [
        sys.executable, "-m", "farthing", "convert", str(stage.data / "model.keras"),
        "--name", NAME, "--out", str(stage.models),
        "--calibration", str(stage.data / "calibration.npz"),
        "--evaluate", str(stage.data / "heldout.npz"), "--variants", VARIANTS,
    ]  # fmt: skip
    table = processes.finish(command, log=stage.log).decode()
    return manifest.load(stage.models / NAME / "1"), table


def _baseline(stage: Stage, price: Price) -> Profile:
    command = [
        sys.executable, "-m", "loadtests.baseline", str(stage.data / "model.keras"),
        str(stage.data / "heldout.npz"), "--limit-ms", f"{1e3 * SLO.limit_s:g}",
        "--success", f"{SLO.success:g}", "--budget-s", f"{stage.budget_s:g}",
    ]  # fmt: skip
    output = processes.finish(command, log=stage.log, cpus=stage.cores.server)
    profile = Profile.from_dict(json.loads(output))
    conditions = replace(profile.conditions, price=price, cpus=stage.cores.served_on)
    return replace(profile, conditions=conditions)


def _named(variant: Variant, told: Told) -> Told:
    return lambda text: told(f"{variant.name}: {text}")


def _refused(variant: Variant) -> Refused:
    reason = variant.reason or "it was refused"
    return Refused(variant.name, reason, variant.figures.get("accuracy"), variant.bytes)


def _notes(trained: dict[str, Any]) -> list[Condition]:
    rows = trained["rows"]
    return [
        Condition(
            "Data",
            f"scikit-learn's digits; {rows['train']} rows to train, {rows['calibration']} to "
            f"calibrate, {rows['held_out']} held out, disjoint. Accuracy is that of the served "
            "answers on the held-out rows; a refused variant's is the converter's",
        ),
        Condition(
            "keras",
            "the trained model called in process, as a traced tf.function, one row a call, by "
            "eight threads, without any network: generous to it",
        ),
        Condition("Not counted", "load balancer, storage, network, people"),
    ]
