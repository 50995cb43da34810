"""One conversion, top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from converter import child, cleaning, golden, predecessor, publish, reshape, samples, sources
from converter.choosing import choose
from converter.exporters import trained
from converter.exporters.trained import Request
from converter.judge import Judge
from converter.recipe import Recipe
from converter.samples import Samples
from converter.sources import Exported
from converter.target import Target, target_of, this_cpu
from converter.workshop import Workshop
from service.devices import AUTO
from service.errors import FarthingError
from service.manifest import Manifest, Variant
from service.session import NotOnGpu, Session, SessionOptions, ort_version

Tell = Callable[[str], None]
# Called with what is being done; the step lasts as long as the context, and may be told more.
Step = Callable[[str], AbstractContextManager[Tell]]
_TOOLS = ("farthing", "numpy", "onnx", "onnxslim")


@contextmanager
def silent(what: str) -> Iterator[Tell]:
    """A step that nobody sees."""
    yield lambda text: None


def run(recipe: Recipe, step: Step = silent, *, target: Target | None = None) -> Manifest:
    """The story of one conversion.

    Args:
        recipe: what to convert, and which bounds to hold.
        step: shows what is being done.
        target: what variants are judged on; what the recipe's device comes to, unless given.

    Returns:
        The manifest as published, refused variants and their reasons among it.

    Raises:
        FarthingError: in one sentence, what to mend; the repository is as it was.
    """
    target = target or target_of(recipe.device)
    # First: what is read later may have been written anew meanwhile.
    source = {"file": recipe.source.told, "sha256": recipe.source.sha256()}
    tools = {tool: metadata.version(tool) for tool in _TOOLS} | {"onnxruntime": ort_version()}
    with publish.staging(recipe.out) as stage:
        files = _Files(
            samples.on_disk(recipe.calibration, stage / "calibration.npz"),
            samples.on_disk(recipe.evaluate, stage / "evaluate.npz"),
            samples.on_disk(recipe.example, stage / "example.npz"),
        )
        with step(f"exporting {recipe.source.told}, comparing it with its framework"):
            exported = _exported(recipe, files, stage)
            reference = Session(exported.path, SessionOptions())
        _check_use(recipe, reference)
        target, exported = _runs(target, exported, named=recipe.device != AUTO)
        if target.device.is_gpu:
            recipe = replace(recipe, device=str(target.device))
        calibration, held_out = files.read(reference)
        rows, selection = samples.divided(calibration) if calibration else (None, None)
        shop = Workshop(
            exported.path, stage, rows, recipe.prune, seen=calibration, device=target.device
        )
        judge = Judge(recipe, exported, shop, selection=selection, held_out=held_out, target=target)
        judged, kept = _judged(judge, recipe.wanted, step)
        judge.close()
        feeds = held_out.feeds if held_out else trained.random_rows(reference.inputs, 4)
        by_name = {v.name: kept[v.file] for v in judged if v.file}
        contract = Manifest(
            name=recipe.name,
            batched=reference.batched,
            inputs=reference.inputs,
            outputs=reference.outputs,
            variants=tuple(judged),
            chosen={target.fingerprint: choose(judged, target)},
            source={**source, **exported.facts},
            samples=_described(calibration=calibration, held_out=held_out),
            tools=tools | exported.tools,
            reproduce=recipe.command(),
            golden=golden.write(stage / golden.FILE, feeds, reference, by_name, target.options),
            bounds=asdict(judge.bounds),
        )
        contract, older = predecessor.joined(
            contract, recipe.out / recipe.name, stage, on_gpu=target.device.is_gpu
        )
        kept = {v.file: (kept | older)[v.file] for v in contract.variants if v.file}
        kept[golden.FILE] = stage / golden.FILE
        with step(f"publishing {recipe.name}"):
            publish.publish(contract, kept, out=recipe.out, stage=stage)
    return contract


def _runs(target: Target, exported: Exported, *, named: bool) -> tuple[Target, Exported]:
    """Where variants are judged: on the CPU, with a note, where the GPU cannot run the model.

    Raises:
        NotOnGpu: it was asked for by name.
    """
    if not target.device.is_gpu:
        return target, exported
    try:
        with target.opened(exported.path):
            return target, exported
    except NotOnGpu as error:
        if named:
            raise
        notes = [*exported.facts.get("notes", ()), f"judged on the CPU, not on a GPU: {error}"]
        return this_cpu(), replace(exported, facts={**exported.facts, "notes": notes})


def _judged(
    judge: Judge, names: Iterable[str], step: Step
) -> tuple[list[Variant], dict[str, Path]]:
    """The decisions, and the files of what is published, by the names they will have."""
    judged, kept = [], {}
    for name in names:
        with step(f"building and verifying {name}") as tell:
            variant, path = judge.variant(name, tell)
        judged.append(variant)
        if variant.file:
            kept[variant.file] = path
    return judged, kept


def _described(**parts: Samples | None) -> dict[str, Any]:
    return {key: part.describe() for key, part in parts.items() if part is not None}


def _check_use(recipe: Recipe, reference: Session) -> None:
    """Before the work: what cannot be judged or published.

    Raises:
        FarthingError: held-out rows for a model that takes no rows, a tensor whose numbers numpy
            cannot compare, or another contract than that of the version that is there.
    """
    for spec in (*reference.inputs, *reference.outputs):
        if spec.datatype == "BF16":
            raise FarthingError(
                f"tensor '{spec.name}' of {recipe.source.told} is BF16, in which variants cannot "
                "be compared; export the model with FP32 inputs and outputs"
            )
    if recipe.evaluate and not reference.batched:
        raise FarthingError(
            f"{recipe.source.told} has no batch dimension, so held-out rows cannot judge it; "
            "leave out --evaluate"
        )
    publish.check_contract(recipe.out / recipe.name, reference.inputs, reference.outputs)


class _Files:
    """Calibration and held-out rows, as they lie on disk."""

    def __init__(
        self, calibration: Path | None, evaluate: Path | None, example: Path | None
    ) -> None:
        self.calibration = calibration
        self.evaluate = evaluate
        # For models that do not tell their inputs.
        self.example = example or calibration or evaluate

    def read(self, reference: Session) -> tuple[Samples | None, Samples | None]:
        """Both, for the model's inputs; none held out that the calibration has seen."""
        calibration, held_out = (
            None if path is None else samples.read(path, reference.inputs)
            for path in (self.calibration, self.evaluate)
        )
        if calibration and held_out:
            samples.check_disjoint(calibration, held_out)
        return calibration, held_out


def _exported(recipe: Recipe, files: _Files, stage: Path) -> Exported:
    """fp32 as it will be published: exported, cleaned, with the contract that was asked for."""
    source = recipe.source
    path = source.path or Path(source.factory)
    floats, example = (
        reshape.for_framework(recipe, rows, stage / f"{name}-floats.npz")
        for name, rows in (("evaluate", files.evaluate), ("example", files.example))
    )
    request = Request(
        kind=sources.kind_of(path, source.factory),
        source=path,
        route="",
        evaluate=floats,
        example=example,
        signature=source.signature,
        factory=source.factory,
        imports=source.imports,
        trust=source.trust,
    )
    limits = child.Limits(60 * source.minutes, int(source.memory_gb * 1e9))
    exported = sources.export(request, stage, limits)
    facts = {**exported.facts, "cleaning": cleaning.clean(exported.path)}
    return reshape.reshaped(replace(exported, facts=facts), recipe, floats)
