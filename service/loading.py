"""One model from disk: the versions that its policy asks for, or why they cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from service import model
from service.errors import ModelUnusable
from service.layout import Mark, Place
from service.model import Model
from service.modelconfig import Options
from service.settings import Settings
from service.statistics import Book


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
    """Loads models with one server's settings; may be called on any thread.

    Attributes:
        settings: how models run.
        book: where their doings are counted.
        clock: the batchers'.
    """

    settings: Settings
    book: Book
    clock: Callable[[], float]

    def load(
        self, place: Place, serving: Mapping[str, Model], given: Options | None = None
    ) -> Loaded:
        """The versions that the policy asks for; those that did not change stay as they are.

        Args:
            place: where the model lies.
            serving: version -> what serves now.
            given: options instead of those in its config.pbtxt.
        """
        result = Loaded()
        try:
            options = given or place.options()
            wanted = options.versions.pick(place.available())
            if not wanted:
                sentence = f"model '{place.name}' has none of the versions that its policy asks for"
                raise ModelUnusable(sentence, told=sentence)
        except ModelUnusable as error:
            result.failures.update({str(version): error for version in place.available()[-1:]})
            return result
        for version in wanted:
            old = serving.get(str(version))
            if old and old.mark == place.mark(version) and old.options == options:
                result.models[str(version)] = old
                continue
            try:
                result.models[str(version)] = self._one(place, version, options)
            except ModelUnusable as error:
                result.failures[str(version)] = error
        return result

    def _one(self, place: Place, version: int, options: Options) -> Model:
        try:
            return model.load(
                place, version, options, settings=self.settings, book=self.book, clock=self.clock
            )
        except OSError as error:
            raise ModelUnusable(str(error), told="its files cannot be read") from error


def marks(place: Place) -> tuple[Mark, ...]:
    """What changes when anything of a model changes on disk."""
    return tuple(place.mark(version) for version in place.available())
