"""Pure: what shared memory of any kind has in common: slots for tensors, names, bounds."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from service.errors import InvalidInput

R = TypeVar("R")


class Slot(Protocol):
    """Bytes of a region, for one tensor; stays usable when the region is unregistered."""

    @property
    def region(self) -> str:
        """The region's name."""

    @property
    def offset(self) -> int:
        """Bytes before it in the region."""

    @property
    def byte_size(self) -> int:
        """Of the slot."""

    def read(self) -> bytes:
        """A copy of its bytes.

        Raises:
            InvalidInput: they can't be had any more.
        """

    def write(self, data: bytes) -> None:
        """Put these bytes at its start; none past its end.

        Raises:
            InvalidInput: they are more than it holds, or can't be put there any more.
        """


def check_name(name: str, most: int) -> None:
    """Refuse a region's name of more than so many bytes.

    Raises:
        InvalidInput: saying how long it may be.
    """
    if len(name.encode()) > most:
        raise InvalidInput(f"the name of a shared memory region has at most {most} bytes")


class Slots(Protocol):
    """Where slots are found."""

    def slot(self, name: str, offset: int, byte_size: int) -> Slot:
        """Part of a region, for one tensor.

        Args:
            name: the region's.
            offset: bytes before the slot in the region.
            byte_size: of the slot.

        Raises:
            InvalidInput: there is no such region, or it is too short.
        """


class Named(Generic[R]):
    """Regions of one kind, by their names."""

    def __init__(self, max_name: int, most: int) -> None:
        """Start without any.

        Args:
            max_name: bytes of a region's name.
            most: regions at the same time.
        """
        self._max_name, self._most = max_name, most
        self._regions: dict[str, R] = {}
        self._coming: set[str] = set()  # names of those that are being opened

    def __contains__(self, name: str) -> bool:
        """Whether a region has this name, or is about to."""
        return name in self._regions or name in self._coming

    def check_new(self, name: str) -> None:
        """Refuse to register this name.

        Raises:
            InvalidInput: it is empty, too long or taken, or there are too many.
        """
        check_name(name, self._max_name)
        registered = len(self._regions) + len(self._coming)
        check_new(name, taken=name in self, registered=registered, most=self._most)

    def unregister(self, name: str) -> None:
        """Forget a region, or all where the name is empty; requests that use it finish first.

        A name that is not known is none after this either, so it is no mistake (as in Triton).
        """
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def status(self, name: str) -> list[R]:
        """The region of that name, or all where it is empty.

        Raises:
            InvalidInput: there is none.
        """
        return [self.known(name)] if name else list(self._regions.values())

    def known(self, name: str) -> R:
        """The region of that name; any thread may ask.

        Raises:
            InvalidInput: there is none.
        """
        check_name(name, self._max_name)
        region = self._regions.get(name)
        if region is None:
            raise unknown(name)
        return region


def check_new(name: str, *, taken: bool, registered: int = 0, most: int = 1) -> None:
    """Refuse to register this name.

    Args:
        name: of the region to be.
        taken: whether there is one of that name.
        registered: how many there are.
        most: how many there may be.

    Raises:
        InvalidInput: it is empty or taken, or there are too many.
    """
    if not name:
        raise InvalidInput("a shared memory region needs a name")
    if taken:
        raise InvalidInput(
            f"shared memory region '{name}' is already registered; unregister it first"
        )
    if registered >= most:
        raise InvalidInput(f"{most} shared memory regions are registered; unregister some first")


def check_within(name: str, nbytes: int, offset: int, byte_size: int) -> None:
    """Refuse a slot that does not lie within its region.

    Raises:
        InvalidInput: saying how large the region is.
    """
    if offset < 0 or byte_size < 0 or offset + byte_size > nbytes:
        raise InvalidInput(
            f"shared memory region '{name}' has {nbytes} bytes; offset {offset} and "
            f"size {byte_size} do not lie within it"
        )


def check_fits(name: str, nbytes: int, byte_size: int) -> None:
    """Refuse more bytes than a slot holds.

    Raises:
        InvalidInput: saying how many it holds.
    """
    if nbytes > byte_size:
        raise InvalidInput(
            f"{nbytes} bytes do not fit into the {byte_size} bytes of shared memory region "
            f"'{name}' that are set aside for them; set aside more"
        )


def unknown(name: str) -> InvalidInput:
    """That no region has this name."""
    return InvalidInput(f"no shared memory region '{name}' is registered; register it first")


def unusable(name: str) -> InvalidInput:
    """That a region's memory is gone."""
    return InvalidInput(
        f"shared memory region '{name}' cannot be read or written any more; make it anew"
    )
