"""The environment that the check runs in: made anew below build/, from wheels or an index.

Runs on a bare Python, before any install; so what the check needs is read from pyproject.toml here.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import site
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench.gpu import wheels
from loadtests.bench.gpu.wheels import WheelsMissing

ROOT = Path(__file__).parents[3]
EXTRA = "gpu-check"
_OURS = re.compile(r"farthing\[(.+)\]")
# LD_LIBRARY_PATH is added to, since a driver's libraries may be found by it.
_WITH_LIBRARIES = (
    'LD_LIBRARY_PATH="$1${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"; export LD_LIBRARY_PATH; shift; '
    'exec "$@"'
)


@dataclass(frozen=True)
class Source:
    """Where packages come from.

    Attributes:
        folder: wheels, and nothing else is asked; None takes pip's own index.
        system: whether packages of the interpreter that runs this are used where they suffice.
    """

    folder: Path | None = None
    system: bool = False


def needs(extra: str = EXTRA) -> list[str]:
    """What farthing needs for the check, without farthing itself."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    return sorted({*project["dependencies"], *_named(project["optional-dependencies"], extra)})


def _named(extras: dict[str, list[str]], extra: str) -> Iterator[str]:
    for need in extras[extra]:
        ours = _OURS.fullmatch(need)
        if ours is None:
            yield need
        else:
            for other in ours[1].split(","):
                yield from _named(extras, other)


def missing(source: Source, joined: Path) -> str:
    """What a folder of wheels lacks, in one sentence; empty where it lacks nothing.

    Args:
        source: the folder.
        joined: where wheels go that lie there in parts.
    """
    if source.folder is None:
        return ""
    if not source.folder.is_dir():
        return f"{source.folder} is no folder of wheels"
    version = ".".join(map(str, sys.version_info[:2]))
    try:
        wheels.joined(source.folder, joined)
        lacks = wheels.lacking(
            needs(),
            [source.folder, joined],
            **({"installed": wheels.already} if source.system else {}),
        )
    except WheelsMissing as error:
        return str(error)
    if not lacks:
        return ""
    return (
        f"{source.folder} lacks wheels for Python {version}: {', '.join(lacks)}; where there is a "
        f"network, `make gpu-wheels WHEELS=DIR FOR={version}` fetches them"
    )


def prepared(source: Source, home: Path) -> Path:
    """Make the environment, or keep the one that was made of the same; gives its interpreter.

    Raises:
        WheelsMissing: pip cannot install what is needed; its own last line says why.
    """
    target, stamp = home / "venv", home / "venv" / ".made-of"
    python, made_of = target / "bin" / "python", _made_of(source)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == made_of:
        return python
    shutil.rmtree(target, ignore_errors=True)
    _done([sys.executable, "-m", "venv", "--without-pip", str(target)])
    _link(target, system=source.system)
    wanted = home / "needs.txt"
    wanted.write_text("\n".join(needs()) + "\n", encoding="utf-8")
    print(f"installing what the check needs into {_short(target)}: a minute or two", flush=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    _done([*pip, "--disable-pip-version-check", *_from(source, home), "-r", str(wanted)])
    stamp.write_text(made_of, encoding="utf-8")
    return python


def command(python: Path, arguments: Sequence[str]) -> list[str]:
    """How to run this interpreter, with CUDA's wheels where the loader looks for them."""
    found = subprocess.run(
        [python, "-c", "import sys; print(*sys.path, sep='\\n')"],
        capture_output=True, text=True, check=True, cwd=python.parent,
    ).stdout.splitlines()  # fmt: skip
    places = [str(place) for entry in found if entry for place in Path(entry).glob("nvidia/*/lib")]
    if not places:
        return [str(python), *arguments]
    return ["sh", "-c", _WITH_LIBRARIES, "sh", ":".join(places), str(python), *arguments]


def _from(source: Source, home: Path) -> list[str]:
    if source.folder is not None:
        links = (source.folder.resolve(), home / "joined")
        return ["--no-index", *(f"--find-links={link}" for link in links if link.is_dir())]
    return [] if source.system else ["-c", str(ROOT / "constraints.txt")]


def _link(target: Path, *, system: bool) -> None:
    """Let the environment find farthing as it lies here, and what is installed outside if it may.

    Not ``pip install -e``, which needs wheels of its own to build with; and not ``venv
    --system-site-packages``, which leaves out the packages of an environment that runs this.
    """
    (packages,) = target.glob("lib/python3.*/site-packages")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = packages / f"farthing-{version['version']}.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: farthing\nVersion: {version['version']}\n", encoding="utf-8"
    )
    outside = [*site.getsitepackages(), site.getusersitepackages()] if system else []
    lines = [str(ROOT), *(place for place in outside if Path(place).is_dir())]
    (packages / "zz-outside.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _made_of(source: Source) -> str:
    names = sorted(path.name for path in source.folder.iterdir()) if source.folder else []
    text = repr((needs(), names, source.system, sys.version, str(ROOT)))
    return hashlib.sha256(text.encode()).hexdigest()


def _done(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        last = (errors or done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise WheelsMissing(f"{' '.join(command[1:3])} failed: {last}")


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
