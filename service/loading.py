"""Models from disk: what is there, and the versions that a policy asks for, or why they fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from service import layout, log, model
from service.errors import ModelUnusable
from service.layout import Mark, Place
from service.model import Model
from service.modelconfig import Options
from service.settings import Settings
from service.statistics import Book

# version -> what changes when its files do
Marks = Mapping[str, Mark]
# (version, file name) -> content
Files = Mapping[tuple[str, str], bytes]


@dataclass(frozen=True)
class Loaded:
    """What came of loading one model.

    Attributes:
        models: version -> ready model, those that stayed as they were included.
        failures: version -> why it cannot be served.
    """

    models: dict[str, Model] = field(default_factory=dict)
    failures: dict[str, ModelUnusable] = field(default_factory=dict)


@dataclass(frozen=True)
class Loader:
    """All that reads the repository; may be called on any thread.

    Attributes:
        settings: where the models lie, and how they run.
        book: where their doings are counted.
        clock: the batchers'.
    """

    settings: Settings
    book: Book
    clock: Callable[[], float]
    # what the log has been told of
    _skipped: set[str] = field(default_factory=set, init=False, compare=False)

    def look(self) -> dict[str, Marks]:
        """The models on disk, and what changes when they do; what is newly skipped is logged.

        Raises:
            ModelUnusable: the repository is no repository.
            OSError: it cannot be read.
        """
        places = layout.places(self.settings.repository)
        skipped = layout.skipped(self.settings.repository)
        for sentence in skipped:
            if sentence not in self._skipped:
                log.warning(sentence)
        self._skipped.clear()
        self._skipped.update(skipped)
        return {name: _marks(place) for name, place in places.items()}

    def look_at(self, name: str) -> Marks:
        """One model on disk; empty if there is none. Raises as ``look`` does."""
        place = layout.place(self.settings.repository, name)
        return _marks(place) if place and place.exists() else {}

    def load(
        self,
        name: str,
        serving: Mapping[str, Model],
        given: Options | None = None,
        files: Files | None = None,
    ) -> Loaded:
        """The versions that the policy asks for; those that did not change stay as they are.

        Args:
            name: the model's.
            serving: version -> what serves now.
            given: options instead of those in its config.pbtxt; they win over what was tuned.
            files: instead of those on disk.

        Raises:
            ModelUnusable: there is nothing to be loaded, or no place for the files.
        """
        if files:
            with layout.placed(name, files) as place:
                return self._load(place, serving, given or Options(name=name))
        try:
            found = layout.place(self.settings.repository, name)
        except OSError as error:
            raise ModelUnusable(_unreadable(error), told="the repository cannot be read") from error
        if found is None or not found.exists():
            raise ModelUnusable(f"model '{name}' is gone", told="it is not there any more")
        return self._load(found, serving, given)

    def _load(self, place: Place, serving: Mapping[str, Model], given: Options | None) -> Loaded:
        available = place.available()
        try:
            options = replace(given, requested=True) if given else place.options()
            wanted = place.picked(options)
        except ModelUnusable as error:
            return Loaded(failures={str(version): error for version in available[-1:]})
        result = Loaded()
        for version in wanted:
            try:
                one = self._one(place, version, options, serving.get(str(version)))
                result.models[str(version)] = one
            except ModelUnusable as error:
                result.failures[str(version)] = error
        return result

    def _one(self, place: Place, version: int, options: Options, old: Model | None) -> Model:
        settings, book, clock = self.settings, self.book, self.clock
        try:
            if old and old.mark == place.mark(version) and old.options == options:
                return old
            return model.load(place, version, options, settings=settings, book=book, clock=clock)
        except ModelUnusable:
            raise
        except OSError as error:
            raise ModelUnusable(_unreadable(error), told="its files cannot be read") from error
        except Exception as error:  # a mistake of ours must not take the other models along
            log.exception("unexpected error while loading", model=place.name, version=version)
            raise ModelUnusable("unexpected error while loading") from error


def _marks(place: Place) -> Marks:
    return {str(version): place.mark(version) for version in place.available()}


def _unreadable(error: OSError) -> str:
    told = f"{error.filename} cannot be read: {error.strerror}" if error.filename else str(error)
    if isinstance(error, PermissionError) and hasattr(os, "geteuid"):
        return f"{told}; let the user with the id {os.geteuid()} read it"
    return told
