"""System shared memory: files of /dev/shm that a client made, registered by name, read and written.

Whoever may call the RPCs names the files, so the server trusts neither the names nor the sizes:

- Only regular files that lie directly in one directory; no link is followed, no pipe waited for.
- Every slot is looked at when it is used: a file may have shrunk since its registration.
- Bytes are copied by ``pread`` and ``pwrite``. Of a mapped file that its owner shrinks, the next
  access is a SIGBUS: one client could end the server.
- What was read is a copy, so that it cannot change between a check and its use.
"""

from __future__ import annotations

import os
import re
import resource
import stat
import weakref
from dataclasses import dataclass, field
from pathlib import Path

from service import slots
from service.errors import InvalidInput

_KEY = re.compile(r"/?([A-Za-z0-9_-][A-Za-z0-9_.-]{0,254})")
# POSIX semaphores, and what a Triton on this machine shares with its Python backends.
_OTHERS = ("sem.", "triton_python_backend_shm_region_")
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_ONE_TRANSFER = 0x7FFFF000  # the most bytes that Linux moves at once


class _File:
    """An open file, closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, _FLAGS)
        weakref.finalize(self, os.close, self.fd)


@dataclass(frozen=True)
class Region:
    """A registered part of a file.

    Attributes:
        name: what requests call it.
        key: what its maker called the file.
        offset: bytes before it in the file.
        byte_size: of the region.
    """

    name: str
    key: str
    offset: int
    byte_size: int
    _file: _File = field(repr=False, compare=False)


@dataclass(frozen=True)
class FileSlot:
    """Bytes of a region, for one tensor; see ``slots.Slot``."""

    region: str
    offset: int
    byte_size: int
    _file: _File = field(repr=False, compare=False)
    _start: int = field(repr=False)

    def read(self) -> bytes:
        """A copy of its bytes.

        Raises:
            InvalidInput: the file has shrunk.
        """
        self._check()
        try:
            data = os.pread(self._file.fd, self.byte_size, self._start)
        except OSError:
            raise slots.unusable(self.region) from None
        if len(data) != self.byte_size:
            raise self._shrunk()
        return data

    def write(self, data: bytes) -> None:
        """Put these bytes at its start; none past its end.

        Raises:
            InvalidInput: they are more than it holds, or the file has shrunk.
        """
        slots.check_fits(self.region, len(data), self.byte_size)
        self._check()
        try:
            written = os.pwrite(self._file.fd, data, self._start)
        except OSError:  # the machine's shared memory is full
            raise slots.unusable(self.region) from None
        if written != len(data):
            raise slots.unusable(self.region)

    def _check(self) -> None:
        # Beyond the end a write would make the file longer.
        if os.fstat(self._file.fd).st_size < self._start + self.byte_size:
            raise self._shrunk()

    def _shrunk(self) -> InvalidInput:
        return InvalidInput(
            f"the file of shared memory region '{self.region}' has shrunk since it was registered; "
            "register it again"
        )


class Regions(slots.Named[Region]):
    """All regions that are registered."""

    def __init__(
        self, directory: Path = Path("/dev/shm"), *, max_name: int = 256, most: int = 1024
    ) -> None:
        """Start without any.

        Args:
            directory: where the files are.
            max_name: bytes of a region's name.
            most: regions at the same time; fewer where this process may open few files.
        """
        # Each holds a file open, and calls need some too.
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        super().__init__(
            max_name, most if files == resource.RLIM_INFINITY else min(most, files // 4)
        )
        self._directory = directory

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Make part of a file known under a name.

        Args:
            name: for requests; must be new.
            key: the file's, as ``shm_open`` takes it, with or without a slash before it.
            offset: bytes before the region in the file.
            byte_size: of the region.

        Raises:
            InvalidInput: the name is taken, or there is no such file, or it is too short, or too
                many regions are registered.
        """
        self.check_new(name)
        file = self._open(key)
        size = os.fstat(file.fd).st_size
        if offset < 0 or byte_size <= 0 or offset + byte_size > size:
            raise InvalidInput(
                f"the shared memory file has {size} bytes; offset {offset} and size {byte_size} do "
                "not lie within it"
            )
        self._regions[name] = Region(name, key, offset, byte_size, file)

    def slot(self, name: str, offset: int, byte_size: int) -> FileSlot:
        """Part of a region, for one tensor.

        Args:
            name: the region's.
            offset: bytes before the slot in the region.
            byte_size: of the slot.

        Raises:
            InvalidInput: there is no such region, or it is too short.
        """
        region = self.known(name)
        slots.check_within(name, region.byte_size, offset, byte_size)
        if byte_size > _ONE_TRANSFER:
            raise InvalidInput(
                f"a tensor in shared memory has at most {_ONE_TRANSFER} bytes; this has {byte_size}"
            )
        return FileSlot(name, offset, byte_size, region._file, region.offset + offset)

    def _open(self, key: str) -> _File:
        match = _KEY.fullmatch(key)
        if match is None or match[1].startswith(_OTHERS):
            raise InvalidInput(
                "a shared memory key names a file in the machine's shared memory: letters, digits, "
                "'_', '-' and '.', not first a '.', at most 255, and no semaphore"
            )
        try:
            file = _File(self._directory / match[1])
        except OSError:
            # Why is not told: it would tell which files there are.
            raise InvalidInput(
                "there is no shared memory file of that key that this server may read and write; "
                "create it before it is registered"
            ) from None
        if not stat.S_ISREG(os.fstat(file.fd).st_mode):
            raise InvalidInput("the shared memory key names something that is no file")
        return file
