"""One version on disk: its contract, its variant and a session, with the options to serve it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from service import choice, golden, hardware, log, machine, manifest, modelconfig, tuned, warmup
from service.advice import heeded, told
from service.batching import Arrays
from service.choice import Chosen
from service.devices import AUTO, CPU, CPU_KIND, Device
from service.errors import ModelUnusable
from service.layout import Place
from service.machine import Machine
from service.manifest import Golden, Manifest, Variant
from service.modelconfig import Options
from service.opened import Opened
from service.pins import pinned
from service.precedence import Running, placed, settled
from service.providers import memory_full
from service.session import NotOnGpu, Session, SessionOptions, kept
from service.settings import Settings
from service.tuned import Tuned
from service.variants import Opener, Timing, check_tensors, choose

# What holds here of what was tuned for these variants.
Find = Callable[[Sequence[Variant]], Tuned | None]

# The only variant of a file that nobody converted here; it may be of any precision.
AS_IT_IS = "as-is"


def contract_of(directory: Path) -> Manifest:
    """The contract of one version on disk: its manifest, or that of a bare file.

    Raises:
        ModelUnusable: neither is there, or they cannot be used.
    """
    if (directory / manifest.FILENAME).exists():
        contract = manifest.load(directory)
        _check_name(contract, directory.parent.name, directory)
        return contract
    if not (directory / manifest.MODEL_FILE).exists():
        raise _missing(directory, manifest.MODEL_FILE)
    return contract_of_file(directory / manifest.MODEL_FILE, directory.parent.name)


def contract_of_file(path: Path, name: str = "") -> Manifest:
    """The contract of an ONNX file that nobody converted or verified here.

    Raises:
        ModelUnusable: it cannot be loaded.
    """
    session = Session(path, SessionOptions(threads=1))
    return _bare(name or path.stem, session, _only(path))


def open_version(
    place: Place,
    version: int,
    options: Options,
    *,
    settings: Settings,
    clock: Callable[[], float],
    heed_tuned: bool = True,
    here: Machine | None = None,
) -> tuple[Opened, Running]:
    """Choose a version's variant, open it and check its answers; and how it is to run.

    Args:
        place: where it lies.
        version: of those there.
        options: what config.pbtxt says, or a load request; what was tuned has no effect then.
        settings: of the server.
        clock: seconds, to time variants with where need be.
        heed_tuned: whether what was tuned has its effect.
        here: what models run on; found by ``--device`` if not given.

    Raises:
        ModelUnusable: it cannot be served as it is.
    """
    directory = place.version_directory(version)
    settings = replace(settings, variant=pinned(settings.variant, place.name))
    heed = heed_tuned and not place.single and not options.requested
    on = here or machine.found(settings.device)

    def opened(devices: tuple[Device, ...]) -> tuple[Opened, Running]:
        mark, units = on.fingerprint(devices), on.units(devices)
        find = partial(heeded, place, directory, settings.variant, fingerprint=mark, units=units)
        opener = _Opening(place, directory, options, find if heed else _nothing, settings, devices)
        if is_published(place, directory):
            return opener.published(mark, clock)
        return opener.as_it_is()

    with place.named():
        devices = placed(options, on.devices)
        try:
            return opened(devices)
        except NotOnGpu as error:
            if settings.device != AUTO or options.gpu.asked:
                raise
            log.warning("it cannot run on the GPU, so it runs on the CPU", model=place.name,
                        reason=str(error))  # fmt: skip
            return opened((CPU,))


def checked(place: Place, version: int, options: Options) -> Manifest:
    """The contract of one version on disk, checked as for serving, but nothing is run.

    Raises:
        ModelUnusable: ``open_version`` would refuse it.
    """
    directory = place.version_directory(version)
    with place.named():
        if is_published(place, directory):
            contract = _contract(place, options, directory)
            for variant in map(contract.variant, contract.published):
                manifest.check_digest(directory / str(variant.file), variant)
        else:
            on_cpu = Settings(device=CPU_KIND)
            opening = _Opening(place, directory, options, _nothing, on_cpu, (CPU,))
            opened, _ = opening.as_it_is()
            opened.session.close()
            contract = opened.contract
        for sample in options.warmups:
            next(warmup.feeds(sample, contract, place.directory), None)
        labels(place, options)
    return contract


def rows_like(
    place: Place, version: int, options: Options, contract: Manifest, rows: int
) -> Arrays:
    """So many rows to time a version on, as callers send them.

    Golden rows, since the content of the rows may decide how long a run takes; else those of
    config.pbtxt's first warm-up sample; else zeros.

    Raises:
        ModelUnusable: they cannot be read.
    """
    if contract.golden is not None:
        found, _ = golden.read(place.version_directory(version), contract.golden)
    elif options.warmups:
        found = next(warmup.feeds(options.warmups[0], contract, place.directory))
    else:
        return warmup.zeros(contract, rows)
    if not contract.batched:
        return found
    return {name: np.resize(array, (rows, *array.shape[1:])) for name, array in found.items()}


def labels(place: Place, options: Options) -> dict[str, tuple[str, ...]]:
    """Output -> a text for each of its classes, for those that config.pbtxt has texts for.

    Raises:
        ModelUnusable: they cannot be read.
    """
    files = options.labels.items()
    return {name: modelconfig.read_labels(place.directory / file) for name, file in files}


def is_published(place: Place, directory: Path) -> bool:
    """Whether a version has a manifest; a file that is served by itself has none."""
    return (directory / manifest.FILENAME).exists() and not place.single


def _contract(place: Place, options: Options, directory: Path) -> Manifest:
    contract = manifest.load(directory)
    _check_name(contract, place.name, directory)
    contract = _under(options, contract)
    modelconfig.applied(modelconfig.fitted(options, contract), contract)  # or it is refused
    return contract


@dataclass(frozen=True)
class _Opening:
    """One version, about to be opened on some devices."""

    place: Place
    directory: Path
    options: Options
    find: Find
    settings: Settings
    devices: tuple[Device, ...]

    def published(self, mark: str, clock: Callable[[], float]) -> tuple[Opened, Running]:
        """By its manifest, which says what callers send whatever config.pbtxt reshapes for Triton.

        Args:
            mark: of the hardware that it runs on.
            clock: seconds.
        """
        directory = self.directory
        contract = _contract(self.place, self.options, directory)
        entry = self.find([contract.variant(name) for name in contract.published])
        running = settled(self.settings, self.options, entry, devices=self.devices)
        opener, timing = Opener(directory, running.session), Timing(running.max_batch, clock)
        chosen, session = choose(
            contract, self.settings.variant, opener, timing, fingerprint=mark, tuned=entry
        )
        with kept(session):
            check_tensors(contract, session, directory / str(chosen.variant.file))
            if contract.golden is not None:
                _check(session, directory, contract.golden, chosen.variant.name)
        running = running.on(session.options)
        return Opened(contract, told(self.place, chosen, running, entry), session), running

    def as_it_is(self) -> tuple[Opened, Running]:
        """A file that nobody converted here, with the tensors that config.pbtxt gives it."""
        place, options = self.place, self.options
        path = self.directory / (place.single or options.filename)
        if not path.is_file():
            raise _missing(self.directory, path.name)
        variant = _only(path)
        entry = self.find([variant])
        running = settled(self.settings, options, entry, devices=self.devices)
        with kept(Session(path, running.session)) as session:
            contract = _under(options, _bare(place.name, session, variant))
            options = modelconfig.fitted(options, contract)
            contract = modelconfig.applied(options, contract, session.optional)
            if self.settings.variant != choice.AUTO:
                choice.pinned(contract, self.settings.variant)  # which it has not
        running = running.on(session.options)
        alone = Chosen(variant, "only", variant.reason)
        chosen = alone if entry is None else choice.as_tuned(variant, entry)
        chosen = told(place, chosen, running, entry)
        return Opened(contract, chosen, session, options.reshapes), running


def _check(session: Session, directory: Path, samples: Golden, variant: str) -> None:
    try:
        golden.check(session.run, directory, samples, variant=variant)
    except ModelUnusable as error:  # the first run of all, which takes most of the memory
        if full := memory_full(str(error), session.options):
            raise ModelUnusable(f"{directory}: {full}", told=full) from error
        raise


def tuned_here(
    directory: Path, variants: Sequence[Variant], *, fingerprint: str = "", units: int = 0
) -> tuned.Here:
    """What holds of what was tuned for a version, on this hardware and for these files.

    Args:
        directory: the version's.
        variants: of it.
        fingerprint: of the hardware that it runs on; this CPU's where it is empty.
        units: CPUs, or GPUs, of it; with a fingerprint.

    Raises:
        ModelUnusable: ``tuned.json`` cannot be read.
    """
    digests = {variant.name: variant.sha256 for variant in variants}
    mark, count = fingerprint or hardware.fingerprint(), units or hardware.cpus()
    return tuned.here(directory, digests, fingerprint=mark, cpus=count)


def _nothing(variants: Sequence[Variant]) -> None: ...


def _missing(directory: Path, file: str) -> ModelUnusable:
    sentence = f"there is neither {manifest.FILENAME} nor {file}"
    others = sorted(path.name for path in directory.glob("*.onnx"))
    hint = f"; name {others[0]} in config.pbtxt as default_model_filename" if others else ""
    return ModelUnusable(f"{directory}: {sentence}{hint}", told=sentence)


def _check_name(contract: Manifest, name: str, directory: Path) -> None:
    if contract.name != name:
        sentence = f"the manifest describes '{contract.name}'; its directory says '{name}'"
        raise ModelUnusable(f"{directory}: {sentence}", told=sentence)


def _only(path: Path) -> Variant:
    """An ONNX file that nobody converted or verified here."""
    return Variant(
        name=AS_IT_IS,
        accepted=True,
        reason="served as it is; there is no manifest",
        file=path.name,
        sha256=manifest.sha256_of(path),
        bytes=path.stat().st_size,
    )


def _bare(name: str, session: Session, variant: Variant) -> Manifest:
    return Manifest(name, session.batched, session.inputs, session.outputs, (variant,))


def _under(options: Options, contract: Manifest) -> Manifest:
    """The contract without a batch, where config.pbtxt says that there is none."""
    if options.max_batch == 0 and contract.batched:
        return replace(contract, batched=False)
    return contract
