"""The main job on real data, from a trained model to a priced table; the story, top to bottom."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from loadtests import client, load, processes
from loadtests.prices import Price
from loadtests.results import Conditions, Report, Row
from service import choice, hardware, manifest
from service.errors import FarthingError
from service.manifest import Manifest, Variant

NAME = "digits"
LEAST_ACCURACY = 0.97
USERS = 8
# Pruning would add half a minute to the first look.
VARIANTS = "fp16,int8-dynamic,int8-static"
Step = Callable[[str], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Cores:
    """Which CPUs the server and the load generator run on; None where they share all of them."""

    server: frozenset[int] | None
    generator: frozenset[int] | None

    @classmethod
    def divided(cls, available: frozenset[int]) -> Cores:
        """Apart where there are four or more: one in four, at most two, for the generator.

        Shared under a cgroup quota, which both would draw on whatever they are pinned to.
        """
        if len(available) < 4 or hardware.cpu_quota() is not None:
            return cls(None, None)
        ordered = sorted(available)
        generator = frozenset(ordered[-min(2, len(ordered) // 4) :])
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
        seconds: how long to load each variant, at each number of callers.
        cores: who runs where.
        screen: where the steps that are processes of their own show their progress.
    """

    directory: Path
    seconds: float
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


def run(stage: Stage, price: Price, step: Step, *, quick: bool) -> Report:
    """Train, convert, serve, load and price.

    Args:
        stage: where.
        price: what a machine costs.
        step: called with what is being done.
        quick: train a small net.

    Raises:
        FarthingError: a step failed; the sentence says which.
    """
    stage.directory.mkdir(parents=True, exist_ok=True)
    for name in ("demo.log", "report.html", "report.json"):  # they would not match any more
        (stage.directory / name).unlink(missing_ok=True)
    shutil.rmtree(stage.models, ignore_errors=True)
    trained = _train(stage, quick=quick)
    contract = _convert(stage)
    with step(f"calling the Keras model in process, with 1 and {USERS} callers"):
        rows = [_baseline(stage)]
    for variant in contract.variants:
        if variant.accepted:
            with step(f"serving {variant.name}: checking its answers, loading it"):
                rows.append(serve_and_load(stage, variant))
        else:
            rows.append(Row.not_published(variant))
    serving = choice.known(contract, choice.AUTO, hardware.fingerprint())
    assert serving is not None, "convert records a choice for this hardware"
    conditions = Conditions(
        price=price,
        cpus=stage.cores.served_on,
        shared=stage.cores.server is None,
        trained=trained,
        contract=contract,
        users=USERS,
        seconds=stage.seconds,
    )
    return Report(rows, conditions, serving.variant.name, serving.why)


def serve_and_load(stage: Stage, variant: Variant) -> Row:
    """Serve one variant as a process of its own; its accuracy, latency and rate over the wire.

    Raises:
        FarthingError: the server does not start, or serves another file than the variant's.
    """
    rows_file = stage.data / "heldout.npz"
    with np.load(rows_file) as archive:
        rows, labels = archive["x"], archive["y"]
    with processes.serving(
        stage.models, variant=variant.name, log=stage.log, cpus=stage.cores.server
    ) as endpoint:
        if endpoint.sha256 != variant.sha256:
            raise FarthingError(f"the server took another file for {variant.name}")
        with client.connected(endpoint.target) as caller:
            answers = caller.answers(NAME, rows, chunk=16)
        alone = load.Plan(
            endpoint.target,
            NAME,
            seconds=stage.seconds,
            rows_file=rows_file,
            cpus=stage.cores.generator,
        )
        together = dataclasses.replace(alone, users=USERS)
        accuracy = float(np.mean(answers.argmax(axis=1) == labels))
        return Row.served(
            variant, accuracy, load.run(alone, log=stage.log), load.run(together, log=stage.log)
        )


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


def _convert(stage: Stage) -> Manifest:
    command = [
        sys.executable, "-m", "farthing", "convert", str(stage.data / "model.keras"),
        "--name", NAME, "--out", str(stage.models),
        "--calibration", str(stage.data / "calibration.npz"),
        "--evaluate", str(stage.data / "heldout.npz"), "--variants", VARIANTS,
    ]  # fmt: skip
    processes.finish(command, log=stage.log, screen=stage.screen)
    return manifest.load(stage.models / NAME / "1")


def _baseline(stage: Stage) -> Row:
    command = [
        sys.executable, "-m", "loadtests.baseline", str(stage.data / "model.keras"),
        str(stage.data / "heldout.npz"), "--seconds", str(stage.seconds), "--users", str(USERS),
    ]  # fmt: skip
    output = processes.finish(command, log=stage.log, cpus=stage.cores.server)
    return Row.baseline(json.loads(output))
