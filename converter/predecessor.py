"""What the version before holds for another kind of device is kept in the new one.

A repository serves machines with and without GPUs, and servers take the newest version: one that
was judged on a GPU would take the int8 variants from the CPUs, and one that was judged on a CPU the
fp16 that was proven on a GPU. Kept is only what was judged against the very same fp32, on the same
rows and under the same bounds. What the same kind of device judged before is replaced.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from converter.recipe import ALL_VARIANTS
from service import devices, manifest
from service.errors import ModelUnusable
from service.manifest import REFERENCE, Choice, Golden, Manifest, Variant, versions_in

# In ``Variant.made``: the GPU and the provider that a variant was judged on; not there on a CPU.
JUDGED_ON = "judged_on"
# The only variant that a CPU publishes without knowing what it is worth.
_FOR_GPUS = "fp16"


def joined(
    new: Manifest, model: Path, stage: Path, *, on_gpu: bool
) -> tuple[Manifest, dict[str, Path]]:
    """A new version with what the newest one there holds for the other kind of device.

    Of a variant that both judged the new one's is kept where it was accepted; but of fp16 always
    the GPU's, also where that refused it, since a CPU does not see its overflow.

    Args:
        new: the version to be published.
        model: the model's directory, where older versions lie.
        stage: where copies of files may lie.
        on_gpu: whether the new version was judged on a GPU.

    Returns:
        The manifest, with a note of what was kept or could not be, and the files to publish
        besides, by their names.

    Raises:
        ModelUnusable: the older version's manifest cannot be read.
    """
    old, number = _newest(model)
    if old is None:
        return new, {}
    theirs = [v for v in old.variants if (JUDGED_ON in v.made) != on_gpu and v.name != REFERENCE]
    marks = {m: c for m, c in old.chosen.items() if of_gpu(m) != on_gpu}
    if not marks and not any(v.accepted for v in theirs):
        return new, {}
    others = "CPUs" if on_gpu else "GPUs"
    now = {v.name: v for v in new.variants}
    taken = {v.name: v for v in theirs if _stays(v, now.get(v.name))}
    why = _differs(old, new) or _spoiled(model / number, taken.values())
    if why:
        note = f"what version {number} holds for {others} was left there, since {why}"
        return _noted(new, note), {}
    files = {}
    for variant in taken.values():
        if variant.file:
            files[variant.file] = stage / f"earlier.{variant.file}"
            shutil.copyfile(model / number / variant.file, files[variant.file])
    now |= taken
    contract = replace(
        new,
        variants=tuple(now[name] for name in ALL_VARIANTS if name in now),
        chosen=_still(marks, old, now.values()) | dict(new.chosen),
        golden=_golden(old, new, taken),
    )
    names = ", ".join(v.name for v in taken.values() if v.accepted) or "which variant they take"
    return _noted(contract, f"kept from version {number}, for {others}: {names}"), files


def _newest(model: Path) -> tuple[Manifest | None, str]:
    versions = versions_in(model)
    if not versions or not (model / str(versions[-1]) / manifest.FILENAME).exists():
        return None, ""
    return manifest.load(model / str(versions[-1])), str(versions[-1])


def of_gpu(mark: str) -> bool:
    """Whether a fingerprint is a GPU's: it ends with the provider."""
    return mark.rpartition(", ")[2] in (devices.CUDA, devices.TENSORRT)


def _differs(old: Manifest, new: Manifest) -> str:
    if _digests(old.variants).get(REFERENCE) != _digests(new.variants).get(REFERENCE):
        return "it is of another fp32"
    if old.samples != new.samples:
        return "it was judged on other rows"
    return "" if old.bounds == new.bounds else "it was judged under other bounds"


def _spoiled(directory: Path, variants: Iterable[Variant]) -> str:
    try:
        for variant in variants:
            if variant.file:
                manifest.check_digest(directory / variant.file, variant)
    except ModelUnusable as error:
        return str(error)
    return ""


def _stays(theirs: Variant, ours: Variant | None) -> bool:
    """Whether the older one is kept in place of the new one."""
    if theirs.name == _FOR_GPUS:
        return JUDGED_ON in theirs.made
    return theirs.accepted and not (ours and ours.accepted)


def _digests(variants: Iterable[Variant]) -> dict[str, str | None]:
    return {variant.name: variant.sha256 for variant in variants if variant.accepted}


def _still(marks: Mapping[str, Choice], old: Manifest, now: Iterable[Variant]) -> dict[str, Choice]:
    """The choices whose variants are still the files that were chosen."""
    before, after = _digests(old.variants), _digests(now)
    return {
        mark: choice
        for mark, choice in marks.items()
        if choice.variant in before and after.get(choice.variant) == before[choice.variant]
    }


def _golden(old: Manifest, new: Manifest, taken: Mapping[str, Variant]) -> Golden | None:
    """The new samples; a variant of both may be as far from fp32 as on either device."""
    if old.golden is None or new.golden is None:
        return new.golden
    before, after = _digests(old.variants), _digests(new.variants)
    tolerance = dict(new.golden.tolerance)
    for name, theirs in old.golden.tolerance.items():
        if name in taken:
            tolerance[name] = theirs
        elif name in tolerance and before.get(name) == after.get(name):
            ours = tolerance[name]
            tolerance[name] = {o: max(ours[o], theirs.get(o, 0.0)) for o in ours}
    return replace(new.golden, tolerance=tolerance)


def _noted(contract: Manifest, note: str) -> Manifest:
    notes = [*(contract.source.get("notes") or ()), note]
    return replace(contract, source={**contract.source, "notes": notes})
