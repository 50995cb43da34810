"""What lies in a repository: models, their versions and files; nothing is loaded here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from service import manifest, modelconfig
from service.errors import ModelUnusable
from service.manifest import MODEL_FILE, NAME
from service.modelconfig import Options
from service.warmup import DIRECTORY as WARMUP_DIRECTORY

CONFIG_FILE = "config.pbtxt"
# The version under which a single file is served.
_SINGLE = 1
_LISTED = 10
_NAMING = (
    "callers could not say it: a name has 1 to 128 letters, digits, '_', '-' or '.', and starts "
    "with a letter, a digit or '_'"
)

# Of every file: path, bytes, time of change and inode.
Mark = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Place:
    """Where one model lies.

    Attributes:
        name: the model's.
        directory: its directory; of a single file, the one that holds it.
        single: the file's name, where a file is served that lies in no repository.
    """

    name: str
    directory: Path
    single: str = ""

    def available(self) -> list[int]:
        """The versions on disk, oldest first."""
        return [_SINGLE] if self.single else manifest.versions_in(self.directory)

    def version_directory(self, version: int) -> Path:
        """Where the files of one version lie."""
        return self.directory if self.single else self.directory / str(version)

    def options(self) -> Options:
        """What ``config.pbtxt`` says; all defaults without one.

        Raises:
            ModelUnusable: it cannot be read, or contradicts itself.
        """
        path = self.directory / CONFIG_FILE
        if self.single or not path.is_file():
            return Options(name=self.name)
        with self.named():
            return modelconfig.options(modelconfig.read(path), self.name)

    def picked(self, options: Options) -> list[int]:
        """The versions on disk that the policy has served, oldest first; at least one.

        Raises:
            ModelUnusable: it asks for others.
        """
        available = self.available()
        wanted = options.versions.pick(available)
        if not wanted:
            asked = _listed(options.versions.versions)
            sentence = (
                f"model '{self.name}' has none of the versions that its version_policy asks for, "
                f"{asked}; it has {_listed(available)}"
            )
            raise ModelUnusable(sentence, told=sentence)
        return wanted

    @contextmanager
    def named(self) -> Iterator[None]:
        """What is raised inside names the model's place to the operator, and not to callers.

        Raises:
            ModelUnusable: as raised inside.
        """
        try:
            yield
        except ModelUnusable as error:
            if str(self.directory) in str(error):
                raise
            path = self.directory / self.single
            raise ModelUnusable(f"{path}: {error}", told=error.told) from error

    def exists(self) -> bool:
        """Whether there still is something to load."""
        return bool(self.available()) and (
            not self.single or (self.directory / self.single).is_file()
        )

    def mark(self, version: int) -> Mark:
        """What changes when a version's files change, or those that all versions share."""
        if self.single:
            return _stamps(self.directory, [self.directory / self.single])
        own = [path for path in self.version_directory(version).rglob("*") if path.is_file()]
        shared = [path for path in self.directory.iterdir() if path.is_file()]
        warmup = self.directory / WARMUP_DIRECTORY
        shared += warmup.iterdir() if warmup.is_dir() else []
        return _stamps(self.directory, own + shared)


def places(root: Path) -> dict[str, Place]:
    """The models of a repository by name; a single .onnx file is one model of the file's name.

    Names that start with a dot, or that no caller could say, are no models; ``skipped`` tells of
    the latter.

    Raises:
        ModelUnusable: there is nothing that could be served.
    """
    if root.is_file():
        if root.suffix != ".onnx":
            raise ModelUnusable(f"{root} is no .onnx file; `farthing convert` makes one of it")
        if not inside(root.stem):
            raise ModelUnusable(f"{root} has no model's name; {_NAMING}")
        return {root.stem: Place(root.stem, root.parent, root.name)}
    if not root.is_dir():
        raise ModelUnusable(
            f"{root} is no directory and no file; give a model repository or an .onnx file"
            if root.exists()
            else f"{root} does not exist; give a model repository or an .onnx file"
        )
    found = {
        path.name: Place(path.name, path)
        for path in sorted(root.iterdir())
        if NAME.fullmatch(path.name) and manifest.versions_in(path)
    }
    if not found and manifest.versions_in(root):
        raise ModelUnusable(f"{root} is one model; serve the repository it lies in: {root.parent}")
    return found


