"""One version of a model: from files to something that answers, checked before anyone asks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from service import choice, golden, log, manifest, modelconfig, warmup
from service.batcher import Batcher
from service.batching import Limits
from service.choice import Chosen
from service.errors import ModelUnusable
from service.layout import Mark, Place
from service.manifest import Manifest, Variant
from service.modelconfig import Options
from service.opened import Opened
from service.session import Session, SessionOptions
from service.settings import Settings
from service.statistics import Book, Tally
from service.variants import Opener, Timing, check_tensors, choose, session_options

Clock = Callable[[], float]

# The only variant of a file that nobody converted here; it may be of any precision.
AS_IT_IS = "as-is"
_MAX_BATCH = 16
# Of a config that has no effect; one from a client may have thousands of such fields.
_WARNINGS, _LONGEST = 20, 500


@dataclass(frozen=True)
class Model:
    """One version of a model, loaded, warmed up and ready.

    Attributes:
        manifest: its contract, with tensors as callers send them.
        version: a positive number, as text.
        chosen: the variant it serves, how that was chosen and why.
        options: what its config.pbtxt says.
        max_rows: of one request, and of one run.
        instances: runs at the same time.
        target_s: from a call's arrival until its answer is worthless; None for no such target.
        batcher: forms its runs.
        tally: what it has done so far.
        label_texts: output -> a text for each class.
        load_s: what loading, checking and warming up took.
        mark: of the files it was loaded from.
    """

    manifest: Manifest
    version: str
    chosen: Chosen
    options: Options
    max_rows: int
    instances: int
    target_s: float | None
    batcher: Batcher
    tally: Tally
    label_texts: Mapping[str, tuple[str, ...]]
    load_s: float
    mark: Mark
    _session: Session
    _executor: ThreadPoolExecutor

    @property
    def variant(self) -> Variant:
        """The variant it serves."""
        return self.chosen.variant

    @property
    def why(self) -> str:
        """Why it serves that variant."""
        return self.chosen.why

    @property
    def labels(self) -> tuple[str, str, str]:
        """Model, version and variant, as metrics name them."""
        return self.manifest.name, self.version, self.variant.name

    def close(self) -> None:
        """Give the memory back; nobody may be running it any more."""
        self._executor.shutdown(wait=False)
        self._session.close()


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
    return _bare(path, name or path.stem, Session(path, SessionOptions(threads=1)))


def load(
    place: Place,
    version: int,
    options: Options,
    *,
    settings: Settings,
    book: Book,
    clock: Clock,
) -> Model:
    """Load one version, choose its variant, warm it up and check its answers.

    Raises:
        ModelUnusable: it cannot be served as it is.
    """
    started, mark = clock(), place.mark(version)
    directory = place.version_directory(version)
    instances = settings.instances or options.instances or 1
    full = settings.max_batch or options.max_batch or _MAX_BATCH
    opener = Opener(directory, session_options(settings, options, instances))
    with place.named():
        if _is_published(place, directory):
            opened = _published(place, options, settings.variant, opener, Timing(full, clock))
        else:
            opened = _as_it_is(place, options, settings.variant, opener)
        contract, chosen = opened.contract, opened.chosen
        _warn(place.name, options.warnings)
        max_rows = full if contract.batched else 1
        latency = opened.warm_up(max_rows, options.warmups, place.directory, clock)
        labels = _labels(place, options)
    executor = ThreadPoolExecutor(instances, thread_name_prefix=place.name)
    tally = book.tally((contract.name, str(version), chosen.variant.name))
    limits = _limits(settings, options, max_rows, instances, batched=contract.batched)
    return Model(
        manifest=contract,
        version=str(version),
        chosen=chosen,
        options=options,
        max_rows=max_rows,
        instances=instances,
        target_s=(options.latency_target_ms or settings.latency_target_ms) / 1000 or None,
        batcher=Batcher(
            opened.run,
            limits,
            executor=executor,
            clock=clock,
            on_run=tally.executed,
            latency=latency,
        ),
        tally=tally,
        label_texts=labels,
        load_s=clock() - started,
        mark=mark,
        _session=opened.session,
        _executor=executor,
    )


def checked(place: Place, version: int, options: Options) -> Manifest:
    """The contract of one version on disk, checked as by ``load``, but nothing is run.

    Raises:
        ModelUnusable: ``load`` would refuse it.
    """
    directory = place.version_directory(version)
    with place.named():
        if _is_published(place, directory):
            contract = _contract(place, options, directory)
            for variant in map(contract.variant, contract.published):
                manifest.check_digest(directory / str(variant.file), variant)
        else:
            opener = Opener(directory, session_options(Settings(), options, 1))
            opened = _as_it_is(place, options, choice.AUTO, opener)
            opened.session.close()
            contract = opened.contract
        for sample in options.warmups:
            next(warmup.feeds(sample, contract, place.directory), None)
        _labels(place, options)
    return contract


def _is_published(place: Place, directory: Path) -> bool:
    return (directory / manifest.FILENAME).exists() and not place.single


def _labels(place: Place, options: Options) -> dict[str, tuple[str, ...]]:
    files = options.labels.items()
    return {name: modelconfig.read_labels(place.directory / file) for name, file in files}


def _contract(place: Place, options: Options, directory: Path) -> Manifest:
    contract = manifest.load(directory)
    _check_name(contract, place.name, directory)
    contract = _under(options, contract)
    modelconfig.applied(modelconfig.fitted(options, contract), contract)  # or it is refused
    return contract


def _published(
    place: Place, options: Options, wanted: str, opener: Opener, timing: Timing
) -> Opened:
    """By its manifest, which says what callers send whatever config.pbtxt reshapes for Triton."""
    contract = _contract(place, options, opener.directory)
    chosen, session = choose(contract, wanted, opener, timing)
    check_tensors(contract, session, opener.directory / str(chosen.variant.file))
    if contract.golden is not None:
        golden.check(session.run, opener.directory, contract.golden, variant=chosen.variant.name)
    return Opened(contract, chosen, session)


def _as_it_is(place: Place, options: Options, wanted: str, opener: Opener) -> Opened:
    """A file that nobody converted here, with the tensors that config.pbtxt gives it."""
    path = opener.directory / (place.single or options.filename)
    if not path.is_file():
        raise _missing(opener.directory, path.name)
    session = opener(path)
    contract = _under(options, _bare(path, place.name, session))
    options = modelconfig.fitted(options, contract)
    contract = modelconfig.applied(options, contract, session.optional)
    if wanted != choice.AUTO:
        contract.variant(wanted)  # which it has not
    chosen = Chosen(contract.variants[0], "only", "served as it is; there is no manifest")
    return Opened(contract, chosen, session, options.reshapes)


def _missing(directory: Path, file: str) -> ModelUnusable:
    sentence = f"there is neither {manifest.FILENAME} nor {file}"
    others = sorted(path.name for path in directory.glob("*.onnx"))
    hint = f"; name {others[0]} in config.pbtxt as default_model_filename" if others else ""
    return ModelUnusable(f"{directory}: {sentence}{hint}", told=sentence)


def _warn(name: str, warnings: tuple[str, ...]) -> None:
    for warning in warnings[:_WARNINGS]:
        log.warning(warning[:_LONGEST], model=name)
    if len(warnings) > _WARNINGS:
        log.warning("its config has further parts without effect", model=name,
                    parts=len(warnings) - _WARNINGS)  # fmt: skip


def _check_name(contract: Manifest, name: str, directory: Path) -> None:
    if contract.name != name:
        sentence = f"the manifest describes '{contract.name}'; its directory says '{name}'"
        raise ModelUnusable(f"{directory}: {sentence}", told=sentence)


def _bare(path: Path, name: str, session: Session) -> Manifest:
    """The contract of an ONNX file that nobody converted or verified here."""
    variant = Variant(
        name=AS_IT_IS,
        accepted=True,
        reason="served as it is; there is no manifest",
        file=path.name,
        sha256=manifest.sha256_of(path),
        bytes=path.stat().st_size,
    )
    return Manifest(name, session.batched, session.inputs, session.outputs, (variant,))


def _under(options: Options, contract: Manifest) -> Manifest:
    """The contract without a batch, where config.pbtxt says that there is none."""
    if options.max_batch == 0 and contract.batched:
        return replace(contract, batched=False)
    return contract


def _limits(
    settings: Settings, options: Options, max_rows: int, instances: int, *, batched: bool
) -> Limits:
    return Limits(
        max_rows=max_rows,
        max_queue_rows=settings.max_queue_rows,
        max_queue_bytes=settings.max_queue_mib * 2**20,
        instances=instances,
        batched=batched,
        priority_levels=options.priority_levels,
        default_priority=options.default_priority,
        default_policy=options.queue,
        policies=options.queues,
    )
