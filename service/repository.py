"""Directory tree -> ready models: ``<name>/<version>/`` with a manifest, or a bare model.onnx."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from service import hardware, log, manifest
from service.batcher import Batcher
from service.batching import Limits
from service.errors import ModelNotFound, ModelUnusable
from service.manifest import MODEL_FILE, NAME, Manifest, Variant, versions_in
from service.session import Session, SessionOptions
from service.settings import Settings

AUTO = "auto"
# The only variant of a file that nobody converted here; it may be of any precision.
AS_IT_IS = "as-is"


@dataclass(frozen=True)
class Model:
    """One version of a model, loaded, warmed up and ready."""

    manifest: Manifest
    version: str
    variant: Variant
    why: str
    max_rows: int
    instances: int
    batcher: Batcher
    load_s: float

    @property
    def labels(self) -> tuple[str, str, str]:
        """Model, version and variant, as metrics name them."""
        return self.manifest.name, self.version, self.variant.name


class Repository:
    """The models of one server, by name and version."""

    def __init__(self, models: dict[str, dict[str, Model]]) -> None:
        """Hold models that are ready: name -> version -> model."""
        self._models = models

    def model(self, name: str, version: str = "") -> Model:
        """The model to answer with; without a version, the latest.

        Raises:
            ModelNotFound: no such name or version.
        """
        versions = self._models.get(name)
        if versions is None:
            raise ModelNotFound("this server has no model of that name")
        if not version:
            return versions[max(versions, key=int)]
        if version not in versions:
            raise ModelNotFound(
                f"that model has no such version here; it has {', '.join(sorted(versions))}"
            )
        return versions[version]

    def versions(self, name: str) -> list[str]:
        """The versions of a model, oldest first."""
        return sorted(self._models.get(name, {}), key=int)

    def __iter__(self) -> Iterator[Model]:
        """All models, in the order of their names."""
        for versions in self._models.values():
            yield from versions.values()


def load(settings: Settings, clock: Callable[[], float] = time.monotonic) -> Repository:
    """Load, check and warm up the latest version of every model under ``settings.repository``.

    Raises:
        ModelUnusable: there is no model, or one of them cannot be served as it is.
    """
    root = settings.repository
    if root.is_file() and root.suffix != ".onnx":
        raise ModelUnusable(f"{root} is no .onnx file; `farthing convert` makes one of it")
    if root.is_file():
        # A single file is served as version 1 of a model with the file's name.
        found = [(root.stem, "1", plain(root))]
    elif root.is_dir():
        found = [(path.parent.name, path.name, read(path)) for path in latest_versions(root)]
    else:
        raise ModelUnusable(f"{root} does not exist; give a model repository or an .onnx file")
    if not found and versions_in(root):
        raise ModelUnusable(f"{root} is one model; serve the repository it lies in: {root.parent}")
    if not found:
        raise ModelUnusable(f"{root} holds no model; expected {root}/NAME/VERSION/{MODEL_FILE}")
    models: dict[str, dict[str, Model]] = {}
    for name, version, contract in found:
        base = root.parent if root.is_file() else root / name / version
        models.setdefault(name, {})[version] = _ready(base, version, contract, settings, clock)
    return Repository(models)


def latest_versions(root: Path) -> list[Path]:
    """The newest version's directory of each model; names starting with a dot are not models."""
    models = sorted(path for path in root.iterdir() if NAME.fullmatch(path.name))
    return [model / str(max(found)) for model in models if (found := versions_in(model))]


def read(directory: Path) -> Manifest:
    """The contract of one version: its manifest, or that of a bare ``model.onnx``.

    Raises:
        ModelUnusable: neither is there, or the manifest cannot be read.
    """
    if (directory / manifest.FILENAME).exists():
        contract = manifest.load(directory)
        if contract.name != directory.parent.name:
            raise ModelUnusable(
                f"{directory / manifest.FILENAME} describes '{contract.name}'; its directory says "
                f"'{directory.parent.name}'"
            )
        return contract
    if (directory / MODEL_FILE).exists():
        return plain(directory / MODEL_FILE, name=directory.parent.name)
    raise ModelUnusable(f"{directory} has neither {manifest.FILENAME} nor {MODEL_FILE}")


def plain(path: Path, name: str = "") -> Manifest:
    """The contract of an ONNX file that nobody converted or verified here."""
    session = Session(path, SessionOptions(threads=1))
    variant = Variant(
        name=AS_IT_IS,
        accepted=True,
        reason="served as it is; there is no manifest",
        file=path.name,
        sha256=manifest.sha256_of(path),
        bytes=path.stat().st_size,
    )
    return Manifest(name or path.stem, session.batched, session.inputs, session.outputs, (variant,))


def choose(contract: Manifest, wanted: str, fingerprint: str) -> tuple[Variant, str]:
    """The variant to serve, and why.

    Raises:
        ModelUnusable: a variant was pinned that was not published.
    """
    if wanted != AUTO:
        return contract.variant(wanted), "pinned by --variant"
    if fingerprint in contract.chosen:
        choice = contract.chosen[fingerprint]
        return contract.variant(choice.variant), choice.reason
    # The first is the reference; of a bare file it is all there is.
    first = contract.variant(contract.published[0])
    return first, "nothing is recorded for this hardware"


def _ready(
    directory: Path,
    version: str,
    contract: Manifest,
    settings: Settings,
    clock: Callable[[], float],
) -> Model:
    started = clock()
    variant, why = choose(contract, settings.variant, hardware.fingerprint())
    path = directory / str(variant.file)
    manifest.check_digest(path, variant)
    if (
        settings.variant == AUTO
        and contract.chosen
        and hardware.fingerprint() not in contract.chosen
    ):
        log.warning(
            "this hardware is none that the model was converted for, so its reference is served",
            model=contract.name,
            converted_for=list(contract.chosen),
        )
    threads = settings.threads or max(1, hardware.cpus() // settings.instances)
    session = Session(path, SessionOptions(threads=threads, spin=settings.spin))
    if (session.inputs, session.outputs) != (contract.inputs, contract.outputs):
        raise ModelUnusable(
            f"{path} has other inputs or outputs than its manifest says; convert the model again"
        )
    if contract.batched and not session.batched:
        raise ModelUnusable(
            f"{path} has no free batch dimension, but its manifest says so; convert the model again"
        )
    max_rows = settings.max_batch if contract.batched else 1
    session.warm_up(*sorted({1, max_rows}))
    batcher = Batcher(
        session.run,
        Limits(
            max_rows=max_rows,
            max_queue_rows=settings.max_queue_rows,
            instances=settings.instances,
            batched=contract.batched,
        ),
        executor=ThreadPoolExecutor(settings.instances, thread_name_prefix=contract.name),
        clock=clock,
    )
    return Model(
        manifest=contract,
        version=version,
        variant=variant,
        why=why,
        max_rows=max_rows,
        instances=settings.instances,
        batcher=batcher,
        load_s=clock() - started,
    )