def place(root: Path, name: str) -> Place | None:
    """One model of a repository, without a look at all the others; None if there is none.

    Raises:
        ModelUnusable: there is no repository.
    """
    if not root.is_dir():  # one file, or something to complain of
        return places(root).get(name)
    found = inside(name) and bool(manifest.versions_in(root / name))
    return Place(name, root / name) if found else None


def skipped(root: Path) -> list[str]:
    """A sentence for each entry of a repository that looks like a model and is none.

    Names that start with a dot are passed over: they are there to be.
    """
    if not root.is_dir():
        return []
    return [
        f"{path} is skipped: {why}"
        for path in sorted(root.iterdir())
        if not path.name.startswith(".") and (why := _no_model(path))
    ]


def _no_model(path: Path) -> str:
    """Why something that looks like a model is none; empty for what does not, and for models."""
    try:
        if path.suffix == ".onnx" and path.is_file():
            return f"a model is a directory; expected {path.stem}/{_SINGLE}/{MODEL_FILE}"
        if manifest.versions_in(path):
            return "" if inside(path.name) else _NAMING
        if not path.is_dir():
            return ""
        if holders := [child.name for child in sorted(path.iterdir()) if _holds_model(child)]:
            return f"'{holders[0]}' is no version; a version is a whole number from 1 on, e.g. 1"
        if _holds_model(path) or (path / CONFIG_FILE).is_file():
            return f"it has no version; expected {path.name}/{_SINGLE}/{MODEL_FILE}"
    except OSError:  # what we may not read, or what went meanwhile
        return ""
    return ""


def _holds_model(path: Path) -> bool:
    return (path / manifest.FILENAME).is_file() or any(
        child.suffix == ".onnx" for child in (path.iterdir() if path.is_dir() else ())
    )


@contextmanager
def placed(name: str, files: Mapping[tuple[str, str], bytes]) -> Iterator[Place]:
    """Files that came with a request, on disk for as long as the model is being loaded.

    Args:
        name: the model's.
        files: (version, file name) -> content; both have been checked.

    Raises:
        ModelUnusable: this machine has no place for them.
    """
    with ExitStack() as stack:
        try:
            directory = stack.enter_context(TemporaryDirectory(prefix="farthing-"))
            place = Place(name, Path(directory) / name)
            for (version, file), data in files.items():
                target = place.version_directory(int(version))
                target.mkdir(parents=True, exist_ok=True)
                (target / file).write_bytes(data)
        except OSError as error:
            raise ModelUnusable(
                f"files of a load request cannot be written: {error}",
                told="this server has no place for files; put them into its repository",
            ) from error
        yield place


def inside(name: str) -> bool:
    """Whether a caller's text can be a model's name; no path of ours is made of any other."""
    return NAME.fullmatch(name) is not None


def no_model(root: Path) -> ModelUnusable:
    """What to say of an empty repository."""
    return ModelUnusable(f"{root} holds no model; expected {root}/NAME/VERSION/{MODEL_FILE}")


def _listed(versions: Sequence[int]) -> str:
    """The versions, or the first of many."""
    more = ", ..." if len(versions) > _LISTED else ""
    return ", ".join(map(str, sorted(versions)[:_LISTED])) + more


def _stamps(base: Path, files: list[Path]) -> Mark:
    marks = []
    for path in sorted(files):
        try:
            facts = path.stat()
        except OSError:  # removed while we looked; the next look will tell
            continue
        marks.append((os.path.relpath(path, base), facts.st_size, facts.st_mtime_ns, facts.st_ino))
    return tuple(marks)
