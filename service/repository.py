"""The models of one server: which are live, what became of the others, and how that changes.

A change never disturbs callers. The new versions are loaded, warmed and checked on a thread beside
the serving ones; then one assignment on the event loop makes them live, and what they replaced
finishes its accepted work before its memory goes back. What cannot be loaded changes nothing but
the index.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

from service import layout, log
from service.errors import (
    Draining,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ModelUnusable,
    ServingError,
)
from service.index import Index, State, Status
from service.loading import Files, Loaded, Loader, Marks
from service.model import Model
from service.modelconfig import Options
from service.settings import Settings
from service.statistics import Book

OnChange = Callable[[str, bool], None]
Versions = Mapping[str, Model]


class Repository:
    """The models of one server, by name and version."""

    def __init__(
        self,
        settings: Settings,
        *,
        book: Book | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with nothing; ``load_all`` fills it.

        Args:
            settings: where the models lie and how they run.
            book: where their doings are counted.
            clock: the batchers'.
        """
        self.book = book or Book(target_s=settings.latency_target_ms / 1000)
        self._settings = settings
        self._loader = Loader(settings, self.book, clock)
        # Replaced as a whole, never changed: other threads read it (metrics).
        self._live: Mapping[str, Versions] = {}
        self._index = Index()
        self._seen: dict[str, Marks] = {}
        self._listeners: list[OnChange] = []
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._draining = False

    def load_all(self) -> None:
        """Load what is there, before anyone asks for it; ``load`` says what may be raised."""
        settings, self._seen = self._settings, self._loader.look()
        if not self._seen and not (settings.poll_s or settings.control != "none"):
            raise layout.no_model(settings.repository)
        for name in self._seen:
            loaded = self._loader.load(name, {})
            for failure in loaded.failures.values() if settings.exit_on_error else ():
                raise failure
            self._swap(name, loaded)

    def model(self, name: str, version: str = "") -> Model:
        """The model to answer with; without a version, the latest that is ready.

        Raises:
            ModelNotFound: no such name or version.
            ModelNotReady: known, but not loaded.
        """
        versions = self._live.get(name)
        if versions and not version:
            return versions[max(versions, key=int)]
        if versions and version in versions:
            return versions[version]
        known = self._index.of(name)
        if not known:
            raise ModelNotFound("this server has no model of that name; see RepositoryIndex")
        if version and version not in known:
            there = ", ".join(sorted(known))
            raise ModelNotFound(f"that model has no such version here; it has {there}")
        status = known[version or max(known, key=int)]
        raise ModelNotReady(f"the model is {status.state}: {status.reason or 'try again later'}")

    def versions(self, name: str) -> list[str]:
        """The versions of a model that are ready, oldest first."""
        return sorted(self._live.get(name, {}), key=int)

    def index(self) -> list[Status]:
        """Every version that is known, ready or not, in the order of names and versions."""
        return self._index.all()

    def __iter__(self) -> Iterator[Model]:
        """All models that are ready, in the order of their names."""
        live = self._live
        for name in sorted(live):
            yield from live[name].values()

    def on_change(self, listener: OnChange) -> None:
        """Tell this listener of every model now, and whenever one becomes ready or ceases to be."""
        self._listeners.append(listener)
        for name in {status.name for status in self._index.all()}:
            listener(name, name in self._live)

    async def load(
        self, name: str, options: Options | None = None, files: Files | None = None
    ) -> None:
        """Load a model, or what changed in it; callers notice nothing but the new answers.

        Args:
            name: of a model on disk.
            options: instead of those in its config.pbtxt, and of what was tuned.
            files: instead of those on disk, by version and name.

        Raises:
            ModelNotFound: there is no such model on disk.
            InvalidInput: it cannot be loaded; what was serving still is.
            Draining: the server is going away.
        """
        await self._alone(self._change(name, options, files))

    async def unload(self, name: str) -> None:
        """Stop serving a model; accepted work is finished.

        Raises:
            ModelNotFound: there is no such model.
        """
        if not self._index.of(name):
            raise ModelNotFound("this server has no model of that name")
        await self._alone(self._remove(name))

    async def poll(self) -> None:
        """Look at the repository once: load what is new or changed, unload what is gone."""
        try:
            found = await asyncio.to_thread(self._loader.look)
        except (ModelUnusable, OSError):
            log.exception("the repository cannot be read; what is served stays")
            return
        gone = set(self._seen) - set(found)  # before anything is loaded by request meanwhile
        for name, seen in found.items():
            if seen == self._seen.get(name):
                continue
            try:
                await self.load(name)
            except ServingError as error:
                log.warning("a changed model was refused", model=name, reason=str(error))
        for name in gone:
            await self._alone(self._remove_if_gone(name))

    async def drain(self, timeout_s: float) -> bool:
        """Take no new work, finish what was accepted, then close the models.

        Returns:
            Whether all of it was finished in time.
        """
        self._draining = True
        changes = list(self._tasks)  # loads under way, and versions that finish their work
        drains = [asyncio.create_task(model.batcher.drain(timeout_s)) for model in self]
        _, late = await asyncio.wait(changes, timeout=timeout_s) if changes else (set(), set())
        if not all([await drain for drain in drains]) or late:
            return False
        for model in self:
            model.close()
        return True

    async def _alone(self, change: Coroutine[Any, Any, None]) -> None:
        """One change at a time, and to its end even if whoever asked for it leaves."""

        async def locked() -> None:
            async with self._changing:
                await change

        task = asyncio.create_task(locked())
        self._keep(task)
        await asyncio.shield(task)

    def _keep(self, task: asyncio.Task[None]) -> None:
        """The loop itself keeps only weak references, and complains of errors that nobody reads."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _change(self, name: str, options: Options | None, files: Files | None) -> None:
        if self._draining:
            raise _going()
        serving, before = self._live.get(name, {}), self._index.of(name)
        try:
            if files:
                versions = {version for version, _ in files}
            else:
                self._seen[name] = await self._look_at(name)
                versions = set(self._seen[name])
            for version in versions - set(serving):
                self._index.note(name, version, State.LOADING)
            loaded = await asyncio.to_thread(self._loader.load, name, serving, options, files)
            if self._draining:
                for one in (m for v, m in loaded.models.items() if serving.get(v) is not m):
                    one.close()
                raise _going()
            self._swap(name, loaded)
        except (ModelUnusable, OSError) as error:
            log.warning("a model cannot be loaded", model=name, reason=str(error))
            told = error.told if isinstance(error, ModelUnusable) else "its files cannot be read"
            raise InvalidInput(f"the model cannot be loaded: {told}") from None
        finally:
            self._index.settle(name, before)
        for version, failure in loaded.failures.items():
            raise InvalidInput(f"version {version} cannot be loaded: {failure.told}")

    async def _look_at(self, name: str) -> Marks:
        found = await asyncio.to_thread(self._loader.look_at, name)
        if not found:
            raise ModelNotFound("the repository has no model of that name")
        return found

    def _swap(self, name: str, loaded: Loaded) -> None:
        """Make new versions live, in one step; what failed leaves the old ones serving."""
        old = self._live.get(name, {})
        kept = {v: m for v, m in old.items() if v not in loaded.models} if loaded.failures else {}
        new = {**kept, **loaded.models}
        self._live = {n: found for n, found in {**self._live, name: new}.items() if found}
        for version, error in loaded.failures.items():
            log.warning("a model cannot be loaded", model=name, version=version, reason=str(error))
            self._index.note(name, version, State.UNAVAILABLE, error.told)
        for version in new:
            failed = loaded.failures.get(version)
            why = f"the one before; its successor was refused: {failed.told}" if failed else ""
            self._index.note(name, version, State.READY, why)
        for version, one in loaded.models.items():
            if old.get(version) is not one:
                log.info("loaded", model=name, version=version, variant=one.variant.name,
                         why=one.why, figures=dict(one.chosen.figures or one.variant.figures),
                         seconds=round(one.load_s, 3))  # fmt: skip
        self._retire(name, [m for v, m in old.items() if new.get(v) is not m])
        self._tell(name)

    async def _remove_if_gone(self, name: str) -> None:
        try:
            if await asyncio.to_thread(self._loader.look_at, name):
                return
        except (ModelUnusable, OSError):  # the repository itself is gone: that is no reason
            return
        await self._remove(name)
        self._seen.pop(name, None)
        self._index.forget(name)

    async def _remove(self, name: str) -> None:
        old = self._live.get(name, {})
        self._live = {n: versions for n, versions in self._live.items() if n != name}
        for version in set(self._index.of(name)) - set(old):
            self._index.note(name, version, State.UNAVAILABLE, "unloaded")
        self._retire(name, list(old.values()))
        self._tell(name)

    def _retire(self, name: str, models: list[Model]) -> None:
        for one in models:
            if one.version not in self._live.get(name, {}):
                self._index.note(name, one.version, State.UNLOADING, "unloaded")
            self._keep(asyncio.get_running_loop().create_task(self._finish(name, one)))

    async def _finish(self, name: str, one: Model) -> None:
        await one.batcher.drain(None)
        await asyncio.to_thread(one.close)  # milliseconds, for a large one
        log.info("unloaded", model=name, version=one.version, variant=one.variant.name)
        status = self._index.of(name).get(one.version)
        if status and status.state is State.UNLOADING:
            self._index.note(name, one.version, State.UNAVAILABLE, "unloaded")

    def _tell(self, name: str) -> None:
        for listener in self._listeners:
            listener(name, name in self._live)


def _going() -> Draining:
    return Draining("the server is shutting down and loads no more models")


def load(
    settings: Settings, *, book: Book | None = None, clock: Callable[[], float] = time.monotonic
) -> Repository:
    """A repository with everything under ``settings.repository`` loaded, warmed up and checked.

    Raises:
        ModelUnusable: there is no model, or one cannot be served and ``exit_on_error`` is set.
    """
    repository = Repository(settings, book=book, clock=clock)
    repository.load_all()
    return repository
