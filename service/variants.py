"""The variants of one version on disk: opened, and one of them chosen, timed here if need be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from service import choice, golden, log, manifest
from service.batching import Arrays
from service.choice import Chosen
from service.errors import ModelUnusable
from service.manifest import Manifest, Variant
from service.session import Session, SessionOptions, kept
from service.tuned import Tuned


@dataclass(frozen=True)
class Timing:
    """How variants are timed where nothing is recorded.

    Attributes:
        max_rows: of a full run; the other size is one row.
        clock: seconds.
    """

    max_rows: int
    clock: Callable[[], float]


@dataclass(frozen=True)
class Opener:
    """Opens files of one version, all with the same options."""

    directory: Path
    options: SessionOptions

    def __call__(self, path: Path) -> Session:
        """A file that has no digest to be checked."""
        return Session(path, self.options)

    def variant(self, variant: Variant) -> Session:
        """A published variant, if it still is what was verified.

        Raises:
            ModelUnusable: it is not, or cannot be loaded.
        """
        path = self.directory / str(variant.file)
        manifest.check_digest(path, variant)
        return self(path)


def choose(
    contract: Manifest,
    wanted: str,
    opener: Opener,
    timing: Timing,
    *,
    fingerprint: str,
    tuned: Tuned | None = None,
) -> tuple[Chosen, Session]:
    """The variant to serve and its session.

    Args:
        contract: the model's.
        wanted: ``auto``, or the name of the variant.
        opener: of its files.
        timing: used where nothing is recorded for this hardware.
        fingerprint: of that hardware, where the model runs.
        tuned: what holds here of what was tuned.

    Raises:
        ModelUnusable: what was pinned was not published, or no file can be used.
    """
    meant = opener.options.devices[0].meant
    chosen = choice.known(contract, wanted, fingerprint, tuned=tuned, meant=meant)
    if chosen is not None:
        return chosen, opener.variant(chosen.variant)
    samples = _samples(contract, opener.directory, timing.max_rows)
    sessions: dict[str, Session] = {}
    runs: dict[str, list[Callable[[], None]]] = {}
    refused: list[ModelUnusable] = []
    for variant in choice.for_device(contract, meant):
        try:
            session = opener.variant(variant)
            with kept(session):
                tries = [_try(contract, session, sample) for sample in samples]
                for run in tries:
                    run()
        except ModelUnusable as error:
            log.warning("a variant is left out", model=contract.name, reason=str(error))
            refused.append(error)
            continue
        sessions[variant.name], runs[variant.name] = session, tries
    if not sessions:
        raise refused[0]
    chosen = choice.timed([contract.variant(name) for name in sessions], runs, timing.clock)
    log.warning(
        "nothing is recorded for this hardware, so the variants were timed; convert or tune here, "
        "and all replicas serve the same one",
        model=contract.name,
        variant=chosen.variant.name,
        converted_for=list(contract.chosen),
        figures=dict(chosen.figures),
    )
    for name, session in sessions.items():
        if name != chosen.variant.name:
            session.close()
    return chosen, sessions[chosen.variant.name]


def _samples(contract: Manifest, directory: Path, max_rows: int) -> list[int | Arrays]:
    """What variants are timed on: one row, and as many as a full run takes.

    Golden rows, since the content of the rows may decide how long a run takes; where there are none
    only how many.
    """
    sizes = sorted({1, max_rows}) if contract.batched else [1]
    if contract.golden is None:
        return [*sizes]
    inputs, _ = golden.read(directory, contract.golden)
    if not contract.batched:
        return [inputs]
    return [
        {n: np.resize(array, (rows, *array.shape[1:])) for n, array in inputs.items()}
        for rows in sizes
    ]


def _try(contract: Manifest, session: Session, sample: int | Arrays) -> Callable[[], None]:
    """One run of a variant, on golden rows or on zeros."""
    if isinstance(sample, int):
        return partial(session.warm_up, sample, batched=contract.batched)
    return partial(session.warm_up_with, sample)


def check_tensors(contract: Manifest, session: Session, path: Path) -> None:
    """Make sure that a graph has the tensors of its manifest.

    Raises:
        ModelUnusable: it has others, or no free batch dimension.
    """
    if (session.inputs, session.outputs) != (contract.inputs, contract.outputs):
        raise ModelUnusable(
            f"{path} has other inputs or outputs than its manifest says; convert the model again",
            told="the file has other inputs or outputs than the manifest says",
        )
    if contract.batched and not session.batched:
        raise ModelUnusable(
            f"{path} has no free batch dimension, but its manifest says so; convert it again",
            told="the file has no free batch dimension, but the manifest says so",
        )
