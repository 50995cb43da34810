"""What became of every version that this server has seen, in Triton's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Of one version, in Triton's words."""

    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"


@dataclass(frozen=True)
class Status:
    """One line of the index; ``reason`` may be told to callers."""

    name: str
    version: str
    state: State
    reason: str = ""


class Index:
    """The last status of each version."""

    def __init__(self) -> None:
        """Know of nothing."""
        self._statuses: dict[tuple[str, str], Status] = {}

    def note(self, name: str, version: str, state: State, reason: str = "") -> None:
        """Replace what is known of a version."""
        self._statuses[name, version] = Status(name, version, state, reason)

    def of(self, name: str) -> dict[str, Status]:
        """The versions of one model; empty if there is no such model."""
        return {s.version: s for s in tuple(self._statuses.values()) if s.name == name}

    def all(self) -> list[Status]:
        """Everything, in the order of names and versions."""
        return sorted(
            self._statuses.values(), key=lambda status: (status.name, int(status.version))
        )

    def forget(self, name: str) -> None:
        """Drop all versions of a model."""
        for version in self.of(name):
            del self._statuses[name, version]

    def settle(self, name: str, before: Mapping[str, Status]) -> None:
        """What is still loading becomes what it was before, now that nothing is loaded any more."""
        for version, status in self.of(name).items():
            if status.state is not State.LOADING:
                continue
            del self._statuses[name, version]
            if version in before:
                self._statuses[name, version] = before[version]
