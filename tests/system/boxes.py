"""An image run as a cluster would: its own user, PID 1, a tree nobody can write to, no new rights.

Without a container engine: buildah unpacks the image, and util-linux brings the namespaces.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent.parent
_NAME = "farthing-test-"
# What a container runtime mounts, gone with the namespace; then the image's own command.
BOX = """
set -e
root=$1 models=$2
shift 2
mount --bind "$root" "$root"
mkdir -p "$root/models" "$root/proc" "$root/dev"
mount --bind "$models" "$root/models"
mount -o remount,bind,ro "$root/models"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero urandom random; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mount -o remount,ro "$root/dev"
mount -o remount,bind,ro "$root"
exec "$@"
"""


@dataclass(frozen=True)
class Image:
    """An image, and a copy of its tree.

    Attributes:
        tree: where it is unpacked.
        config: OCI's, as the image has it.
    """

    tree: Path
    config: dict[str, Any]

    @property
    def user(self) -> str:
        """UID:GID that it runs as."""
        return str(self.config["User"])

    @property
    def command(self) -> list[str]:
        """What runs in it when nothing else is said."""
        return [*self.config["Entrypoint"], *self.config["Cmd"]]

    def files(self) -> dict[str, tuple[int, int]]:
        """Path -> (size, time of the last change), of all its tree."""
        found = {}
        for path in self.tree.rglob("*"):
            told = path.lstat()
            found[str(path.relative_to(self.tree))] = (told.st_size, told.st_mtime_ns)
        return found


@dataclass(frozen=True)
class Boxed:
    """A process that is PID 1 of its namespace.

    Attributes:
        process: the one that waits for it, and has its exit code, output and log.
        inner: PID 1, as this namespace knows it.
    """

    process: subprocess.Popen[str]
    inner: psutil.Process

    def ready(self) -> dict[str, Any]:
        """The line that a server prints when it answers."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return dict(json.loads(line))


def buildah(*arguments: str) -> str:
    """What a command of buildah's prints."""
    done = subprocess.run(
        ["buildah", *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def unpacked(name: str) -> Iterator[Image]:
    """An image's tree, until the end of the block."""
    config = json.loads(buildah("inspect", "--type", "image", name))["OCIv1"]["config"]
    _forget_the_killed()
    container = buildah("from", "--pull=never", "--name", f"{_NAME}{os.getpid()}", name)
    try:
        yield Image(Path(buildah("mount", container)), config)
    finally:
        buildah("rm", container)  # unmounts it first


def _forget_the_killed() -> None:
    """Remove what tests left that were killed, and could not."""
    for name in buildah("containers", "--format", "{{.ContainerName}}").split():
        if name.startswith(_NAME) and not psutil.pid_exists(int(name.removeprefix(_NAME))):
            buildah("rm", name)


@contextmanager
def boxed(
    image: Image,
    models: Path,
    *environment: str,
    command: Sequence[str] = (),
    user: str | None = None,
) -> Iterator[Boxed]:
    """The image's process, until the end of the block.

    Args:
        image: from ``unpacked``.
        models: mounted at /models, and read-only as all else.
        environment: NAME=VALUE, beside the image's own.
        command: instead of the image's.
        user: instead of the image's.
    """
    inside = [
        "setpriv", "--no-new-privs", "chroot", f"--userspec={user or image.user}", "--groups=",
        str(image.tree), "/usr/bin/env", "-i", *image.config["Env"], *environment,
        *(command or image.command),
    ]  # fmt: skip
    process = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", BOX, "box",
         str(image.tree), str(models), *inside],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with process:
        try:
            yield Boxed(process, _only_child(process))
        finally:
            process.kill()  # and with it, by --kill-child, PID 1 and all of its namespace


def run(image: Image, models: Path, line: str, *, user: str | None = None) -> tuple[int, str]:
    """Run a command line in the box to its end: exit code, and what it said."""
    with boxed(image, models, command=shlex.split(line), user=user) as box:
        told, complaints = box.process.communicate(timeout=120)
    return box.process.returncode, told + complaints


def _only_child(process: subprocess.Popen[str], patience_s: float = 10.0) -> psutil.Process:
    """The process that ``unshare`` forks."""
    deadline = time.monotonic() + patience_s
    with suppress(psutil.NoSuchProcess):
        while time.monotonic() < deadline and process.poll() is None:
            children = psutil.Process(process.pid).children()
            if children:
                return children[0]
            time.sleep(0.001)
    raise AssertionError(f"nothing was started: {process.communicate()[1]}")
