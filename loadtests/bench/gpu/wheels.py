"""What a folder of wheels holds, and what it lacks; runs on a bare Python, before any install."""

from __future__ import annotations

import email
import glob
import importlib
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_PART = re.compile(r"(.+\.whl)\.part(\d+)")


class WheelsMissing(Exception):
    """A folder of wheels from which nothing can be installed, in one sentence that says why."""


@dataclass(frozen=True)
class Offer:
    """A version of a package that can be had.

    Attributes:
        version: as its distribution says.
        needs: its Requires-Dist, each as written.
    """

    version: str
    needs: tuple[str, ...]


def joined(folder: Path, into: Path) -> list[Path]:
    """Put wheels together that travel in parts, ``NAME.whl.part00``, ``.part01`` and so on.

    Args:
        folder: where the parts are.
        into: where the whole wheels go; one that is there already, as large and newer, stays.

    Raises:
        WheelsMissing: a part is not there, or is of another cut.
    """
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = _PART.fullmatch(path.name)
        if match:
            found.setdefault(match[1], {})[int(match[2])] = path
    wheels = []
    for name, parts in found.items():
        lost = [number for number in range(max(parts) + 1) if number not in parts]
        if lost:
            raise WheelsMissing(f"{folder} has no {name}.part{lost[0]:02d}, and has later parts")
        sizes = [parts[number].stat().st_size for number in sorted(parts)]
        if len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0]:
            raise WheelsMissing(
                f"{folder} has parts of {name} of different cuts: delete them all, and copy them "
                "again"
            )
        wheels.append(_written(into / name, [parts[number] for number in sorted(parts)]))
        if not zipfile.is_zipfile(wheels[-1]):  # its directory is the end of the last part
            raise WheelsMissing(f"{folder} lacks parts of {name} after .part{max(parts):02d}")
    return wheels


def _written(path: Path, parts: Sequence[Path]) -> Path:
    told = [part.stat() for part in parts]
    if path.exists():
        there = path.stat()
        newer = there.st_mtime_ns >= max(each.st_mtime_ns for each in told)
        if newer and there.st_size == sum(each.st_size for each in told):
            return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
    return path


def split(folder: Path, *, part_bytes: int) -> list[Path]:
    """Cut wheels that are larger into parts of so many bytes, in their place; gives the parts.

    Parts of an earlier cut are removed.
    """
    cut = []
    for wheel in sorted(folder.glob("*.whl")):
        for old in folder.glob(f"{glob.escape(wheel.name)}.part*"):
            old.unlink()
        if wheel.stat().st_size <= part_bytes:
            continue
        with wheel.open("rb") as file:
            for number, piece in enumerate(iter(lambda: file.read(part_bytes), b"")):
                cut.append(wheel.with_name(f"{wheel.name}.part{number:02d}"))
                cut[-1].write_bytes(piece)
        wheel.unlink()
    return cut


def lacking(
    needs: Sequence[str],
    folders: Sequence[Path],
    *,
    installed: Callable[[str], Offer | None] = lambda _name: None,
) -> list[str]:
    """What cannot be had of these requirements and of all that they need, each with the reason.

    Args:
        needs: requirements as pyproject.toml writes them.
        folders: where wheels are.
        installed: what is there already under a canonical name.
    """
    requirement = _packaging("requirements").Requirement
    said: dict[str, str] = {}
    pending, seen = [(need, frozenset[str]()) for need in needs], set[tuple[str, frozenset[str]]]()
    while pending:
        text, extras = pending.pop()
        if (text, extras) in seen:
            continue
        seen.add((text, extras))
        wanted = requirement(text)
        if wanted.marker and not any(
            wanted.marker.evaluate({"extra": extra}) for extra in extras or {""}
        ):
            continue
        name = _packaging("utils").canonicalize_name(wanted.name)
        offer, why = _offered(name, wanted.specifier, folders)
        there = installed(name)
        if there and wanted.specifier.contains(there.version, prereleases=True):
            offer = offer or there
        if offer is None:
            said[name] = f"{name}{wanted.specifier} ({why})"
        else:
            pending += [(need, frozenset(wanted.extras)) for need in offer.needs]
    return [said[name] for name in sorted(said)]


def _offered(name: str, specifier: Any, folders: Sequence[Path]) -> tuple[Offer | None, str]:
    """The newest wheel that fits, or why there is none."""
    version_of, fits = _packaging("version").Version, _supported()
    best: tuple[Any, Path] | None = None
    why = "no wheel"
    for path, version, tags in _wheels(folders, name):
        if not fits & tags:
            why = f"{path.name} is for another Python or system"
        elif not specifier.contains(version, prereleases=True):
            why = f"there is {version}"
        elif best is None or version_of(str(version)) > best[0]:
            best = version_of(str(version)), path
    if best is None:
        return None, why
    try:
        return Offer(str(best[0]), _requires(best[1])), ""
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, zlib.error):
        return None, f"{best[1].name} is damaged: copy it again"


def _wheels(folders: Sequence[Path], name: str) -> Iterator[tuple[Path, Any, frozenset[Any]]]:
    utils = _packaging("utils")
    for folder in folders:
        for path in sorted(folder.glob("*.whl")):
            try:
                found, version, _, tags = utils.parse_wheel_filename(path.name)
            except utils.InvalidWheelFilename:
                continue
            if found == name:
                yield path, version, tags


def _requires(wheel: Path) -> tuple[str, ...]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [
            name
            for name in archive.namelist()
            if name.endswith(".dist-info/METADATA") and name.count("/") == 1
        ]
        headers = email.message_from_bytes(archive.read(name))
    return tuple(map(str, headers.get_all("Requires-Dist") or ()))


def already(name: str) -> Offer | None:
    """What of this name the running interpreter has."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    return Offer(found.version, tuple(found.requires or ()))


@cache
def _supported() -> frozenset[Any]:
    return frozenset(_packaging("tags").sys_tags())


@cache
def _packaging(module: str) -> Any:
    """A module of packaging: its own, else the copy that pip has.

    Raises:
        WheelsMissing: there is neither.
    """
    for package in ("packaging", "pip._vendor.packaging"):
        try:
            return importlib.import_module(f"{package}.{module}")
        except ImportError:
            continue
    raise WheelsMissing(f"{sys.executable} has no pip: install the package python3-pip")
