"""Pure: who was measured, from what a server tells and what its user says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from loadtests import outside
from loadtests.prices import Price
from loadtests.profile import Subject
from service.errors import InvalidSetting
from service.manifest import REFERENCE
from service.proto import inference_pb2 as pb

_PREFIX = "variant"


@dataclass(frozen=True)
class Said:
    """What the user says, of which most servers tell nothing; it wins over what they tell.

    Attributes:
        variant: of the model, such as fp32.
        sha256: digest of the model's file.
        bytes: of that file.
        accuracy: on held-out rows, 0 to 1.
        accuracy_change: over the trained model, in points (0.1 is a tenth of a percent).
        hardware: the serving machine; empty for this one, if the server runs here.
        cpus: of it that are paid for; None for all of this machine's.
        gpus: of its accelerators those that are paid for, in fractions; 0 is all.
        price: of the price book.
    """

    variant: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    accuracy: float | None = None
    accuracy_change: float | None = None
    hardware: str = ""
    cpus: float | None = None
    gpus: float = 0.0
    price: Price | None = None


def file_said(path: Path) -> tuple[str, int]:
    """Digest and bytes of a model's file.

    Raises:
        InvalidSetting: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
    except OSError as error:
        raise InvalidSetting(f"{path} cannot be read: {error.strerror}") from None


def subject(
    server: pb.ServerMetadataResponse | None,
    config: pb.ModelConfig | None,
    said: Said,
    *,
    model: str,
    version: str,
    memory_bytes: int | None = None,
) -> Subject:
    """Who is measured.

    Args:
        server: its ServerMetadata; None if it has none.
        config: its ModelConfig; None if it has none. farthing's parameters tell the variant, its
            digest and what was measured when it was made.
        said: by the user.
        model: its name.
        version: its version, if one was asked for.
        memory_bytes: resident, of the serving process.
    """
    told = _told(config)
    accuracy, drop = _number(told, "accuracy"), _number(told, "drop_points", "accuracy_change")
    if drop is None and told.get("") == REFERENCE:
        drop = 0.0  # it is what the others are compared with
    change = None if drop is None else -drop
    size = _number(told, "bytes")
    return Subject(
        server=outside.plain(f"{server.name} {server.version}") if server else "",
        model=model,
        version=version or told.get("version", ""),
        variant=said.variant or told.get("") or None,
        sha256=said.sha256 or told.get("sha256") or None,
        accuracy=accuracy if said.accuracy is None else said.accuracy,
        accuracy_change=change if said.accuracy_change is None else said.accuracy_change,
        bytes=(int(size) if size else None) if said.bytes is None else said.bytes,
        memory_bytes=memory_bytes,
    )


def _told(config: pb.ModelConfig | None) -> dict[str, str]:
    """Of farthing's parameters those of the variant, without their prefix."""
    if config is None:
        return {}
    return {
        name.removeprefix(_PREFIX).removeprefix("_"): outside.plain(value.string_value)
        for name, value in config.parameters.items()
        if name.startswith(_PREFIX)
    }


def _number(told: dict[str, str], name: str, as_name: str = "") -> float | None:
    """None where the server tells none, or what no profile may hold."""
    try:
        figure: float = outside.value(float, float(told[name]), as_name or name, name)
        return figure
    except (KeyError, ValueError):
        return None
