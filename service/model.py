"""One version of a model: from files to something that answers, checked before anyone asks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from service import cputime, log
from service.account import Account
from service.batcher import Batcher
from service.batching import Limits
from service.bill import NO_MODEL, WARM_UP
from service.choice import Chosen
from service.layout import Mark, Place
from service.ledger import Ticket
from service.manifest import Manifest, Variant
from service.modelconfig import Options
from service.opening import labels, open_version
from service.precedence import Running, warn_of_too_many
from service.session import Session, kept
from service.settings import Settings
from service.statistics import Book, Tally

Clock = Callable[[], float]

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
        max_rows: of one run; a request with more is run in parts.
        running: the options it runs with.
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
    running: Running
    target_s: float | None
    batcher: Batcher
    tally: Tally
    label_texts: Mapping[str, tuple[str, ...]]
    load_s: float
    mark: Mark
    _session: Session
    _executor: ThreadPoolExecutor

    @property
    def instances(self) -> int:
        """Runs at the same time."""
        return self.running.instances

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

    The ledger pays for it as warm-up, also where it fails.

    Raises:
        ModelUnusable: it cannot be served as it is.
    """
    ticket = Ticket(NO_MODEL, 1)  # until its variant is chosen: names are the clients' own
    loading = Account(book.ledger, NO_MODEL, threads=0)
    book.ledger.begin(ticket, loading.beside)
    try:
        with cputime.computing(), loading.paying(ticket):
            return _load(place, version, options, settings, book, clock=clock, ticket=ticket)
    finally:
        book.ledger.end(ticket, WARM_UP)


def _load(
    place: Place,
    version: int,
    options: Options,
    settings: Settings,
    book: Book,
    *,
    clock: Clock,
    ticket: Ticket,
) -> Model:
    started, mark = clock(), place.mark(version)
    opened, running = open_version(place, version, options, settings=settings, clock=clock)
    contract, chosen, instances = opened.contract, opened.chosen, running.instances
    account = Account(book.ledger, (contract.name, str(version), chosen.variant.name),
                      threads=book.ledger.unit.beside * running.session.threads)  # fmt: skip
    ticket.labels = account.labels
    book.ledger.know(account.labels)
    book.ledger.begin(ticket, account.threads)
    with place.named(), kept(opened.session):  # a GPU's memory is not the garbage collector's
        on_gpu = running.session.devices[0].is_gpu
        _warn(place.name, options.gpu.warnings if on_gpu else options.warnings)
        warn_of_too_many(place.name, running)
        max_rows = running.max_batch if contract.batched else 1
        latency = opened.warm_up(max_rows, options.warmups, place.directory, clock)
        label_texts = labels(place, options)
        running = running.on(opened.session.options)  # without what could not be recorded
    executor = ThreadPoolExecutor(
        instances, thread_name_prefix=place.name, initializer=cputime.computes
    )
    tally = book.tally(account.labels)
    limits = limits_of(running, settings, options, max_rows, batched=contract.batched)
    limits = replace(limits, in_place_rows=opened.quick_rows(max_rows, executor, clock, latency))
    batcher = Batcher(opened.runs, limits, executor=executor, clock=clock, on_run=tally.executed,
                      latency=latency, account=account)  # fmt: skip
    return Model(
        manifest=contract,
        version=str(version),
        chosen=chosen,
        options=options,
        max_rows=max_rows,
        running=running,
        target_s=(options.latency_target_ms or settings.latency_target_ms) / 1000 or None,
        batcher=batcher,
        tally=tally,
        label_texts=label_texts,
        load_s=clock() - started,
        mark=mark,
        _session=opened.session,
        _executor=executor,
    )


def _warn(name: str, warnings: tuple[str, ...]) -> None:
    for warning in warnings[:_WARNINGS]:
        log.warning(warning[:_LONGEST], model=name)
    if len(warnings) > _WARNINGS:
        log.warning("its config has further parts without effect", model=name,
                    parts=len(warnings) - _WARNINGS)  # fmt: skip


def limits_of(
    running: Running, settings: Settings, options: Options, max_rows: int, *, batched: bool
) -> Limits:
    """How much a version's batcher takes on, of runs of so many rows."""
    return Limits(
        max_rows=max_rows,
        max_queue_rows=settings.max_queue_rows,
        max_queue_bytes=settings.max_queue_mib * 2**20,
        max_joined_bytes=settings.max_message_mib * 2**20,
        instances=running.instances,
        gpus=sum(device.is_gpu for device in running.session.devices),
        batched=batched,
        priority_levels=options.priority_levels,
        default_priority=options.default_priority,
        default_policy=options.queue,
        policies=options.queues,
    )
