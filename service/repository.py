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

from service import layout, loading, log
from service.errors import (
    Draining,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ModelUnusable,
)
from service.index import Index, State, Status
from service.layout import Mark, Place
from service.loading import Loaded, Loader
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
        self.book = book or Book()
        self._settings = settings
        self._loader = Loader(settings, self.book, clock)
        # Replaced as a whole, never changed: other threads read it (metrics).
        self._live: Mapping[str, Versions] = {}
        self._index = Index()
        self._seen: dict[str, tuple[Mark, ...]] = {}
        self._listeners: list[OnChange] = []
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._draining = False

    def load_all(self) -> None:
        """Load what is there, before anyone asks for it.

        Raises:
            ModelUnusable: there is no model, or one of them cannot be served and
                ``exit_on_error`` is set.
        """
        settings = self._settings
        places = layout.places(settings.repository)
        if not places and not (settings.poll_s or settings.control != "none"):
            raise layout.no_model(settings.repository)
        for name, place in places.items():
            self._seen[name] = loading.marks(place)
            loaded = self._loader.load(place, {})
            if loaded.failures and settings.exit_on_error:
                raise next(iter(loaded.failures.values()))
            self._swap(name, loaded)

    @property
    def draining(self) -> bool:
        """Whether the server is going away."""
        return self._draining

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
            raise ModelNotFound("this server has no model of that name")
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

    async def load(self, name: str, options: Options | None = None, place: Place | None = None
                   ) -> None:  # fmt: skip
        """Load a model, or what changed in it; callers notice nothing but the new answers.

        Args:
            name: of a model on disk.
            options: instead of those in its config.pbtxt.
            place: instead of the repository's.

        Raises:
            ModelNotFound: there is no such model on disk.
            InvalidInput: it cannot be loaded; what was serving still is.
            Draining: the server is going away.
        """
        await self._alone(self._change(name, options, place))

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
            places = await asyncio.to_thread(layout.places, self._settings.repository)
        except (ModelUnusable, OSError):
            log.exception("the repository cannot be read; what is served stays")
            return
        for name, place in places.items():
            if await asyncio.to_thread(loading.marks, place) == self._seen.get(name):
                continue
            try:
                await self.load(name)
            except (InvalidInput, ModelNotFound, Draining) as error:
                log.warning("a changed model was refused", model=name, reason=str(error))
        for name in set(self._seen) - set(places):
            await self._alone(self._remove(name))
            self._seen.pop(name, None)
            self._index.forget(name)

    async def drain(self, timeout_s: float) -> bool:
        """Take no new work, finish what was accepted, then close the models.

        Returns:
            Whether all of it was finished in time.
        """
        self._draining = True
        models = list(self)
        changes = list(self._tasks)  # loads under way, and versions that finish their work
        finished = await asyncio.gather(*(m.batcher.drain(timeout_s) for m in models))
        waited = await asyncio.wait(changes, timeout=timeout_s) if changes else (set(), set())
        if waited[1] or not all(finished):
            return False
        for one in self:  # a load that was under way may have brought more
            one.close()
        return True

    async def _alone(self, change: Coroutine[Any, Any, None]) -> None:
        """One change at a time, and to its end even if whoever asked for it leaves."""

        async def locked() -> None:
            async with self._changing:
                await change

        task = asyncio.create_task(locked())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _change(self, name: str, options: Options | None, place: Place | None) -> None:
        if self._draining:
            raise Draining("the server is shutting down and loads no more models")
        found = place or self._place(name)
        serving = self._live.get(name, {})
        for available in map(str, found.available()):
            if available not in serving:
                self._index.note(name, available, State.LOADING)
        if place is None:
            self._seen[name] = await asyncio.to_thread(loading.marks, found)
        loaded = await asyncio.to_thread(self._loader.load, found, serving, options)
        self._swap(name, loaded)
        if loaded.failures:
            version, error = next(iter(loaded.failures.items()))
            raise InvalidInput(f"version {version} cannot be loaded: {error.told}")

    def _place(self, name: str) -> Place:
        place = None
        if layout.inside(name):
            place = layout.places(self._settings.repository).get(name)
        if place is None or not place.exists():
            raise ModelNotFound("the repository has no model of that name")
        return place

    def _swap(self, name: str, loaded: Loaded) -> None:
        """Make new versions live, in one step; what failed leaves the old ones serving."""
        old = self._live.get(name, {})
        kept = {v: m for v, m in old.items() if v not in loaded.models} if loaded.failures else {}
        new = {**kept, **loaded.models}
        live = {**self._live, name: new}
        if not new:
            del live[name]
        self._live = live
        self._index.forget(name, State.LOADING)
        for version, error in loaded.failures.items():
            log.warning("a model cannot be loaded", model=name, version=version, reason=str(error))
            self._index.note(name, version, State.UNAVAILABLE, error.told)
        for version in new:
            failed = loaded.failures.get(version)
            reason = (
                f"still the one before; its successor was refused: {failed.told}" if failed else ""
            )
            self._index.note(name, version, State.READY, reason)
        for version, one in loaded.models.items():
            if old.get(version) is not one:
                log.info("loaded", model=name, version=version, variant=one.variant.name,
                         why=one.why, figures=dict(one.chosen.figures or one.variant.figures),
                         seconds=round(one.load_s, 3))  # fmt: skip
        self._retire(name, [m for v, m in old.items() if new.get(v) is not m])
        self._tell(name)

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
                self._index.note(name, one.version, State.UNLOADING)
            task = asyncio.get_running_loop().create_task(self._finish(name, one))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _finish(self, name: str, one: Model) -> None:
        await one.batcher.drain(None)
        await asyncio.to_thread(one.close)  # milliseconds, for a large one
        status = self._index.of(name).get(one.version)
        if status and status.state is State.UNLOADING:
            self._index.note(name, one.version, State.UNAVAILABLE, "unloaded")

    def _tell(self, name: str) -> None:
        for listener in self._listeners:
            listener(name, name in self._live)


def load(
    settings: Settings, *, book: Book | None = None, clock: Callable[[], float] = time.monotonic
) -> Repository:
    """A repository with everything under ``settings.repository`` loaded, warmed up and checked.

    Raises:
        ModelUnusable: there is no model, or one of them cannot be served as it is.
    """
    repository = Repository(settings, book=book, clock=clock)
    repository.load_all()
    return repository
