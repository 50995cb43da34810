"""The main job on real data, from a trained model to a priced table; the story, top to bottom."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtests import client, load, processes
from loadtests.prices import Price
from loadtests.results import Conditions, Report, Row
from service import hardware, manifest, repository
from service.errors import FarthingError
from service.manifest import Manifest

NAME = "digits"
LEAST_ACCURACY = 0.97
USERS = 8
Step = Callable[[str], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Cores:
    """Which CPUs the server and the load generator run on; None where they share all of them."""

    server: frozenset[int] | None
    generator: frozenset[int] | None

    @classmethod
    def divided(cls, available: frozenset[int]) -> Cores:
        """Apart where there are four or more: one in four, at most two, for the generator."""
        if len(available) < 4:
            return cls(None, None)
        ordered = sorted(available)
        generator = frozenset(ordered[-min(2, len(ordered) // 4) :])
        return cls(available - generator, generator)

    @property
    def served_on(self) -> int:
        """CPUs that are paid for: those of the server, or all if they are shared."""
        return len(self.server) if self.server else hardware.cpus()


def run(directory: Path, price: Price, step: Step, *, seconds: float, quick: bool) -> Report:
    """Train, convert, serve, load and price.

    Args:
        directory: where everything is written; its ``models`` is made anew.
        price: what a machine costs.
        step: called with what is being done.
        seconds: how long to load each variant, at each number of callers.
        quick: train a small net.

    Raises:
        FarthingError: a step failed; the sentence says which, and where its log is.
    """
    directory.mkdir(parents=True, exist_ok=True)
    data, models, log = directory / "data", directory / "models", directory / "demo.log"
    log.unlink(missing_ok=True)
    shutil.rmtree(models, ignore_errors=True)
    cores = Cores.divided(frozenset(os.sched_getaffinity(0)))
    trained = _train(data, log, quick=quick)
    contract = _convert(data, models, log)
    with step(f"calling the Keras model in process, with 1 and {USERS} callers"):
        rows = [_baseline(data, log, cores, seconds)]
    held_out, labels = _held_out(data)
    for variant in contract.variants:
        if not variant.accepted:
            rows.append(Row.not_published(variant))
            continue
        with (
            step(f"serving {variant.name}: checking its answers, loading it"),
            processes.serving(models, variant=variant.name, log=log, cpus=cores.server) as endpoint,
        ):
            if endpoint.sha256 != variant.sha256:
                raise FarthingError(f"the server took another file for {variant.name}")
            plan = load.Plan(
                endpoint.target, NAME, seconds=seconds, rows_file=data / "heldout.npz",
                cpus=cores.generator,
            )  # fmt: skip
            with client.connected(endpoint.target) as caller:
                answers = caller.answers(NAME, held_out, chunk=16)
            accuracy = float(np.mean(answers.argmax(axis=1) == labels))
            alone = load.run(plan, log=log)
            together = load.run(dataclasses.replace(plan, users=USERS), log=log)
        rows.append(Row.served(variant, accuracy, alone, together))
    serving, why = repository.choose(contract, repository.AUTO, hardware.fingerprint())
    conditions = Conditions(
        price=price, cpus=cores.served_on, shared=cores.server is None, trained=trained,
        contract=contract, users=USERS, seconds=seconds,
    )  # fmt: skip
    return Report(rows, conditions, serving.name, why)


def _train(data: Path, log: Path, *, quick: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "converter.zoo.digits", str(data)]
    processes.finish(command + (["--quick"] if quick else []), log=log, screen=True)
    trained: dict[str, Any] = json.loads((data / "split.json").read_text(encoding="utf-8"))
    if trained["held_out_accuracy"] < LEAST_ACCURACY:
        raise FarthingError(
            f"the net reached {trained['held_out_accuracy']:.1%} on the held-out rows, less than "
            f"{LEAST_ACCURACY:.0%}; the training did not work, and its log is {log}"
        )
    return trained


def _convert(data: Path, models: Path, log: Path) -> Manifest:
    command = [
        sys.executable, "-m", "farthing", "convert", str(data / "model.keras"), "--name", NAME,
        "--out", str(models), "--calibration", str(data / "calibration.npz"),
        "--evaluate", str(data / "heldout.npz"),
    ]  # fmt: skip
    processes.finish(command, log=log, screen=True)
    return manifest.load(models / NAME / "1")


def _held_out(data: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with np.load(data / "heldout.npz") as archive:
        return archive["x"], archive["y"]


def _baseline(data: Path, log: Path, cores: Cores, seconds: float) -> Row:
    command = [
        sys.executable, "-m", "loadtests.baseline", str(data / "model.keras"),
        str(data / "heldout.npz"), "--seconds", str(seconds), "--users", str(USERS),
    ]  # fmt: skip
    figures = json.loads(processes.finish(command, log=log, cpus=cores.server))
    return Row.baseline(figures)
